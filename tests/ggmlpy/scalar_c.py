"""llama.cpp's quantizers once more, one value at a time, in the plainest Python: an oracle for the kernels.

float32 operations are numpy scalars; casts are what x86 does. Slow and obvious.
"""

from __future__ import annotations

import math

import numpy as np

f32 = np.float32
INT_MIN = -(2**31)


def c_int(v: np.float32) -> int:
    """(int) v with cvttss2si."""
    value = float(v)
    if not math.isfinite(value) or not -(2.0**31) <= value < 2.0**31:
        return INT_MIN
    return math.trunc(value)


def int8(n: int) -> int:
    return (n + 128) % 256 - 128


def roundf(v: np.float32) -> np.float32:
    value = float(v)
    if not math.isfinite(value):
        return v
    return f32(math.copysign(math.floor(abs(value) + 0.5), value))  # exact: doubles


def inverse(d: np.float32) -> np.float32:
    return f32(1) / d if d != 0 else f32(0)


def max_macro(x):
    amax = f32(0)
    for v in x:
        a = abs(v)
        amax = amax if amax > a else a
    return amax


def max_std(x):
    amax = f32(0)
    for v in x:
        a = abs(v)
        amax = a if amax < a else amax
    return amax


def max_signed(x):
    amax, most = f32(0), f32(0)
    for v in x:
        if amax < abs(v):
            amax, most = abs(v), v
    return most


def extent(x, start):
    low, high = f32(np.finfo(np.float32).max), f32(start)
    for v in x:
        if v < low:
            low = v
        if v > high:
            high = v
    return low, high


def scale_bytes(v: np.float32, record, field: str) -> bytes:
    if record.block[field] == np.dtype("<f4"):
        return np.array(v, "<f4").tobytes()
    half = np.array(v, "<f4").astype("<f2")
    if np.isnan(half):
        return b"\x00\xfe" if np.signbit(half) else b"\x00\x7e"
    return half.tobytes()


def packed(codes: list[int], halves: bool) -> bytes:
    half = len(codes) // 2
    pairs = zip(codes[:half], codes[half:]) if halves else zip(codes[0::2], codes[1::2])
    return bytes(((low & 255) | (high << 4)) & 255 for low, high in pairs)


def quantize_block(x, name: str, pin: str, record) -> bytes:
    """One block of float32 values to bytes."""
    with np.errstate(all="ignore"):
        return _quantize_block([f32(v) for v in x], name, pin, record)


def _quantize_block(x, name, pin, record):
    halves = pin >= "p4"
    if name == "q8_0":
        d = max_macro(x) / f32(127)
        codes = bytes(c_int(roundf(v * inverse(d))) & 255 for v in x)
        return scale_bytes(d, record, "d") + codes
    if name in ("q4_1", "q5_1"):
        low, high = extent(x, np.finfo(np.float32).tiny if pin == "p0" else -np.finfo(np.float32).max)
        d = (high - low) / f32(15 if name == "q4_1" else 31)
        v = [(u - low) * inverse(d) for u in x]
        header = scale_bytes(d, record, "d") + scale_bytes(low, record, "m")
        if name == "q5_1":
            return header + five_bits([c_int(u + f32(0.5)) for u in v], halves)
        if pin < "p4":
            return header + packed([c_int(roundf(u)) & 255 for u in v], halves)
        return header + packed([min(15, int8(c_int(u + f32(0.5)))) for u in v], halves)
    if name == "q4_0" and pin < "p3":
        d = (max_std if pin == "p0" else max_macro)(x) / f32(7)
        codes = [(int8(c_int(roundf(u * inverse(d)))) + 8) & 255 for u in x]
        return scale_bytes(d, record, "d") + packed(codes, halves)
    d = max_signed(x) / f32(-16 if name == "q5_0" else -8)
    v = [u * inverse(d) for u in x]
    header = scale_bytes(d, record, "d")
    if name == "q5_0":
        return header + five_bits([min(31, c_int(u + f32(16.5))) for u in v], halves)
    if name == "q4_0" and pin == "p3":
        return header + packed([min(15, int8(c_int(roundf(u))) + 8) for u in v], halves)
    return header + packed([min(15, c_int(u + f32(8.5)) & 255) for u in v], halves)


def five_bits(codes: list[int], halves: bool) -> bytes:
    qh = sum(((code >> 4) & 1) << l for l, code in enumerate(codes))  # noqa: E741 - as in the original
    return qh.to_bytes(4, "little") + packed([code & 15 for code in codes], halves)
