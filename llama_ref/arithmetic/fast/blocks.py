"""How quantized blocks become bytes and scales inside a kernel: three operations, made for each layout from its record.

Every layout is brought to one form, four blocks at a time: two registers of codes, `first` (elements 0…15 of the four
blocks) and `second` (elements 16…31), and the scales. A value is d · (code - zero) [+ m], so a row times a vector is

    Σ over blocks of  d·da · (Σ code·a - zero·Σ a)  +  m · (da·Σ a)          a: the vector's int8 codes, da: their scale

with whole numbers inside the parentheses. Layouts that keep neighbours in one byte (2j low, 2j+1 high) give even and
odd elements instead; then the vector's even and odd codes are used, which lie ready beside the others.

Sixteen blocks make a *group*: their sixteen sums fill one register, lane 4·(b mod 4) + b/4 for block b, and are scaled
and added with one fused multiply-add. So lane by lane the floats are added in the order of the blocks b, b+16, b+32 …,
and the lanes at the end; the kernel for many tokens (`make_tile`) adds in the same order, to the same last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from ggmlpy.machine.features import MACHINE
from ggmlpy.machine.jit import cgutils
from ggmlpy.machine.vectors import (
    F16,
    F32,
    F32X16,
    I8,
    I16,
    I16X32,
    I32,
    I32X16,
    I64,
    address,
    at,
    bits_in_bytes,
    constant,
    dot_bytes,
    f32x16,
    fields_of_bytes,
    gather_sums,
    i32x16,
    integer,
    join,
    load_as,
    look_up,
    mad,
    nothing,
    op,
    shuffle,
    spread,
    store_as,
    tile_dots,
    tile_load,
    tile_store,
    vector,
    widen_f16,
)

from .layouts import (
    ACTIVATION_BIAS,
    EVEN,
    FIRST,
    GROUP,
    LEAST_ZERO,
    ODD,
    QUAD,
    SCALE,
    SECOND,
    TILE_TOKENS,
    TOKEN_BYTES,
    Layout,
    panel_bytes,
)
from .side_by_side import scales_at, scales_of_rows, signed_codes

# Reading four blocks.


def sixteen_bytes(b: ir.IRBuilder, p: Any, layout: Layout, offset: int) -> Any:
    """16 bytes from each of four blocks, as one register."""
    quarters = [load_as(b, at(b, p, k * layout.size + offset), vector(I32, 4)) for k in range(QUAD)]
    return join(b, quarters)


def words_of_quad(b: ir.IRBuilder, p: Any, layout: Layout, offset: int, n: int) -> Any:
    """n words from each of four blocks, repeated to 16 bytes, with two loads that overlap and one permutation."""
    last = QUAD * layout.size - 64  # where the second load begins
    x, y = load_as(b, p, I16X32), load_as(b, at(b, p, last), I16X32)
    places = [block * layout.size + offset + 2 * (word % n) for block in range(QUAD) for word in range(8)]
    chosen = shuffle(b, x, y, [a // 2 if a < 64 else 32 + (a - last) // 2 for a in places])
    return b.bitcast(chosen, I32X16)


def with_fifth_bits(b: ir.IRBuilder, p: Any, layout: Layout, codes: Sequence[Any]) -> list[Any]:
    """The four low bits of `first` and `second`, i32 [16] each, with the fifth ones."""
    assert layout.high is not None
    if MACHINE.wide:
        each = words_of_quad(b, p, layout, layout.high, 2)
    else:
        words = [load_as(b, at(b, p, k * layout.size + layout.high), I32) for k in range(QUAD)]
        each = join(b, [spread(b, word, vector(I32, 4)) for word in words])  # the word 4 x in 16 bytes
    step, second = (2, 1) if layout.interleaved else (1, 16)
    places = [[step * (lane % 16) + start for lane in range(64)] for start in (0, second)]
    return [b.or_(x, bits_in_bytes(b, each, elements, 4)) for x, elements in zip(codes, places, strict=True)]


def codes_of_quad(b: ir.IRBuilder, p: Any, layout: Layout) -> tuple[Any, Any]:
    """The unsigned codes of four blocks: elements 0…15 and 16…31 (even and odd ones where interleaved)."""
    if layout.bits == 8:
        flip = constant(-0x7F7F7F80, I32X16)  # signed to unsigned: 0x80 in every byte
        assert layout.codes_second is not None
        first = sixteen_bytes(b, p, layout, layout.codes)
        second = sixteen_bytes(b, p, layout, layout.codes_second)
        return b.xor(first, flip), b.xor(second, flip)
    nibbles = (
        words_of_quad(b, p, layout, layout.codes, 8) if MACHINE.wide else sixteen_bytes(b, p, layout, layout.codes)
    )
    first, second = (fields_of_bytes(b, nibbles, shift, 4) for shift in (0, 4))
    if layout.high is not None:
        first, second = with_fifth_bits(b, p, layout, (first, second))
    if layout.levels:
        unsigned = [level + layout.zero for level in layout.levels]
        first, second = look_up(b, first, unsigned), look_up(b, second, unsigned)
    return first, second


def scales_of_group(b: ir.IRBuilder, p: Any, layout: Layout, offset: int, quads: int) -> Any:
    """The scales of up to sixteen blocks: lane 4L + j is that of block 4j + L."""
    blocks = [4 * j + lane if j < quads else None for lane in range(QUAD) for j in range(4)]
    if MACHINE.wide and layout.scaled_together > 1:
        return permuted_scales(b, p, layout, offset, blocks)
    return scales_at(b, [None if k is None else at(b, p, k * layout.size + offset) for k in blocks], layout)


Named = tuple[Any, dict[int | None, int]]  # a register, and which of its lanes hold what


def permuted_scales(b: ir.IRBuilder, p: Any, layout: Layout, offset: int, blocks: Sequence[int | None]) -> Any:
    """The same from registers that hold the scales of several blocks each."""
    element, step = (F32, 4) if layout.scale_bytes == 4 else (I16, 2)
    count = sum(k is not None for k in blocks)
    found: list[Named] = []
    for first in range(0, count, layout.scaled_together):
        start = min(first * layout.size + layout.first_scale, count * layout.size - 64)
        of = range(first, min(first + layout.scaled_together, count))
        register = load_as(b, at(b, p, start), vector(element, 64 // step))
        found.append((register, {k: (k * layout.size + offset - start) // step for k in of}))
    if None in blocks:
        found.append((constant(0, found[0][0].type), {None: 0}))
    scales, _ = picked_lanes(b, found, blocks)
    return scales if element is F32 else widen_f16(b, b.bitcast(scales, vector(F16, GROUP)))


def picked_lanes(b: ir.IRBuilder, found: Sequence[Named], wanted: Sequence[int | None]) -> Named:
    """What is wanted, in this order, of several registers; two are made one at a time."""
    if len(found) == 1:
        return found[0]
    half = (len(found) // 2 + 1) // 2 * 2 if len(found) > 2 else 1
    (x, of_x), (y, of_y) = (picked_lanes(b, part, wanted) for part in (found[:half], found[half:]))
    n = max(x.type.count, y.type.count)
    x, y = (v if v.type.count == n else shuffle(b, v, v, [*range(v.type.count)] * (n // v.type.count)) for v in (x, y))
    lanes = of_x | {k: n + lane for k, lane in of_y.items()}
    picked = [k for k in wanted if k in lanes]
    places = [lanes[k] for k in picked]
    places += places[:1] * ((1 << (len(places) - 1).bit_length()) - len(places))
    return shuffle(b, x, y, places), {k: i for i, k in enumerate(picked)}


# A group of a row times a group of the vector.


def add_group(b: ir.IRBuilder, layout: Layout, acc: Any, weights: Any, activations: Any, quads: int = QUAD) -> Any:
    """acc f32 [16] += `quads` x 4 blocks of `layout` at `weights` times a quantized group of the vector.

    What depends on the weights alone is found once where several vectors meet them in one loop: LLVM sees to it.
    """
    at_first, at_second = (EVEN, ODD) if layout.interleaved else (FIRST, SECOND)
    firsts, seconds = [], []  # i32 [16] a quad: four partial sums for each of four blocks
    zero = constant(0, I32X16)
    for j in range(quads):
        first, second = codes_of_quad(b, at(b, weights, QUAD * layout.size * j), layout)
        a = load_as(b, at(b, activations, at_first + 64 * j), I32X16)
        c = load_as(b, at(b, activations, at_second + 64 * j), I32X16)
        firsts.append(dot_bytes(b, zero, first, a, layout.small))
        seconds.append(dot_bytes(b, zero if layout.halves else firsts[-1], second, c, layout.small))

    def scaled(acc: Any, sums: Sequence[Any], part: int) -> Any:
        (d, m), (at_start, at_offset) = layout.scale_places[part], layout.number_places[part]
        dots = gather_sums(b, [*sums, *[zero] * (4 - quads)], b.add)  # i32 [16], a lane a block
        if layout.zero:
            start = load_as(b, at(b, activations, at_start), I32X16)
            dots = b.add(dots, times_zero(b, start, layout.zero, LEAST_ZERO))
        da = load_as(b, at(b, activations, SCALE), F32X16)
        dd = b.fmul(scales_of_group(b, weights, layout, d, quads), da)
        acc = mad.emit(b, b.sitofp(dots, F32X16), dd, acc)
        if m is not None:
            minimum = scales_of_group(b, weights, layout, m, quads)
            acc = mad.emit(b, minimum, load_as(b, at(b, activations, at_offset), F32X16), acc)
        return acc

    return scaled(scaled(acc, firsts, 0), seconds, 1) if layout.halves else scaled(acc, seconds, 0)


def times_zero(b: ir.IRBuilder, starts: Any, zero: int, least: int) -> Any:
    """From minus `least` times some sums, minus `zero` times these; both are powers of two."""
    bits = zero.bit_length() - least.bit_length()
    if bits == 0:
        return starts
    n = constant(abs(bits), starts.type) if isinstance(starts.type, ir.VectorType) else starts.type(abs(bits))
    return b.shl(starts, n) if bits > 0 else b.ashr(starts, n)


def make_group_dot(layout: Layout, quads: int = QUAD) -> Any:
    """The operation (acc f32[16], weights, vector) -> acc f32[16]: `add_group`."""

    @op(f32x16, f32x16, address, address)
    def group_dot(b: ir.IRBuilder, acc: Any, weights: Any, activations: Any) -> Any:
        return add_group(b, layout, acc, weights, activations, quads)

    return group_dot


# Quantizing the vector: what both kernels' activations are made of.


@op(nothing, address, i32x16, i32x16)
def store_codes(b: ir.IRBuilder, a: Any, first: Any, second: Any) -> None:
    """Write a block's 32 codes to its place in a group, in both orders. `a` is its place in FIRST."""
    natural = b.trunc(join(b, [first, second]), vector(I8, 32))
    for offset, elements in (
        (FIRST, range(16)),
        (SECOND, range(16, 32)),
        (EVEN, range(0, 32, 2)),
        (ODD, range(1, 32, 2)),
    ):
        store_as(b, at(b, a, offset), shuffle(b, natural, natural, elements))


@op(nothing, address, i32x16, i32x16)
def store_biased_codes(b: ir.IRBuilder, a: Any, first: Any, second: Any) -> None:
    """Write a block's 32 codes in order, with ACTIVATION_BIAS added."""
    codes = b.trunc(join(b, [first, second]), vector(I8, 32))
    store_as(b, a, b.xor(codes, constant(-ACTIVATION_BIAS, codes.type)))


# Packing weights for many tokens: sixteen rows side by side.


def make_pack_block(layout: Layout) -> Any:
    """The operation (table: address of 16 addresses of rows, offset, target) that packs one block of sixteen rows.

    The target receives signed codes i8 [8 words][16 rows][4 elements]; i32 [16], minus ACTIVATION_BIAS times the sum of
    each row's codes (room for it only, where the bias is 0); d f32 [16]; m f32 [16]. Where the halves of a block are
    scaled apart, there are two each of the last three.
    """
    parts = layout.parts
    ones = constant(0x01010101, I32X16)

    @op(nothing, address, integer, address)
    def pack_block(b: ir.IRBuilder, table: Any, offset: Any, target: Any) -> None:
        rows = [b.add(load_as(b, at(b, table, 8 * row), I64), offset) for row in range(GROUP)]
        words = signed_codes(b, rows, layout)
        for i, word in enumerate(words):
            store_as(b, at(b, target, 64 * i), word)
        for part in range(parts):
            acc = constant(0, I32X16)
            for word in words[4 * part : 4 * part + 4] if layout.halves else words:
                acc = dot_bytes(b, acc, ones, word, layout.small)
            if ACTIVATION_BIAS:
                store_as(b, at(b, target, 512 + 64 * part), b.mul(acc, constant(-ACTIVATION_BIAS, I32X16)))
            for i, value in enumerate(scales_of_rows(b, rows, layout, part)):
                store_as(b, at(b, target, 512 + 64 * ((1 + i) * parts + part)), value)

    return pack_block


# Many tokens: the inner loop of the matrix product.

Slots = Sequence[Any]  # variables f32 [16 rows], [tokens]


@dataclass(frozen=True)
class Part:
    """Addresses of a block, or of that half of one which has scales of its own.

    A record of sixteen rows is described at `make_pack_block`, one of tokens at `make_tile`.
    """

    record: Any
    token: Any
    half: int  # 0 or 1


def make_tile(layout: Layout) -> Any:
    """The operation that multiplies count blocks of sixteen rows with TILE_TOKENS tokens.

    Args of the operation:
        panel: address of `count` records of sixteen rows (`make_pack_block`).
        tokens: address of as many records (TOKEN_BYTES for each token): codes u8 or i8 [tokens][32], da f32 [tokens],
            da·Σa f32 [tokens], the same of the first and of the second halves.
        count: how many blocks: one of the sixteen chains in which the floats of a row are added.
        sums, level: see `put_sums`.
    """
    tile = MatrixTile(layout) if MACHINE.simd == "amx" else RegisterTile(layout)

    @op(nothing, address, address, integer, address, integer)
    def multiply_tile(b: ir.IRBuilder, panel: Any, tokens: Any, count: Any, sums: Any, level: Any) -> None:
        floats = [cgutils.alloca_once(b, F32X16) for _ in range(TILE_TOKENS)]
        for slot in floats:
            b.store(constant(0.0, F32X16), slot)

        with cgutils.for_range(b, count) as loop:
            record = b.add(panel, b.mul(loop.index, I64(panel_bytes(layout))))
            token = b.add(tokens, b.mul(loop.index, I64(TOKEN_BYTES * TILE_TOKENS)))
            for half in range(layout.parts):
                tile.add_part(b, Part(record, token, half), floats)
        put_sums(b, floats, sums, level)

    return multiply_tile


def put_sums(b: ir.IRBuilder, floats: Slots, sums: Any, level: Any) -> None:
    """Write the sums of a chain, after adding those of chains before it.

    The chains come in an order in which the two that `total` would add are neighbours, and so are the sums of
    pairs, of fours …: a chain adds `level` sums, one from each level below, and is written to that level.

    Args:
        sums: address of f32 [levels][tokens][16].
    """
    level_bytes = I64(64 * TILE_TOKENS)
    with cgutils.for_range(b, level) as loop:
        below = b.add(sums, b.mul(loop.index, level_bytes))
        for t, slot in enumerate(floats):
            b.store(b.fadd(load_as(b, at(b, below, 64 * t), F32X16), b.load(slot)), slot)
    here = b.add(sums, b.mul(level, level_bytes))
    for t, slot in enumerate(floats):
        store_as(b, at(b, here, 64 * t), b.load(slot))


class RegisterTile:
    """All sums of the tile stay in registers; each register of codes meets all its tokens."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def add_part(self, b: ir.IRBuilder, part: Part, floats: Slots) -> None:
        scales = self.scales(b, part)
        for t, (slot, dots) in enumerate(zip(floats, self.dots(b, part), strict=True)):
            self.add_dots(b, slot, dots, scales, self.numbers(b, part, t))

    def dots(self, b: ir.IRBuilder, part: Part) -> list[Any]:
        """i32 [16 rows] for each token."""
        dots = [load_as(b, at(b, part.record, 512 + 64 * part.half), I32X16)] * TILE_TOKENS
        for word in range(4 * part.half, 4 * part.half + 4) if self.layout.halves else range(8):
            codes = load_as(b, at(b, part.record, 64 * word), I32X16)
            for t in range(TILE_TOKENS):
                a = spread(b, load_as(b, at(b, part.token, 32 * t + 4 * word), I32), I32X16)
                dots[t] = dot_bytes(b, dots[t], a, codes, self.layout.small)
        return dots

    def scales(self, b: ir.IRBuilder, part: Part) -> tuple[Any, Any]:
        """d and m (or None) of sixteen rows."""
        n, half = self.layout.parts, part.half
        d = load_as(b, at(b, part.record, 512 + 64 * (n + half)), F32X16)
        return d, None if self.layout.m is None else load_as(b, at(b, part.record, 512 + 64 * (2 * n + half)), F32X16)

    def numbers(self, b: ir.IRBuilder, part: Part, t: int) -> list[Any]:
        """da and da·Σa of token t."""
        da = at(b, part.token, 32 * TILE_TOKENS + 4 * t)
        offset = at(b, da, 4 * TILE_TOKENS * (2 + part.half if self.layout.halves else 1))
        return [spread(b, load_as(b, place, F32), F32X16) for place in (da, offset)]

    def add_dots(self, b: ir.IRBuilder, slot: Any, dots: Any, scales: tuple[Any, Any], numbers: Sequence[Any]) -> None:
        """slot += d · da · dots [+ m · da·Σa], for sixteen rows and a token."""
        (d, m), (da, offset) = scales, numbers
        acc = mad.emit(b, b.sitofp(dots, F32X16), b.fmul(d, da), b.load(slot))
        b.store(acc if m is None else mad.emit(b, m, offset, acc), slot)


SUMS, TOKENS, ROWS = range(3)  # the numbers of AMX's tiles


class MatrixTile(RegisterTile):
    """With AMX one instruction multiplies a block of sixteen rows with sixteen tokens.

    The 256 integers are written to memory and from there scaled and added, which takes longer than to make them.
    `shapes` must have been set (`use_tiles`).
    """

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(rows, bytes of a row) of SUMS i32 [tokens][16 rows], TOKENS i8 [tokens][k], ROWS i8 [k/4][16 rows][4]."""
        k = 32 // self.layout.parts
        return [(TILE_TOKENS, 64), (TILE_TOKENS, k), (k // 4, 64)]

    def dots(self, b: ir.IRBuilder, part: Part) -> list[Any]:
        room = b.ptrtoint(cgutils.alloca_once(b, ir.ArrayType(I32X16, TILE_TOKENS)), I64)
        tile_load(b, TOKENS, at(b, part.token, 16 * part.half), 32)
        tile_load(b, ROWS, at(b, part.record, 256 * part.half), 64)
        tile_dots(b, SUMS, TOKENS, ROWS)
        tile_store(b, SUMS, room, 64)
        return [load_as(b, at(b, room, 64 * t), I32X16) for t in range(TILE_TOKENS)]
