"""Quantizers of the k-quants: 256 values per block, in sub-blocks that each search for their own scale.

A sub-block's scale (and minimum) is itself kept as a small integer times one float16 of the block. So a block is made
in three steps, in this order and in float32, each operation rounded on its own:

1. search: for each sub-block a scale, and a minimum m >= 0 in q2_K, q4_K, q5_K, that fit its values in a least-squares
   sense (``search_affine``) or weighted by x^2 (``search_symmetric``): :mod:`ggmlpy.quantizers.search`;
2. the scales and minimums become integers of 4, 6 or 8 bits of the largest one;
3. each value is coded anew with the scale that a reader will decode.

=====  ==========  =================  ======================  ====================================================
type   sub-blocks  codes              scale of a sub-block    search
=====  ==========  =================  ======================  ====================================================
q2_K   16 of 16    0 … 3              4 bits, minimum 4 bits  affine
q3_K   16 of 16    -4 … 3             6 bits, signed          symmetric, codes improved one at a time
q4_K   8 of 32     0 … 15             6 bits, minimum 6 bits  affine
q5_K   8 of 32     0 … 31             6 bits, minimum 6 bits  affine
q6_K   16 of 16    -32 … 31           8 bits, signed          symmetric, rescaled, then codes improved
=====  ==========  =================  ======================  ====================================================

Source: k_quants.c at llama.cpp dadbed99e (super-blocks of 256).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ggmlpy.formats.tensor_types import QK_K, TENSOR_TYPES, TensorType
from ggmlpy.machine.c_arithmetic import narrow
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import f16_of_bits, load_i8x16, load_u8, moved_bits, or_bits, store_i8x16

from .search import clipped, magnitude_of, nearest_int, search_affine, search_symmetric

__all__ = ["k_quantizer"]

F0, F1 = np.float32(0), np.float32(1)


class Places(NamedTuple):
    """Where the parts of a block are, in numbers that a kernel takes as constants.

    Attributes:
        scales, d, dmin: the bytes where these fields begin; dmin is -1 where there is none.
        zero: the code that stands for 0.
        greatest: the greatest code.
    """

    scales: int
    d: int
    dmin: int
    zero: int
    greatest: int


def places_of(record: TensorType) -> Places:
    """The same for a type of :mod:`ggmlpy.formats.tensor_types`."""
    dmin = record.offset("dmin") if "dmin" in record.field_names else -1
    return Places(record.offset("scales"), record.offset("d"), dmin, record.zero, (1 << record.code_width) - 1)


Q2, Q3, Q4, Q5, Q6 = (places_of(TENSOR_TYPES[f"q{width}_K"]) for width in range(2, 7))


# ── blocks ────────────────────────────────────────────────────────────────────────────────────────────────────────────
#
# out: a block's bytes. x, codes, scales, mins: as for the search, 8 lanes of 32 or 16 lanes of 16 values. Value i of
# sub-block k is value n * k + i of the block.


@inlined
def store_half(out, k, v):
    """Store a scale as float16 at byte ``k`` and return it as a reader will see it."""
    half = narrow(v)
    out[k], out[k + 1] = np.uint8(half), np.uint8(half >> np.int32(8))
    return f16_of_bits(np.uint16(half))


@inlined
def largest(values):
    """The largest of several scales, or 0."""
    most = F0
    for v in values:
        most = v if v > most else most
    return most


@inlined
def largest_signed(values):
    """The first of the greatest magnitude, or 0."""
    most = F0
    for v in values:
        most = v if magnitude_of(v) > magnitude_of(most) else most
    return most


@inlined
def recode_affine(x, codes, limit, d, minimum):
    """Code with the decoded scales and minimums; a lane whose scale became 0 keeps the codes of its search."""
    n, lanes = x.shape
    for i in range(n):
        for k in range(lanes):
            code = clipped((x[i, k] + minimum[k]) / d[k], 0, limit)
            codes[i, k] = code if d[k] != F0 else codes[i, k]


@inlined
def recode_symmetric(x, codes, limit, d):
    """The same without a minimum."""
    n, lanes = x.shape
    for i in range(n):
        for k in range(lanes):
            code = clipped(x[i, k] / d[k], -limit, limit - 1)
            codes[i, k] = code if d[k] != F0 else codes[i, k]


@inlined
def in_order(codes, offset, flat):
    """Codes [n, lanes] as the bytes ``code + offset`` in the order of the values [256]."""
    n, lanes = codes.shape
    for k in range(lanes):
        for i in range(n):
            flat[n * k + i] = np.uint8(codes[i, k] + np.int32(offset))


@inlined
def pack_bits(flat, size, shift, width, apart, out, start):
    """Put ``width`` bits of each code, from bit ``shift``, into bytes that hold values ``apart`` from each other."""
    per_byte, mask = 8 // width, np.int32((1 << width) - 1)
    codes, bytes_at = np.int64(flat.ctypes.data), np.int64(out.ctypes.data) + start
    for j in range(size // (apart * per_byte)):
        first = codes + apart * per_byte * j
        if apart >= 16:
            for l in range(0, apart, 16):  # noqa: E741 - as in the original
                some = moved_bits(load_i8x16(first + l), np.int32(shift), mask, np.int32(0))
                for k in range(1, per_byte):
                    more = load_i8x16(first + apart * k + l)
                    some = or_bits(some, moved_bits(more, np.int32(shift), mask, np.int32(width * k)))
                store_i8x16(bytes_at + apart * j + l, some)
        else:
            for l in range(apart):  # noqa: E741
                byte = np.int32(0)
                for k in range(per_byte):
                    byte |= ((load_u8(first + apart * k + l) >> np.int32(shift)) & mask) << np.int32(width * k)
                out[start + apart * j + l] = np.uint8(byte)


class Packing(NamedTuple):
    """Where the bits of a block's codes go, see :class:`~ggmlpy.formats.tensor_types.CodeBits`: the low bits, and the
    others (of width 0 if there are none)."""

    size: int
    width: int
    apart: int
    at: int
    high_width: int
    high_apart: int
    high_at: int


def packing_of(record: TensorType) -> Packing:
    """The same for a type of :mod:`ggmlpy.formats.tensor_types`."""
    low, high = record.codes[0], record.codes[-1]
    high_width = high.width if len(record.codes) > 1 else 0
    places = (record.offset(low.field), high_width, high.apart, record.offset(high.field))
    return Packing(record.blck_size, low.width, low.apart, *places)


@inlined
def pack(flat, out, to):
    """Put the codes of a block, uint8 [blck_size], where its type has them."""
    pack_bits(flat, to.size, 0, to.width, to.apart, out, to.at)
    if to.high_width > 0:
        pack_bits(flat, to.size, to.width, to.high_width, to.high_apart, out, to.high_at)


PACK_Q2, PACK_Q3, PACK_Q4, PACK_Q5, PACK_Q6 = (packing_of(TENSOR_TYPES[f"q{width}_K"]) for width in range(2, 7))


@inlined
def q2_k(x, codes, scales, mins, work, flags, flat, out):
    """A scale and a minimum share a byte."""
    search_affine(x, codes, Q2.greatest, scales, mins, work, flags)
    max_scale, max_min = largest(scales), largest(mins)
    for k in range(16):
        scale = nearest_int(np.float32(15) / max_scale * scales[k]) if max_scale > F0 else np.int32(0)
        minimum = nearest_int(np.float32(15) / max_min * mins[k]) if max_min > F0 else np.int32(0)
        out[Q2.scales + k] = np.uint8(scale | minimum << np.int32(4))
    d = store_half(out, Q2.d, max_scale / np.float32(15) if max_scale > F0 else F0)
    dmin = store_half(out, Q2.dmin, max_min / np.float32(15) if max_min > F0 else F0)
    for k in range(16):
        both = out[Q2.scales + k]
        scales[k], mins[k] = d * np.float32(both & 15), dmin * np.float32(both >> 4)
    recode_affine(x, codes, Q2.greatest, scales, mins)
    in_order(codes, Q2.zero, flat)
    pack(flat, out, PACK_Q2)


@inlined
def q3_k(x, codes, scales, work, flat, out):
    """The low four bits of sixteen scales fill eight bytes, their high two bits four bytes more."""
    search_symmetric(x, codes, Q3.zero, 0, scales, work)
    max_scale = largest_signed(scales)
    inverse = np.float32(-32) / max_scale if max_scale != F0 else F0
    d = store_half(out, Q3.d, F1 / inverse if max_scale != F0 else F0)
    out[Q3.scales : Q3.scales + 12] = 0
    for k in range(16):
        scale = np.int32(-32)
        if max_scale != F0:
            scale = np.int32(np.int8(nearest_int(inverse * scales[k])))
            scale = np.int32(min(max(scale, -32), 31))
        biased = np.int32(scale + 32)
        out[Q3.scales + k % 8] |= np.uint8((biased & np.int32(15)) << np.int32(4 * (k // 8)))
        out[Q3.scales + 8 + k % 4] |= np.uint8((biased >> np.int32(4)) << np.int32(2 * (k // 4)))
        scales[k] = d * np.float32(scale)
    recode_symmetric(x, codes, Q3.zero, scales)
    in_order(codes, Q3.zero, flat)
    pack(flat, out, PACK_Q3)


@inlined
def six_bits(v):
    """An unsigned byte kept below 64."""
    return np.int32(min(np.int32(nearest_int(v)) & 255, 63))


@inlined
def scales_of_six_bits(x, codes, at, scales, mins, work, flags, out):
    """The common part of q4_K and q5_K: eight scales and eight minimums of six bits in twelve bytes; then recode."""
    search_affine(x, codes, at.greatest, scales, mins, work, flags)
    max_scale, max_min = largest(scales), largest(mins)
    d, dmin = store_half(out, at.d, max_scale / np.float32(63)), store_half(out, at.dmin, max_min / np.float32(63))
    to_scale = np.float32(63) / max_scale if max_scale > F0 else F0
    to_min = np.float32(63) / max_min if max_min > F0 else F0
    for k in range(8):
        scale, minimum = six_bits(to_scale * scales[k]), six_bits(to_min * mins[k])
        if k < 4:
            out[at.scales + k], out[at.scales + 4 + k] = np.uint8(scale), np.uint8(minimum)
        else:
            out[at.scales + 4 + k] = np.uint8((scale & 15) | (minimum & 15) << 4)
            out[at.scales - 4 + k] |= np.uint8((scale >> 4) << 6)
            out[at.scales + k] |= np.uint8((minimum >> 4) << 6)
        scales[k], mins[k] = d * np.float32(scale), dmin * np.float32(minimum)
    recode_affine(x, codes, at.greatest, scales, mins)


@inlined
def q4_k(x, codes, scales, mins, work, flags, flat, out):
    scales_of_six_bits(x, codes, Q4, scales, mins, work, flags, out)
    in_order(codes, Q4.zero, flat)
    pack(flat, out, PACK_Q4)


@inlined
def q5_k(x, codes, scales, mins, work, flags, flat, out):
    scales_of_six_bits(x, codes, Q5, scales, mins, work, flags, out)
    in_order(codes, Q5.zero, flat)
    pack(flat, out, PACK_Q5)


@inlined
def q6_k(x, codes, scales, work, flat, out):
    """A scale is a signed byte."""
    search_symmetric(x, codes, Q6.zero, 3, scales, work)
    inverse = np.float32(-128) / largest_signed(scales)
    d = store_half(out, Q6.d, F1 / inverse)
    for k in range(16):
        scale = np.int8(min(nearest_int(inverse * scales[k]), 127))
        out[Q6.scales + k] = np.uint8(scale)
        scales[k] = d * np.float32(scale)
    recode_symmetric(x, codes, Q6.zero, scales)
    in_order(codes, Q6.zero, flat)
    pack(flat, out, PACK_Q6)


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_kernel(record: TensorType) -> Callable:
    """The loop over blocks ``rows`` (float32 [n, 256]) into ``out`` [n, type_size] for one k-quant."""
    width, run, lanes = record.code_width, record.run, QK_K // record.run

    def quantize_blocks(rows, out):
        x, codes = np.empty((run, lanes), np.float32), np.zeros((run, lanes), np.int32)
        scales, mins, work = np.empty(lanes, np.float32), np.empty(lanes, np.float32), np.empty(6 * 16, np.float32)
        flags, flat = np.empty(3 * 16, np.int32), np.empty(QK_K, np.uint8)
        for block in range(rows.shape[0]):
            for k in range(lanes):
                for i in range(run):
                    x[i, k] = rows[block, run * k + i]
            if width == 2:
                q2_k(x, codes, scales, mins, work, flags, flat, out[block])
            elif width == 3:
                q3_k(x, codes, scales, work, flat, out[block])
            elif width == 4:
                q4_k(x, codes, scales, mins, work, flags, flat, out[block])
            elif width == 5:
                q5_k(x, codes, scales, mins, work, flags, flat, out[block])
            else:
                q6_k(x, codes, scales, work, flat, out[block])

    return quantize_blocks


@cache
def k_quantizer(name: str) -> Callable:
    """The compiled loop for "q2_K" … "q6_K"."""
    signature = types.void(types.Array(types.float32, 2, "C", readonly=True), types.uint8[:, ::1])
    return kernel(rows_kernel(TENSOR_TYPES[name]), signature)
