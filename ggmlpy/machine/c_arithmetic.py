"""C's float conversions exactly as an x86 processor carries them out, for use inside Numba kernels.

llama.cpp's quantizers lean on behaviour that C leaves undefined (a NaN cast to an integer) or that differs from
numpy's (``roundf`` rounds halves away from zero). LLVM may turn an undefined cast into anything, so every such step is
spelled out here on the bits of the float. All of it is branch-free, so that LLVM vectorises a loop over it.

f32 bits: sign 0x80000000, exponent 0x7f800000, mantissa 0x007fffff. f16 bits: 0x8000, 0x7c00, 0x03ff.
"""

from __future__ import annotations

import numpy as np

from .kernels import inlined
from .vectors import bits, float_of

__all__ = ["ABS", "narrow", "round_half_away", "truncate"]

SIGN = np.int32(-0x80000000)
ABS = np.int32(0x7FFFFFFF)
INF = np.int32(0x7F800000)
TWO_31 = np.int32(0x4F000000)  # 2.0 ** 31: the first float that an int32 can't hold
ALMOST_HALF = np.int32(0x3EFFFFFF)  # the largest float below 0.5
TINY_F16 = np.int32(0x38800000)  # 2.0 ** -14: the smallest normal f16
HUGE_F16 = np.int32(0x47800000)  # 2.0 ** 16: beyond every finite f16
HALF = np.float32(0.5)


@inlined
def truncate(v):
    """``(int) v`` in its low 8 bits: NaN, inf and what exceeds int32 give INT_MIN on x86, whose low byte is 0."""
    return np.int32(v if bits(v) & ABS < TWO_31 else np.float32(0))


@inlined
def round_half_away(v):
    """``(int) roundf(v)`` in its low 8 bits. Adding the largest float below 0.5 is exact where adding 0.5 is not."""
    return truncate(v + float_of((bits(v) & SIGN) | ALMOST_HALF))


@inlined
def narrow(v):
    """float32 -> the bits of the nearest f16 (ties to even), overflow to inf, NaN to a quiet NaN of its sign."""
    sign = (bits(v) >> np.int32(16)) & np.int32(0x8000)
    a = bits(v) & ABS
    if a > INF:
        return sign | np.int32(0x7E00)
    if a >= HUGE_F16:
        return sign | np.int32(0x7C00)
    if a < TINY_F16:  # a denormal f16 counts units of 2^-24, which is the last place of 0.5
        return sign | (bits(float_of(a) + HALF) - bits(HALF))
    odd = (a >> np.int32(13)) & np.int32(1)
    return sign | ((a - np.int32(112 << 23) + np.int32(0xFFF) + odd) >> np.int32(13))
