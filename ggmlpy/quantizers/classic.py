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
from typing import Any, NamedTuple

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
from ggmlpy.machine.c_arithmetic import narrow
from ggmlpy.machine.contraction import Contraction, Fused, Rounded
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import (
    LANES,
    absolute,
    and_bits,
    codes_cut_off,
    codes_rounded,
    copy_bytes,
    div,
    fill,
    float_of,
    load,
    maximum,
    minimum,
    mul,
    mul_add,
    or_bits,
    shift_left,
    shift_right,
    store,
    store_i32x16,
    sub,
    transpose_f16,
    transpose_f32,
    where_equal,
    where_greater,
    zeros,
)

from .histogram import count_codes, histogram_of
from .weighted_search import ROW, extreme_of, side_by_side

__all__ = ["classic_quantizer", "greatest_forgetting"]

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


# ── scales ────────────────────────────────────────────────────────────────────────────────────────────────────────────
#
# Sixteen blocks are made side by side, one per lane: x is the address of float32 [size, 16], and each loop over the
# values of a block is llama.cpp's. Functions return d and m of each lane.


@inlined
def greatest_forgetting(x, size):
    """max |x|, of those behind the last NaN."""
    greatest = zeros()
    for i in range(size):
        a = absolute(load(x + ROW * i))
        greatest = where_greater(greatest, a, greatest, a)  # MAX(amax, |x|)
    return greatest


@inlined
def magnitude(x, size, steps, start, forgets):
    greatest = greatest_forgetting(x, size) if forgets else extreme_of(x, size)[1]
    return div(greatest, fill(np.float32(steps))), zeros()


@inlined
def signed(x, size, steps, start, forgets):
    return div(extreme_of(x, size)[0], fill(np.float32(-steps))), zeros()


@inlined
def ranged(x, size, steps, start, forgets):
    low, high = fill(np.float32(FLT_MAX)), fill(np.float32(start))
    for i in range(size):
        v = load(x + ROW * i)
        low, high = minimum(v, low), maximum(v, high)
    extent = sub(high, low)
    extent = where_equal(extent, extent, extent, fill(float_of(X86_NAN)))
    return div(extent, fill(np.float32(steps))), low


SCALES = {"magnitude": magnitude, "signed": signed, "range": ranged}


# ── codes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Places(NamedTuple):
    """Where the parts of a block are, in numbers that a kernel takes as constants.

    Attributes:
        size: values in a block.
        code_bytes, apart: how many bytes codes fill, and how far from each other the values of a byte are.
        d, m, fifth, codes: the bytes where these fields begin; -1 where there is none.
        scale_bytes: of d and m.
    """

    size: int
    code_bytes: int
    apart: int
    d: int
    m: int
    fifth: int
    codes: int
    scale_bytes: int


def places_of(record: TensorType, rule: Rule) -> Places:
    """The same for a type of :mod:`ggmlpy.formats.tensor_types`."""
    size, low = record.blck_size, record.codes[0]
    fifth = record.offset(record.codes[1].field) if record.code_width == 5 else -1
    code_bytes = size if record.code_width == 8 else size // 2
    places = record.offset("d"), record.offset("m") if rule.scale == "range" else -1, fifth, record.offset(low.field)
    return Places(size, code_bytes, low.apart, *places, record.block["d"].itemsize)


@inlined
def codes_at(x, i, inverse, low, to, rounds, offset, limit, how):
    """The codes of value ``i`` of each block, in the low 8 bits."""
    v = load(x + ROW * i)
    above = sub(v, low) if to.m >= 0 else v
    if rounds:
        return codes_rounded(mul(above, inverse), offset, limit)
    return codes_cut_off(mul_add(above, inverse, fill(np.float32(offset) + np.float32(0.5)), how), limit)


@inlined
def fifth_bit(codes, place):
    """The fifth bit of codes, at bit ``place``."""
    return shift_left(and_bits(shift_right(codes, np.int32(4)), np.int32(1)), np.int32(place))


@inlined
def byte_of_codes(x, j, inverse, low, fifths, to, rounds, offset, limit, how):
    """Byte ``j`` of the codes of each block, and what of ``fifths`` has the fifth bits in it, too."""
    if to.code_bytes == to.size:
        return and_bits(codes_at(x, j, inverse, low, to, rounds, offset, limit, how), np.int32(255)), fifths
    first, second = (2 * j, 2 * j + 1) if to.apart == 1 else (j, j + to.apart)
    c0 = codes_at(x, first, inverse, low, to, rounds, offset, limit, how)
    c1 = codes_at(x, second, inverse, low, to, rounds, offset, limit, how)
    if to.fifth >= 0:
        fifths = or_bits(fifths, or_bits(fifth_bit(c0, first), fifth_bit(c1, second)))
        c0 = and_bits(c0, np.int32(15))
    return and_bits(or_bits(c0, shift_left(c1, np.int32(4))), np.int32(255)), fifths


# ── counting ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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


@inlined
def pairs_to_count(codes, fifths, pairs, to):
    """Codes of 4 bits, two a byte, as the histogram counts those of a block. fifths: the word of fifth bits."""
    for j in range(to.size // 2):
        if to.code_bytes == to.size:
            low, high = sixteenth(codes[j]), sixteenth(codes[j + to.size // 2])
            pairs[j] = np.uint8(low | (high << np.int32(4)))
        elif to.fifth >= 0:
            pairs[j] = halved_codes(codes[j], fifths, j, to.apart > 1)
        else:
            pairs[j] = codes[j]


# ── blocks ────────────────────────────────────────────────────────────────────────────────────────────────────────────

D, M, FIFTH, CODES = range(4)  # rows of words: those of scales, minimums, fifth bits, and the first of the codes


@inlined
def store_parts(words, block, to):
    """Put the words of a block, one after another, where its type has them."""
    copy_bytes(block + to.d, words + 4 * D, to.scale_bytes)
    if to.m >= 0:
        copy_bytes(block + to.m, words + 4 * M, to.scale_bytes)
    if to.fifth >= 0:
        copy_bytes(block + to.fifth, words + 4 * FIFTH, 4)
    copy_bytes(block + to.codes, words + 4 * CODES, to.code_bytes)


def block_maker(rule: Rule, record: TensorType, how: Rounded | Fused) -> Callable:
    """The function (x, words) that makes sixteen blocks as ``rule`` says.

    x: the address of float32 [size, 16]. words: that of int32 [16, 16] to fill, a row of words for each part of a
    block.
    """
    scales, steps, start, forgets = SCALES[rule.scale], rule.steps, rule.start, rule.forgets
    rounds, offset = rule.rounding == "round", np.int32(record.zero)
    limit = np.int32((1 << record.code_width) - 1 if rule.clips else 2**31 - 1)
    to, one = places_of(record, rule), np.float32(1)
    constants = to, rounds, offset, limit, how

    def make_blocks(x, words):
        d, low = scales(x, to.size, steps, start, forgets)
        inverse = where_equal(d, zeros(), zeros(), div(fill(one), d))
        store(words + ROW * D, d)
        store(words + ROW * M, low)
        fifths = codes_cut_off(zeros(), np.int32(0))
        for word in range(to.code_bytes // 4):
            byte, fifths = byte_of_codes(x, 4 * word, inverse, low, fifths, *constants)
            for k in range(1, 4):
                next_byte, fifths = byte_of_codes(x, 4 * word + k, inverse, low, fifths, *constants)
                byte = or_bits(byte, shift_left(next_byte, np.int32(8 * k)))
            store_i32x16(words + ROW * (CODES + word), byte)
        store_i32x16(words + ROW * FIFTH, fifths)

    return inlined(make_blocks)


@inlined
def halves_side_by_side(values, run, lanes):
    """Sixteen blocks of float16 as the lanes of float32 [run, 16]."""
    for part in range(run // 16):
        transpose_f16(values + 32 * part, 2 * run, lanes + 1024 * part)


def rows_kernel(rule: Rule, record: TensorType, half_precision: bool, how: Rounded | Fused) -> Callable:
    """The loop over blocks that follows ``rule`` and fills the fields of ``record``.

    The function made takes the blocks ``x`` [n, blck_size] (float32, or f16 as uint16), the bytes to fill ``out``
    [n, type_size], and ``sums`` (int64 [16]), to which :func:`~ggmlpy.quantizers.histogram.count_codes` adds if codes
    are to be ``counted``.
    """
    make_blocks, to = block_maker(rule, record, how), places_of(record, rule)
    lay = halves_side_by_side if half_precision else side_by_side
    size, half, type_size, value_bytes = to.size, to.size // 2, record.type_size, 2 if half_precision else 4
    narrowed = 0 if to.scale_bytes == 4 else 2 if to.m >= 0 else 1  # rows of scales that become float16

    def quantize_blocks(x, out, counted, sums):
        values, words = np.zeros((2, size, LANES), np.float32), np.zeros((2, 16, 16), np.int32)
        pairs, planes, waiting = np.empty((GROUP, half), np.uint8), np.empty((4, GROUP * half // 32), np.uint64), 0
        for start in range(0, x.shape[0], LANES):
            n = min(LANES, x.shape[0] - start)
            source, lanes = np.int64(x[start].ctypes.data), np.int64(values[0].ctypes.data)
            if n < LANES:
                copy_bytes(np.int64(values[1].ctypes.data), source, n * size * value_bytes)
                source = np.int64(values[1].ctypes.data)
            lay(source, size, lanes)
            rows, turned = np.int64(words[0].ctypes.data), np.int64(words[1].ctypes.data)
            make_blocks(lanes, rows)
            for row in range(narrowed):
                for k in range(LANES):
                    words[0, row, k] = narrow(float_of(words[0, row, k]))
            transpose_f32(rows, ROW, turned)
            here = np.int64(out[start].ctypes.data)
            for block in range(n):
                store_parts(turned + ROW * block, here + type_size * block, to)
            if counted:
                for block in range(n):
                    codes = words[1, block, CODES:].view(np.uint8)
                    pairs_to_count(codes, np.uint32(words[1, block, FIFTH]), pairs[waiting + block], to)
                waiting += n
                if waiting == GROUP or start + LANES >= x.shape[0]:
                    count_codes(pairs.reshape(-1), waiting * half, planes, sums)
                    waiting = 0

    return quantize_blocks


@cache
def _compiled(era: Era, record: TensorType, half_precision: bool, how: Rounded | Fused) -> Callable:
    """The machine code of one row of ``RULES`` for rows of one float type (from Numba's cache on disk if it can be)."""
    element = types.uint16 if half_precision else types.float32
    signature = types.void(
        types.Array(element, 2, "C", readonly=True), types.uint8[:, ::1], types.boolean, types.int64[::1]
    )
    return kernel(rows_kernel(RULES[era, record.name], record, half_precision, how), signature)


def classic_quantizer(
    era: Era, record: TensorType, half_precision: bool, by: Contraction
) -> Callable[..., NDArray[np.int64] | None]:
    """The function (blocks float32 or float16 [n, blck_size], uint8 [n, type_size] to fill, whether to count codes) ->
    their histogram, int64 [16], or None.

    GGUF's quantizers of these types are those of 2023-08-21.
    """
    kernel = _compiled(AUGUST_21 if era.is_of_gguf else era, record, half_precision, by.gcc)

    def fill(blocks: NDArray[Any], out: NDArray[Any], counted: bool) -> NDArray[np.int64] | None:
        sums = np.zeros(16, np.int64)
        kernel(blocks.view(np.uint16) if half_precision else blocks, out, counted, sums)
        return histogram_of(sums) if counted else None

    return fill
