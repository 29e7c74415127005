"""Matrix products with k-quants as llama.cpp of 2023-08-21 computes them: blocks of 256, activations in eight bits.

A block's codes, and the scale (and minimum) of each run of sixteen, are unpacked once a row; the products with the
activations are integers, so that their order does not matter, and only one or two float operations a block do:

=======  ===========================================  =========================================================
type     scalar build                                 AVX2 build (lane l: elements 4l … 4l+3 of each 32)
=======  ===========================================  =========================================================
q2_K     sum += d*isum - dmin*imin                    fma(-dmin, minima of runs 2l and 2l+1, lane), then codes
q3_K     8 sums by element mod 8: += d*isum           fma(d, isum, lane)
q4_K     as q3_K, and total -= dmin*imin              as q3_K, and four lanes of minima by fma
q5_K     as q4_K                                      as q3_K, and total += -dmin*imin
q6_K     as q3_K                                      as q3_K
=======  ===========================================  =========================================================

Source: `quantize_row_q8_K_reference` and `ggml_vec_dot_*_K_q8_K` in k_quants.c, llama.cpp dadbed99e.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ggmlpy.formats.tensor_types import QK_K, TENSOR_TYPES, CodeBits, TensorType
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import (
    add,
    add_columns,
    add_in_order,
    add_quads,
    fill_f32x8,
    fma,
    load_f16,
    load_i8,
    load_i8x32,
    load_i32x8,
    load_u8,
    mul,
    to_floats,
    total_crosswise,
    total_int,
    zeros_f32x8,
    zeros_i32x8,
)

from .activations import nearest_even

_RECORDS = (TENSOR_TYPES[f"q{width}_K"] for width in range(2, 7))
KINDS = {record.name: record.code_width for record in _RECORDS}  # a kind is its number of bits


def _by_kind(number: Callable[[TensorType], int]) -> npt.NDArray[np.int64]:
    """A number of each kind, as a table that kernels index."""
    table = np.zeros(max(KINDS.values()) + 1, np.int64)
    for name, kind in KINDS.items():
        table[kind] = number(TENSOR_TYPES[name])
    return table


BLOCK_BYTES = _by_kind(lambda record: record.type_size)
D_AT = _by_kind(lambda record: record.offset("d"))
DMIN_AT = _by_kind(lambda record: record.offset("dmin") if "dmin" in record.field_names else -1)  # -1: no minimums
SCALES_AT = _by_kind(lambda record: record.offset("scales"))

F0 = np.float32(0)


@kernel
def quantize_q8_k(x, codes, d, sums):
    """Activations to codes -128 … 127 of blocks of 256, with the sum of each run of sixteen.

    The value of largest magnitude becomes -128, whatever its sign.
    """
    for t in range(x.shape[0]):
        for block in range(x.shape[1] // 256):
            part = x[t, 256 * block : 256 * block + 256]
            extreme, largest = F0, F0
            for i in range(256):
                if abs(part[i]) > largest:
                    largest, extreme = abs(part[i]), part[i]
            inverse = np.float32(-128) / extreme if largest != F0 else F0
            d[t, block] = np.float32(1) / inverse if largest != F0 else F0
            for run in range(16):
                total = np.int32(0)
                for i in range(16 * run, 16 * run + 16):
                    code = min(np.float32(127), nearest_even(inverse * part[i]))
                    codes[t, 256 * block + i] = np.int8(code)
                    total += np.int32(code)
                sums[t, 16 * block + run] = total


def adder(part: CodeBits, shift: int, offset: int) -> Any:
    """The function (address of a block, codes) that adds some bits of each code, as bits from `shift` on."""
    width, apart, per_byte, mask = part.width, part.apart, 8 // part.width, (1 << part.width) - 1

    def add_bits(p, codes):
        p += offset
        for start in range(0, QK_K, per_byte * apart):
            for k in range(per_byte):
                for i in range(apart):
                    codes[start + apart * k + i] += (load_u8(p + i) >> (width * k) & mask) << shift
            p += apart

    return inlined(add_bits)


def unpacker(name: str) -> Any:
    """The function (address of a block, codes int8 [256]) that unpacks the signed codes of a type."""
    record = TENSOR_TYPES[name]
    low, high = record.codes[0], record.codes[-1]
    add_low, add_high = adder(low, 0, record.offset(low.field)), adder(high, low.width, record.offset(high.field))
    below, two = -record.zero, len(record.codes) > 1

    def unpack_codes(p, codes):
        codes[:] = below
        add_low(p, codes)
        if two:
            add_high(p, codes)

    return inlined(unpack_codes)


unpack_q2, unpack_q3, unpack_q4, unpack_q5, unpack_q6 = (unpacker(name) for name in KINDS)


@kernel
def unpack(kind, p, codes, scales, minima):
    """The block at `p`: 256 signed codes, and of each run of sixteen the scale and the minimum."""
    minima[:] = 0
    q = p + SCALES_AT[kind]
    if kind == 2:
        unpack_q2(p, codes)
        for run in range(16):
            scales[run], minima[run] = load_u8(q + run) & 15, load_u8(q + run) >> 4
    elif kind == 3:
        unpack_q3(p, codes)
        for run in range(16):
            low = load_u8(q + run % 8) >> (4 * (run // 8)) & 15
            high = load_u8(q + 8 + run % 4) >> (2 * (run // 4)) & 3
            scales[run] = (low | high << 4) - 32
    elif kind == 6:
        unpack_q6(p, codes)
        for run in range(16):
            scales[run] = load_i8(q + run)
    else:
        if kind == 4:
            unpack_q4(p, codes)
        else:
            unpack_q5(p, codes)
        _unpack_scales_and_minima(q, scales, minima)


@kernel
def _unpack_scales_and_minima(p, scales, minima):
    """Eight scales and eight minima of six bits in twelve bytes, each for two runs of sixteen."""
    for j in range(8):
        if j < 4:
            scale, minimum = load_u8(p + j) & 63, load_u8(p + j + 4) & 63
        else:
            scale = load_u8(p + j + 4) & 15 | load_u8(p + j - 4) >> 6 << 4
            minimum = load_u8(p + j + 4) >> 4 | load_u8(p + j) >> 6 << 4
        scales[2 * j] = scales[2 * j + 1] = scale
        minima[2 * j] = minima[2 * j + 1] = minimum


@kernel
def k_quants(kind, simd, rows, stride, first, last, n, y, d, sums, out):
    """out[t, r] = row r · token t. y, d, sums: what `quantize_q8_k` made of the activations."""
    n_blocks = n // 256
    codes = np.empty((n_blocks, 256), np.int8)
    scales, minima = np.empty((n_blocks, 16), np.int32), np.empty((n_blocks, 16), np.int32)
    lanes_of_minima = np.zeros(8, np.int32)
    for r in range(first, last):
        for block in range(n_blocks):
            p = rows + r * stride + block * BLOCK_BYTES[kind]
            unpack(kind, p, codes[block], scales[block], minima[block])
        for t in range(out.shape[0]):
            p, total, lanes, low_lanes = rows + r * stride, F0, zeros_f32x8(), zeros_f32x8()
            for block in range(n_blocks):
                a, c = y.ctypes.data + t * n + 256 * block, codes[block].ctypes.data
                dy, s, m = d[t, block], scales[block], minima[block]
                dx = dy * load_f16(p + D_AT[kind])
                dmin = dy * load_f16(p + DMIN_AT[kind]) if DMIN_AT[kind] >= 0 else F0
                products = zeros_i32x8()
                for g in range(8):
                    x32, y32 = load_i8x32(c + 32 * g), load_i8x32(a + 32 * g)
                    if simd:
                        products = add_quads(products, x32, y32, s[2 * g], s[2 * g + 1])
                    else:
                        products = add_columns(products, x32, y32, s[2 * g], s[2 * g + 1])
                low = np.int32(0)
                for i in range(16):
                    low += m[i] * sums[t, 16 * block + i]
                if not simd:
                    if kind == 2:
                        total += dx * np.float32(total_int(products)) - dmin * np.float32(low)
                    else:
                        lanes = add(lanes, mul(fill_f32x8(dx), to_floats(products)))
                        total -= dmin * np.float32(low)
                else:
                    if kind in (2, 4):
                        _minima_by_lane(kind, m, sums[t, 16 * block : 16 * block + 16], lanes_of_minima)
                        below = to_floats(load_i32x8(lanes_of_minima.ctypes.data))
                        if kind == 2:
                            lanes = fma(fill_f32x8(-dmin), below, lanes)
                        else:
                            low_lanes = fma(fill_f32x8(-dmin), below, low_lanes)
                    elif kind == 5:
                        total += -dmin * np.float32(low)
                    lanes = fma(fill_f32x8(dx), to_floats(products), lanes)
                p += BLOCK_BYTES[kind]
            if not simd:
                out[t, r] = total if kind == 2 else add_in_order(total, lanes)
            elif kind == 4:
                out[t, r] = total_crosswise(lanes) + total_crosswise(low_lanes)
            elif kind == 5:
                out[t, r] = total_crosswise(lanes) + total
            else:
                out[t, r] = total_crosswise(lanes)


@kernel
def _minima_by_lane(kind, m, sums, lanes):
    """q2_K: lane l takes runs 2l and 2l+1. q4_K: the first four lanes take four runs each, the others none."""
    width = 2 if kind == 2 else 4
    for lane in range(16 // width):
        total = np.int32(0)
        for i in range(width * lane, width * lane + width):
            total += m[i] * sums[i]
        lanes[lane] = total
