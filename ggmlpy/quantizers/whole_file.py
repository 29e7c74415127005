"""A whole model file quantized, as the ``quantize`` program of an era did it: same bytes, same printed figures.

Rows stream through a few threads: each reads some, quantizes them, writes them to their place and forgets them. Memory
holds a handful of pieces, whatever the model's size. Era 2023-03-19 and 2023-03-30 quantized each part of a multi-part
model on its own (quantize.py ran the program once a file); later eras read all parts and write one file.

Sources: quantize.cpp at llama.cpp da5303c1e; llama_model_quantize_internal in llama.cpp at ed3c680bc … dadbed99e.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import FormatError, ShapeError, UnsupportedError, UsageError
from ggmlpy.files.ordered import Workers
from ggmlpy.files.paths import refuse_overwriting
from ggmlpy.formats.containers import CONTAINERS, container_of_name
from ggmlpy.formats.eras import DEFAULT_ERA, GGUF_ERA, MARCH_31, TODAY, Era, quantizing_era
from ggmlpy.formats.file_types import FileType, TypeChooser, file_type_of
from ggmlpy.formats.gguf_model import kept_metadata
from ggmlpy.formats.model_file import ModelFile, Tensor
from ggmlpy.formats.multipart import part_path
from ggmlpy.formats.opening import is_gguf, open_model
from ggmlpy.formats.out_tensor import OutTensor, out_tensor, when_whole
from ggmlpy.formats.row_reader import RowSource
from ggmlpy.formats.tensor_types import TensorType
from ggmlpy.formats.writer import write_model

from .gguf_file import quantize_gguf
from .gguf_plan import GgufOptions, request_of
from .migration import derived_scores
from .reports import QuantizeReport, TensorReport
from .streamed import quantized_from

__all__ = ["quantize_file"]


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
    options: GgufOptions | None = None,
) -> QuantizeReport:
    """Quantize a model file to the bytes that the era's ``quantize`` would have written.

    Args:
        in_path: an f32 or f16 model of any container; the first file of a multi-part one.
        out_path: the file to write, in the era's container (GGUF if the input is, or if it is named so). In a
            multi-part era parts become ``out_path``, ``out_path.1`` …
        type: the file type as llama.cpp takes it: 2, "2", "q4_0", "Q4_K_M"; see :mod:`ggmlpy.formats.file_types`.
        era: a date, see :mod:`ggmlpy.formats.eras`; if not given, 2023-03-31, 2023-08-21 for GGUF from an older
            container, and today for GGUF from GGUF.
        threads: workers; by default one per processor.
        progress: called after each piece that was written with its bytes, and the bytes of all tensors.
        on_tensor: called with the report and the tensor's index when a tensor is written.
        allow_requantize: accept tensors that are quantized already (their loss adds up).
        leave_output: keep ``output.weight`` as it is.
        options: what only eras of GGUF know: an importance matrix, types of single tensors, keys.

    Returns:
        what was done, with the histograms.

    Raises:
        UsageError: the era has no such type, or the output is the input.
        FormatError: the input is damaged, is quantized already, or has rows that blocks don't divide.
        OutputError: the result could not be written; no file of that name is left then.

    >>> report = quantize_file("ggml-model-f16.bin", "ggml-model-q4_0.bin", "q4_0")   # doctest: +SKIP
    >>> print(*report.closing_lines(), sep="\\n")                                      # doctest: +SKIP
    """
    if is_gguf(Path(in_path)):
        moment = quantizing_era(era or TODAY)
        if moment.is_of_gguf:
            request = request_of(type, moment, options or GgufOptions(), allow_requantize, leave_output)
            with _workers(threads) as own:
                return quantize_gguf(
                    Path(in_path), Path(out_path), request, own, progress=progress, on_tensor=on_tensor
                )
    if options is not None and options != GgufOptions():
        raise UsageError(
            "importance matrices, keys, types of single tensors and compilers are GGUF's: take a GGUF file, --era today"
        )
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
            streams = _streams(plan, job, report, on_tensor)
            write_model(path, *container, hparams, vocab, streams, advance, metadata, workers)
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
    """The era that was asked for. GGUF from an older container is that of the day on which it came."""
    moment = quantizing_era(era or (GGUF_ERA if gguf else DEFAULT_ERA))
    if gguf and moment.date != GGUF_ERA:
        raise UsageError(
            f"GGUF made of an older container is quantized as of {GGUF_ERA}, not {moment}: leave --era out, "
            "or `migrate` to GGUF first"
        )
    if moment.is_of_gguf:
        raise UsageError(f"era {moment} writes GGUF: name the output .gguf, or take an era up to {GGUF_ERA}")
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
        sizes, fallback = (tensor.nbytes, target_bytes), choose.fallbacks.get(tensor.name)
        report.tensors.append(TensorReport(tensor.name, tensor.shape, tensor.type, target, *sizes, fallback))
    return plan


def _check(model: ModelFile, tensor: Tensor, target: TensorType | None, job: _Job) -> None:
    """Refuse what llama.cpp refuses, and what it should have."""
    where: dict[str, Any] = {"path": model.path, "offset": tensor.offset}
    if target is None:
        if not job.era.writes(tensor.type):
            raise UnsupportedError(
                f"tensor {tensor.name!r} is not to be quantized, and its type does not exist in era {job.era}",
                field="type", expected=", ".join(job.era.types), found=tensor.type.layout,
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
    plan: Plan, job: _Job, report: QuantizeReport, on_tensor: Callable[[QuantizeReport, int], object] | None
) -> Iterator[OutTensor]:
    """The tensors to write, each made of its rows when it is written."""
    for tensor, index in plan:
        outcome = report.tensors[index]
        taken = when_whole(tensor.n_rows, partial(on_tensor, report, index)) if on_tensor else None
        if outcome.copied:
            yield replace(out_tensor(tensor), taken=taken)
        else:
            source = RowSource(tensor)
            yield quantized_from(source, outcome.target, job.era, histogram=outcome.histogram, taken=taken)
