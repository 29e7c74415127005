"""Sixteen rows side by side: a block of each, so that a lane is a row.

So a word of the vector, four codes of it, meets the same elements of all rows, and no sums across lanes are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from ggmlpy.machine.vectors import (
    F16,
    F32,
    I8X64,
    I16,
    I32,
    I32X16,
    I64,
    address,
    at,
    bits_in_bytes,
    constant,
    fields_of_bytes,
    join,
    load_as,
    look_up,
    nothing,
    op,
    prefetch,
    shuffle,
    signed_byte,
    vector,
    widen_f16,
)

from .layouts import GROUP, Layout

__all__ = [
    "columns_of_block",
    "columns_of_quarters",
    "factors_of_rows",
    "fetch",
    "make_fetch",
    "scales_at",
    "scales_of_rows",
    "signed_codes",
    "unsigned_codes",
]

# Sixteen rows that follow.


def fetch(b: ir.IRBuilder, a: Any, places: range) -> None:
    """Ask for bytes at these places from an address on, into the second-level cache."""
    for offset in range(places.start, places.stop, 64):
        prefetch(b, at(b, a, offset), 2)


def make_fetch(size: int) -> Any:
    """The operation that asks for some bytes, into the second-level cache, while there is enough to multiply."""

    @op(nothing, address)
    def fetch_next(b: ir.IRBuilder, a: Any) -> None:
        fetch(b, a, range(size))

    return fetch_next


# Scales.


def scales_at(b: ir.IRBuilder, addresses: Sequence[Any], layout: Layout) -> Any:
    """Sixteen scales from as many addresses (None: 0), as f32."""
    element = F32 if layout.scale == "<f4" else F16
    result = constant(0.0, vector(element, GROUP))
    for lane, a in enumerate(addresses):
        if a is not None:
            scale = load_as(b, a, F32) if element is F32 else b.bitcast(load_as(b, a, I16), F16)
            result = b.insert_element(result, scale, I32(lane))
    return result if element is F32 else widen_f16(b, result)


def scales_of_rows(b: ir.IRBuilder, rows: Sequence[Any], layout: Layout, part: int) -> list[Any]:
    """d, and m if there is one, of a part of the blocks of sixteen rows, as f32."""
    places = [place for place in layout.scale_places[part] if place is not None]
    if layout.scale_bytes == 4:
        return [scales_at(b, [at(b, p, place) for p in rows], layout) for place in places]
    return factors_of_rows(b, rows, places, layout.size)


def halves_of_rows(b: ir.IRBuilder, rows: Sequence[Any], place: int, size: int) -> Any:
    """The float16 at `place` of blocks of `size` bytes of sixteen rows, as f32."""
    early = max(place + 4 - size, 0)  # four bytes are loaded: that takes no shuffle, as inserting two would
    words = [b.lshr(load_as(b, at(b, p, place - early), I32), I32(8 * early)) for p in rows]
    return widen_f16(b, b.bitcast(gathered(b, words, I16), vector(F16, GROUP)))


def pairs_of_rows(b: ir.IRBuilder, rows: Sequence[Any], place: int) -> list[Any]:
    """The float16 at `place` of blocks of sixteen rows, and those that follow at once, as f32."""
    words = gathered(b, [load_as(b, at(b, p, place), I32) for p in rows], I32)
    halves = [b.trunc(x, vector(I16, GROUP)) for x in (words, b.lshr(words, constant(16, I32X16)))]
    return [widen_f16(b, b.bitcast(x, vector(F16, GROUP))) for x in halves]


def gathered(b: ir.IRBuilder, words: Sequence[Any], least: ir.IntType) -> Any:
    """The lower ends of sixteen words as lanes, of 16 or 32 bits."""
    x = [b.insert_element(constant(0, vector(I32, 4)), word, I32(0)) for word in words]
    widths = (I16, I32, I64)
    for element in widths[widths.index(least) :]:  # one value in each, then two, then four
        n = 128 // element.width
        first_of_each = [k // 2 + n * (k % 2) for k in range(n)]
        x = [b.bitcast(y, vector(element, n)) for y in x]
        x = [shuffle(b, y, z, first_of_each) for y, z in zip(x[::2], x[1::2], strict=True)]
    return b.bitcast(join(b, x), vector(least, GROUP))


def factors_of_rows(b: ir.IRBuilder, rows: Sequence[Any], places: Sequence[int], size: int) -> list[Any]:
    """The float16 at one or two places of blocks of sixteen rows, as f32."""
    if len(places) == 2 and places[1] == places[0] + 2:
        return pairs_of_rows(b, rows, places[0])
    return [halves_of_rows(b, rows, place, size) for place in places]


# Codes.


def columns_of_block(b: ir.IRBuilder, rows: Sequence[Any], offset: int) -> list[Any]:
    """16 bytes from each of sixteen addresses, as four vectors: word j of all rows."""

    def quarter(i: int) -> Any:
        return join(b, [load_as(b, at(b, rows[i + k], offset), vector(I32, 4)) for k in (0, 4, 8, 12)])

    return columns_of_quarters(b, [quarter(i) for i in range(4)])


def columns_of_quarters(b: ir.IRBuilder, quarters: Sequence[Any]) -> list[Any]:
    """Four words of each of sixteen rows, as four vectors: word j of all rows.

    Quarter i holds the rows i, i+4, i+8, i+12, which leaves squares of four words to be turned.
    """
    lanes, (q0, q1, q2, q3) = range(0, 16, 4), quarters

    def halves(x: Any, y: Any, i: int) -> Any:  # words i and i+1 of two rows: x y x y
        return shuffle(b, x, y, [k for lane in lanes for k in (lane + i, 16 + lane + i, lane + i + 1, 17 + lane + i)])

    def wholes(x: Any, y: Any, i: int) -> Any:  # one word of four rows
        return shuffle(b, x, y, [k for lane in lanes for k in (lane + i, lane + i + 1, 16 + lane + i, 17 + lane + i)])

    return [wholes(halves(q0, q1, i), halves(q2, q3, i), j) for i in (0, 2) for j in (0, 2)]


def unsigned_codes(b: ir.IRBuilder, rows: Sequence[Any], layout: Layout) -> list[Any]:
    """The codes of one block of sixteen rows as the other kernels make them, eight vectors [16 rows][4 elements].

    Elements 0…15 first, then 16…31; even ones first, then odd ones, where these are neighbors in a byte.
    """
    if layout.bits == 8:
        assert layout.codes_second is not None
        words = columns_of_block(b, rows, layout.codes) + columns_of_block(b, rows, layout.codes_second)
        return [b.xor(word, constant(-0x7F7F7F80, I32X16)) for word in words]  # 0x80 in every byte
    nibbles = columns_of_block(b, rows, layout.codes)
    words = [fields_of_bytes(b, column, shift, 4) for shift in (0, 4) for column in nibbles]
    if layout.high is not None:
        bits = gathered(b, [load_as(b, at(b, p, layout.high), I32) for p in rows], I32)
        step, second = (2, 1) if layout.interleaved else (1, 16)
        places = [range(first, first + 4 * step, step) for half in (0, second) for first in
                  range(half, half + 16 * step, 4 * step)]  # fmt: skip
        words = [b.or_(word, fifth_bits_of_word(b, bits, place)) for word, place in zip(words, places, strict=True)]
    if layout.levels:
        return [look_up(b, word, [level + layout.zero for level in layout.levels]) for word in words]
    return words


def signed_codes(b: ir.IRBuilder, rows: Sequence[Any], layout: Layout) -> list[Any]:
    """The same less the code that means 0, in the order of the elements."""
    words = unsigned_codes(b, rows, layout)
    if layout.interleaved:
        words = [word for x, y in zip(words[:4], words[4:], strict=True) for word in interleave(b, x, y)]
    zero = constant(signed_byte(layout.zero), I8X64)
    return [b.bitcast(b.sub(b.bitcast(word, I8X64), zero), I32X16) for word in words]


def interleave(b: ir.IRBuilder, x: Any, y: Any) -> list[Any]:
    """Of each lane's bytes x0 x1 x2 x3 and y0 y1 y2 y3: x0 y0 x1 y1 and x2 y2 x3 y3."""
    x, y = b.bitcast(x, I8X64), b.bitcast(y, I8X64)
    orders = [[4 * lane + i + 64 * from_y for lane in range(16) for i in half for from_y in (0, 1)]
              for half in ((0, 1), (2, 3))]  # fmt: skip
    return [b.bitcast(shuffle(b, x, y, order), I32X16) for order in orders]


def fifth_bits_of_word(b: ir.IRBuilder, bits: Any, elements: Sequence[int]) -> Any:
    """Bit 4 of four codes of sixteen rows, in place. bits: those of a row in each lane."""
    return bits_in_bytes(b, bits, [32 * (i % 8 // 4) + elements[i % 4] for i in range(64)], 4)
