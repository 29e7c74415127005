"""glibc's expf in numpy: what sampling needs, without the second that a compiler takes to load.

e^x = 2^(k/32) · 2^r, k = round(32 x / ln 2): a table for the first factor, a polynomial for the second, all in double
and rounded to float once. glibc evaluates it with fused multiply-adds; numpy has none. The two differ in the last
bits of the double, and so in the float only where the double lies next to the middle between two floats: there, the
fused operations are done exactly, with fractions.

Constants and algorithm: Arm optimized-routines, math/{expf,exp2f_data}.c, Copyright (c) 2017-2024 Arm Limited,
MIT OR Apache-2.0 WITH LLVM-exception. `llama_ref.arithmetic.exact.libm` has the same function compiled, and its
siblings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["expf"]

fh = float.fromhex

# fmt: off
# 2^(k/32), as bits with k << 47 taken off, and 2^r - 1 for |r| <= 1/64.
EXP2_TABLE = np.array([
    0x3ff0000000000000, 0x3fefd9b0d3158574, 0x3fefb5586cf9890f, 0x3fef9301d0125b51,
    0x3fef72b83c7d517b, 0x3fef54873168b9aa, 0x3fef387a6e756238, 0x3fef1e9df51fdee1,
    0x3fef06fe0a31b715, 0x3feef1a7373aa9cb, 0x3feedea64c123422, 0x3feece086061892d,
    0x3feebfdad5362a27, 0x3feeb42b569d4f82, 0x3feeab07dd485429, 0x3feea47eb03a5585,
    0x3feea09e667f3bcd, 0x3fee9f75e8ec5f74, 0x3feea11473eb0187, 0x3feea589994cce13,
    0x3feeace5422aa0db, 0x3feeb737b0cdc5e5, 0x3feec49182a3f090, 0x3feed503b23e255d,
    0x3feee89f995ad3ad, 0x3feeff76f2fb5e47, 0x3fef199bdd85529c, 0x3fef3720dcef9069,
    0x3fef5818dcfba487, 0x3fef7c97337b9b5f, 0x3fefa4afa2a490da, 0x3fefd0765b6e4540,
], np.int64)
# fmt: on

E0, E1, E2 = fh("0x1.c6af84b912394p-5"), fh("0x1.ebfce50fac4f3p-3"), fh("0x1.62e42ff0c52d6p-1")
SHIFT = fh("0x1.8p+52")  # adding it rounds a double to an integer, which its low bits then hold
INV_LN2_32 = fh("0x1.71547652b82fep+0") * 32
EXP_OVERFLOW = np.float32(fh("0x1.62e42ep6"))  # above it, e^x exceeds the largest float
EXP_UNDERFLOW = np.float32(fh("-0x1.9fe368p6"))  # below it, e^x is less than half the smallest
C0, C1, C2 = E0 / 32 / 32 / 32, E1 / 32 / 32, E2 / 32

FUSING_MATTERS = 2.0**-48  # relative; without fused operations the double is off by less
NEAR_A_HALF = 2.0**-40  # of 32 x / ln 2, which is off by less than that too


def expf(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """e^x of each float, float32 [n] → float32 [n], the same bits as glibc's.

    >>> expf(np.array([0.0, 1.0, -200.0], np.float32)).tolist()
    [1.0, 2.7182817459106445, 0.0]
    """
    x = np.asarray(values, np.float32)
    inside = (x <= EXP_OVERFLOW) & (x >= EXP_UNDERFLOW)
    if inside.all():
        return _inside(x)
    result = np.where(x > EXP_OVERFLOW, np.float32(np.inf), np.where(x < EXP_UNDERFLOW, np.float32(0), x))
    result[inside] = _inside(x[inside])
    return result


def _inside(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of arguments whose result is a finite float."""
    scaled = x.astype(np.float64) * INV_LN2_32
    shifted = scaled + SHIFT
    k = shifted.view(np.int64)
    r = scaled - (shifted - SHIFT)
    scale = (EXP2_TABLE[k & 31] + (k << 47)).view(np.float64)
    wide = ((C0 * r + C1) * (r * r) + (C2 * r + 1.0)) * scale
    with np.errstate(under="ignore"):
        result = wide.astype(np.float32)
        low, high = (wide * (1 - FUSING_MATTERS)).astype(np.float32), (wide * (1 + FUSING_MATTERS)).astype(np.float32)
    unsure = low != high
    unsure |= abs(r) > 0.5 - NEAR_A_HALF
    if unsure.any():
        for i in np.flatnonzero(unsure):
            result[i] = _fused(float(x[i]))
    return result


def _fused(x: float) -> np.float32:
    shifted = _fma(INV_LN2_32, x, SHIFT)
    k = np.float64(shifted).view(np.int64)
    r = _fma(INV_LN2_32, x, -(shifted - SHIFT))
    with np.errstate(over="ignore"):  # the shift drops the high bits, as meant
        scale = float((EXP2_TABLE[k & 31] + (k << np.int64(47))).view(np.float64))
    return np.float32(_fma(_fma(C0, r, C1), r * r, _fma(C2, r, 1.0)) * scale)


def _fma(a: float, b: float, c: float) -> float:
    """a · b + c, rounded once."""
    from fractions import Fraction  # hardly ever needed, and slow to import

    return float(Fraction(a) * Fraction(b) + Fraction(c))
