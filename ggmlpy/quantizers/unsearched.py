"""Quantizers of the later types that do not search: a scale follows from the values, and codes from the scale.

======  ================================  ==========================================================================
type    scale                             code
======  ================================  ==========================================================================
q1_0    mean of abs x over 128 values     1 where x >= 0
q2_0    max abs x over 64 values          round(x / scale) + 1, at most 3; so 3 (which means 2) never occurs
tq1_0   max abs x over 256 values         round(x / scale) + 1, five to a byte
tq2_0   max abs x over 256 values         the same, four to a byte
mxfp4   2^(floor(log2 max abs x) - 2)     the nearest level; the first of two as near
nvfp4   max abs x of 16 values / 6,       the same
        as a float of 4 + 3 bits
======  ================================  ==========================================================================

round: halves away from zero. An importance matrix changes nothing here. The logarithm is rounded to float32 before it
is cut off, so that the last floats below a power of two count as that power.

Source: ggml-quants.c and ggml-impl.h of ggml 0.25.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np

from ggmlpy.formats.tensor_types import E2M1, TENSOR_TYPES
from ggmlpy.machine.c_arithmetic import round_half_away, truncate
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import (
    absolute,
    add,
    bits,
    copy_bytes,
    fill,
    float_of,
    largest,
    load,
    load_f32,
    mul,
    store,
    sub,
    transpose_f32,
    where_greater,
    zeros,
)

from .classic import greatest_forgetting
from .k_quants import store_half
from .search import magnitude_of
from .weighted_search import ROW, extreme_of, side_by_side

__all__ = ["unsearched_quantizer"]

F0, F1, HALF = np.float32(0), np.float32(1), np.float32(0.5)
TOO_LARGE = np.float32(2**31)
LEVELS = np.array(E2M1, np.float32)
MIDDLES = np.array([(a + b) / 2 for a, b in pairwise(E2M1[:8])], np.float32)
NEAR_NEXT_POWER = np.int32(0x7FFF00)  # a mantissa below it does not become the next power of two in a logarithm


def field_offsets(name: str) -> tuple[int, int]:
    """Where the scales and the codes of a block begin."""
    record = TENSOR_TYPES[name]
    return record.offset(record.scale_fields[0] if record.scale_fields else "d"), record.offset("qs")


Q1_D, Q1_QS = field_offsets("q1_0")
Q2_D, Q2_QS = field_offsets("q2_0")
TQ1_D, TQ1_QS = field_offsets("tq1_0")
TQ2_D, TQ2_QS = field_offsets("tq2_0")
MX_E, MX_QS = field_offsets("mxfp4")
NV_D, NV_QS = field_offsets("nvfp4")


# Each block function: x float32 [blck_size], out uint8 [type_size], codes uint8 [256] to work in.


@inlined
def greatest_magnitude(x):
    greatest = F0
    for v in x:
        a = magnitude_of(v)
        greatest = greatest if greatest > a else a
    return greatest


@inlined
def whole_numbers(x, codes):
    """Codes round(x / scale) + 1 of the scale max abs x, which is returned."""
    d = greatest_magnitude(x)
    inverse = F1 / d if d != F0 else F0
    for i in range(len(x)):
        codes[i] = np.uint8(round_half_away(x[i] * inverse) + np.int32(1))
    return d


@inlined
def q1_0(x, out, codes):
    total = F0
    for v in x:
        total += magnitude_of(v)
    store_half(out, Q1_D, total / np.float32(128))
    for j in range(16):
        byte = np.uint8(0)
        for i in range(8):
            byte |= np.uint8((x[8 * j + i] >= F0) << i)
        out[Q1_QS + j] = byte


@inlined
def code_of_2_bits(v):
    """What is no int32 becomes the least of them in C, and so code 0."""
    return min(max(round_half_away(v) + np.int32(1), np.int32(0)), np.int32(3)) if magnitude_of(v) < TOO_LARGE else 0


@inlined
def q2_0(x, out, codes):
    d = greatest_magnitude(x)
    store_half(out, Q2_D, d)
    inverse = F1 / d if d != F0 else F0
    for j in range(16):
        byte = np.uint8(0)
        for i in range(4):
            byte |= np.uint8(code_of_2_bits(x[4 * j + i] * inverse) << (2 * i))
        out[Q2_QS + j] = byte


@inlined
def tq2_0(x, out, codes):
    store_half(out, TQ2_D, whole_numbers(x, codes))
    for half in range(2):
        for j in range(32):
            byte = np.uint8(0)
            for i in range(4):
                byte |= np.uint8((codes[128 * half + 32 * i + j] & 3) << (2 * i))
            out[TQ2_QS + 32 * half + j] = byte


@inlined
def digits_in_bytes(codes, first, n, digits, out, at):
    """``digits`` codes, ``n`` places apart, in each of ``n`` bytes: the fraction of 256 that their number is of 3^5."""
    for j in range(n):
        number = 0
        for i in range(5):
            number = 3 * number + (codes[first + n * i + j] if i < digits else 0)
        out[at + j] = np.uint8((256 * number + 242) // 243)


@inlined
def tq1_0(x, out, codes):
    store_half(out, TQ1_D, whole_numbers(x, codes))
    digits_in_bytes(codes, 0, 32, 5, out, TQ1_QS)
    digits_in_bytes(codes, 160, 16, 5, out, TQ1_QS + 32)
    digits_in_bytes(codes, 240, 4, 4, out, TQ1_QS + 48)


@inlined
def nearest_levels(v, d):
    """Of each of sixteen values the first of the levels that, times ``d``, are nearest."""
    best = zeros()
    least = absolute(sub(mul(fill(LEVELS[0]), d), v))
    for k in range(1, 16):
        error = absolute(sub(mul(fill(LEVELS[k]), d), v))
        best = where_greater(least, error, fill(np.float32(k)), best)
        least = where_greater(least, error, error, least)
    return best


@inlined
def levels_in_halves(x, d, out, at, codes):
    work, half = np.int64(codes.ctypes.data), len(x) // 2
    for part in range(0, 4 * len(x), ROW):
        store(work + part, nearest_levels(load(np.int64(x.ctypes.data) + part), fill(d)))
    for j in range(half):
        low, high = load_f32(work + 4 * j), load_f32(work + 4 * (half + j))
        out[at + j] = np.uint8(low + np.float32(16) * high)


@inlined
def power_of_two(exponent):
    """2^(exponent - 128), also where that is below the smallest normal float."""
    if exponent < 2:
        return float_of(np.int32(0x00200000) << np.int32(exponent))
    return float_of(np.int32(exponent - 1) << np.int32(23))


@inlined
def exponent_of(greatest):
    """The byte that a block of mxfp4 keeps of its greatest magnitude."""
    if not greatest > F0:
        return np.int32(0)
    exponent, mantissa = bits(greatest) >> np.int32(23), bits(greatest) & np.int32(0x7FFFFF)
    if 0 < exponent < 255 and mantissa < NEAR_NEXT_POWER:
        return exponent - np.int32(2) & np.int32(255)
    logarithm = np.float32(np.log2(np.float64(greatest)))
    return truncate(np.float32(math.floor(logarithm)) - np.float32(2) + np.float32(127)) & np.int32(255)


@inlined
def levels_by_middles(v, d):
    """The same as :func:`nearest_levels` where no level exceeds a float, and all values are below 16 d.

    The differences to the two levels around a value are exact then. So the nearer one is told by the middle between
    them, which belongs to the lower; of two as far on both sides of 0 the first is the one of the value's sign.
    """
    magnitude, index = absolute(v), zeros()
    for k in range(7):
        index = where_greater(magnitude, mul(fill(MIDDLES[k]), d), fill(np.float32(k + 1)), index)
    negative = where_greater(index, zeros(), fill(np.float32(8)), zeros())
    return where_greater(zeros(), v, add(index, negative), index)


def mxfp4_kernel() -> Callable:
    """The loop over blocks ``rows`` (float32 [n, 32]) into ``out`` [n, 17]: sixteen side by side, one per lane."""
    size, half = 32, 16

    def quantize_blocks(rows, out):
        values, codes = np.zeros((2, size, 16), np.float32), np.zeros((2, 16, 16), np.float32)
        scales = np.zeros((2, 16), np.float32)
        for start in range(0, rows.shape[0], 16):
            n = min(16, rows.shape[0] - start)
            source, x = np.int64(rows[start].ctypes.data), np.int64(values[0].ctypes.data)
            if n < 16:
                copy_bytes(np.int64(values[1].ctypes.data), source, 4 * n * size)
                source = np.int64(values[1].ctypes.data)
            side_by_side(source, size, x)
            store(np.int64(scales[0].ctypes.data), greatest_forgetting(x, size))
            for k in range(n):
                exponent = exponent_of(scales[0, k])
                out[start + k, MX_E], scales[1, k] = np.uint8(exponent), power_of_two(exponent)
            d, most = load(np.int64(scales[1].ctypes.data)), extreme_of(x, size)[1]
            far = where_greater(mul(fill(np.float32(16)), d), most, zeros(), fill(F1))
            far = where_greater(d, fill(np.float32(2.0**124)), fill(F1), far)
            plain, made = largest(far) == F0, np.int64(codes[0].ctypes.data)
            for j in range(half):
                low, high = load(x + ROW * j), load(x + ROW * (j + half))
                if plain:
                    low, high = levels_by_middles(low, d), levels_by_middles(high, d)
                else:
                    low, high = nearest_levels(low, d), nearest_levels(high, d)
                store(made + ROW * j, add(low, mul(fill(np.float32(16)), high)))
            transpose_f32(made, ROW, np.int64(codes[1].ctypes.data))
            for k in range(n):
                for j in range(half):
                    out[start + k, MX_QS + j] = np.uint8(codes[1, k, j])

    return quantize_blocks


@inlined
def unsigned_e4m3(v):
    """The float of four bits of exponent and three of mantissa near ``v``, rounded by the next bit alone."""
    v = v if v < np.float32(448) else np.float32(448)
    if not v > F0:
        return np.int32(0)
    word = bits(v)
    exponent = (word >> np.int32(23)) - np.int32(120)
    if exponent <= 0:
        mantissa = np.int32(v * np.float32(512) + HALF)
        return min(mantissa, np.int32(7))
    rounded = (exponent << np.int32(3)) + (((word >> np.int32(19)) & np.int32(15)) + np.int32(1) >> np.int32(1))
    return min(rounded, np.int32(0x7E)) if exponent < 15 else np.int32(0x7E)


@inlined
def value_of_e4m3(code):
    """Half of what it stands for, as levels are doubled."""
    exponent, mantissa = code >> np.int32(3), np.float32(code & np.int32(7))
    if exponent == 0:
        return mantissa * np.float32(2**-10)
    return (F1 + mantissa / np.float32(8)) * power_of_two(exponent + np.int32(120))


@inlined
def nvfp4(x, out, codes):
    for run in range(4):
        part = x[16 * run : 16 * run + 16]
        code = unsigned_e4m3(greatest_magnitude(part) / np.float32(6))
        out[NV_D + run] = np.uint8(code)
        levels_in_halves(part, value_of_e4m3(code), out, NV_QS + 8 * run, codes)


UNSEARCHED = {"q1_0": q1_0, "q2_0": q2_0, "tq1_0": tq1_0, "tq2_0": tq2_0, "nvfp4": nvfp4}


def rows_kernel(name: str) -> Callable:
    """The loop over blocks ``rows`` (float32 [n, blck_size]) into ``out`` [n, type_size] for one type."""
    block = UNSEARCHED[name]

    def quantize_blocks(rows, out):
        codes = np.empty(256, np.uint8)
        for i in range(rows.shape[0]):
            block(rows[i], out[i], codes)

    return quantize_blocks


@cache
def unsearched_quantizer(name: str) -> Callable:
    """The compiled loop for one of these types."""
    signature = types.void(types.Array(types.float32, 2, "C", readonly=True), types.uint8[:, ::1])
    return kernel(mxfp4_kernel() if name == "mxfp4" else rows_kernel(name), signature)
