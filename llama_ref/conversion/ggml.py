"""From a checkpoint (Meta's layout or Hugging Face's) to a GGML file of f32 or f16, as an era's converter wrote it.

=====================  ==========================================================================================
eras                   what the converter wrote
=====================  ==========================================================================================
2023-03-19             unversioned ggml, one file a shard; tensors in the order of the .pth
2023-03-30             ggmf v1, the same with scores in the vocabulary
2023-03-31             ggjt v1, shards joined; the order of the .pth
2023-04-30 and later   ggjt v1 (in August 2023 too: f16 and f32 never changed); embedding, norm, output, then layers
=====================  ==========================================================================================

Tensors of one dimension are f32 in every file; of two, what ``outtype`` says. Where the originals went wrong this one
does not: f32 and bfloat16 weights are rounded to f16 (they were copied as they came), uneven shards are joined by
their own sizes, and a vocabulary that does not fit is refused before anything is written.

Sources: convert-pth-to-ggml.py of llama.cpp da5303c1e, ed3c680bc and 352589927; convert.py of 3e5aa8a1c, 6986c7835 and
dadbed99e.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ggmlpy.files.errors import MissingFileError, UsageError, VocabularyError
from ggmlpy.files.paths import refuse_overwriting
from ggmlpy.formats.carrying import carry, lost_in
from ggmlpy.formats.containers import Container, container_named, container_of_name, refuse_name
from ggmlpy.formats.eras import APRIL_30, AUGUST_21, DEFAULT_ERA, Era, era_of
from ggmlpy.formats.model_params import ModelParams, find_n_mult, model_named
from ggmlpy.formats.model_sizes import PUBLISHED_SIZES
from ggmlpy.formats.out_tensor import OutTensor, made_by_rows, when_whole
from ggmlpy.formats.tensor_names import ggml_names, original_names, shard_axis
from ggmlpy.formats.tensor_types import TensorType, type_named
from ggmlpy.formats.vocabulary_names import known_vocabulary, vocabulary_name
from ggmlpy.formats.writer import written_size
from llama_ref.checkpoint import Checkpoint, LazyTensor, open_checkpoint
from llama_ref.checkpoint.folder import directory_of
from llama_ref.checkpoint.params import read_config_json, read_params_json
from llama_ref.checkpoint.rope_freqs import rope_freqs_of
from llama_ref.vocabulary.tokenizer_file import GgmlVocabulary, find_tokenizer, load_vocabulary

from .plan import Plan

__all__ = [
    "VocabularyCount",
    "carried_notes",
    "check_vocabulary",
    "plan_ggml",
    "plan_ggml_vocabulary",
    "vocabulary_counts",
]

OUTTYPES = {"f32": 0, "f16": 1}
CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class VocabularyCount:
    """How large one file says that the vocabulary is."""

    what: str
    path: Path
    size: int


def plan_ggml(
    source: str | os.PathLike[str],
    outfile: str | os.PathLike[str] | None = None,
    *,
    outtype: str = "f16",
    era: str | Era = DEFAULT_ERA,
    container: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    pad_vocab: bool = False,
    guess_params: bool = False,
) -> Plan:
    """Check a conversion completely, without writing anything.

    Arguments:
        source: directory of the model, Meta's layout or Hugging Face's.
        outfile: the file (or directory) to write; by default ``ggml-model-f16.bin`` in ``source``.
        outtype: "f16" or "f32", the type of two-dimensional tensors.
        era: whose order of tensors and container to take.
        container: another container than the era's: "ggml", "ggmf1", "ggjt1", "ggjt2", "ggjt3", "gguf".
        tokenizer: the tokenizer.model, if it is neither in the directory nor in its parent.
        pad_vocab: fill up with dummy pieces where the embedding has more rows than the tokenizer.
        guess_params: write n_mult 256 and n_embd/128 heads into the header whatever params.json says, as the
            converters of 2023-04-30 and 2023-05-19 did. For unusual shapes that gives a file which cannot be loaded.

    Raises:
        MissingFileError: no model, no tokenizer, a shard missing.
        VocabularyError: tokenizer, embedding and output differ; names the file to fix.
        FormatError: anything else that is wrong with the source.
        UsageError: an unknown outtype, era or container.

    >>> with plan_conversion("models/7B") as plan:                       # doctest: +SKIP
    ...     plan.write()
    [PosixPath('models/7B/ggml-model-f16.bin')]
    """
    era, declared, version = _target(outtype, era, container, outfile)
    with contextlib.ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(source))
        notes = list(checkpoint.notes)
        vocab = load_vocabulary(find_tokenizer(checkpoint.path, tokenizer))
        vocab = check_vocabulary(checkpoint, vocab, pad=pad_vocab, notes=notes)
        params = _header_params(checkpoint, era, guess_params)
        if not guess_params and _guesses_params(era) and _guessed(params).header() != params.header():
            notes.append(
                f"the header has n_mult {params.n_mult} and {params.n_head} heads, from {checkpoint.params_path.name}; "
                f"the converter of {era} guessed 256 and {_guessed(params).n_head} (--guess-params does the same)"
            )
        notes += carried_notes(checkpoint, declared, version)
        hparams = replace(params, n_vocab=len(vocab), ftype=OUTTYPES[outtype])
        plan = Plan({}, declared, version, hparams, vocab, [], notes, checkpoint)
        plan.parts = _parts(checkpoint, era, declared, type_named(outtype, declared.name, version), plan)
        plan.files = _files(outfile, checkpoint.path / f"ggml-model-{outtype}.{_suffix(declared)}", plan)
        for target in plan.files:
            refuse_overwriting(target, [*checkpoint.files, checkpoint.params_path, vocab.path])
        stack.pop_all()
        return plan


def plan_ggml_vocabulary(
    source: str | os.PathLike[str],
    outfile: str | os.PathLike[str] | None = None,
    *,
    outtype: str = "f16",
    era: str | Era = DEFAULT_ERA,
    container: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    model: str | None = None,
) -> Plan:
    """A file with the header and the vocabulary only (``ggml-vocab.bin``); the weights need not be there.

    Arguments:
        source: directory with params.json or config.json and, there or in its parent, tokenizer.model.
        model: "7B" … "65B", in place of params.json.
        outfile, outtype, era, container, tokenizer: as for :func:`plan_ggml`.

    Raises:
        MissingFileError: no tokenizer, or no parameters.
    """
    era, declared, version = _target(outtype, era, container, outfile)
    directory = directory_of(source)
    vocab = load_vocabulary(find_tokenizer(directory, tokenizer))
    if era.has_convert_py:  # it writes nothing but the size, and one head to divide by
        hparams = ModelParams(n_vocab=len(vocab), n_embd=0, n_mult=0, n_head=1, n_layer=0, ftype=0)
    else:
        params = model_named(model) if model else _params_beside(directory)
        hparams = replace(params, n_vocab=len(vocab), ftype=OUTTYPES[outtype])
    plan = Plan({}, declared, version, hparams, vocab, [[]])
    plan.files = _files(outfile, directory / f"ggml-vocab.{_suffix(declared)}", plan)
    for target in plan.files:
        refuse_overwriting(target, [vocab.path])
    return plan


def vocabulary_counts(checkpoint: Checkpoint, vocab: GgmlVocabulary) -> list[VocabularyCount]:
    """The size of the vocabulary by each file that states one."""
    weights = checkpoint.files[0] if len(checkpoint.files) == 1 else checkpoint.path
    counts = [
        VocabularyCount("tokenizer", vocab.path, len(vocab.base)),
        VocabularyCount("embedding", weights, checkpoint.n_vocab),
        VocabularyCount("output", weights, checkpoint.tensors["output.weight"].shape[0]),
    ]
    if vocab.added_path:
        counts.insert(1, VocabularyCount("added tokens", vocab.added_path, len(vocab.added)))
    if checkpoint.params.n_vocab != -1:
        name = checkpoint.params_path.name
        counts.append(VocabularyCount(name, checkpoint.params_path, checkpoint.params.n_vocab))
    return counts


def check_vocabulary(
    checkpoint: Checkpoint, vocab: GgmlVocabulary, *, pad: bool = False, notes: list[str] | None = None
) -> GgmlVocabulary:
    """The vocabulary to write, once tokenizer, embedding and output are found to agree.

    Arguments:
        pad: allow dummy pieces up to the size of the embedding.
        notes: gets what was decided on the way.

    Raises:
        VocabularyError: they differ; the message has all numbers, and the file to fix.
    """
    notes = [] if notes is None else notes
    rows, outputs = checkpoint.n_vocab, checkpoint.tensors["output.weight"].shape[0]
    if rows != outputs:
        raise _differing(checkpoint, vocab, f"the embedding has {rows} rows, the output matrix {outputs}", *_HALF_GROWN)
    if len(vocab.base) == rows and vocab.added:
        notes.append(f"{vocab.added_path} is left out: the tokenizer alone has the {rows} pieces of the model")
        vocab = vocab.without_added()
    if len(vocab) < rows and pad:
        notes.append(f"{rows - len(vocab)} dummy pieces fill the vocabulary up from {len(vocab)} to {rows}")
        vocab = vocab.padded(rows)
    if len(vocab) != rows:
        cause, next_step = _which_vocabulary(checkpoint, vocab, rows)
        raise _differing(
            checkpoint, vocab, f"the tokenizer has {len(vocab)} pieces, the weights {rows} rows", cause, next_step
        )
    if checkpoint.params.n_vocab not in (-1, rows):
        notes.append(
            f"{checkpoint.params_path} says vocab_size {checkpoint.params.n_vocab}; weights and tokenizer agree on "
            f"{rows}, which was taken. The file to fix is {checkpoint.params_path.name}"
        )
    return vocab


_HALF_GROWN = (
    "only one of the two was resized when the vocabulary grew",
    "merge again from the base model (`merge`), which replaces both",
)


def _which_vocabulary(checkpoint: Checkpoint, vocab: GgmlVocabulary, rows: int) -> tuple[str, str]:
    """The likely cause of a tokenizer that does not fit, and what to do."""
    where = checkpoint.path / "tokenizer.model"
    if known_vocabulary(rows):
        name = vocabulary_name(rows)
        return (
            f"{vocab.path} is that of {vocabulary_name(len(vocab))}, the weights are {name}'s",
            f"the file to fix is {vocab.path.name}: put the tokenizer.model of {name} at {where}",
        )
    if len(vocab) < rows < len(vocab) + 20:
        return (
            f"added_tokens.json is missing beside {vocab.path.name}" if not vocab.added else "more tokens were added",
            f"copy it to {vocab.path.parent}, or fill {rows - len(vocab)} rows with dummy pieces: --pad-vocab",
        )
    if len(vocab) < rows:
        return ("the tokenizer belongs to another model", f"put the model's own tokenizer.model at {where}")
    return (
        "the weights were not resized to this tokenizer, or it belongs to another model",
        f"put the model's own tokenizer.model at {where}, or merge again with this tokenizer's adapter",
    )


def _differing(
    checkpoint: Checkpoint, vocab: GgmlVocabulary, problem: str, cause: str, next_step: str
) -> VocabularyError:
    counts = vocabulary_counts(checkpoint, vocab)
    return VocabularyError(
        problem,
        path=checkpoint.path,
        field="n_vocab",
        expected="one number in all files",
        found="; ".join(f"{count.what} {count.size} ({count.path})" for count in counts),
        cause=cause,
        next_step=next_step,
    )


def _target(
    outtype: str, era: str | Era, container: str | None, outfile: str | os.PathLike[str] | None
) -> tuple[Era, Container, int]:
    """The era, and the container that was asked for, that the file's name says, or that is the era's."""
    if outtype not in OUTTYPES:
        raise UsageError(
            f"unknown outtype {outtype!r}: choose f16 or f32 (and quantize afterwards). GGUF made from a "
            "Hugging Face directory has bf16, q8_0 and auto, too: `convert DIR --container gguf`"
        )
    era = era_of(era)
    usual = "ggjt1" if era.container == "ggjt" else era.container
    declared, version = container_named(container or container_of_name(outfile or "", usual))
    refuse_name(outfile or "", declared.name, "--container gguf")
    return era, declared, version


def _params_beside(directory: Path) -> ModelParams:
    """The parameters in a directory that need not hold any weights."""
    for name, read in (("params.json", read_params_json), ("config.json", read_config_json)):
        if (directory / name).is_file():
            return read(directory / name)
    raise MissingFileError(
        "no params.json",
        path=directory,
        expected="params.json or config.json",
        cause="the header of a vocabulary file holds the shape of the model too",
        next_step="name the model with --model 7B",
    )


def _header_params(checkpoint: Checkpoint, era: Era, guess: bool) -> ModelParams:
    """The parameters as the era's converter put them into the header."""
    params = checkpoint.params
    if guess:
        return _guessed(params)
    if era >= AUGUST_21 and checkpoint.layout == "huggingface":
        largest = find_n_mult(params.n_embd, params.n_ff, range(8192, 1, -1))
        return replace(params, n_mult=largest or params.n_mult)
    return params


def _guesses_params(era: Era) -> bool:
    """convert.py read params.json only from June 2023."""
    return APRIL_30 <= era < AUGUST_21


def _guessed(params: ModelParams) -> ModelParams:
    return params.changed(n_mult=256, n_head=max(1, params.n_embd // 128))


def carried_notes(checkpoint: Checkpoint, container: Container, version: int) -> list[str]:
    """What a GGML or GGUF file cannot say of this model but its reader must know.

    Raises:
        UnsupportedError: a reader would compute something else.
    """
    target = "gguf" if container.name == "gguf" else "ggml"
    gguf = f"`convert {checkpoint.path} --container gguf`"
    lost = target == "ggml" and not lost_in(checkpoint.params, "gguf", checkpoint.layout)
    return carry(
        checkpoint.params,
        target,
        checkpoint.layout,
        checkpoint.params_path,
        title=container.title(version),
        next_step=gguf if lost else "",
    )


def _files(outfile: str | os.PathLike[str] | None, default: Path, plan: Plan) -> dict[Path, int]:
    """The paths of the parts with their sizes: the name itself, then ``.1``, ``.2`` …"""
    path = default if outfile is None else Path(outfile)
    if path.is_dir():
        path = path / default.name
    name, version = plan.container.name, plan.version
    sizes = [written_size(name, version, plan.hparams, plan.vocab, part) for part in plan.parts]
    stale = path.with_name(f"{path.name}.{len(sizes)}")
    if stale.exists():
        plan.notes.append(f"{stale} is left from another conversion and no part of this model: remove it")
    return {path.with_name(path.name + (f".{i}" if i else "")): size for i, size in enumerate(sizes)}


def _suffix(container: Container) -> str:
    return "gguf" if container.name == "gguf" else "bin"


def _parts(
    checkpoint: Checkpoint, era: Era, container: Container, matrix_type: TensorType, plan: Plan
) -> list[list[OutTensor]]:
    """The tensors of each file, in the era's order."""
    n_parts = _n_parts(checkpoint) if container.multipart else 1
    types = {1: type_named("f32", container.name, plan.version), 2: matrix_type}
    ordered = [checkpoint.tensors[name] for name in _order(checkpoint, era)]
    scaling = rope_freqs_of(checkpoint.params) if container.name == "gguf" else []
    cuts = {tensor.name: _cuts(checkpoint, tensor, n_parts) for tensor in ordered}
    return [
        [
            *scaling,
            *(_out_tensor(checkpoint, t, types[len(t.shape)], cuts[t.name][part], plan) for t in ordered),
        ]
        for part in range(n_parts)
    ]


def _order(checkpoint: Checkpoint, era: Era) -> list[str]:
    if era.has_convert_py:
        return ggml_names(checkpoint.params.n_layer)
    return list(checkpoint.tensors) if checkpoint.layout == "meta" else original_names(checkpoint.params.n_layer)


def _n_parts(checkpoint: Checkpoint) -> int:
    """As many files as the loader of the time expects for this width; for an unpublished width, one a shard."""
    width = checkpoint.params.n_embd
    if checkpoint.layout == "huggingface" or any(size.n_embd == width for size in PUBLISHED_SIZES):
        return checkpoint.params.n_shards
    return len(checkpoint.files)


def _cuts(checkpoint: Checkpoint, tensor: LazyTensor, n_parts: int) -> list[tuple[int, slice]]:
    """For each part the axis and the range of the tensor in it; the rest of an uneven cut goes to the last part."""
    axis = shard_axis(tensor.name)
    if axis is None or n_parts == 1:
        return [(0, slice(0, tensor.shape[0]))] * n_parts
    sizes = checkpoint.shard_sizes.get(tensor.name, [])
    if len(sizes) != n_parts:
        each = tensor.shape[axis] // n_parts
        sizes = [each] * (n_parts - 1) + [tensor.shape[axis] - each * (n_parts - 1)]
    ends = list(itertools.accumulate(sizes))
    return [(axis, slice(end - size, end)) for end, size in zip(ends, sizes)]


def _out_tensor(
    checkpoint: Checkpoint, tensor: LazyTensor, target: TensorType, cut: tuple[int, slice], plan: Plan
) -> OutTensor:
    axis, span = cut
    rows, columns = (span, slice(None)) if axis == 0 else (slice(0, tensor.shape[0]), span)
    shape = tuple(s.indices(n)[1] - s.indices(n)[0] for s, n in zip((rows, columns), tensor.shape))

    def made(start: int, stop: int) -> np.ndarray:
        values = tensor.lines(rows.start + start, rows.start + stop)
        values = values[:, columns] if len(tensor.shape) == 2 else values[rows]
        cast = _cast(values, target)
        if target.name == "f16" and tensor.dtype != "float16":
            _count_overflow(plan, tensor.name, values, cast)
        return cast

    whole = when_whole(math.prod(shape[:-1]), checkpoint.release)
    return made_by_rows(tensor.name, target, shape, made, taken=whole)


def _cast(values: np.ndarray, target: TensorType) -> np.ndarray:
    """Rounded to nearest even where the target is narrower."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=target.block)


def _count_overflow(plan: Plan, name: str, values: np.ndarray, cast: np.ndarray) -> None:
    if np.isinf(cast).any() and (count := int((np.isinf(cast) & np.isfinite(values)).sum())):
        plan.count_overflow(name, count)
