"""Carrying a model from one container to another.

Parts are joined, names and header are kept, and each tensor's bytes are copied untouched where the new container
gives them the same meaning. Where it doesn't (the code order changed in May 2023, scales became f16 later), the
caller must ask for the change: codes are then reordered and scales rounded (:func:`ggmlpy.formats.codes.repack`), or,
if another type is named, values are dequantized and quantized anew; what that cost is reported for each tensor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from ggmlpy.formats.out_tensor import OutTensor
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
        rmse, max_error: over its values; 0 where codes were only reordered.
    """

    name: str
    source: str
    target: str
    n_values: int = 0
    squares: float = 0.0
    max_error: float = 0.0

    @property
    def rmse(self) -> float:
        return float(np.sqrt(self.squares / self.n_values)) if self.n_values else 0.0

    def add(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(before.astype(np.float64) - after)
        self.n_values += error.size
        self.squares += float(np.square(error).sum())
        self.max_error = max(self.max_error, float(error.max(initial=0.0)))


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
    n_rows, n_cols = tensor.n_rows, tensor.n_cols
    counted = loss if part == 0 else None  # what every part converts is counted once
    axis = split_axis(tensor.name, len(tensor.shape)) if n_parts > 1 else None
    if axis is None:
        return OutTensor(tensor.name, target, tensor.shape, lambda: _carried(tensor, target, counted, 0, n_rows))
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
        return OutTensor(
            tensor.name, target, (stop - start, n_cols), lambda: _carried(tensor, target, loss, start, stop)
        )
    columns = slice(target.row_bytes(start), target.row_bytes(stop))

    def chunks() -> Iterator[NDArray[np.uint8]]:
        for rows in _carried(tensor, target, counted, 0, n_rows):
            yield np.ascontiguousarray(rows[:, columns])

    return OutTensor(tensor.name, target, (n_rows, stop - start), chunks)


def _carried(
    tensor: Tensor, target: TensorType, loss: Loss | None, start: int, stop: int
) -> Iterator[NDArray[np.uint8]]:
    """Rows ``start`` to ``stop`` in the new type, a few megabytes at a time: uint8 [rows, row_bytes]."""
    step = max(1, (1 << 22) // tensor.row_bytes)
    for row in range(start, stop, step):
        raw = tensor.read_rows(row, min(row + step, stop))
        yield raw if tensor.type.layout == target.layout else _convert(raw, tensor.type, target, loss)


def _convert(raw: NDArray[np.uint8], source: TensorType, target: TensorType, loss: Loss | None) -> NDArray[np.uint8]:
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
        loss.add(before, dequantize(out.reshape(len(raw), -1).view(target.block), target))
    return out.reshape(len(raw), -1)
