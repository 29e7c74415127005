"""Quantizers of the k-quants: 256 values a block, in sub-blocks that each search for their own scale.

A sub-block's scale (and minimum) is itself kept as a small integer times one float16 of the block. So a block is made
in three steps, in this order and in float32, each operation rounded on its own:

1. search: for each sub-block a scale, and a minimum m >= 0 in q2_K, q4_K, q5_K, that fit its values in a least-squares
   sense (``search_affine``) or weighted by x^2 (``search_symmetric``, ``search_symmetric_3``);
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

Rounding is ``nearest_int``: adding 1.5 * 2^23 leaves the nearest integer (ties to even) in the low mantissa bits; what
it gives for values beyond 2^22, for inf and NaN follows from those bits and is kept.

Source: k_quants.c at llama.cpp dadbed99e (super-blocks of 256).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit, types

from .c_arithmetic import ABS, JIT_OPTIONS, bits, compile_kernel, float_of, narrow, source_stamp, widen
from .tensor_types import QK_K

__all__ = ["k_quantizer"]

F0, F1 = np.float32(0), np.float32(1)
MAGIC = np.float32(12582912.0)  # 1.5 * 2**23
MANTISSA = np.int32(0x007FFFFF)
MIDDLE = np.int32(0x00400000)


# --- rounding -----------------------------------------------------------------------------------------------------


@njit(**JIT_OPTIONS)
def nearest_int(v):
    """The nearest integer, ties to even; beyond 2^22 what the bits say."""
    return np.int32((bits(v + MAGIC) & MANTISSA) - MIDDLE)


@njit(**JIT_OPTIONS)
def clipped(v, low, high):
    """``nearest_int`` kept between two integers."""
    code = nearest_int(v)
    code = code if code < np.int32(high) else np.int32(high)
    return code if code > np.int32(low) else np.int32(low)


@njit(**JIT_OPTIONS)
def magnitude_of(v):
    return float_of(np.int32(bits(v) & ABS))


# --- searching for a scale ----------------------------------------------------------------------------------------


@njit(**JIT_OPTIONS)
def extreme(x, start, n):
    """The first value of the greatest magnitude, NaN passed over; 0 if there is none."""
    most, greatest = F0, F0
    for i in range(start, start + n):
        a = magnitude_of(x[i])
        if a > greatest:
            greatest, most = a, x[i]
    return most


@njit(**JIT_OPTIONS)
def search_affine(x, codes, start, n, limit):
    """Fit x = scale * code - minimum with codes 0 … ``limit``: five rounds of coding and refitting.

    Returns:
        scale, minimum (>= 0).
    """
    low, high = x[start], x[start]
    for i in range(start + 1, start + n):
        low = x[i] if x[i] < low else low
        high = x[i] if x[i] > high else high
    if high == low:
        for i in range(start, start + n):
            codes[i] = 0
        return F0, F0
    low = F0 if low > F0 else low
    inverse = np.float32(limit) / (high - low)
    scale = F1 / inverse
    for _ in range(5):
        sum_lx, sum_l2, changed = F0, np.int32(0), False
        for i in range(start, start + n):
            code = clipped(inverse * (x[i] - low), 0, limit)
            if code != codes[i]:
                codes[i] = code
                changed = True
            sum_lx += (x[i] - low) * np.float32(code)
            sum_l2 += code * code
        scale = sum_lx / np.float32(sum_l2)
        total = F0
        for i in range(start, start + n):
            total += x[i] - scale * np.float32(codes[i])
        low = total / np.float32(n)
        low = F0 if low > F0 else low
        inverse = F1 / scale
        if not changed:
            break
    return scale, -low


@njit(**JIT_OPTIONS)
def improved(x, codes, start, n, limit, sum_lx, sum_l2):
    """Change single codes (-limit … limit - 1) while that raises (sum w x l)^2 / sum w l^2, at most five rounds.

    Returns:
        sum w x l and sum w l^2 of the codes as they are then, w = x^2.
    """
    for _ in range(5):
        changes = 0
        for i in range(start, start + n):
            w = x[i] * x[i]
            code = np.int32(codes[i])
            without_lx = sum_lx - w * x[i] * np.float32(code)
            if without_lx > F0:
                without_l2 = sum_l2 - w * np.float32(code) * np.float32(code)
                other = clipped(x[i] * without_l2 / without_lx, -limit, limit - 1)
                if other != code:
                    with_lx = without_lx + w * x[i] * np.float32(other)
                    with_l2 = without_l2 + w * np.float32(other) * np.float32(other)
                    if with_l2 > F0 and with_lx * with_lx * sum_l2 > sum_lx * sum_lx * with_l2:
                        codes[i] = other
                        sum_lx, sum_l2 = with_lx, with_l2
                        changes += 1
        if changes == 0:
            break
    return sum_lx, sum_l2


@njit(**JIT_OPTIONS)
def sums_of(x, start, n, limit, inverse):
    """sum w x l and sum w l^2 over the codes l that ``inverse`` gives, w = x^2."""
    sum_lx, sum_l2 = F0, F0
    for i in range(start, start + n):
        code = np.float32(clipped(inverse * x[i], -limit, limit - 1))
        w = x[i] * x[i]
        sum_lx += w * x[i] * code
        sum_l2 += w * code * code
    return sum_lx, sum_l2


@njit(**JIT_OPTIONS)
def code_with(x, codes, start, n, limit, inverse):
    """Set the codes -limit … limit - 1 that ``inverse`` gives; return whether any is new."""
    changed = False
    for i in range(start, start + n):
        code = clipped(inverse * x[i], -limit, limit - 1)
        if code != codes[i]:
            changed = True
        codes[i] = code
    return changed


@njit(**JIT_OPTIONS)
def search_symmetric_3(x, codes, start, n, limit):
    """Fit x = scale * code for q3_K. Returns the scale."""
    most = extreme(x, start, n)
    if most == F0:
        for i in range(start, start + n):
            codes[i] = -limit
        return F0
    inverse = np.float32(-limit) / most
    code_with(x, codes, start, n, limit, inverse)
    sum_lx, sum_l2 = sums_of(x, start, n, limit, inverse)
    sum_lx, sum_l2 = improved(x, codes, start, n, limit, sum_lx, sum_l2)
    return sum_lx / sum_l2


@njit(**JIT_OPTIONS)
def search_symmetric(x, codes, start, n, limit):
    """Fit x = scale * code for q6_K: refit up to three times, then improve single codes. Returns the scale."""
    most = extreme(x, start, n)
    if most == F0:
        for i in range(start, start + n):
            codes[i] = -limit
        return F0
    inverse = np.float32(-limit) / most
    code_with(x, codes, start, n, limit, inverse)
    sum_lx, sum_l2 = sums_of(x, start, n, limit, inverse)
    scale = sum_lx / sum_l2
    best = scale * sum_lx
    for _ in range(3):
        inverse = F1 / scale
        new_lx, new_l2 = sums_of(x, start, n, limit, inverse)
        if new_l2 == F0 or new_lx * new_lx <= best * new_l2 or same_codes(x, codes, start, n, limit, inverse):
            break
        code_with(x, codes, start, n, limit, inverse)
        sum_lx, sum_l2 = new_lx, new_l2
        scale = sum_lx / sum_l2
        best = scale * sum_lx
    sum_lx, sum_l2 = improved(x, codes, start, n, limit, sum_lx, sum_l2)
    return sum_lx / sum_l2


@njit(**JIT_OPTIONS)
def same_codes(x, codes, start, n, limit, inverse):
    """Whether ``inverse`` gives the codes that are there."""
    same = True
    for i in range(start, start + n):
        same &= clipped(inverse * x[i], -limit, limit - 1) == codes[i]
    return same


# --- blocks -------------------------------------------------------------------------------------------------------
#
# x: the block's values, float32 [256]. out: its bytes. codes: int32 [256], which keep what the block before left in
# them, because the affine search stops early if it finds its first codes already there, as llama.cpp's does.


@njit(**JIT_OPTIONS)
def store_half(out, k, v):
    """Store a scale as float16 at byte ``k`` and return it as a reader will see it."""
    half = narrow(v)
    out[k], out[k + 1] = np.uint8(half), np.uint8(half >> np.int32(8))
    return widen(np.uint16(half))


@njit(**JIT_OPTIONS)
def search_all_affine(x, codes, n, limit, scales, mins):
    """Scales and minimums of all sub-blocks of ``n`` values. Returns the largest of each, or 0."""
    max_scale, max_min = F0, F0
    for j in range(QK_K // n):
        scales[j], mins[j] = search_affine(x, codes, n * j, n, limit)
        max_scale = scales[j] if scales[j] > max_scale else max_scale
        max_min = mins[j] if mins[j] > max_min else max_min
    return max_scale, max_min


@njit(**JIT_OPTIONS)
def recode_affine(x, codes, start, n, limit, d, minimum):
    """Code with the decoded scale and minimum; a sub-block whose scale became 0 keeps the codes of the search."""
    if d != F0:
        for i in range(start, start + n):
            codes[i] = clipped((x[i] + minimum) / d, 0, limit)


@njit(**JIT_OPTIONS)
def recode_symmetric(x, codes, start, n, limit, d):
    if d != F0:
        for i in range(start, start + n):
            codes[i] = clipped(x[i] / d, -limit, limit - 1)


@njit(**JIT_OPTIONS)
def pack_crumbs(codes, out, k, offset):
    """The low two bits of ``codes + offset``: 64 bytes at ``k``, each with values 32 apart."""
    for j in range(2):
        for l in range(32):  # noqa: E741 - as in the original
            byte = np.int32(0)
            for quarter in range(4):
                code = codes[128 * j + 32 * quarter + l] + np.int32(offset)
                byte |= (code & np.int32(3)) << np.int32(2 * quarter)
            out[k + 32 * j + l] = np.uint8(byte)


@njit(**JIT_OPTIONS)
def pack_nibbles(codes, out, k):
    """The low four bits of codes: 128 bytes at ``k``, 32 of them for each 64 values."""
    for j in range(4):
        for l in range(32):  # noqa: E741
            low, high = codes[64 * j + l] & np.int32(15), codes[64 * j + 32 + l] & np.int32(15)
            out[k + 32 * j + l] = np.uint8(low | high << np.int32(4))


@njit(**JIT_OPTIONS)
def pack_bit_planes(codes, out, k, bit, offset):
    """Bit ``bit`` of ``codes + offset``: 32 bytes at ``k``, value 32 i + l in bit i of byte l."""
    for l in range(32):  # noqa: E741
        byte = np.int32(0)
        for i in range(8):
            byte |= ((codes[32 * i + l] + np.int32(offset) >> np.int32(bit)) & np.int32(1)) << np.int32(i)
        out[k + l] = np.uint8(byte)


@njit(**JIT_OPTIONS)
def q2_k(x, codes, scales, mins, out):
    """Bytes: 16 of scale | minimum << 4, 64 of codes, f16 d, f16 dmin."""
    max_scale, max_min = search_all_affine(x, codes, 16, 3, scales, mins)
    for j in range(16):
        scale = nearest_int(np.float32(15) / max_scale * scales[j]) if max_scale > F0 else np.int32(0)
        minimum = nearest_int(np.float32(15) / max_min * mins[j]) if max_min > F0 else np.int32(0)
        out[j] = np.uint8(scale | minimum << np.int32(4))
    d = store_half(out, 80, max_scale / np.float32(15) if max_scale > F0 else F0)
    dmin = store_half(out, 82, max_min / np.float32(15) if max_min > F0 else F0)
    for j in range(16):
        scale, minimum = np.float32(out[j] & 15), np.float32(out[j] >> 4)
        recode_affine(x, codes, 16 * j, 16, 3, d * scale, dmin * minimum)
    pack_crumbs(codes, out, 16, 0)


@njit(**JIT_OPTIONS)
def q3_k(x, codes, scales, mins, out):
    """Bytes: 32 of third bits, 64 of low bits, 12 of 6-bit scales, f16 d."""
    max_scale = F0
    for j in range(16):
        scales[j] = search_symmetric_3(x, codes, 16 * j, 16, 4)
        max_scale = scales[j] if magnitude_of(scales[j]) > magnitude_of(max_scale) else max_scale
    inverse = np.float32(-32) / max_scale if max_scale != F0 else F0
    d = store_half(out, 108, F1 / inverse if max_scale != F0 else F0)
    out[96:108] = 0
    for j in range(16):
        scale = np.int32(-32)
        if max_scale != F0:
            scale = np.int32(np.int8(nearest_int(inverse * scales[j])))
            scale = np.int32(min(max(scale, -32), 31))
        biased = np.int32(scale + 32)
        out[96 + j % 8] |= np.uint8((biased & np.int32(15)) << np.int32(4 * (j // 8)))
        out[104 + j % 4] |= np.uint8((biased >> np.int32(4)) << np.int32(2 * (j // 4)))
        recode_symmetric(x, codes, 16 * j, 16, 4, d * np.float32(scale))
    pack_bit_planes(codes, out, 0, 2, 4)
    pack_crumbs(codes, out, 32, 4)


@njit(**JIT_OPTIONS)
def six_bits(v):
    """An unsigned byte kept below 64."""
    return np.int32(min(np.int32(nearest_int(v)) & 255, 63))


@njit(**JIT_OPTIONS)
def scales_of_six_bits(x, codes, scales, mins, out, limit):
    """The common part of q4_K and q5_K: f16 d, f16 dmin, 12 bytes of eight scales and eight minimums; then recode."""
    max_scale, max_min = search_all_affine(x, codes, 32, limit, scales, mins)
    d, dmin = store_half(out, 0, max_scale / np.float32(63)), store_half(out, 2, max_min / np.float32(63))
    to_scale = np.float32(63) / max_scale if max_scale > F0 else F0
    to_min = np.float32(63) / max_min if max_min > F0 else F0
    for j in range(8):
        scale, minimum = six_bits(to_scale * scales[j]), six_bits(to_min * mins[j])
        if j < 4:
            out[4 + j], out[8 + j] = np.uint8(scale), np.uint8(minimum)
        else:
            out[8 + j] = np.uint8((scale & 15) | (minimum & 15) << 4)
            out[j] |= np.uint8((scale >> 4) << 6)
            out[4 + j] |= np.uint8((minimum >> 4) << 6)
        recode_affine(x, codes, 32 * j, 32, limit, d * np.float32(scale), dmin * np.float32(minimum))


@njit(**JIT_OPTIONS)
def q4_k(x, codes, scales, mins, out):
    """Bytes: f16 d, f16 dmin, 12 of scales, 128 of codes."""
    scales_of_six_bits(x, codes, scales, mins, out, 15)
    pack_nibbles(codes, out, 16)


@njit(**JIT_OPTIONS)
def q5_k(x, codes, scales, mins, out):
    """Bytes: f16 d, f16 dmin, 12 of scales, 32 of fifth bits, 128 of low bits."""
    scales_of_six_bits(x, codes, scales, mins, out, 31)
    pack_bit_planes(codes, out, 16, 4, 0)
    pack_nibbles(codes, out, 48)


@njit(**JIT_OPTIONS)
def q6_k(x, codes, scales, mins, out):
    """Bytes: 128 of low four bits, 64 of high two bits, 16 signed scales, f16 d."""
    max_scale = F0
    for j in range(16):
        scales[j] = search_symmetric(x, codes, 16 * j, 16, 32)
        max_scale = scales[j] if magnitude_of(scales[j]) > magnitude_of(max_scale) else max_scale
    inverse = np.float32(-128) / max_scale
    d = store_half(out, 208, F1 / inverse)
    for j in range(16):
        scale = np.int8(min(nearest_int(inverse * scales[j]), 127))
        out[192 + j] = np.uint8(scale)
        recode_symmetric(x, codes, 16 * j, 16, 32, d * np.float32(scale))
    for j in range(2):
        for l in range(64):  # noqa: E741
            low, high = codes[128 * j + l] + np.int32(32), codes[128 * j + 64 + l] + np.int32(32)
            out[64 * j + l] = np.uint8((low & np.int32(15)) | (high & np.int32(15)) << np.int32(4))
        for l in range(32):  # noqa: E741
            byte = np.int32(0)
            for quarter in range(4):
                byte |= (codes[128 * j + 32 * quarter + l] + np.int32(32) >> np.int32(4)) << np.int32(2 * quarter)
            out[128 + 32 * j + l] = np.uint8(byte)


# --- rows ---------------------------------------------------------------------------------------------------------


def rows_kernel(width: int) -> Callable:
    """The loop over blocks ``rows`` (float32 [n, 256]) into ``out`` [n, type_size] for codes of ``width`` bits."""

    stamp = source_stamp()

    def quantize_blocks(rows, out):
        if stamp < 0:  # never: it is here to be part of the cache's key
            return
        codes = np.zeros(QK_K, np.int32)
        scales, mins = np.empty(16, np.float32), np.empty(16, np.float32)
        for i in range(rows.shape[0]):
            x = rows[i]
            if width == 2:
                q2_k(x, codes, scales, mins, out[i])
            elif width == 3:
                q3_k(x, codes, scales, mins, out[i])
            elif width == 4:
                q4_k(x, codes, scales, mins, out[i])
            elif width == 5:
                q5_k(x, codes, scales, mins, out[i])
            else:
                q6_k(x, codes, scales, mins, out[i])

    return quantize_blocks


@cache
def k_quantizer(name: str) -> Callable:
    """The compiled loop for "q2_K" … "q6_K"."""
    signature = types.void(types.Array(types.float32, 2, "C", readonly=True), types.uint8[:, ::1])
    return compile_kernel(rows_kernel(int(name[1])), signature)
