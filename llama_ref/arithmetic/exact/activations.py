"""Activations: what a matrix product does to the right-hand side before the dots."""

from __future__ import annotations

import numpy as np

from ggmlpy.machine.c_arithmetic import narrow, round_half_away
from ggmlpy.machine.kernels import kernel
from ggmlpy.machine.vectors import f16_of_bits

F0 = np.float32(0)
NO_SUM, ONE_SUM, HALF_SUMS = 0, 1, 2  # what q8 activations carry beside their codes


@kernel
def nearest_even(x):
    """x rounded to an integer, ties to even, for |x| < 2²²."""
    return (x + np.float32(12582912)) - np.float32(12582912)


@kernel
def quantize_q4_0(by_simd, x, codes, d):
    """March 2023: codes -7 … 7. Scalar builds divide 1/d and round half away; AVX ones 7/max and half to even."""
    for t in range(x.shape[0]):
        for block in range(x.shape[1] // 32):
            part = x[t, 32 * block : 32 * block + 32]
            largest = F0
            for i in range(32):
                largest = max(largest, abs(part[i]))
            scale = largest / np.float32(7)
            if by_simd:
                inverse = np.float32(7) / largest if largest != F0 else F0
            else:
                inverse = np.float32(1) / scale if scale != F0 else F0
            d[t, block] = scale
            for i in range(32):
                v = part[i] * inverse
                codes[t, 32 * block + i] = np.int8(nearest_even(v)) if by_simd else np.int8(round_half_away(v))


@kernel
def quantize_q4_1(by_simd, x, codes, d, m):
    """March 2023: codes 0 … 15 over [min, max]."""
    for t in range(x.shape[0]):
        for block in range(x.shape[1] // 32):
            part = x[t, 32 * block : 32 * block + 32]
            low, high = part[0], part[0]
            for i in range(32):
                low, high = min(low, part[i]), max(high, part[i])
            scale = (high - low) / np.float32(15)
            inverse = np.float32(1) / scale if scale != F0 else F0
            d[t, block], m[t, block] = scale, low
            for i in range(32):
                v = (part[i] - low) * inverse
                codes[t, 32 * block + i] = np.int8(nearest_even(v)) if by_simd else np.int8(round_half_away(v))


@kernel
def quantize_q8(by_simd, half_scale, sums, x, codes, d, s):
    """From 2023-04-30 on: codes -127 … 127.

    Args:
        by_simd: divide 127/max and round half to even, else 1/d and half away.
        half_scale: store d as f16 (2023-08-21); the codes come from the unrounded one.
        sums: what goes to `s`: NO_SUM, ONE_SUM = d * (sum of codes), or HALF_SUMS = that of each half, added.
    """
    for t in range(x.shape[0]):
        for block in range(x.shape[1] // 32):
            part = x[t, 32 * block : 32 * block + 32]
            largest = F0
            for i in range(32):
                largest = max(largest, abs(part[i]))
            scale = largest / np.float32(127)
            if by_simd:
                inverse = np.float32(127) / largest if largest != F0 else F0
            else:
                inverse = np.float32(1) / scale if scale != F0 else F0
            d[t, block] = f16_of_bits(np.uint16(narrow(scale))) if half_scale else scale
            low, high = np.int32(0), np.int32(0)
            for i in range(32):
                v = part[i] * inverse
                code = np.int8(nearest_even(v)) if by_simd else np.int8(round_half_away(v))
                codes[t, 32 * block + i] = code
                if i < 16:
                    low += code
                else:
                    high += code
            if sums == ONE_SUM:
                s[t, block] = scale * np.float32(low + high)
            elif sums == HALF_SUMS:
                s[t, block] = scale * np.float32(low) + scale * np.float32(high)


@kernel
def dequantize_activations(codes, d, m, with_minimum, values):
    """The floats that scalar dots of March 2023 make of quantized activations: d*q, or d*q + m."""
    for t in range(codes.shape[0]):
        for i in range(codes.shape[1]):
            f = d[t, i // 32] * np.float32(codes[t, i])
            values[t, i] = f + m[t, i // 32] if with_minimum else f


@kernel
def round_to_half(x, out):
    """Each float rounded to f16 and back, [n_tokens, n]."""
    for t in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[t, i] = f16_of_bits(np.uint16(narrow(x[t, i])))
