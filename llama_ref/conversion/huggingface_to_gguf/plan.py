"""A Hugging Face directory checked for a conversion to GGUF, with what goes into each file and what is lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ggmlpy.files.errors import UsageError
from ggmlpy.files.paths import refuse_overwriting
from ggmlpy.formats.carrying import carry, shown
from ggmlpy.formats.containers import GGUF, refuse_name
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.writer import written_size
from llama_ref.checkpoint import Checkpoint
from llama_ref.checkpoint.folder import Folder
from llama_ref.checkpoint.opening import open_checkpoint
from llama_ref.checkpoint.params import read_config_json

from ..plan import Plan
from .metadata import ARCHITECTURES, all_metadata, n_tokens_of
from .shards import Splitting, split
from .tensors import FILE_TYPES, chosen_type, model_tensors, order_of
from .vocabulary import FoundVocabulary, find_vocabulary

__all__ = ["plan_gguf"]

EOS_ID = "tokenizer.ggml.eos_token_id"


def plan_gguf(
    folder: Folder,
    outfile: str | os.PathLike[str] | None,
    *,
    outtype: str = "f16",
    tokenizer: str | os.PathLike[str] | None = None,
    pre_tokenizer: str | None = None,
    splitting: Splitting | None = None,
    vocab_only: bool = False,
    weights: tuple[Checkpoint, Sequence[str]] | None = None,
) -> Plan:
    """Check a conversion completely, without writing anything; arguments as for :func:`.converting.plan_conversion`.

    Arguments:
        vocab_only: the keys alone; the weights need not be there.
        weights: the model and the order of its tensors, where they are not in the folder; it is not closed.

    Raises: as :func:`.converting.plan_conversion`.
    """
    if outtype not in (*FILE_TYPES, "auto"):
        names = ", ".join(FILE_TYPES)
        raise UsageError(f"unknown outtype {outtype!r}: choose {names} or auto (and quantize afterwards)")
    with contextlib.ExitStack() as stack:
        opened = None if vocab_only or weights else stack.enter_context(open_checkpoint(folder))
        checkpoint, order = weights or (opened, order_of(opened) if opened else [])
        params = opened.params if opened else read_config_json(folder.path / "config.json")
        kind = chosen_type(checkpoint, outtype, order)
        found = find_vocabulary(
            folder,
            n_tokens_of(params),
            prefers_pieces=ARCHITECTURES[params.architecture] == "llama",
            pre_tokenizer=pre_tokenizer,
            tokenizer=_named_tokenizer(tokenizer),
        )
        hparams = replace(params, ftype=FILE_TYPES[kind], n_vocab=n_tokens_of(params))
        plan = Plan({}, GGUF, 3, hparams, found, [], list(found.notes), opened)
        tensors = model_tensors(checkpoint, kind, plan.count_overflow, order) if checkpoint else []
        metadata = all_metadata(folder, hparams, found, sum(_size(tensor) for tensor in tensors))
        name = "ggml-vocab.gguf" if vocab_only else f"ggml-model-{kind}.gguf"
        _set_files(plan, _target(outfile, folder.path / name), metadata, tensors, splitting or Splitting())
        plan.notes += [*_losses(folder, params, metadata), *_doubts(checkpoint, found)]
        for path in plan.files:
            refuse_overwriting(path, [folder.path / file for file in folder.files])
        stack.pop_all()
        return plan


def _named_tokenizer(tokenizer: str | os.PathLike[str] | None) -> Path | None:
    if tokenizer is None:
        return None
    return Path(tokenizer) / "tokenizer.model" if Path(tokenizer).is_dir() else Path(tokenizer)


def _target(outfile: str | os.PathLike[str] | None, default: Path) -> Path:
    path = default if outfile is None else Path(outfile)
    refuse_name(path, "gguf", "--container gguf")
    return path / default.name if path.is_dir() else path


def _set_files(
    plan: Plan, path: Path, metadata: Mapping[str, Value], tensors: Sequence[OutTensor], splitting: Splitting
) -> None:
    files = split(path, metadata, tensors, splitting)
    plan.parts, plan.keys = [part for _, _, part in files], [keys for _, keys, _ in files]
    plan.files = {name: written_size("gguf", 3, plan.hparams, plan.vocab, part, keys) for name, keys, part in files}


def _size(tensor: OutTensor) -> int:
    size = 1
    for dimension in tensor.shape:
        size *= dimension
    return size


def _losses(folder: Folder, params: ModelParams, metadata: Mapping[str, Value]) -> Iterator[str]:
    """What the directory says and the file does not."""
    path = folder.path / "config.json"
    yield from carry(replace(params, eos_ids=params.eos_ids[:1]), "gguf", "huggingface", path)
    if len(params.eos_ids) > 1:
        eos = metadata.get(EOS_ID)
        kept = f"{eos.value}, the tokenizer's" if eos else "none, so readers take 2"
        yield f"GGUF has no place for several tokens that end a text ({shown(params.eos_ids)}): it has {kept}"


def _doubts(checkpoint: Checkpoint | None, found: FoundVocabulary) -> Iterator[str]:
    """Why llama.cpp will not load the file."""
    if checkpoint and checkpoint.n_vocab != found.n_tokens:
        yield (
            f"the vocabulary has {found.n_tokens} tokens, the embedding {checkpoint.n_vocab} rows: llama.cpp's "
            f"converter writes such a file, too, and llama.cpp refuses it. The file to fix is {found.path}"
        )
