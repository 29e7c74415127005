"""Carrying a model from one container to another.

Parts are joined, names and header are kept, and each tensor's bytes are copied untouched where the new container
gives them the same meaning. Where it doesn't (the code order changed in May 2023, scales became f16 later), the
caller must ask for the change: codes are then reordered and scales rounded (:func:`ggmlpy.formats.codes.repack`), or,
if another type is named, values are dequantized and quantized anew; what that cost is reported for each tensor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError, ShapeError, UnsupportedError, UsageError
from ggmlpy.files.paths import refuse_overwriting
from ggmlpy.formats.carrying import carry
from ggmlpy.formats.codes import repack, repackable
from ggmlpy.formats.containers import CONTAINERS, GGUF, Container, refuse_name
from ggmlpy.formats.dequantize import dequantize
from ggmlpy.formats.eras import eras_writing
from ggmlpy.formats.file_types import FTYPES
from ggmlpy.formats.gguf_model import architecture_of, kept_metadata, types_lost
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.model_file import ModelFile, Tensor
from ggmlpy.formats.multipart import MOST_PARTS, part_path, split_sizes
from ggmlpy.formats.out_tensor import OutTensor, made_by_rows
from ggmlpy.formats.tensor_names import is_known, split_axis
from ggmlpy.formats.tensor_types import TensorType, type_named, types_of
from ggmlpy.formats.vocabulary_names import size_of_vocabulary
from ggmlpy.formats.writer import write_model

__all__ = ["Loss", "MigrationReport", "derived_scores", "migrate"]

SPACES_SCORE = -1e9
FIRST_MERGE = 259
LLAMA_VOCAB = size_of_vocabulary("LLaMA")


@dataclass
class Loss:
    """What carrying one tensor over cost.

    Attributes:
        source, target: the layouts.
        errors: of the rows from a number on: how many values, the sum of their squared errors, and the largest error.
        n_values, squares, max_error, rmse: of all values; errors are 0 where codes were only reordered.
    """

    name: str
    source: str
    target: str
    errors: dict[int, tuple[int, float, float]] = field(default_factory=dict)

    @property
    def n_values(self) -> int:
        return sum(count for count, _, _ in self.errors.values())

    @property
    def squares(self) -> float:
        return sum((self.errors[row][1] for row in sorted(self.errors)), 0.0)  # the same sum for any threads

    @property
    def max_error(self) -> float:
        return max((largest for _, _, largest in self.errors.values()), default=0.0)

    @property
    def rmse(self) -> float:
        return float(np.sqrt(self.squares / self.n_values)) if self.errors else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("name", "source", "target", "n_values", "squares", "max_error", "rmse")
        return {name: getattr(self, name) for name in names}

    def add(self, row: int, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
        """Keep what became of rows from ``row`` on; any thread may say it."""
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(before.astype(np.float64) - after)
        self.errors[row] = error.size, float(np.square(error).sum()), float(error.max(initial=0.0))


@dataclass(frozen=True)
class MigrationReport:
    """What was written.

    Attributes:
        paths: the files.
        size: their bytes.
        losses: one entry per tensor whose bytes changed.
        derived_scores: whether the vocabulary's scores had to be derived (unversioned files have none).
        notes: what the source says and the new container has no place for, and its reader must know.
    """

    paths: tuple[Path, ...]
    size: int
    losses: tuple[Loss, ...]
    derived_scores: bool
    notes: tuple[str, ...] = ()


def migrate(
    model: ModelFile,
    path: str | os.PathLike[str],
    container: str = "ggjt",
    version: int = 1,
    *,
    requantize: bool | str = False,
    scores: Sequence[float] | None = None,
    n_parts: int = 1,
    progress: Callable[[int], object] | None = None,
) -> MigrationReport:
    """Write ``model`` into another container.

    Args:
        requantize: allow the bytes of quantized tensors to change; a type's name ("q8_0") requantizes to that type.
        scores: the vocabulary's scores, [n_vocab], if the source has none and the tokenizer is at hand.
        n_parts: spread the model over this many files (ggml and ggmf only).
        progress: called with the bytes written.

    Raises:
        UsageError: the container can't hold the model this way; the message says what to ask for. Or the output is the
            input.
        UnsupportedError: a reader of that container would compute something else.
    """
    declared = GGUF if container == "gguf" else CONTAINERS[container]
    if model.as_stored and declared is not GGUF:
        raise UnsupportedError(
            f"only GGUF has a place for a model of architecture {architecture_of(model.metadata)!r}",
            path=model.path,
            field="general.architecture",
            next_step=f"`migrate {model.path} OUT.gguf`",
        )
    refuse_name(path, container, "--container gguf")
    notes = _notes(model, declared, version)
    if n_parts < 1:
        raise UsageError(f"a model has at least one part, not {n_parts}")
    if n_parts > MOST_PARTS:
        raise UsageError(f"a model has at most {MOST_PARTS} parts, not {n_parts}: LLaMA-65B has 8")
    if n_parts > 1 and not declared.multipart:
        raise UsageError(f"{container} models are always one file; --parts goes with ggml and ggmf")
    if n_parts > 1:
        _check_width(model)
    stored = model.stored if declared is GGUF else [*model.tensors.values()]
    targets = {tensor.name: _target(tensor, container, version, requantize) for tensor in stored}
    losses = [Loss(t.name, t.type.layout, targets[t.name].layout) for t in stored if _moves(t, targets)]
    by_name = {loss.name: loss for loss in losses}
    hparams = replace(model.hparams, ftype=_ftype(model, targets, requantize))
    pairs, derived = _vocabulary(model, declared, scores)
    metadata = _metadata(model, declared, hparams.ftype)
    paths = tuple(part_path(Path(path), index) for index in range(n_parts))
    for out in paths:
        refuse_overwriting(out, model.paths)
    size = 0
    for index, out in enumerate(paths):
        tensors = [_out(t, targets[t.name], by_name.get(t.name), index, n_parts) for t in stored]
        if model.as_stored and metadata is not None:
            size += write_gguf(out, metadata, tensors, progress)
        else:
            size += write_model(out, container, version, hparams, pairs, tensors, progress, metadata)
    return MigrationReport(paths, size, tuple(losses), derived, tuple(notes))


def derived_scores(pieces: Iterable[bytes]) -> NDArray[np.float32]:
    """The scores of a LLaMA vocabulary, from the order of its pieces: float32 [n_vocab].

    SentencePiece numbers BPE merges in order, so the score of piece i is -(i - 259) after the 259 special and byte
    pieces; LLaMA's model gives runs of spaces -1e9, and appended pieces (from 32000 on) have 0. This reproduces the
    scores of the LLaMA tokenizer bit for bit.
    """
    pieces = list(pieces)
    scores = np.zeros(len(pieces), np.float32)
    merged = slice(FIRST_MERGE, min(len(pieces), LLAMA_VOCAB))
    scores[merged] = -np.arange(len(scores[merged]), dtype=np.float32)
    if len(pieces) >= LLAMA_VOCAB:
        for index in range(FIRST_MERGE, LLAMA_VOCAB):
            if pieces[index] and not pieces[index].strip(b" "):
                scores[index] = SPACES_SCORE
    return scores


def _vocabulary(
    model: ModelFile, target: Container, scores: Sequence[float] | None
) -> tuple[list[tuple[bytes, float]], bool]:
    derive = target.scored and not model.declared.scored and scores is None
    if scores is None:
        scores = derived_scores(model.vocab).tolist() if derive else model.vocab.scores.tolist()
    if len(scores) != len(model.vocab):
        raise FormatError(
            "the tokenizer does not belong to this model",
            path=model.path,
            field="n_vocab",
            expected=f"{len(model.vocab)} scores",
            found=len(scores),
            next_step="give the tokenizer.model that the model was converted with",
        )
    return list(zip(model.vocab, scores, strict=True)), derive


def _metadata(model: ModelFile, target: Container, ftype: int) -> dict[str, Value] | None:
    """All keys of a GGUF file that becomes another; None where they are made from what the model says."""
    if target is not GGUF or not model.metadata:
        return None
    return kept_metadata(model.metadata, None if ftype == model.hparams.ftype else ftype)


def _notes(model: ModelFile, target: Container, version: int) -> list[str]:
    """What the new container has no place for; GGUF has one for everything.

    Raises:
        UnsupportedError: a reader would compute something else.
    """
    if target is GGUF:
        return []
    title, source = target.title(version), "gguf" if model.metadata else "ggml"
    notes = carry(model.hparams, "ggml", source, model.path, title=title, next_step=f"`migrate {model.path} OUT.gguf`")
    unknown = [] if source == "ggml" else [name for name in model.tensors if not is_known(name)]
    if unknown:
        raise UnsupportedError(
            f"{title} has no place for tensor {unknown[0]!r}: a reader would compute something else",
            path=model.path,
            field=unknown[0],
            found=f"{len(unknown)} tensors that the first LLaMA does not have",
            next_step=f"`migrate {model.path} OUT.gguf`",
        )
    notes += [f"{title} has no place for {words}" for words in types_lost(model)]
    if not target.scored and model.declared.scored and derived_scores(model.vocab).tolist() != list(model.vocab.scores):
        notes.append(f"{title} has no place for the scores of the vocabulary: readers take those of LLaMA's")
    return notes


def _target(tensor: Tensor, container: str, version: int, requantize: bool | str) -> TensorType:
    there = types_of(container, version)
    if isinstance(requantize, str) and len(tensor.shape) == 2 and tensor.type.quantized:
        return type_named(requantize, container, version)
    same = there.get(tensor.type.id)
    title = f"{container} v{version}" if version else container
    if same is None:
        raise UsageError(
            f"{title} has no {tensor.type.name} (tensor {tensor.name}); "
            f"--requantize TYPE converts the values, e.g. --requantize {_nearest(there)}"
        )
    if same.layout != tensor.type.layout and not requantize:
        raise UsageError(
            f"{tensor.type.name} has other bytes in {title} ({tensor.type.layout} became {same.layout}; tensor "
            f"{tensor.name}); --requantize carries the codes over and says what is lost"
        )
    return same


def _nearest(types: dict[int, TensorType]) -> str:
    names = {record.name for record in types.values()}
    return next(name for name in ("q8_0", "q5_1", "q4_1") if name in names)


def _moves(tensor: Tensor, targets: dict[str, TensorType]) -> bool:
    return tensor.type.layout != targets[tensor.name].layout


def _ftype(model: ModelFile, targets: dict[str, TensorType], requantize: bool | str) -> int:
    if not isinstance(requantize, str):
        return model.hparams.ftype
    return next((ftype.id for ftype in FTYPES.values() if ftype.type == requantize), model.hparams.ftype)


def _check_width(model: ModelFile) -> None:
    """The number of parts is read off the embedding's width, so that must be the header's."""
    embedding, n_embd = model.tensors.get("tok_embeddings.weight"), model.hparams.n_embd
    if embedding is None:
        raise ShapeError(
            "tensor tok_embeddings.weight is missing, by whose width parts are counted",
            path=model.path,
            next_step=f"`identify {model.path}`",
        )
    width = embedding.n_cols
    if width != n_embd:
        raise UsageError(
            f"the embedding has {width} columns but the header says {n_embd}, so it cannot be distinguished from one "
            "part of a multi-part model"
        )


def _out(tensor: Tensor, target: TensorType, loss: Loss | None, part: int, n_parts: int) -> OutTensor:
    """The share of ``tensor`` that part ``part`` holds, in its new type."""
    n_cols = tensor.n_cols
    counted = loss if part == 0 else None  # what every part converts is counted once
    axis = split_axis(tensor.name, len(tensor.shape)) if n_parts > 1 else None
    if axis is None:
        return made_by_rows(tensor.name, target, tensor.shape, partial(_carried, tensor, target, counted))
    sizes = split_sizes(tensor.shape[axis], n_parts)
    block = target.blck_size if axis == 1 else 1
    if min(sizes) == 0 or any(size % block for size in sizes):
        raise UsageError(
            f"{tensor.name} has {tensor.shape[axis]} {('rows', 'columns')[axis]}"
            + (f" in blocks of {block}" if block > 1 else "")
            + f", which can't be spread over {n_parts} files"
        )
    start = sum(sizes[:part])
    stop = start + sizes[part]
    if axis == 0:

        def rows_from_start(a: int, b: int) -> NDArray[np.uint8]:
            return _carried(tensor, target, loss, start + a, start + b)

        return made_by_rows(tensor.name, target, (stop - start, n_cols), rows_from_start)
    columns = slice(target.row_bytes(start), target.row_bytes(stop))

    def some_columns(a: int, b: int) -> NDArray[np.uint8]:
        return _carried(tensor, target, counted, a, b)[:, columns]

    return made_by_rows(tensor.name, target, (tensor.n_rows, stop - start), some_columns)


def _carried(tensor: Tensor, target: TensorType, loss: Loss | None, start: int, stop: int) -> NDArray[np.uint8]:
    """Rows ``start`` to ``stop`` in the new type: uint8 [rows, row_bytes]."""
    raw = tensor.read_rows(start, stop)
    if tensor.type.layout == target.layout:
        return raw
    source = tensor.type
    blocks = np.ascontiguousarray(raw).view(source.block)  # [rows, blocks per row]
    before = dequantize(blocks, source)
    if repackable(source, target):
        out: NDArray[Any] = repack(blocks, source, target).view(np.uint8)
    else:
        from .rows import quantize_rows

        eras = eras_writing(target)
        if not eras:
            raise UsageError(f"no era's quantizer writes {target.layout}")
        out = quantize_rows(before, target.name, eras[0])
    if loss is not None:
        loss.add(start, before, dequantize(out.reshape(len(raw), -1).view(target.block), target))
    return out.reshape(len(raw), -1)
