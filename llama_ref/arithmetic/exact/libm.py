"""The C library's expf, logf, sinf, cosf and powf, bit for bit, without the C library.

llama.cpp's tables and angles come from glibc's single-precision functions, which are good to about 0.53 units in the
last place: not correctly rounded, so that computing in double and rounding gives another float for one argument in a
hundred. Since glibc 2.28 they are Arm's "optimized routines": double arithmetic, a small table and a short polynomial.
This is that algorithm, with the fused multiply-adds of the variant that glibc picks on processors that have them (every
x86 that can run an AVX2 build); the tests compare it with the platform's own library.
`llama_ref.arithmetic.exact.backend` therefore depends on no platform's libm. musl and newer or older C libraries may
differ from it in the last bit.

Constants and algorithm: Arm optimized-routines, math/{expf,exp2f_data,logf,logf_data,sinf,cosf,sincosf,
sincosf_data,powf,powf_log2_data}.c, Copyright (c) 2017-2024 Arm Limited, MIT OR Apache-2.0 WITH LLVM-exception.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ggmlpy.machine.kernels import kernel
from ggmlpy.machine.vectors import bits, bits_of_double, double_of, fma

from .expf import E0, E1, E2, EXP2_TABLE, EXP_OVERFLOW, EXP_UNDERFLOW, INV_LN2_32, SHIFT

__all__ = ["cosf", "expf", "logf", "powf", "sinf"]

fh = float.fromhex


# fmt: off
# 1/c, log2(c) and ln(c) for sixteen c near the centres of [0.7, 1.4] split evenly in the bits.
INVERSE = np.array([fh(x) for x in (
    "0x1.661ec79f8f3bep+0", "0x1.571ed4aaf883dp+0", "0x1.49539f0f010bp+0",  "0x1.3c995b0b80385p+0",
    "0x1.30d190c8864a5p+0", "0x1.25e227b0b8eap+0",  "0x1.1bb4a4a1a343fp+0", "0x1.12358f08ae5bap+0",
    "0x1.0953f419900a7p+0", "0x1p+0",               "0x1.e608cfd9a47acp-1", "0x1.ca4b31f026aap-1",
    "0x1.b2036576afce6p-1", "0x1.9c2d163a1aa2dp-1", "0x1.886e6037841edp-1", "0x1.767dcf5534862p-1")])
LOG2_OF = np.array([fh(x) for x in (
    "-0x1.efec65b963019p-2", "-0x1.b0b6832d4fca4p-2", "-0x1.7418b0a1fb77bp-2", "-0x1.39de91a6dcf7bp-2",
    "-0x1.01d9bf3f2b631p-2", "-0x1.97c1d1b3b7afp-3",  "-0x1.2f9e393af3c9fp-3", "-0x1.960cbbf788d5cp-4",
    "-0x1.a6f9db6475fcep-5", "0x0p+0",                "0x1.338ca9f24f53dp-4",  "0x1.476a9543891bap-3",
    "0x1.e840b4ac4e4d2p-3",  "0x1.40645f0c6651cp-2",  "0x1.88e9c2c1b9ff8p-2",  "0x1.ce0a44eb17bccp-2")])
LN_OF = np.array([fh(x) for x in (
    "-0x1.57bf7808caadep-2", "-0x1.2bef0a7c06ddbp-2", "-0x1.01eae7f513a67p-2", "-0x1.b31d8a68224e9p-3",
    "-0x1.6574f0ac07758p-3", "-0x1.1aa2bc79c81p-3",   "-0x1.a4e76ce8c0e5ep-4", "-0x1.1973c5a611cccp-4",
    "-0x1.252f438e10c1ep-5", "0x0p+0",                "0x1.aa5aa5df25984p-5",  "0x1.c5e53aa362eb4p-4",
    "0x1.526e57720db08p-3",  "0x1.bc2860d22477p-3",   "0x1.1058bc8a07ee1p-2",  "0x1.4043057b6ee09p-2")])
LN_2 = fh("0x1.62e42fefa39efp-1")
N0, N1, N2 = fh("-0x1.00ea348b88334p-2"), fh("0x1.5575b0be00b6ap-2"), fh("-0x1.ffffef20a4123p-2")
L0, L1, L2, L3, L4 = (fh(x) for x in (
    "0x1.27616c9496e0bp-2", "-0x1.71969a075c67ap-2", "0x1.ec70a6ca7baddp-2", "-0x1.7154748bef6c8p-1",
    "0x1.71547652ab82bp0"))

# sin(x) = x + S1 x³ + S2 x⁵ + S3 x⁷ and cos(x) = 1 + C1 x² + … + C4 x⁸ for |x| <= π/4.
C1, C2, C3, C4 = (fh(x) for x in (
    "-0x1.ffffffd0c621cp-2", "0x1.55553e1068f19p-5", "-0x1.6c087e89a359dp-10", "0x1.99343027bf8c3p-16"))
S1, S2, S3 = fh("-0x1.555545995a603p-3"), fh("0x1.1107605230bc4p-7"), fh("-0x1.994eb3774cf24p-13")
HALF_PI, TWO_OVER_PI = fh("0x1.921FB54442D18p0"), fh("0x1.45F306DC9C883p+23")  # 2/π scaled by 2^24
PI_63 = fh("0x1.921FB54442D18p-62")  # 2π * 2^-64

# 4/π to 192 bits, eight new bits an entry.
INV_PIO4 = np.array([
    0xa2,       0xa2f9,     0xa2f983,   0xa2f9836e, 0xf9836e4e, 0x836e4e44, 0x6e4e4415, 0x4e441529,
    0x441529fc, 0x1529fc27, 0x29fc2757, 0xfc2757d1, 0x2757d1f5, 0x57d1f534, 0xd1f534dd, 0xf534ddc0,
    0x34ddc0db, 0xddc0db62, 0xc0db6295, 0xdb629599, 0x6295993c, 0x95993c43, 0x993c4390, 0x3c439041,
], np.uint64)
# fmt: on

QUARTER_PI = 0x3F490FDB  # bits of π/4
INFINITY = 0x7F800000


@kernel
def unsigned_bits(x):
    """The bits of a float, as an unsigned number."""
    return np.int64(bits(x)) & np.int64(0xFFFFFFFF)


@kernel
def _scaled_exp2(k, r, c0, c1, c2):
    """2^(k/32) * (1 + c2 r + c1 r² + c0 r³), rounded to float."""
    scale = double_of(EXP2_TABLE[k & 31] + (k << 47))
    r2 = r * r
    return np.float32(fma(fma(c0, r, c1), r2, fma(c2, r, 1.0)) * scale)


@kernel
def _expf(x):
    if np.isnan(x):
        return x
    if x > EXP_OVERFLOW:
        return np.float32(np.inf)
    if x < EXP_UNDERFLOW:
        return np.float32(0)
    wide = np.float64(x)
    shifted = fma(INV_LN2_32, wide, SHIFT)
    r = fma(INV_LN2_32, wide, -(shifted - SHIFT))
    return _scaled_exp2(bits_of_double(shifted), r, E0 / 32 / 32 / 32, E1 / 32 / 32, E2 / 32)


@kernel
def _sine(x, n, negative):
    """sin(x) for even quadrants n, ±cos(x) for odd ones."""
    x2 = x * x
    if n & 1 == 0:
        x3 = x * x2
        return np.float32(fma(x3 * x2, fma(x2, S3, S2), fma(x3, S1, x)))
    sign = -1.0 if negative else 1.0
    x4 = x2 * x2
    c = fma(x4, sign * C2, fma(x2, sign * C1, sign))
    return np.float32(fma(x4 * x2, fma(x2, sign * C4, sign * C3), c))


@kernel
def _reduced(x, bits):
    """|x| or x minus the nearest multiple of π/2, and that multiple."""
    if bits >> 20 < 0x42F:  # |x| < 120
        wide = np.float64(x)
        n = (np.int64(wide * TWO_OVER_PI) + 0x800000) >> 24
        return fma(-np.float64(n), HALF_PI, wide), n
    at = (bits >> 26) & 15
    mantissa = np.uint64(((bits & 0xFFFFFF) | 0x800000) << ((bits >> 23) & 7)) & np.uint64(0xFFFFFFFF)
    high = (mantissa * INV_PIO4[at]) & np.uint64(0xFFFFFFFF)
    middle = mantissa * INV_PIO4[at + 4]
    low = mantissa * INV_PIO4[at + 8]
    turns = ((low >> np.uint64(32)) | (high << np.uint64(32))) + middle
    n = (turns + np.uint64(1 << 61)) >> np.uint64(62)
    return np.float64(np.int64(turns - (n << np.uint64(62)))) * PI_63, np.int64(n)


@kernel
def _sin_or_cos(x, is_cos):
    bits = unsigned_bits(x) & 0x7FFFFFFF
    if bits >= INFINITY:
        return np.float32(np.nan)
    if bits >> 20 < QUARTER_PI >> 20:
        if bits >> 20 < 0x398:  # |x| < 2^-12
            return np.float32(1) if is_cos else x
        return _sine(np.float64(x), 1 if is_cos else 0, False)
    reduced, n = _reduced(x, bits)
    turned = n + (unsigned_bits(x) >> 31 if bits >> 20 >= 0x42F else 0)
    flipped = -reduced if turned & 3 in (1, 2) else reduced
    return _sine(flipped, n ^ 1 if is_cos else n, turned & 2 != 0)


@kernel
def _split(bits):
    """A positive float x as 2^k * z: k, the entry i whose c is near z, and z/c - 1."""
    offset = bits - 0x3F330000
    i, k = (offset >> 19) & 15, offset >> 23
    z = np.float64(np.int32(bits - (k << 23)).view(np.float32))
    return np.float64(k), i, fma(z, INVERSE[i], -1.0)


@kernel
def _logf(x):
    if np.isnan(x) or x < 0:
        return np.float32(np.nan)
    if x == 0:
        return np.float32(-np.inf)
    bits = unsigned_bits(x)
    if bits == INFINITY:
        return x
    if bits < 0x00800000:  # a denormal
        bits = unsigned_bits(x * np.float32(8388608)) - (23 << 23)
    k, i, r = _split(bits)
    y0 = fma(k, LN_2, LN_OF[i])
    r2 = r * r
    return np.float32(fma(fma(N0, r2, fma(N1, r, N2)), r2, y0 + r))


@kernel
def _log2(bits):
    """log2 of a positive float, as a double."""
    k, i, r = _split(bits)
    y0 = LOG2_OF[i] + k
    r2 = r * r
    q = fma(fma(L2, r, L3), r2, fma(L4, r, y0))
    return fma(fma(L0, r, L1), r2 * r2, q)


@kernel
def _powf(x, y):
    power = np.float64(y) * _log2(unsigned_bits(x))
    if power > 127.99999999:
        return np.float32(np.inf)
    if power <= -150.0:
        return np.float32(0)
    shifted = power + SHIFT / 32
    return _scaled_exp2(bits_of_double(shifted), power - (shifted - SHIFT / 32), E0, E1, E2)


def _each(loop: Callable[..., None], *arguments: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Run a loop over flat float32 copies of the arguments; the result has their common shape."""
    arrays = [np.asarray(x, np.float32) for x in arguments]
    shape = np.broadcast_shapes(*(x.shape for x in arrays))
    out = np.empty(shape, np.float32)
    shaped = (x if x.shape == shape else np.broadcast_to(x, shape).copy() for x in arrays)
    loop(*(np.ascontiguousarray(x).reshape(-1) for x in shaped), out.reshape(-1))
    return out[()]


@kernel
def _expf_loop(x, out):
    for i in range(len(x)):
        out[i] = _expf(x[i])


@kernel
def _logf_loop(x, out):
    for i in range(len(x)):
        out[i] = _logf(x[i])


@kernel
def _sin_or_cos_loop(is_cos, x, out):
    for i in range(len(x)):
        out[i] = _sin_or_cos(x[i], is_cos)


@kernel
def _powf_loop(x, y, out):
    for i in range(len(x)):
        out[i] = _powf(x[i], y[i])


def expf(x: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """glibc's expf, element by element.

    >>> expf([0.0, 1.0])
    array([1.       , 2.7182817], dtype=float32)
    """
    return _each(_expf_loop, x)


def logf(x: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """glibc's logf, element by element."""
    return _each(_logf_loop, x)


def sinf(x: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """glibc's sinf, element by element."""
    return _each(lambda x, out: _sin_or_cos_loop(False, x, out), x)


def cosf(x: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """glibc's cosf, element by element."""
    return _each(lambda x, out: _sin_or_cos_loop(True, x, out), x)


def powf(x: npt.ArrayLike, y: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """glibc's powf for a normal x > 0 and a finite y, element by element (all that rope needs)."""
    return _each(_powf_loop, x, y)
