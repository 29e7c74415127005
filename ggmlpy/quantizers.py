"""Quantizers: rows of floats to blocks of codes, byte for byte as llama.cpp's ``quantize`` wrote them in each era.

One block is one scale ``d`` (and a minimum ``m``), and for every value an integer code::

    scale        d                                          code (clipped to ``limit``)
    -----------  -----------------------------------------  -----------------------------------------
    magnitude    max |x| / steps                            round(x * id) + offset
    signed       (the signed value of max |x|) / -steps     round(x * id) + offset, or trunc(x * id + offset + 0.5)
    range        (max x - min x) / steps, m = min x         round((x - m) * id), or trunc((x - m) * id + 0.5)

``id`` is 1/d from the unrounded float32 d, or 0. round: halves away from zero. NaN never becomes an extreme, and where
C would cast NaN or inf to an integer the code is what x86 gives (see :mod:`ggmlpy.c_arithmetic`).

Which rule an era used is the table ``RULES``; the kernels are compiled from it when first asked for. The k-quants,
which search for their scales, are in :mod:`ggmlpy.k_quants`.

Sources: utils.cpp at llama.cpp da5303c1e; ``quantize_row_*_reference`` in ggml.c at 352589927, 3e5aa8a1c, 6986c7835
and dadbed99e. Activations at run time are quantized differently in SIMD builds; files never are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from .c_arithmetic import (
    ABS,
    INF,
    JIT_OPTIONS,
    SIGN,
    bits,
    float_of,
    magnitude,
    narrow,
    round_half_away,
    truncate,
    value_of,
    widen,
)
from .eras import DEFAULT_ERA, Era, era_of
from .errors import UsageError
from .tensor_types import TensorType

__all__ = ["quantizable", "quantize", "quantize_rows"]

FLT_MAX = float(np.finfo(np.float32).max)
FLT_MIN = float(np.finfo(np.float32).tiny)
NOWHERE = np.int32(64)
X86_NAN = np.int32(-0x400000)  # what inf - inf gives


@dataclass(frozen=True)
class Rule:
    """How one era makes the blocks of one type.

    Attributes:
        scale: "magnitude", "signed" or "range", as in the module's table.
        steps: what the extent of the block is divided by.
        rounding: "round" (halves away from zero) or "trunc" (add a half, toward zero).
        offset: added to a code so that it isn't negative.
        limit: the greatest code; None if the era didn't clip (a NaN in the block can then give codes beyond 15, which
            spill into their neighbours).
        order: values whose codes share a byte: "pairs" 2j and 2j+1, "halves" j and j + half a block, "bytes" none.
        start: where the search for the maximum starts ("range" only).
        forgets: a NaN makes the search for the greatest magnitude start anew behind it ("magnitude" only).
    """

    scale: str
    steps: int
    rounding: str
    offset: int
    limit: int | None
    order: str
    start: float = -FLT_MAX
    forgets: bool = False


# fmt: off
RULES: dict[tuple[str, str], Rule] = {
    # pin, name         scale        steps rounding offset limit order
    ("p0", "q4_0"): Rule("magnitude",   7, "round",   8, None, "pairs"),
    ("p1", "q4_0"): Rule("magnitude",   7, "round",   8, None, "pairs", forgets=True),
    ("p2", "q4_0"): Rule("magnitude",   7, "round",   8, None, "pairs", forgets=True),
    ("p3", "q4_0"): Rule("signed",      8, "round",   8,   15, "pairs"),
    ("p4", "q4_0"): Rule("signed",      8, "trunc",   8,   15, "halves"),
    ("p5", "q4_0"): Rule("signed",      8, "trunc",   8,   15, "halves"),
    # numeric_limits<float>::min() was meant to be the lowest float; it is the smallest positive one
    ("p0", "q4_1"): Rule("range",      15, "round",   0, None, "pairs", start=FLT_MIN),
    ("p1", "q4_1"): Rule("range",      15, "round",   0, None, "pairs"),
    ("p2", "q4_1"): Rule("range",      15, "round",   0, None, "pairs"),
    ("p3", "q4_1"): Rule("range",      15, "round",   0, None, "pairs"),
    ("p4", "q4_1"): Rule("range",      15, "trunc",   0,   15, "halves"),
    ("p5", "q4_1"): Rule("range",      15, "trunc",   0,   15, "halves"),
    ("p3", "q4_2"): Rule("signed",      8, "trunc",   8,   15, "pairs"),
    ("p3", "q5_0"): Rule("signed",     16, "trunc",  16,   31, "pairs"),
    ("p4", "q5_0"): Rule("signed",     16, "trunc",  16,   31, "halves"),
    ("p5", "q5_0"): Rule("signed",     16, "trunc",  16,   31, "halves"),
    ("p3", "q5_1"): Rule("range",      31, "trunc",   0, None, "pairs"),
    ("p4", "q5_1"): Rule("range",      31, "trunc",   0, None, "halves"),
    ("p5", "q5_1"): Rule("range",      31, "trunc",   0, None, "halves"),
    ("p3", "q8_0"): Rule("magnitude", 127, "round",   0, None, "bytes", forgets=True),
    ("p4", "q8_0"): Rule("magnitude", 127, "round",   0, None, "bytes", forgets=True),
    ("p5", "q8_0"): Rule("magnitude", 127, "round",   0, None, "bytes", forgets=True),
}
# fmt: on


# --- the extent of a block ----------------------------------------------------------------------------------------


@njit(**JIT_OPTIONS)
def top_magnitude(x, i):
    """max |x| of block ``i``; NaN if one is there."""
    most = magnitude(x[i, 0])
    for j in range(1, x.shape[1]):
        m = magnitude(x[i, j])
        most = m if m > most else most
    return value_of(most)


@njit(**JIT_OPTIONS)
def greatest_magnitude(x, i, forgets):
    """max |x| of block ``i`` as C's loop finds it: a NaN is passed over, or (``forgets``) the search starts anew."""
    top = top_magnitude(x, i)
    if top == top:
        return top
    greatest = np.float32(0)
    for j in range(x.shape[1]):
        a = float_of(bits(widen(x[i, j])) & ABS)
        if forgets:
            greatest = greatest if greatest > a else a  # MAX(amax, |x|)
        else:
            greatest = a if greatest < a else greatest  # std::max(amax, |x|)
    return greatest


@njit(**JIT_OPTIONS)
def greatest_signed(x, i):
    """The first value of block ``i`` that has the greatest magnitude, NaN passed over; +0.0 if all are zero."""
    greatest = greatest_magnitude(x, i, False)
    key = NOWHERE  # twice the position of the first value that is that large, plus its sign
    for j in range(x.shape[1]):
        b = bits(widen(x[i, j]))
        here = np.int32(2 * j) | np.int32(b < 0)
        here = here if b & ABS == bits(greatest) else NOWHERE
        key = here if here < key else key
    return -greatest if key & 1 and greatest > np.float32(0) else greatest


@njit(**JIT_OPTIONS)
def ordered(b):
    """Float bits as integers that order as the floats do (-0 directly below +0); an involution."""
    return b ^ ((b >> np.int32(31)) & ABS)


@njit(**JIT_OPTIONS)
def least(x, i):
    """min x of block ``i`` starting from FLT_MAX, NaN ignored; of several zeros the first."""
    low = ordered(bits(np.float32(FLT_MAX)))
    for j in range(x.shape[1]):
        b = bits(widen(x[i, j]))
        o = ordered(b) if b & ABS <= INF else ABS
        low = o if o < low else low
    found = float_of(ordered(low))
    if found == np.float32(0):
        for j in range(x.shape[1]):
            if widen(x[i, j]) == np.float32(0):
                return widen(x[i, j])
    return found


@njit(**JIT_OPTIONS)
def most(x, i, start):
    """max x of block ``i`` starting from ``start``, NaN ignored. The sign of a zero is of no consequence."""
    high = ordered(bits(start))
    for j in range(x.shape[1]):
        b = bits(widen(x[i, j]))
        o = ordered(b) if b & ABS <= INF else SIGN
        high = o if o > high else high
    return float_of(ordered(high)) + np.float32(0)


# --- a block ------------------------------------------------------------------------------------------------------


@njit(**JIT_OPTIONS)
def store_f32(out, i, k, v):
    for j in range(4):
        out[i, k + j] = np.uint8(bits(v) >> np.int32(8 * j))
    return k + 4


@njit(**JIT_OPTIONS)
def store_f16(out, i, k, v):
    for j in range(2):
        out[i, k + j] = np.uint8(narrow(v) >> np.int32(8 * j))
    return k + 2


@njit(**JIT_OPTIONS)
def code_of(v, rounds, offset, limit):
    """The code of a scaled value, in the low 8 bits; after inlining all but ``v`` are constants."""
    code = round_half_away(v) + np.int32(offset) if rounds else truncate(v + np.float32(offset + 0.5))
    return code if code < np.int32(limit) else np.int32(limit)


@njit(**JIT_OPTIONS)
def halved_codes(byte, qh, j, halves):
    """Two 5-bit codes, halved, in one byte, as the histogram counts them.

    When codes moved to j and j + 16 (``halves``) the counting loop kept stepping in pairs: it takes byte j's fifth bits
    from 2j and 2j + 16, and past the end C's shifts wrap around. The printed figures show it, so it is kept.
    """
    first, second = (2 * j, (2 * j + 16) & 31) if halves else (2 * j, 2 * j + 1)
    low, high = (qh >> np.uint32(first)) & np.uint32(1), (qh >> np.uint32(second)) & np.uint32(1)
    if halves and (j == 8 or j == 9):
        high = np.uint32(0)
    return (byte >> np.uint8(1)) & np.uint8(0x77) | np.uint8(low << np.uint32(3) | high << np.uint32(7))


def block_kernel(rule: Rule, record: TensorType) -> Callable:
    """The loop over blocks that follows ``rule`` and fills the fields of ``record``.

    The function made takes the blocks ``x`` [n, blck_size] (float32, or f16 as uint16), the bytes to fill ``out``
    [n, type_size], and ``seen`` (uint32 [4, 256]), in which it counts bytes of two 4-bit codes (of halved 5-bit
    codes; of one 8-bit code): the histogram before it is folded.
    """
    signed, ranged, rounds, halves = (
        rule.scale == "signed",
        rule.scale == "range",
        rule.rounding == "round",
        rule.order == "halves",
    )
    f32, five_bits = record.block["d"] == np.dtype("<f4"), "qh" in record.field_names
    steps, start, offset, forgets = rule.steps, rule.start, rule.offset, rule.forgets
    limit = 2**31 - 1 if rule.limit is None else rule.limit
    low_bits = np.int32(15 if five_bits else 255)

    def quantize_codes_of_4_or_5_bits(x, out, seen):
        half = x.shape[1] // 2
        pairs = np.empty(half, np.uint8)
        for i in range(x.shape[0]):
            m = np.float32(0)
            if ranged:
                m = least(x, i)
                extent = most(x, i, np.float32(start)) - m
                d = (extent if extent == extent else float_of(X86_NAN)) / np.float32(steps)
            elif signed:
                d = greatest_signed(x, i) / np.float32(-steps)
            else:
                d = greatest_magnitude(x, i, forgets) / np.float32(steps)
            inverse = np.float32(1) / d if d != np.float32(0) else np.float32(0)

            k = store_f32(out, i, 0, d) if f32 else store_f16(out, i, 0, d)
            if ranged:
                k = store_f32(out, i, k, m) if f32 else store_f16(out, i, k, m)
            qh = np.uint32(0)
            qs = k + 4 if five_bits else k
            for j in range(half):
                first, second = (j, j + half) if halves else (2 * j, 2 * j + 1)
                x0, x1 = widen(x[i, first]), widen(x[i, second])
                if ranged:
                    x0, x1 = x0 - m, x1 - m
                c0 = code_of(x0 * inverse, rounds, offset, limit)
                c1 = code_of(x1 * inverse, rounds, offset, limit)
                out[i, qs + j] = np.uint8((c0 & low_bits) | (c1 << np.int32(4)))
                if five_bits:
                    qh |= np.uint32(((c0 >> np.int32(4)) & np.int32(1)) << np.int32(first))
                    qh |= np.uint32(((c1 >> np.int32(4)) & np.int32(1)) << np.int32(second))
            if five_bits:
                for j in range(4):
                    out[i, k + j] = np.uint8(qh >> np.uint32(8 * j))
                for j in range(half):
                    pairs[j] = halved_codes(out[i, qs + j], qh, j, halves)
            for j in range(half):
                seen[j & 3, pairs[j] if five_bits else out[i, qs + j]] += np.uint32(1)

    def quantize_codes_of_8_bits(x, out, seen):
        for i in range(x.shape[0]):
            d = greatest_magnitude(x, i, forgets) / np.float32(steps)
            inverse = np.float32(1) / d if d != np.float32(0) else np.float32(0)
            k = store_f32(out, i, 0, d) if f32 else store_f16(out, i, 0, d)
            for j in range(x.shape[1]):
                out[i, k + j] = np.uint8(round_half_away(widen(x[i, j]) * inverse))
            for j in range(x.shape[1]):
                seen[j & 3, out[i, k + j]] += np.uint32(1)

    return quantize_codes_of_8_bits if rule.order == "bytes" else quantize_codes_of_4_or_5_bits


@cache
def _compiled(pin: str, record: TensorType, half_precision: bool) -> Callable:
    """The machine code of one row of ``RULES`` for rows of one float type (from Numba's cache on disk if it can be)."""
    element = types.uint16 if half_precision else types.float32
    signature = types.void(types.Array(element, 2, "C", readonly=True), types.uint8[:, ::1], types.uint32[:, ::1])
    return njit(signature, cache=True, **JIT_OPTIONS)(block_kernel(RULES[pin, record.name], record))


# --- rows ---------------------------------------------------------------------------------------------------------


def quantizable(era: str | Era = DEFAULT_ERA) -> tuple[str, ...]:
    """The names of the block types that an era's ``quantize`` could write.

    >>> quantizable("2023-03-31")
    ('q4_0', 'q4_1')
    """
    return tuple(name for name, record in era_of(era).types.items() if record.quantized)


def quantize_rows(
    x: NDArray[Any], name: str, era: str | Era = DEFAULT_ERA, *, histogram: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Quantize rows to the bytes that the era's ``quantize`` puts into a file.

    Arguments:
        x: float32 or float16 [..., n]; n a multiple of the type's block. float16 is widened exactly on the way.
        name: "q4_0", "q4_1", "q4_2", "q5_0", "q5_1", "q8_0", or from 2023-08-21 "q2_K" … "q6_K".
        era: a date, see :mod:`ggmlpy.eras`.
        histogram: int64 [16], to which the counts that llama.cpp prints are added (k-quants count nothing).

    Returns:
        uint8 [..., bytes of a row].

    Raises:
        UsageError: the era has no such type, or n is not a multiple of its block, or x is not of floats.

    >>> row = np.arange(32, dtype=np.float32)
    >>> quantize_rows(row, "q4_0", "2023-03-31").tobytes().hex()
    'dbb68d40889899a9aaaabbbbccccddddedeefeff'
    """
    moment = era_of(era)
    record = moment.type(name)
    if not record.quantized:
        raise UsageError(f"{name} is not a quantized type; era {moment} quantizes to {', '.join(quantizable(moment))}")
    if x.dtype not in (np.float32, np.float16):
        raise UsageError(f"rows to quantize must be float32 or float16, not {x.dtype}")
    row_bytes = record.row_bytes(x.shape[-1])  # checks the length
    blocks = np.ascontiguousarray(x).reshape(-1, record.blck_size)  # [n_blocks, blck_size]
    out = np.empty((len(blocks), record.type_size), np.uint8)
    if len(blocks):
        seen = _quantize_blocks(blocks, out, record, moment)
        if histogram is not None:
            histogram += seen
    return out.reshape(*x.shape[:-1], row_bytes)


quantize = quantize_rows


def _quantize_blocks(blocks: NDArray[Any], out: NDArray[Any], record: TensorType, moment: Era) -> NDArray[Any]:
    """Fill ``out`` [n, type_size] from ``blocks`` [n, blck_size]; return the histogram, int64 [16]."""
    if record.name.endswith("_K"):
        from .k_quants import k_quantizer

        k_quantizer(record.name)(blocks.astype(np.float32), out)
        return np.zeros(16, np.int64)
    half_precision = blocks.dtype == np.float16
    elements = blocks.view(np.uint16) if half_precision else blocks
    seen = np.zeros((4, 256), np.uint32)
    _compiled(moment.pin, record, half_precision)(elements, out, seen)
    return _folded(seen.sum(axis=0, dtype=np.int64), RULES[moment.pin, record.name])


def _folded(seen: NDArray[Any], rule: Rule) -> NDArray[Any]:
    """Counts of bytes [256] -> llama.cpp's sixteen bins."""
    histogram = np.zeros(16, np.int64)
    byte = np.arange(256)
    if rule.order == "bytes":  # C's division of a signed byte, toward zero
        np.add.at(histogram, np.fix(byte.astype(np.int8) / 16).astype(int) + 8, seen)
        return histogram
    np.add.at(histogram, byte & 15, seen)
    np.add.at(histogram, byte >> 4, seen)
    return histogram
