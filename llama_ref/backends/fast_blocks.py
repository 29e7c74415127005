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
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .fast_layouts import (
    ACTIVATION_BIAS,
    EVEN,
    FIRST,
    GROUP,
    ODD,
    OFFSET,
    OFFSET_FIRST,
    OFFSET_SECOND,
    QUAD,
    SCALE,
    SECOND,
    SUM,
    SUM_FIRST,
    SUM_SECOND,
    TILE,
    TOKEN_BYTES,
    Layout,
    Tile,
    panel_bytes,
)
from .machine import MACHINE
from .simd import (
    F16,
    F32,
    F32X16,
    I8,
    I8X64,
    I16,
    I32,
    I32X16,
    I64,
    address,
    at,
    constant,
    dot_bytes,
    f32x16,
    fetch_ahead,
    fma,
    gather_sums,
    i32x16,
    integer,
    join,
    load_as,
    nothing,
    op,
    shuffle,
    spread,
    store_as,
    vector,
    widen_f16,
)

# Reading four blocks.


def sixteen_bytes(b: ir.IRBuilder, p: Any, layout: Layout, offset: int) -> Any:
    """16 bytes from each of four blocks, as one register."""
    quarters = [load_as(b, at(b, p, k * layout.size + offset), vector(I32, 4)) for k in range(QUAD)]
    return join(b, quarters)


def twenty_byte_codes(b: ir.IRBuilder, p: Any) -> Any:
    """The same for q4_0's blocks of five words, with two loads that overlap and one permutation."""
    x, y = load_as(b, p, I32X16), load_as(b, at(b, p, 16), I32X16)  # words 0…15 and 4…19
    words = [5 * block + 1 + word for block in range(QUAD) for word in range(4)]
    return shuffle(b, x, y, [w if w < 16 else w - 4 + 16 for w in words])


def fifth_bits(b: ir.IRBuilder, p: Any, layout: Layout) -> tuple[Any, Any]:
    """Bit 4 of each code, in place: 0x10 or 0 in each byte, for `first` and `second`."""
    assert layout.high is not None
    kind = vector(I32, 4)
    words = ir.Constant(kind, ir.Undefined)
    for k in range(QUAD):
        words = b.insert_element(words, load_as(b, at(b, p, k * layout.size + layout.high), I32), I32(k))
    each = b.bitcast(shuffle(b, words, words, [lane // 4 for lane in range(16)]), I8X64)  # the word 4 x in 16 bytes

    def spread_bits(elements: Sequence[int]) -> Any:
        byte = shuffle(b, each, each, [16 * (i // 16) + elements[i % 16] // 8 for i in range(64)])
        mask = constant([_signed(1 << (elements[i % 16] % 8)) for i in range(64)], I8X64)
        present = b.icmp_unsigned("!=", b.and_(byte, mask), constant(0, I8X64))
        return b.bitcast(b.select(present, constant(0x10, I8X64), constant(0, I8X64)), I32X16)

    step, second = (2, 1) if layout.interleaved else (1, 16)
    return spread_bits([step * j for j in range(16)]), spread_bits([step * j + second for j in range(16)])


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def codes_of_quad(b: ir.IRBuilder, p: Any, layout: Layout) -> tuple[Any, Any]:
    """The unsigned codes of four blocks: elements 0…15 and 16…31 (even and odd ones where interleaved)."""
    if layout.bits == 8:
        flip = constant(-0x7F7F7F80, I32X16)  # signed to unsigned: 0x80 in every byte
        assert layout.codes_second is not None
        first = sixteen_bytes(b, p, layout, layout.codes)
        second = sixteen_bytes(b, p, layout, layout.codes_second)
        return b.xor(first, flip), b.xor(second, flip)
    wide = layout.size == 20 and layout.codes == 4 and MACHINE.simd == "vnni"
    nibbles = twenty_byte_codes(b, p) if wide else sixteen_bytes(b, p, layout, layout.codes)
    low = constant(0x0F0F0F0F, I32X16)
    first, second = b.and_(nibbles, low), b.and_(b.lshr(nibbles, constant(4, I32X16)), low)
    if layout.high is not None:
        high_first, high_second = fifth_bits(b, p, layout)
        first, second = b.or_(first, high_first), b.or_(second, high_second)
    return first, second


def scales_at(b: ir.IRBuilder, addresses: Sequence[Any], layout: Layout) -> Any:
    """Sixteen scales from as many addresses (None: 0), as f32."""
    element = F32 if layout.scale == "<f4" else F16
    result = constant(0.0, vector(element, GROUP))
    for lane, a in enumerate(addresses):
        if a is not None:
            scale = load_as(b, a, F32) if element is F32 else b.bitcast(load_as(b, a, I16), F16)
            result = b.insert_element(result, scale, I32(lane))
    return result if element is F32 else widen_f16(b, result)


def scales_of_group(b: ir.IRBuilder, p: Any, layout: Layout, offset: int, quads: int) -> Any:
    """The scales of up to sixteen blocks: lane 4L + j is that of block 4j + L."""
    if layout.scale == "<f4" and layout.size == 20 and offset == 0 and MACHINE.simd == "vnni":
        return twenty_byte_scales(b, p, quads)
    blocks = [4 * j + lane if j < quads else None for lane in range(QUAD) for j in range(4)]
    return scales_at(b, [None if k is None else at(b, p, k * layout.size + offset) for k in blocks], layout)


def twenty_byte_scales(b: ir.IRBuilder, p: Any, quads: int) -> Any:
    """The same with permutations of the words that were loaded anyway: a block's scale is its word 0 of 5."""
    zero = constant(0, I32X16)
    x = [load_as(b, at(b, p, 80 * j), I32X16) for j in range(quads)] + [zero] * (4 - quads)
    lanes = range(QUAD)
    pairs = [shuffle(b, x[j], x[j + 1], [5 * k for k in lanes] + [16 + 5 * k for k in lanes] + [0] * 8) for j in (0, 2)]
    words = shuffle(
        b, pairs[0], pairs[1], [4 * j + k if j < 2 else 16 + 4 * (j - 2) + k for k in lanes for j in range(4)]
    )
    return b.bitcast(words, F32X16)


# A group of a row times a group of the vector.


def make_group_dot(layout: Layout, quads: int = 4) -> Any:
    """The operation (acc f32[16], weights, vector) -> acc f32[16] over `quads` x 4 blocks.

    `weights` is the address of blocks of `layout`, `vector` of a quantized group (FIRST … OFFSET_SECOND above).
    """
    at_first, at_second = (EVEN, ODD) if layout.interleaved else (FIRST, SECOND)

    @op(f32x16, f32x16, address, address)
    def group_dot(b: ir.IRBuilder, acc: Any, weights: Any, activations: Any) -> Any:
        if quads == QUAD:
            fetch_ahead(b, weights, GROUP * layout.size)
        firsts, seconds = [], []  # i32 [16] a quad: four partial sums for each of four blocks
        zero = constant(0, I32X16)
        for j in range(quads):
            first, second = codes_of_quad(b, at(b, weights, QUAD * layout.size * j), layout)
            a = load_as(b, at(b, activations, at_first + 64 * j), I32X16)
            c = load_as(b, at(b, activations, at_second + 64 * j), I32X16)
            firsts.append(dot_bytes(b, zero, first, a, layout.small))
            seconds.append(dot_bytes(b, zero if layout.halves else firsts[-1], second, c, layout.small))

        def scaled(acc: Any, sums: Sequence[Any], d: int, m: int | None, at_sum: int, at_offset: int) -> Any:
            dots = gather_sums(b, [*sums, *[zero] * (4 - quads)], b.add)  # i32 [16], a lane a block
            if layout.zero:
                above = load_as(b, at(b, activations, at_sum), I32X16)
                shift = layout.zero.bit_length() - 1  # 8, 16 and 128 are powers of two
                dots = b.sub(dots, b.shl(above, constant(shift, I32X16)))
            da = load_as(b, at(b, activations, SCALE), F32X16)
            dd = b.fmul(scales_of_group(b, weights, layout, d, quads), da)
            acc = fma.emit(b, b.sitofp(dots, F32X16), dd, acc)
            if m is not None:
                minimum = scales_of_group(b, weights, layout, m, quads)
                acc = fma.emit(b, minimum, load_as(b, at(b, activations, at_offset), F32X16), acc)
            return acc

        if not layout.halves:
            return scaled(acc, seconds, layout.d, layout.m, SUM, OFFSET)
        acc = scaled(acc, firsts, layout.d, layout.m, SUM_FIRST, OFFSET_FIRST)
        return scaled(acc, seconds, layout.d_second or 0, layout.m_second, SUM_SECOND, OFFSET_SECOND)

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


@op(nothing, address, integer, i32x16, i32x16)
def store_biased_codes(b: ir.IRBuilder, a: Any, other: Any, first: Any, second: Any) -> None:
    """Write a block's 32 codes in order, and `other` bytes on the even and then the odd ones.

    They are made unsigned by adding ACTIVATION_BIAS.
    """
    natural = b.trunc(join(b, [first, second]), vector(I8, 32))
    natural = b.xor(natural, constant(-ACTIVATION_BIAS, natural.type))
    store_as(b, a, natural)
    store_as(b, b.add(a, other), shuffle(b, natural, natural, [*range(0, 32, 2), *range(1, 32, 2)]))


# Packing weights for many tokens: sixteen rows side by side.


def columns_of_block(b: ir.IRBuilder, rows: Sequence[Any], offset: int) -> list[Any]:
    """16 bytes from each of sixteen addresses, as four vectors: word j of all rows.

    Each vector is loaded from the rows i, i+4, i+8, i+12, which leaves squares of four words to be turned.
    """

    def quarter(i: int) -> Any:
        return join(b, [load_as(b, at(b, rows[i + k], offset), vector(I32, 4)) for k in (0, 4, 8, 12)])

    def halves(x: Any, y: Any, i: int) -> Any:  # words i and i+1 of two rows: x y x y
        return shuffle(b, x, y, [k for lane in lanes for k in (lane + i, 16 + lane + i, lane + i + 1, 17 + lane + i)])

    def wholes(x: Any, y: Any, i: int) -> Any:  # one word of four rows
        return shuffle(b, x, y, [k for lane in lanes for k in (lane + i, lane + i + 1, 16 + lane + i, 17 + lane + i)])

    lanes, (q0, q1, q2, q3) = range(0, 16, 4), (quarter(i) for i in range(4))
    return [wholes(halves(q0, q1, i), halves(q2, q3, i), j) for i in (0, 2) for j in (0, 2)]


def signed_codes(b: ir.IRBuilder, rows: Sequence[Any], layout: Layout) -> list[Any]:
    """The signed codes of one block of sixteen rows: eight vectors [16 rows][4 elements].

    Elements 0…3, 4…7 … in order; where interleaved, 0 2 4 6, 8 10 12 14 …, then 1 3 5 7 …
    """
    if layout.bits == 8:
        assert layout.codes_second is not None
        return columns_of_block(b, rows, layout.codes) + columns_of_block(b, rows, layout.codes_second)
    nibbles = columns_of_block(b, rows, layout.codes)
    low = constant(0x0F0F0F0F, I32X16)
    words = [b.and_(n, low) for n in nibbles] + [b.and_(b.lshr(n, constant(4, I32X16)), low) for n in nibbles]
    if layout.high is not None:
        bits = constant(0, I32X16)
        for row, p in enumerate(rows):
            bits = b.insert_element(bits, load_as(b, at(b, p, layout.high), I32), I32(row))
        order = [*range(0, 32, 2), *range(1, 32, 2)] if layout.interleaved else range(32)
        words = [b.or_(word, fifth_bits_of_word(b, bits, order[4 * i : 4 * i + 4])) for i, word in enumerate(words)]
    zero = constant(layout.zero, I8X64)
    return [b.bitcast(b.sub(b.bitcast(word, I8X64), zero), I32X16) for word in words]


def fifth_bits_of_word(b: ir.IRBuilder, bits: Any, elements: Sequence[int]) -> Any:
    """Bit 4 of four codes of sixteen rows, in place."""
    word = constant(0, I32X16)
    for i, element in enumerate(elements):
        bit = b.and_(b.lshr(bits, constant(element, I32X16)), constant(1, I32X16))
        word = b.or_(word, b.shl(bit, constant(8 * i + 4, I32X16)))
    return word


def make_pack_block(layout: Layout) -> Any:
    """The operation (table: address of 16 addresses of rows, offset, target) that packs one block of sixteen rows.

    The target receives signed codes i8 [8 words][16 rows][4 elements]; i32 [16], minus ACTIVATION_BIAS times the sum of
    each row's codes; d f32 [16]; m f32 [16]. Where the halves of a block are scaled apart, there are two each of the
    last three.
    """
    parts = 2 if layout.halves else 1
    scales = [(layout.d, layout.m), (layout.d_second, layout.m_second)][:parts]
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
            store_as(b, at(b, target, 512 + 64 * part), b.mul(acc, constant(-ACTIVATION_BIAS, I32X16)))
            for i, place in enumerate(scales[part]):
                if place is not None:
                    value = scales_at(b, [at(b, p, place) for p in rows], layout)
                    store_as(b, at(b, target, 512 + 64 * ((1 + i) * parts + part)), value)

    return pack_block


# Many tokens: the inner loop of the matrix product.


def make_tile(layout: Layout, tile: Tile = TILE) -> Any:
    """The operation (panel, stride, tokens, count, sums): count blocks of 16·panels rows times the tile's tokens.

    Args of the operation:
        panel: address of `count` records of sixteen rows (`make_pack_block`); the next panel is `stride` on.
        tokens: address of as many records (TOKEN_BYTES for each token): codes u8 [tokens][32] in order, the same with
            the even ones first, da f32 [tokens], da·Σa f32 [tokens], the same of the first and of the second halves.
        sums: address of f32 [panels][tokens][16] for the result.
    """
    size, n = panel_bytes(layout), tile.tokens
    codes_at = 32 * n if layout.interleaved else 0
    da_at, offset_at = 64 * n, 68 * n
    parts = 2 if layout.halves else 1
    lanes = [(p, t) for p in range(tile.panels) for t in range(n)]

    @op(nothing, address, integer, address, integer, address)
    def multiply_tile(b: ir.IRBuilder, panel: Any, stride: Any, tokens: Any, count: Any, sums: Any) -> None:
        floats = {at_: cgutils.alloca_once(b, F32X16) for at_ in lanes}
        for slot in floats.values():
            b.store(constant(0.0, F32X16), slot)
        with cgutils.for_range(b, count) as loop:
            record = [
                b.add(b.add(panel, b.mul(loop.index, I64(size))), b.mul(stride, I64(p))) for p in range(tile.panels)
            ]
            token = b.add(tokens, b.mul(loop.index, I64(TOKEN_BYTES * n)))
            for part in range(parts):
                init = [load_as(b, at(b, r, 512 + 64 * part), I32X16) for r in record]
                dots = {(p, t): init[p] for p, t in lanes}
                words = range(4 * part, 4 * part + 4) if layout.halves else range(8)
                for word in words:
                    codes = [load_as(b, at(b, r, 64 * word), I32X16) for r in record]
                    for t in range(n):
                        a = spread(b, load_as(b, at(b, token, codes_at + 32 * t + 4 * word), I32), I32X16)
                        for p in range(tile.panels):
                            dots[p, t] = dot_bytes(b, dots[p, t], a, codes[p], layout.small)
                d = [load_as(b, at(b, r, 512 + 64 * (parts + part)), F32X16) for r in record]
                m = [load_as(b, at(b, r, 512 + 64 * (2 * parts + part)), F32X16) for r in record] if layout.m else []
                for p, t in lanes:
                    da = spread(b, load_as(b, at(b, token, da_at + 4 * t), F32), F32X16)
                    acc = b.load(floats[p, t])
                    acc = fma.emit(b, b.sitofp(dots[p, t], F32X16), b.fmul(d[p], da), acc)
                    if m:
                        place = offset_at + 4 * t + (4 * n * (1 + part) if layout.halves else 0)
                        acc = fma.emit(b, m[p], spread(b, load_as(b, at(b, token, place), F32), F32X16), acc)
                    b.store(acc, floats[p, t])
        for i, at_ in enumerate(lanes):
            store_as(b, at(b, sums, 64 * i), b.load(floats[at_]))

    return multiply_tile
