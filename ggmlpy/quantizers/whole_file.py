"""A whole model file quantized, as the ``quantize`` program of an era did it: same bytes, same printed figures.

Rows stream through a few threads: a chunk is read, quantized, written, forgotten. Memory holds a handful of chunks,
whatever the model's size. Era 2023-03-19 and 2023-03-30 quantized each part of a multi-part model on its
own (quantize.py ran the program once a file); later eras read all parts and write one file.

Sources: quantize.cpp at llama.cpp da5303c1e; llama_model_quantize_internal in llama.cpp at ed3c680bc … dadbed99e.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError, ShapeError, UnsupportedError, UsageError
from ggmlpy.files.ordered import Workers
from ggmlpy.files.paths import refuse_overwriting
from ggmlpy.formats.containers import CONTAINERS, container_of_name
from ggmlpy.formats.eras import APRIL_30, DEFAULT_ERA, GGUF_ERA, MARCH_19, MARCH_31, Era, era_of
from ggmlpy.formats.file_types import FileType, TypeChooser, file_type_of
from ggmlpy.formats.gguf_model import kept_metadata
from ggmlpy.formats.model_file import ModelFile, Tensor
from ggmlpy.formats.multipart import part_path
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor, out_tensor
from ggmlpy.formats.row_reader import RowSource
from ggmlpy.formats.tensor_types import TensorType
from ggmlpy.formats.writer import write_model

from .migration import derived_scores

__all__ = ["QuantizeReport", "TensorReport", "quantize_file", "quantized_rows"]

# Values per task: 1 MB of f16 stays in a core's cache, and starting a task costs nothing beside it.
CHUNK_VALUES = 1 << 19


@dataclass
class TensorReport:
    """What became of one tensor.

    Attributes:
        name, shape: of the tensor, rows first.
        source, target: its type before and after; the same if it was copied.
        source_bytes, target_bytes: its size before and after.
        histogram: int64 [16], how often each code occurs (k-quants and copies count nothing).
    """

    name: str
    shape: tuple[int, ...]
    source: TensorType
    target: TensorType
    source_bytes: int
    target_bytes: int
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(16, np.int64))

    @property
    def copied(self) -> bool:
        return self.source is self.target

    @property
    def n_values(self) -> int:
        return int(np.prod(self.shape))


@dataclass
class QuantizeReport:
    """What :func:`quantize_file` did.

    Attributes:
        paths: the files written.
        era, file_type: as asked.
        tensors: one report per tensor (a part of a tensor, in a multi-part era).
        source_bytes, target_bytes: of all tensors.
    """

    paths: list[Path]
    era: Era
    file_type: FileType
    tensors: list[TensorReport] = field(default_factory=list)

    @property
    def source_bytes(self) -> int:
        return sum(tensor.source_bytes for tensor in self.tensors)

    @property
    def target_bytes(self) -> int:
        return sum(tensor.target_bytes for tensor in self.tensors)

    @property
    def histogram(self) -> NDArray[np.int64]:
        """Over all tensors: int64 [16]."""
        return np.sum([tensor.histogram for tensor in self.tensors], axis=0, dtype=np.int64, initial=0)

    def tensor_line(self, index: int) -> str:
        """What llama.cpp's program of this era printed about tensor ``index``."""
        tensor = self.tensors[index]
        columns = tensor.shape[::-1]
        if self.era < APRIL_30:
            first, second = (*columns, 1)[:2]
            line = f"{tensor.name:>48} - [{first:5d}, {second:5d}], type = {tensor.source.name:>6} "
        else:
            shape = " x ".join(f"{n:5d}" for n in columns)
            line = f"[{index + 1:4d}/{len(self.tensors):4d}] {tensor.name:>36} - {shape:>16}, "
            line += f"type = {tensor.source.name:>6}, "
        if tensor.copied:
            return f"{line}size = {megabytes(tensor.source_bytes):8.3f} MB"
        line += f"quantizing to {tensor.target.name} .. " if self.era.has_k_quants else "quantizing .. "
        sizes = f"{megabytes(self._counted(tensor)):8.2f} MB -> {megabytes(tensor.target_bytes):8.2f} MB"
        return f"{line}size = {sizes} | hist: {frequencies(tensor.histogram, tensor.n_values)}"

    def closing_lines(self) -> list[str]:
        """The sizes and the histogram that it printed at the end."""
        who = "llama_model_quantize" + ("_internal" if self.era > MARCH_19 else "")
        histogram = self.histogram
        total = int(histogram.sum())
        lines = [
            f"{who}: model size  = {megabytes(sum(map(self._counted, self.tensors))):8.2f} MB",
            f"{who}: quant size  = {megabytes(self.target_bytes):8.2f} MB",
        ]
        return [*lines, f"{who}: hist: {frequencies(histogram, total)}"] if total else lines

    def _counted(self, tensor: TensorReport) -> int:
        """Until March the original size was counted as if everything were f32."""
        return 4 * tensor.n_values if self.era < APRIL_30 else tensor.source_bytes

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        tensors = [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "from": tensor.source.name,
                "to": tensor.target.name,
                "bytes_before": tensor.source_bytes,
                "bytes_after": tensor.target_bytes,
                "histogram": tensor.histogram.tolist(),
            }
            for tensor in self.tensors
        ]
        return {
            "files": [str(path) for path in self.paths],
            "era": self.era.date,
            "type": self.file_type.name,
            "bytes_before": self.source_bytes,
            "bytes_after": self.target_bytes,
            "histogram": self.histogram.tolist(),
            "tensors": tensors,
        }


def megabytes(size: int) -> float:
    return size / 1024.0 / 1024.0


def frequencies(histogram: NDArray[np.int64], total: int) -> str:
    """Sixteen shares, divided in float32 as llama.cpp does.

    >>> frequencies(np.array([1, 3] + [0] * 14), 4)[:12]
    '0.250 0.750 '
    """
    if not histogram.any():
        return ""
    return "".join(f"{np.float32(count) / np.float32(total):5.3f} " for count in histogram)


def quantize_file(
    in_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    type: str | int | FileType,
    era: str | Era | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
    on_tensor: Callable[[QuantizeReport, int], object] | None = None,
    allow_requantize: bool = False,
    leave_output: bool = False,
) -> QuantizeReport:
    """Quantize a model file to the bytes that the era's ``quantize`` would have written.

    Args:
        in_path: an f32 or f16 model of any container; the first file of a multi-part one.
        out_path: the file to write, in the era's container (GGUF if the input is, or if it is named so). In a
            multi-part era parts become ``out_path``, ``out_path.1`` …
        type: the file type as llama.cpp takes it: 2, "2", "q4_0", "Q4_K_M"; see :mod:`ggmlpy.formats.file_types`.
        era: a date, see :mod:`ggmlpy.formats.eras`; 2023-03-31 if not given, 2023-08-21 for GGUF.
        threads: workers; by default one per processor.
        progress: called after each piece that was written with its bytes, and the bytes of all tensors.
        on_tensor: called with the report and the tensor's index when a tensor is written.
        allow_requantize: accept tensors that are quantized already (their loss adds up).
        leave_output: keep ``output.weight`` as it is.

    Returns:
        what was done, with the histograms.

    Raises:
        UsageError: the era has no such type, or the output is the input.
        FormatError: the input is damaged, is quantized already, or has rows that blocks don't divide.
        OutputError: the result could not be written; no file of that name is left then.

    >>> report = quantize_file("ggml-model-f16.bin", "ggml-model-q4_0.bin", "q4_0")   # doctest: +SKIP
    >>> print(*report.closing_lines(), sep="\\n")                                      # doctest: +SKIP
    """
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(open_model(in_path))
        workers = stack.enter_context(_workers(threads))
        gguf = model.container == "gguf" or container_of_name(out_path, "") == "gguf"
        moment = _moment(gguf, era)
        job = _Job(moment, file_type_of(type, moment), allow_requantize, leave_output)
        container = ("gguf", 3) if gguf else (moment.container, moment.version)
        outputs = _outputs(model, Path(out_path), moment)
        for path, _ in outputs:
            refuse_overwriting(path, model.paths)
        report = QuantizeReport([path for path, _ in outputs], moment, job.file_type)
        planned = [(path, _plan(model, tensors, job, report)) for path, tensors in outputs]
        hparams = replace(model.hparams, ftype=job.file_type.id)
        vocab = list(zip(model.vocab, _scores(model, moment, gguf), strict=True))
        metadata = kept_metadata(model.metadata, job.file_type.id) if model.metadata else None
        total = report.target_bytes
        advance = None if progress is None else lambda size: progress(size, total)
        for path, plan in planned:
            streams = _streams(plan, job, report, workers, on_tensor)
            write_model(path, *container, hparams, vocab, streams, advance, metadata)
    return report


def _workers(threads: int | None) -> Workers:
    workers = Workers(threads)
    workers.ahead = 2 * workers.n_threads
    return workers


@dataclass(frozen=True)
class _Job:
    """What was asked for."""

    era: Era
    file_type: FileType
    allow_requantize: bool
    leave_output: bool


Plan = list[tuple[Tensor, int]]  # a tensor and the index of its report


def _moment(gguf: bool, era: str | Era | None) -> Era:
    """The era that was asked for. GGUF keeps the bytes of 2023-08-21, whose quantizers today's llama.cpp still has."""
    moment = era_of(era or (GGUF_ERA if gguf else DEFAULT_ERA))
    if gguf and moment.date != GGUF_ERA:
        raise UsageError(f"GGUF files are quantized as of {GGUF_ERA}, not {moment}: leave --era out")
    return moment


def _outputs(model: ModelFile, out: Path, moment: Era) -> list[tuple[Path, list[Tensor]]]:
    """The files to write and the tensors in each."""
    if len(model.parts) == 1 or not CONTAINERS[moment.container].multipart:
        return [(out, model.stored)]
    return [
        (
            part_path(out, index),
            [Tensor(name, record, piece.shape, (piece,)) for name, (record, piece) in part.tensors.items()],
        )
        for index, part in enumerate(model.parts)
    ]


def _scores(model: ModelFile, moment: Era, gguf: bool) -> list[float]:
    """The vocabulary's scores. For an unversioned file llama.cpp of April 2023 and later wrote zeros ("dummy scores");
    March's refused it, so nothing is contradicted by deriving them there."""
    if model.declared.scored or (moment > MARCH_31 and not gguf):
        return model.vocab.scores.tolist()
    return derived_scores(model.vocab).tolist()


def _plan(model: ModelFile, tensors: Sequence[Tensor], job: _Job, report: QuantizeReport) -> Plan:
    """Choose each tensor's type and check that it can have it, before anything is written."""
    choose = TypeChooser(job.file_type, job.era, (tensor.name for tensor in tensors), leave_output=job.leave_output)
    plan: Plan = []
    for tensor in tensors:
        try:
            target = choose(tensor.name, tensor.shape, tensor.type)
        except ShapeError as error:
            error.path, error.offset = str(model.path), tensor.offset
            raise
        _check(model, tensor, target, job)
        target = target or tensor.type
        target_bytes = tensor.n_rows * target.row_bytes(tensor.n_cols)
        plan.append((tensor, len(report.tensors)))
        report.tensors.append(TensorReport(tensor.name, tensor.shape, tensor.type, target, tensor.nbytes, target_bytes))
    return plan


def _check(model: ModelFile, tensor: Tensor, target: TensorType | None, job: _Job) -> None:
    """Refuse what llama.cpp refuses, and what it should have."""
    where: dict[str, Any] = {"path": model.path, "offset": tensor.offset}
    if target is None:
        if not job.era.writes(tensor.type):
            raise UnsupportedError(
                f"tensor {tensor.name!r} is not to be quantized, and its type does not exist in era {job.era}",
                field="type", expected=", ".join(job.era.type_names), found=tensor.type.layout,
                next_step=f"`migrate {model.path} OUT`", **where,
            )  # fmt: skip
        return
    if tensor.type.quantized and not job.allow_requantize:
        raise FormatError(
            f"tensor {tensor.name!r} is quantized already (llama.cpp says: unsupported ftype {tensor.type.id} for "
            f"integer quantization)",
            field="type", expected="f32 or f16", found=tensor.type.name,
            cause="this file is itself a quantized model; quantizing it again would lose more",
            next_step="quantize the f16 file that it was made from, or insist with --allow-requantize", **where,
        )  # fmt: skip
    if tensor.n_cols % target.blck_size:
        raise ShapeError(
            f"rows of tensor {tensor.name!r} can't be divided into blocks of {target.name}",
            field="dims", expected=f"a multiple of {target.blck_size} columns", found=tensor.n_cols,
            cause="not a LLaMA model's shape, or a damaged header",
            next_step=f"`inspect {model.path} --tensors`", **where,
        )  # fmt: skip


def _streams(
    plan: Plan,
    job: _Job,
    report: QuantizeReport,
    workers: Workers,
    on_tensor: Callable[[QuantizeReport, int], object] | None,
) -> Iterator[OutTensor]:
    """The tensors to write, each with a generator of its bytes."""
    for tensor, index in plan:
        outcome = report.tensors[index]

        def chunks(tensor: Tensor = tensor, index: int = index, outcome: TensorReport = outcome) -> Iterator[Any]:
            if outcome.copied:
                yield from out_tensor(tensor).chunks()
            else:
                rows = RowSource(tensor)
                yield from quantized_rows(rows, outcome.target, job.era, workers, outcome.histogram)
            if on_tensor:
                on_tensor(report, index)

        yield OutTensor(tensor.name, outcome.target, tensor.shape, chunks)


def quantized_rows(
    source: RowSource,
    target: TensorType,
    era: Era,
    workers: Workers,
    histogram: NDArray[np.int64] | None = None,
) -> Iterator[NDArray[Any]]:
    """A tensor in its new type, a few rows at a time and in order: uint8 [rows, row_bytes]; f16, f32: floats
    [rows, columns]. Codes are counted in ``histogram``, int64 [16]."""
    tensor = source.tensor
    step = max(1, CHUNK_VALUES // tensor.n_cols)
    starts, counted = range(0, tensor.n_rows, step), histogram is not None
    tasks = ((source, start, min(start + step, tensor.n_rows), target, era, counted) for start in starts)
    for rows, counts in workers.ordered(lambda task: _quantize_rows(*task), tasks):
        if histogram is not None and counts is not None:
            histogram += counts
        yield rows


def _quantize_rows(
    source: RowSource, start: int, stop: int, target: TensorType, moment: Era, counted: bool
) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """One task: rows ``start`` to ``stop`` quantized, and their histogram."""
    from .rows import quantize_rows

    histogram = np.zeros(16, np.int64) if counted else None
    first = max(0, start - 1) if target.is_k_quant else start  # a k-quant's search sees the block before
    x = source.floats(first, stop)  # [rows, columns] f32 or f16
    if not target.quantized:
        return x.astype(target.block), histogram
    return quantize_rows(x, target.name, moment, histogram=histogram)[start - first :], histogram
