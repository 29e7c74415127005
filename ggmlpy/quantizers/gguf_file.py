"""A GGUF file quantized, byte for byte as llama-quantize of an era does it.

What is to be made :mod:`ggmlpy.quantizers.gguf_plan` says. Rows stream through a few threads: each reads some,
quantizes them, writes them to their place and forgets them.

Source: src/llama-quant.cpp in llama.cpp (2026).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError
from ggmlpy.files.ordered import Workers
from ggmlpy.files.paths import refuse_overwriting
from ggmlpy.formats.bfloat16 import bfloat16_of_converter
from ggmlpy.formats.eras import APRIL_26_24, Era
from ggmlpy.formats.finite_bits import all_finite
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.out_tensor import OutTensor, made_by_rows, when_whole
from ggmlpy.formats.tensor_types import TensorType

from .gguf_plan import (
    GgufRequest,
    PlannedTensor,
    SourceTensor,
    opened,
    output_metadata,
    planned,
    split_metadata,
    split_output,
)
from .reports import QuantizeReport, TensorReport

__all__ = ["made_tensor", "quantize_gguf"]

Progress = Callable[[int, int], object]
OnTensor = Callable[[QuantizeReport, int], object]


def quantize_gguf(
    in_path: Path,
    out_path: Path,
    request: GgufRequest,
    workers: Workers,
    *,
    progress: Progress | None = None,
    on_tensor: OnTensor | None = None,
) -> QuantizeReport:
    """Quantize a GGUF file.

    Args:
        progress: called after each piece that was written with its bytes, and the bytes of all tensors.
        on_tensor: called with the report and the tensor's index when a tensor is written.

    Raises:
        UsageError: a type is asked for that the era has not, or the output is the input.
        FormatError: llama-quantize refuses this input, or it is damaged.
        OutputError: the result could not be written; no file of that name is left then.
    """
    files = opened(in_path)
    plan = planned(files, request)
    keys = output_metadata(files[0].metadata, request)
    outputs = _outputs(out_path, plan, keys, len(files) if request.keep_split else 1)
    for path, _, _ in outputs:
        refuse_overwriting(path, [file.path for file in files])
    report = QuantizeReport([path for path, _, _ in outputs], request.era, request.file_type)
    report.tensors = [_report_of(tensor) for tensor in plan]
    total = report.target_bytes
    advance = None if progress is None else lambda size: progress(size, total)
    index = 0
    for path, tensors, own_keys in outputs:
        streams = []
        for tensor in tensors:
            done = None if on_tensor is None else _finished(on_tensor, report, index)
            streams.append(made_tensor(tensor, request.era, done=done))
            index += 1
        write_gguf(path, own_keys, streams, advance, version=request.era.version, workers=workers)
    return report


Output = tuple[Path, Sequence[PlannedTensor], Mapping[str, Value]]


def _outputs(out: Path, plan: Sequence[PlannedTensor], keys: Mapping[str, Value], n_parts: int) -> list[Output]:
    """The files to write, with the tensors and the keys of each."""
    if n_parts == 1:
        return [(out, plan, keys)]
    return [
        (
            split_output(out, part, n_parts),
            [tensor for tensor in plan if tensor.source.part == part],
            split_metadata(keys, part, n_parts, len(plan)),
        )
        for part in range(n_parts)
    ]


def _finished(on_tensor: OnTensor, report: QuantizeReport, index: int) -> Callable[[], object]:
    return lambda: on_tensor(report, index)


def _report_of(tensor: PlannedTensor) -> TensorReport:
    source, target = tensor.source, tensor.target
    before = int(np.prod(source.shape[:-1])) * source.type.row_bytes(source.shape[-1])
    return TensorReport(
        source.name,
        source.shape,
        source.type,
        source.type if tensor.copied else target,
        before,
        tensor.nbytes,
        tensor.fallback,
    )


def made_tensor(
    planned_tensor: PlannedTensor, era: Era, workers: Workers | None = None, done: Callable[[], object] | None = None
) -> OutTensor:
    """The tensor to write, its rows made when they are asked for.

    Args:
        workers: who computes, if it is only read from first to last.
        done: called when all of it is written.
    """
    source = planned_tensor.source
    n_rows, per_expert = math.prod(source.shape[:-1]), source.shape[-2] if len(source.shape) > 1 else 1

    def rows(start: int, stop: int) -> NDArray[Any]:
        firsts = range(start - start % per_expert, stop, per_expert)  # weights of columns differ from expert to expert
        made = [_made_rows(planned_tensor, era, max(start, first), min(stop, first + per_expert)) for first in firsts]
        return made[0] if len(made) == 1 else np.concatenate(made)

    n_ones = next((i for i, n in enumerate(source.shape[:-1]) if n != 1), len(source.shape) - 1)  # they are not written
    taken = when_whole(n_rows, done) if done else None
    shape = source.shape[n_ones:]
    return made_by_rows(source.name, planned_tensor.target, shape, rows, workers=workers, taken=taken)


def _made_rows(planned_tensor: PlannedTensor, era: Era, start: int, stop: int) -> NDArray[Any]:
    """Rows ``start`` to ``stop``, of one expert, in their new type."""
    from .rows import quantize_rows, rows_of_calls

    source, target, weights = planned_tensor.source, planned_tensor.target, planned_tensor.importance
    if planned_tensor.copied:
        rows = source.rows.raw(start, stop)
        if not source.type.quantized:
            _check_finite(source, source.rows.floats(start, stop), "has a value that is not a finite number")
        return rows
    first = start - start % rows_of_calls(source.shape[-1], era)
    x = source.rows.floats(first, stop)  # [rows, columns] f32 or f16
    if not source.type.quantized:
        _check_finite(source, x, "has a value that is not a finite number")
    if not target.quantized:
        return _as_floats(x[start - first :], target)
    expert = start // source.shape[-2]
    importance = None if weights is None else weights[expert if len(source.shape) == 3 else 0]
    made = quantize_rows(x, target.name, era, importance=importance, compiler=planned_tensor.compiler)[start - first :]
    for name in ("d", "m", "dmin") if era >= APRIL_26_24 else ():
        if name in target.field_names and target.block[name] == np.dtype("<f2"):
            _check_finite(source, made.view(target.block)[name], "has values too large for its scales")
    return made


def _as_floats(x: NDArray[Any], target: TensorType) -> NDArray[Any]:
    """Numbers as f32, f16 or bf16, rounded to the nearest, ties to even."""
    if target.name == "bf16":
        return bfloat16_of_converter(x.astype(np.float32))
    with np.errstate(over="ignore"):
        return x.astype(target.block)


def _check_finite(source: SourceTensor, numbers: NDArray[Any], what: str) -> None:
    if not all_finite(numbers):
        raise FormatError(
            f"tensor {source.name!r} {what}",
            field=source.name, cause="a damaged model (llama-quantize refuses it too)",
            next_step="fetch or convert the source again",
        )  # fmt: skip
