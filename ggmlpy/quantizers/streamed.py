"""A tensor quantized on its way into a file: rows come in, blocks go out, and no more than a few pieces are held."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.ordered import Workers
from ggmlpy.files.segments import bytes_of
from ggmlpy.formats.eras import Era
from ggmlpy.formats.out_tensor import OutTensor, made_by_rows
from ggmlpy.formats.row_reader import RowSource
from ggmlpy.formats.tensor_types import TensorType

__all__ = ["quantized", "quantized_from"]

Floats = Callable[[int, int], NDArray[Any]]  # rows start to stop, f16 or f32


def quantized(tensor: OutTensor, target: TensorType, era: Era, workers: Workers | None = None) -> OutTensor:
    """What an era's quantizer makes of a tensor that is f16 or f32 now.

    Args:
        tensor: one that can make any of its rows by themselves.
        workers: who computes, if it is only read from first to last; by default the reader.
    """
    made = tensor.rows
    assert made is not None, tensor

    def floats(start: int, stop: int) -> NDArray[Any]:
        return np.frombuffer(bytes_of(made(start, stop)), tensor.type.block).reshape(stop - start, -1)

    rows = _quantizing(floats, target, era)
    return made_by_rows(tensor.name, target, tensor.shape, rows, workers=workers, taken=tensor.taken)


def quantized_from(
    source: RowSource,
    target: TensorType,
    era: Era,
    workers: Workers | None = None,
    *,
    histogram: NDArray[np.int64] | None = None,
    taken: Callable[[int, int], object] | None = None,
) -> OutTensor:
    """A tensor of an open file in another type, as an era's ``quantize`` makes it: blocks, f16 or f32.

    Args:
        histogram: int64 [16], to which the codes are counted.
        taken: called with a range of rows when they and all before them are written.
    """
    rows = _quantizing(source.floats, target, era, histogram)
    return made_by_rows(source.tensor.name, target, source.tensor.shape, rows, workers=workers, taken=taken)


def _quantizing(
    floats: Floats, target: TensorType, era: Era, histogram: NDArray[np.int64] | None = None
) -> Callable[[int, int], NDArray[Any]]:
    """What makes any rows in their new type: uint8 [rows, row_bytes], or floats [rows, columns]."""
    counting = threading.Lock()

    def rows(start: int, stop: int) -> NDArray[Any]:
        from .rows import quantize_rows

        first = max(0, start - 1) if target.is_k_quant else start  # a k-quant's search sees the block before
        x = floats(first, stop)
        if not target.quantized:
            return x.astype(target.block)
        counts = None if histogram is None else np.zeros_like(histogram)
        made = quantize_rows(x, target.name, era, histogram=counts)[start - first :]
        if histogram is not None and counts is not None:
            with counting:
                histogram[:] += counts
        return made

    return rows
