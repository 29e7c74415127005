"""Unpacking the codes of a block of 32, and slicing codes into planes of bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from ggmlpy.machine.features import MACHINE
from ggmlpy.machine.jit import types

from .language import (
    F32,
    F32X16,
    I1,
    I8,
    I8X64,
    I32,
    I32X16,
    I64,
    LANES,
    address,
    at,
    call,
    call_once_made,
    constant,
    f32x8,
    f32x16,
    i8x16,
    i8x32,
    i32x16,
    int32,
    integer,
    join,
    lanewise,
    load_as,
    nothing,
    op,
    shuffle,
    signed_byte,
    split,
    spread,
    store_as,
    vector,
)
from .memory import rows_at, transpose

__all__ = [
    "and_bits",
    "bit_plane",
    "bits_in_bytes",
    "codes_cut_off",
    "codes_rounded",
    "fields_of_bytes",
    "fifth_bits",
    "has_lookup",
    "look_up",
    "look_up_in_quarters",
    "lookups_of_levels",
    "minus",
    "moved_bits",
    "nibbles_in_halves",
    "nibbles_in_pairs",
    "nibbles_of_two",
    "or_bits",
    "or_codes",
    "shift_left",
    "shift_right",
    "transpose_nibbles",
]


def look_up(b: ir.IRBuilder, codes: Any, table: Sequence[int]) -> Any:
    """table[code], a byte with or without sign, for 64 codes 0…15; both as <16 x i32>."""
    levels = [signed_byte(level) for level in table]
    if has_lookup():
        return look_up_in_quarters(b, codes, b.bitcast(constant(levels * 4, I8X64), I32X16))
    found = call_once_made(b, _compare_with_each(levels), I8X64, b.bitcast(codes, I8X64))
    return b.bitcast(found, I32X16)


LOOKUPS = (
    ("avx512bw", 1, "llvm.x86.avx512.pshuf.b.512"),
    ("avx2", 2, "llvm.x86.avx2.pshuf.b"),
    ("ssse3", 4, "llvm.x86.ssse3.pshuf.b.128"),
)


def has_lookup() -> bool:
    """Whether an instruction looks up bytes in a register."""
    return any(MACHINE.has(feature) for feature, _, _ in LOOKUPS)


def look_up_in_quarters(b: ir.IRBuilder, codes: Any, table: Any) -> Any:
    """Each quarter's codes 0…15 in the same quarter of the table, whose entries are bytes; all as <16 x i32>."""
    parts, name = next((parts, name) for feature, parts, name in LOOKUPS if MACHINE.has(feature))
    kind = vector(I8, 64 // parts)
    halves = zip(split(b, table, parts), split(b, codes, parts), strict=True)
    found = [call(b, name, kind, [b.bitcast(row, kind), b.bitcast(x, kind)]) for row, x in halves]
    return join(b, [b.bitcast(x, vector(I32, 16 // parts)) for x in found])


def bits_in_bytes(b: ir.IRBuilder, x: Any, places: Sequence[int], to: int) -> Any:
    """64 bytes, 0 but for bit ``to``: bit ``places[i]`` of those eight bytes of x among which byte i is; <16 x i32>."""
    only = constant(0x01010101 << to, I32X16)
    if MACHINE.has("avx512vbmi"):
        control = constant([signed_byte((place - to) % 64) for place in places], I8X64)
        moved = call(b, "llvm.x86.avx512.pmultishift.qb.512", I8X64, [control, b.bitcast(x, I8X64)])
        return b.and_(b.bitcast(moved, I32X16), only)
    x = b.bitcast(x, I8X64)
    byte = shuffle(b, x, x, [i // 8 * 8 + place // 8 for i, place in enumerate(places)])
    mask = constant([signed_byte(1 << (place % 8)) for place in places], I8X64)
    present = b.icmp_unsigned("!=", b.and_(byte, mask), constant(0, I8X64))
    return b.and_(b.bitcast(b.sext(present, I8X64), I32X16), only)


def fields_of_bytes(b: ir.IRBuilder, x: Any, first: int, width: int, to: int = 0, plus: int = 0) -> Any:
    """The bits of every byte from ``first`` on, moved to the bits from ``to`` on, or-ed with ``plus``; <16 x i32>."""
    if first != to and MACHINE.has("gfni") and MACHINE.has("avx512f"):
        rows = sum(1 << (first + i + 8 * (7 - to - i)) for i in range(width))  # one for each bit of the result
        matrix = b.bitcast(constant(rows, vector(I64, 8)), I8X64)
        moved = call(b, "llvm.x86.vgf2p8affineqb.512", I8X64, [b.bitcast(x, I8X64), matrix, I8(plus)])
        return b.bitcast(moved, I32X16)
    n = constant(abs(first - to), I32X16)
    x = b.lshr(x, n) if first > to else b.shl(x, n)
    found = b.and_(x, constant(0x01010101 * ((1 << width) - 1 << to), I32X16))
    return b.or_(found, constant(0x01010101 * plus, I32X16))


def _compare_with_each(levels: Sequence[int]) -> Callable[[ir.IRBuilder, Any], Any]:
    """What looks up 64 codes where no instruction does."""

    def look_up_each(b: ir.IRBuilder, codes: Any) -> Any:
        result = constant(0, I8X64)
        for code, level in enumerate(levels):
            result = b.select(b.icmp_unsigned("==", codes, constant(code, I8X64)), constant(level, I8X64), result)
        return result

    look_up_each.__name__ += "".join(f"_{level}" for level in levels)  # each table has a function of its own
    return look_up_each


def _picked(b: ir.IRBuilder, table: Any, codes: Any, first: int, n: int) -> Any:
    """table[code], a float, for sixteen codes, all of them ``first`` … ``first + n - 1``, which lie in one half."""
    if MACHINE.has("avx512f"):
        return call(b, "llvm.x86.avx512.permvar.sf.512", F32X16, [table, codes])
    if MACHINE.has("avx2"):
        name, row = "llvm.x86.avx2.permps", split(b, table, 2)[first // 8]
        return join(b, [call(b, name, f32x8.llvm, [row, half]) for half in split(b, codes, 2)])
    result = constant(0.0, F32X16)
    for code in range(first, first + n):
        entry = spread(b, b.extract_element(table, I32(code)), F32X16)
        result = b.select(b.icmp_unsigned("==", codes, constant(code, I32X16)), entry, result)
    return result


def lookups_of_levels(n: int) -> tuple[Any, Any, Any]:
    """Operations about values that have ``n`` levels, 4 or 8: lane n * i + l of a vector is about level l of value i.

    * () -> the level of each lane;
    * (address) -> in the lanes of value i, the float i that lies there;
    * (table, table, address) -> the sum, one after another, of what sixteen times the levels of all values of two
      tables say; at the address their lanes lie in their tables, as bytes [values, 16].
    """
    per_table = LANES // n

    @op(f32x16)
    def lane_levels(b: ir.IRBuilder) -> Any:
        return constant([float(lane % n) for lane in range(LANES)], F32X16)

    @op(f32x16, address)
    def each_repeated(b: ir.IRBuilder, a: Any) -> Any:
        few = load_as(b, a, vector(F32, per_table))
        return shuffle(b, few, few, [lane // n for lane in range(LANES)])

    @op(f32x16, f32x16, f32x16, address)
    def sums_picked(b: ir.IRBuilder, first: Any, second: Any, a: Any) -> Any:
        total = None
        for i in range(2 * per_table):
            codes = b.zext(load_as(b, at(b, a, LANES * i), i8x16.llvm), I32X16)
            here = _picked(b, (first, second)[i // per_table], codes, i % per_table * n, n)
            total = here if total is None else b.fadd(total, here)
        return total

    return lane_levels, each_repeated, sums_picked


PAIRS = [k // 2 + 16 * (k % 2) for k in range(32)]  # of 16 low and 16 high nibbles
HALVES = list(range(32))


def _nibbles(b: ir.IRBuilder, packed: Any) -> tuple[Any, Any]:
    """Low and high ones of sixteen bytes."""
    return b.and_(packed, constant(15, i8x16.llvm)), b.lshr(packed, constant(4, i8x16.llvm))


@op(i8x32, address)
def nibbles_in_pairs(b: ir.IRBuilder, a: Any) -> Any:
    """16 bytes to 32 codes 0…15: byte j holds element 2j low and 2j+1 high."""
    return shuffle(b, *_nibbles(b, load_as(b, a, i8x16.llvm)), PAIRS)


@op(i8x32, address)
def nibbles_in_halves(b: ir.IRBuilder, a: Any) -> Any:
    """16 bytes to 32 codes 0…15: byte j holds element j low and j+16 high."""
    return shuffle(b, *_nibbles(b, load_as(b, a, i8x16.llvm)), HALVES)


@op(i8x32, address, address)
def nibbles_of_two(b: ir.IRBuilder, first: Any, second: Any) -> Any:
    """Two blocks of 8 bytes (q4_2) to 32 codes 0…15, elements in pairs."""
    eights = [load_as(b, a, vector(I8, 8)) for a in (first, second)]
    return shuffle(b, *_nibbles(b, join(b, eights)), PAIRS)


@op(i8x32, address)
def fifth_bits(b: ir.IRBuilder, a: Any) -> Any:
    """A 32-bit word to 32 bytes: 16 where bit l is set, else 0."""
    present = b.bitcast(load_as(b, a, I32), vector(I1, 32))
    return b.select(present, constant(16, i8x32.llvm), constant(0, i8x32.llvm))


@op(i8x32, i8x32, i8x32)
def or_codes(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.or_(x, y)


@op(i8x32, i8x32, int32)
def minus(b: ir.IRBuilder, x: Any, offset: Any) -> Any:
    """Every code minus an offset (which fits a byte)."""
    return b.sub(x, spread(b, b.trunc(offset, I8), i8x32.llvm))


@op(i8x16, i8x16, int32, int32, int32)
def moved_bits(b: ir.IRBuilder, x: Any, down: Any, mask: Any, up: Any) -> Any:
    """((x >> down) & mask) << up, of bytes."""
    down, mask, up = (spread(b, b.trunc(each, I8), i8x16.llvm) for each in (down, mask, up))
    return b.shl(b.and_(b.lshr(x, down), mask), up)


@op(nothing, address, integer, int32, address)
def transpose_nibbles(b: ir.IRBuilder, a: Any, stride: Any, offset: Any, target: Any) -> None:
    """16 bytes of each of sixteen rows to 32 columns of 16 codes less `offset`: 512 signed bytes, in pair order."""
    offsets = spread(b, b.trunc(offset, I8), i8x16.llvm)
    for j, column in enumerate(transpose(b, rows_at(b, a, stride, i8x16.llvm))):
        for k, codes in enumerate(_nibbles(b, column)):
            store_as(b, at(b, target, 16 * (2 * j + k)), b.sub(codes, offsets))


@op(types.uint64, address, integer)
def bit_plane(b: ir.IRBuilder, a: Any, mask: Any) -> Any:
    """The word whose bit l says whether byte l of the 64 at `a` has a bit of ``mask``."""
    masks = spread(b, b.trunc(mask, I8), I8X64)
    present = b.icmp_unsigned("!=", b.and_(load_as(b, a, I8X64), masks), constant(0, I8X64))
    return b.bitcast(present, I64)


# Codes as whole numbers, whose low 8 bits count.


def _x86_integer(b: ir.IRBuilder, x: Any) -> Any:
    """Toward zero; what is NaN or exceeds int32 gives 0 in the low 8 bits, as the least int32 has them."""
    magnitude = b.and_(b.bitcast(x, I32X16), constant(0x7FFFFFFF, I32X16))
    fits = b.icmp_signed("<", magnitude, constant(0x4F000000, I32X16))  # 2^31
    return b.fptosi(b.select(fits, x, constant(0.0, F32X16)), I32X16)


def _at_most(b: ir.IRBuilder, codes: Any, limit: Any) -> Any:
    limits = spread(b, limit, I32X16)
    return b.select(b.icmp_signed("<", codes, limits), codes, limits)


@op(i32x16, f32x16, int32, int32)
def codes_rounded(b: ir.IRBuilder, x: Any, offset: Any, limit: Any) -> Any:
    """C's ``roundf(x) + offset``, at most ``limit``. Adding the largest float below 0.5 is exact where 0.5 is not."""
    sign = b.and_(b.bitcast(x, I32X16), constant(-0x80000000, I32X16))
    nearly_half = b.bitcast(b.or_(sign, constant(0x3EFFFFFF, I32X16)), F32X16)
    whole = _x86_integer(b, b.fadd(x, nearly_half))
    return _at_most(b, b.add(whole, spread(b, offset, I32X16)), limit)


@op(i32x16, f32x16, int32)
def codes_cut_off(b: ir.IRBuilder, x: Any, limit: Any) -> Any:
    """C's ``(int) x``, at most ``limit``."""
    return _at_most(b, _x86_integer(b, x), limit)


@lanewise(2)
def or_bits(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.or_(x, y)


@op(i32x16, i32x16, int32)
def and_bits(b: ir.IRBuilder, x: Any, mask: Any) -> Any:
    return b.and_(x, spread(b, mask, I32X16))


@op(i32x16, i32x16, int32)
def shift_left(b: ir.IRBuilder, x: Any, n: Any) -> Any:
    return b.shl(x, spread(b, n, I32X16))


@op(i32x16, i32x16, int32)
def shift_right(b: ir.IRBuilder, x: Any, n: Any) -> Any:
    """Without a sign."""
    return b.lshr(x, spread(b, n, I32X16))
