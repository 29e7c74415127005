"""Quantizers of q4_0, q4_1, q5_0, q5_1 with an importance matrix, as llama.cpp has them since 2024-01-16.

A value x of importance v weighs v * sqrt(sum x^2 / n + x^2), with the sum over its whole row of n values. Scale (and
minimum) of a block are searched as those of the k-quants are (:mod:`ggmlpy.quantizers.weighted_search`), and the codes
of the search are stored as they are. Without importance, and for q8_0, :mod:`ggmlpy.quantizers.classic` holds.

Source: ggml-quants.c at llama.cpp 334a835a1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from ggmlpy.formats.tensor_types import TensorType
from ggmlpy.machine.contraction import Contraction
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import copy_bytes, fill, mul_add, store, transpose_f32, zero_bytes, zeros

from .k_quants import pack, packing_of, store_half
from .weighted_search import Least, fit_affine, fit_symmetric, raise_weights, side_by_side

__all__ = ["WEIGHTED", "weighted_quantizer"]

WEIGHTED = ("q4_0", "q4_1", "q5_0", "q5_1")
FIRST, STEP, TRIES = np.float32(-0.9), np.float32(0.05), 36
LANES, SIZE = 16, 32  # blocks side by side, values in each


@inlined
def search(x, w, codes, ranged, zero, limit, nothing, by):
    """Scales and minimums of sixteen blocks."""
    if ranged:
        return fit_affine(x, w, codes, SIZE, limit, FIRST, STEP, TRIES, True, by)
    return fit_symmetric(x, w, codes, SIZE, zero, nothing, by, by.clang), zeros()


def rows_kernel(record: TensorType, nothing: Least, by: Contraction) -> Callable:
    """The loop over ``rows`` (float32 [n, columns], columns of ``importance``) into ``out`` [n, row_bytes]."""
    ranged, zero, limit = "m" in record.field_names, record.zero, (1 << record.code_width) - 1
    d_at, m_at = record.offset("d"), record.offset("m") if ranged else -1
    nbytes, block_bytes, packing = 4 * SIZE, record.type_size, packing_of(record)

    def quantize_rows(rows, importance, out):
        memory, flat = np.zeros((6, LANES * SIZE), np.float32), np.empty(SIZE, np.uint8)
        values, weights, x, w, codes, natural = [np.int64(memory[k].ctypes.data) for k in range(6)]
        fields = np.zeros((2, LANES), np.float32)
        columns, group = rows.shape[1], LANES * SIZE
        for r in range(rows.shape[0]):
            total = np.float32(0)
            for i in range(columns):
                total = mul_add(rows[r, i], rows[r, i], total, by.clang)
            variance = fill(total / np.float32(columns))
            for start in range(0, columns, group):
                n = min(LANES, (columns - start) // SIZE)
                zero_bytes(values, 4 * group)
                copy_bytes(values, np.int64(rows[r, start:].ctypes.data), n * nbytes)
                copy_bytes(weights, np.int64(importance[start:].ctypes.data), n * nbytes)
                side_by_side(values, SIZE, x)
                side_by_side(weights, SIZE, w)
                raise_weights(x, SIZE, variance, w, by)
                scale, minimum = search(x, w, codes, ranged, zero, limit, nothing, by)
                store(np.int64(fields[0].ctypes.data), scale)
                store(np.int64(fields[1].ctypes.data), minimum)
                for part in range(SIZE // 16):
                    transpose_f32(codes + 1024 * part, 64, natural + 1024 * part)
                for block in range(n):
                    first = block_bytes * (start // SIZE + block)
                    here = out[r, first : first + block_bytes]
                    store_half(here, d_at, fields[0, block])
                    if ranged:
                        store_half(here, m_at, -fields[1, block])
                    for i in range(SIZE):
                        flat[i] = np.uint8(memory[5, 256 * (i // 16) + 16 * block + i % 16])
                    pack(flat, here, packing)

    return quantize_rows


@cache
def weighted_quantizer(record: TensorType, nothing: Least, by: Contraction) -> Callable:
    """The compiled loop for one of :data:`WEIGHTED`."""
    rows, vector = (types.Array(types.float32, n, "C", readonly=True) for n in (2, 1))
    return kernel(rows_kernel(record, nothing, by), types.void(rows, vector, types.uint8[:, ::1]))
