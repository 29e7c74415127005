"""Quantizers of the types whose scale follows from the extremes of a block: byte for byte as ``quantize`` of each era.

One block is one scale ``d`` (and a minimum ``m``), and for every value an integer code::

    scale        d                                          code (clipped if ``clips``)
    -----------  -----------------------------------------  -----------------------------------------
    magnitude    max |x| / steps                            round(x * id) + zero
    signed       (the signed value of max |x|) / -steps     round(x * id) + zero, or trunc(x * id + zero + 0.5)
    range        (max x - min x) / steps, m = min x         round((x - m) * id), or trunc((x - m) * id + 0.5)

``id`` is 1/d from the unrounded float32 d, or 0. round: halves away from zero. The search for an extreme passes a NaN
over (or starts anew behind it, see ``Rule.forgets``), and where C would cast NaN or inf to an integer the code is what
x86 gives (see :mod:`ggmlpy.machine.c_arithmetic`). Builds of llama.cpp differ in one thing, which
therefore has no right answer: the payload of a NaN that is stored as an f16 scale. Here it is the scalar build's.

Which rule an era used is the table ``RULES``; the kernels are compiled from it when first asked for. The k-quants,
which search for their scales, are in :mod:`ggmlpy.quantizers.k_quants`.

Sources: utils.cpp at llama.cpp da5303c1e; ``quantize_row_*_reference`` in ggml.c at 352589927, 3e5aa8a1c, 6986c7835
and dadbed99e. Activations at run time are quantized differently in SIMD builds; files never are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.eras import (
    APRIL_30,
    AUGUST_21,
    MARCH_19,
    MARCH_30,
    MARCH_31,
    MAY_19,
    Era,
)
from ggmlpy.formats.tensor_types import TensorType
from ggmlpy.machine.c_arithmetic import ABS, narrow, order_extremes, round_half_away, truncate, value_of, widen
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import bits, float_of

from .histogram import count_codes, histogram_of

__all__ = ["classic_quantizer"]

FLT_MAX = float(np.finfo(np.float32).max)
FLT_MIN = float(np.finfo(np.float32).tiny)
GROUP = 128  # blocks between two rounds of counting
X86_NAN = np.int32(-0x400000)  # what inf - inf gives


@dataclass(frozen=True)
class Rule:
    """How one era makes the blocks of one type.

    Attributes:
        scale: "magnitude", "signed" or "range", as in the module's table.
        steps: what the extent of the block is divided by.
        rounding: "round" (halves away from zero) or "trunc" (add a half, toward zero).
        clips: whether codes are kept below 2 ** bits; if not, a NaN in the block can give greater codes, which spill
            into their neighbors.
        start: where the search for the maximum starts ("range" only).
        forgets: a NaN makes the search for the greatest magnitude start anew behind it ("magnitude" only).
    """

    scale: str
    steps: int
    rounding: str
    clips: bool = False
    start: float = -FLT_MAX
    forgets: bool = False


# fmt: off
RULES: dict[tuple[Era, str], Rule] = {
    # era       name            scale        steps rounding
    (MARCH_19,  "q4_0"): Rule("magnitude",   7, "round"),
    (MARCH_30,  "q4_0"): Rule("magnitude",   7, "round", forgets=True),
    (MARCH_31,  "q4_0"): Rule("magnitude",   7, "round", forgets=True),
    (APRIL_30,  "q4_0"): Rule("signed",      8, "round", clips=True),
    (MAY_19,    "q4_0"): Rule("signed",      8, "trunc", clips=True),
    (AUGUST_21, "q4_0"): Rule("signed",      8, "trunc", clips=True),
    # numeric_limits<float>::min() was meant to be the lowest float; it is the smallest positive one
    (MARCH_19,  "q4_1"): Rule("range",      15, "round", start=FLT_MIN),
    (MARCH_30,  "q4_1"): Rule("range",      15, "round"),
    (MARCH_31,  "q4_1"): Rule("range",      15, "round"),
    (APRIL_30,  "q4_1"): Rule("range",      15, "round"),
    (MAY_19,    "q4_1"): Rule("range",      15, "trunc", clips=True),
    (AUGUST_21, "q4_1"): Rule("range",      15, "trunc", clips=True),
    (APRIL_30,  "q4_2"): Rule("signed",      8, "trunc", clips=True),
    (APRIL_30,  "q5_0"): Rule("signed",     16, "trunc", clips=True),
    (MAY_19,    "q5_0"): Rule("signed",     16, "trunc", clips=True),
    (AUGUST_21, "q5_0"): Rule("signed",     16, "trunc", clips=True),
    (APRIL_30,  "q5_1"): Rule("range",      31, "trunc"),
    (MAY_19,    "q5_1"): Rule("range",      31, "trunc"),
    (AUGUST_21, "q5_1"): Rule("range",      31, "trunc"),
    (APRIL_30,  "q8_0"): Rule("magnitude", 127, "round", forgets=True),
    (MAY_19,    "q8_0"): Rule("magnitude", 127, "round", forgets=True),
    (AUGUST_21, "q8_0"): Rule("magnitude", 127, "round", forgets=True),
}
# fmt: on


# ── the scale of a block ──────────────────────────────────────────────────────────────────────────────────────────────
#
# The extremes of a block without NaN follow from integer comparisons of all its values at once. With a NaN, and where
# equals or zeros of both signs compete, position matters; llama.cpp's loops are then followed value by value.


@inlined
def absolute(v):
    return float_of(np.int32(bits(v) & ABS))


@inlined
def greatest_magnitude(x, i, low, high, forgets):
    """max |x| of block ``i`` as C's loop finds it: a NaN is passed over, or (``forgets``) the search starts anew."""
    if low == low and high == high:
        return absolute(low) if absolute(low) > absolute(high) else absolute(high)
    greatest = np.float32(0)
    for j in range(x.shape[1]):
        a = absolute(widen(x[i, j]))
        if forgets:
            greatest = greatest if greatest > a else a  # MAX(amax, |x|)
        else:
            greatest = a if greatest < a else greatest  # std::max(amax, |x|)
    return greatest


@inlined
def greatest_signed(x, i, low, high):
    """The first value of block ``i`` that has the greatest magnitude, NaN passed over; +0.0 if all are zero."""
    if low == low and high == high and -low != high:
        return low if -low > high else high
    greatest, found = np.float32(0), np.float32(0)
    for j in range(x.shape[1]):
        v = widen(x[i, j])
        if greatest < absolute(v):
            greatest, found = absolute(v), v
    return found


@inlined
def least_and_greatest(x, i, low, high, start):
    """min x, starting from FLT_MAX, and max x, starting from ``start``, of block ``i``, NaN passed over; of several
    zeros the first is the minimum."""
    if low == low and high == high and low != np.float32(0):
        return low if low < np.float32(FLT_MAX) else np.float32(FLT_MAX), high if high > start else start
    low, high = np.float32(FLT_MAX), start
    for j in range(x.shape[1]):
        v = widen(x[i, j])
        low = v if v < low else low
        high = v if v > high else high
    return low, high


# ── codes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@inlined
def code_of(v, rounds, offset, limit):
    """The code of a scaled value, in the low 8 bits; after inlining all but ``v`` are constants."""
    code = round_half_away(v) + np.int32(offset) if rounds else truncate(v + np.float32(offset + 0.5))
    return code if code < np.int32(limit) else np.int32(limit)


@inlined
def store_scale(out, i, k, v, f32):
    """Store a scale at byte ``k`` of block ``i`` as f32 or f16."""
    b = bits(v) if f32 else narrow(v)
    for j in range(4 if f32 else 2):
        out[i, k + j] = np.uint8(b >> np.int32(8 * j))


@inlined
def store_word(out, i, k, word):
    """Store 32 bits at byte ``k`` of block ``i``."""
    for j in range(4):
        out[i, k + j] = np.uint8(word >> np.uint32(8 * j))


@inlined
def fifth_bits(codes, i, size):
    """The fifth bit of each code of block ``i``, value l in bit l."""
    qh = np.uint32(0)
    for l in range(size):  # noqa: E741 - as in the original
        qh |= np.uint32((codes[i, l] >> np.uint8(4)) & np.uint8(1)) << np.uint32(l)
    return qh


@inlined
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


@inlined
def sixteenth(code):
    """The bin of a signed 8-bit code: C's code / 16 + 8, toward zero."""
    signed = np.int32(np.int8(code))
    return np.int32(((signed + ((signed >> np.int32(31)) & np.int32(15))) >> np.int32(4)) + np.int32(8))


def block_kernel(rule: Rule, record: TensorType) -> Callable:
    """The loop over blocks that follows ``rule`` and fills the fields of ``record``.

    It works on a group of blocks in four sweeps: scales, codes, bytes, counting; each is a simple loop that LLVM turns
    into vector instructions. The function made takes the blocks ``x`` [n, blck_size] (float32, or f16 as uint16), the
    bytes to fill ``out`` [n, type_size], and ``sums`` (int64 [16]), to which
    :func:`~ggmlpy.quantizers.histogram.count_codes` adds if codes are to be ``counted``.
    """
    signed, ranged = rule.scale == "signed", rule.scale == "range"
    steps, start, forgets = rule.steps, rule.start, rule.forgets
    rounds, whole_bytes = rule.rounding == "round", record.code_width == 8
    five_bits, halves = record.code_width == 5, record.codes[0].apart > 1
    offset, limit = record.zero, (1 << record.code_width) - 1 if rule.clips else 2**31 - 1
    f32 = record.block["d"] == np.dtype("<f4")
    d_at, codes_at = record.offset("d"), record.offset(record.codes[0].field)
    m_at, fifth_at = record.offset("m") if ranged else -1, record.offset(record.codes[1].field) if five_bits else -1
    size, half = record.blck_size, record.blck_size // 2
    low_bits = np.int32(15 if five_bits else 255)

    def quantize_blocks(x, out, counted, sums):
        d, m, inverse = np.empty(GROUP, np.float32), np.zeros(GROUP, np.float32), np.empty(GROUP, np.float32)
        codes, pairs = np.empty((GROUP, size), np.uint8), np.empty((GROUP, half), np.uint8)
        planes = np.empty((4, GROUP * half // 32), np.uint64)
        for group in range(0, x.shape[0], GROUP):
            n = min(GROUP, x.shape[0] - group)
            here = x[group : group + n]

            for i in range(n):
                orders = order_extremes(here, i, size)
                low, high = value_of(orders[0]), value_of(orders[1])
                if ranged:
                    m[i], most = least_and_greatest(here, i, low, high, np.float32(start))
                    extent = most - m[i]
                    d[i] = (extent if extent == extent else float_of(X86_NAN)) / np.float32(steps)
                elif signed:
                    d[i] = greatest_signed(here, i, low, high) / np.float32(-steps)
                else:
                    d[i] = greatest_magnitude(here, i, low, high, forgets) / np.float32(steps)
            for i in range(n):
                inverse[i] = np.float32(1) / d[i] if d[i] != np.float32(0) else np.float32(0)

            for i in range(n):
                scale, shift = inverse[i], m[i]
                for j in range(half):
                    first, second = (j, j + half) if halves or whole_bytes else (2 * j, 2 * j + 1)
                    x0, x1 = widen(here[i, first]), widen(here[i, second])
                    if ranged:
                        x0, x1 = x0 - shift, x1 - shift
                    c0 = code_of(x0 * scale, rounds, offset, limit)
                    c1 = code_of(x1 * scale, rounds, offset, limit)
                    if whole_bytes:
                        codes[i, first], codes[i, second] = np.uint8(c0), np.uint8(c1)
                        pairs[i, j] = np.uint8(sixteenth(c0) | (sixteenth(c1) << np.int32(4)))
                    else:
                        pairs[i, j] = np.uint8((c0 & low_bits) | (c1 << np.int32(4)))
                    if five_bits:
                        codes[i, first], codes[i, second] = np.uint8(c0), np.uint8(c1)

            for i in range(n):
                store_scale(out, group + i, d_at, d[i], f32)
                if ranged:
                    store_scale(out, group + i, m_at, m[i], f32)
                for j in range(size if whole_bytes else half):
                    out[group + i, codes_at + j] = codes[i, j] if whole_bytes else pairs[i, j]

            if five_bits:
                for i in range(n):
                    fifth = fifth_bits(codes, i, size)
                    store_word(out, group + i, fifth_at, fifth)
                    for j in range(half if counted else 0):
                        pairs[i, j] = halved_codes(pairs[i, j], fifth, j, halves)
            if counted:
                count_codes(pairs.reshape(-1), n * half, planes, sums)

    return quantize_blocks


@cache
def _compiled(era: Era, record: TensorType, half_precision: bool) -> Callable:
    """The machine code of one row of ``RULES`` for rows of one float type (from Numba's cache on disk if it can be)."""
    element = types.uint16 if half_precision else types.float32
    signature = types.void(
        types.Array(element, 2, "C", readonly=True), types.uint8[:, ::1], types.boolean, types.int64[::1]
    )
    return kernel(block_kernel(RULES[era, record.name], record), signature)


def classic_quantizer(era: Era, record: TensorType, half_precision: bool) -> Callable[..., NDArray[np.int64] | None]:
    """The function (blocks float32 or float16 [n, blck_size], uint8 [n, type_size] to fill, whether to count codes) ->
    their histogram, int64 [16], or None.

    GGUF's quantizers of these types are those of 2023-08-21.
    """
    kernel = _compiled(AUGUST_21 if era.is_of_gguf else era, record, half_precision)

    def fill(blocks: NDArray[Any], out: NDArray[Any], counted: bool) -> NDArray[np.int64] | None:
        sums = np.zeros(16, np.int64)
        kernel(blocks.view(np.uint16) if half_precision else blocks, out, counted, sums)
        return histogram_of(sums) if counted else None

    return fill
