"""Rows of k-quants times one vector, straight from their blocks, and times many, for which sixteen rows are packed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from ggmlpy.formats.tensor_types import TensorType
from ggmlpy.machine.jit import cgutils
from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    F32,
    F32X16,
    I16X32,
    I32,
    I32X16,
    I64,
    address,
    at,
    constant,
    dot_bytes,
    dot_words,
    f32x16,
    integer,
    join,
    keep_apart,
    load,
    load_as,
    load_f32,
    mad,
    make_fetch_ahead,
    nothing,
    op,
    shuffle,
    spread,
    store_as,
    store_i64,
    sub,
    vector,
    zero_bytes,
    zeros,
)

from .blocks import times_zero
from .few_superblocks import make_few
from .layouts import A_BYTES, A_CODES, A_RUN_STARTS, A_SCALE, A_SUMS16, A_SUMS32, GROUP, K_TILE, START_ZERO
from .layouts import superblock_panel_parts as parts_of
from .matrix_functions import Product, put, put_four
from .panel_products import put_rows
from .side_by_side import halves_of_rows
from .superblocks import Superblock, totals, totals_of_quarters

__all__ = ["make_superblock_product"]


def make_superblock_product(record: TensorType) -> Product:
    """The functions for a k-quant."""
    block = Superblock(record)
    rows = make_rows(block)
    return Product(rows, make_panel(block), make_few(block, rows))


# One vector: four rows at a time.


def make_add_block(block: Superblock) -> Any:
    """The operation (acc, four addresses of blocks, address of the vector's record) -> acc.

    acc is f32 [16]: the sums of d·da·S of four rows, those of dmin·da·M, and eight lanes of nothing.
    """

    @op(f32x16, f32x16, address, address, address, address, address)
    def add_block(b: ir.IRBuilder, acc: Any, *addresses: Any) -> Any:
        *blocks, vector_at = addresses
        headers = block.headers(b, blocks)
        scales, mins, begin = block.scales(b, headers)
        whole = totals(b, [block.row_sums(b, a, row, scales, vector_at) for row, a in enumerate(blocks)])
        if mins is not None:
            whole = join(b, [whole, totals_of_quarters(b, block.min_sums(b, mins, begin, vector_at))])
        n = whole.type.count
        da = load_as(b, at(b, vector_at, A_SCALE), F32)
        factor = b.fmul(block.factors(b, blocks, headers), spread(b, da, vector(F32, n)))
        sums = mad.emit(b, b.sitofp(whole, vector(F32, n)), factor, shuffle(b, acc, acc, range(n)))
        return shuffle(b, sums, constant(0.0, sums.type), [lane if lane < n else n for lane in range(16)])

    return add_block


@op(nothing, address, f32x16)
def store_four(b: ir.IRBuilder, a: Any, acc: Any) -> None:
    """What four rows give: the first sums minus the second."""
    store_as(b, a, b.fsub(shuffle(b, acc, acc, range(4)), shuffle(b, acc, acc, range(4, 8))))


def make_rows(block: Superblock) -> Any:
    """The function `Product.rows`."""
    add_block, size, values = make_add_block(block), block.record.type_size, block.record.blck_size
    fetch_block = make_fetch_ahead(size)

    @compiled
    def four_dots(p0, apart, x, n_blocks, y, far, near):
        """Four rows, `apart` bytes from one to the next, times a vector: f32 [4] at y."""
        p1, p2, p3, acc = p0 + apart, p0 + 2 * apart, p0 + 3 * apart, zeros()
        for _ in range(n_blocks):
            fetch_block(p0, far, near), fetch_block(p1, far, near)
            fetch_block(p2, far, near), fetch_block(p3, far, near)
            acc = add_block(acc, p0, p1, p2, p3, x)
            p0, p1, p2, p3, x = p0 + size, p1 + size, p2 + size, p3 + size, x + A_BYTES
        store_four(y, acc)
        return load_f32(y), load_f32(y + 4), load_f32(y + 8), load_f32(y + 12)

    @compiled
    def rows(base, cols, x, scratch, first, quarter, apart, last, y, accumulate, far, near):
        keep_apart()
        n_blocks = cols // values
        row_bytes = n_blocks * size
        for row in range(first, first + quarter):
            dots = four_dots(base + row * row_bytes, apart * row_bytes, x, n_blocks, scratch, far, near)
            put_four(y + 4 * row, 4 * apart, dots, accumulate)
        for row in range(first + 4 * quarter, last):
            put(y + 4 * row, four_dots(base + row * row_bytes, 0, x, n_blocks, scratch, 0, 0)[0], accumulate)
        return 0

    return rows


# Many vectors: sixteen rows side by side.


def make_pack_block(block: Superblock) -> Any:
    """The operation (table: address of 16 addresses of rows, offset, target) that packs one block of sixteen rows.

    The target's parts are those of `layouts.superblock_panel_parts`.
    """
    record, parts = block.record, parts_of(block.record)

    @op(nothing, address, integer, address)
    def pack_block(b: ir.IRBuilder, table: Any, offset: Any, target: Any) -> None:
        rows = [b.add(load_as(b, at(b, table, 8 * row), I64), offset) for row in range(GROUP)]
        for words in block.words_of_rows(b, rows):
            for value, word in words.items():
                store_as(b, at(b, target, parts["codes"] + 16 * value), word)
        scales, mins = block.scales_of_rows(b, rows)
        for run, x in enumerate(scales):
            store_as(b, at(b, target, parts["scales"] + 64 * run), x)
        for pair, x in enumerate(mins):
            store_as(b, at(b, target, parts["mins"] + 64 * pair), x)
        for name in block.factor_names:
            x = halves_of_rows(b, rows, record.offset(name), record.type_size)
            store_as(b, at(b, target, parts[name]), x)

    return pack_block


class SuperblockTile:
    """One block of sixteen rows, or of a few times sixteen, times a few tokens."""

    def __init__(self, block: Superblock) -> None:
        self.block, self.parts = block, parts_of(block.record)
        self.places = [(p, t) for p in range(K_TILE.panels) for t in range(K_TILE.tokens)]

    def whole_sums(self, b: ir.IRBuilder, panels: Sequence[Any], tokens: Sequence[Any]) -> list[Any]:
        """S i32 [16 rows] for each panel and token."""
        slots = [cgutils.alloca_once(b, I32X16) for _ in self.places]
        for slot in slots:
            b.store(constant(0, I32X16), slot)
        with cgutils.for_range(b, I64(self.block.runs)) as loop:
            dots = self._dots(b, loop.index, panels, tokens)
            place = b.add(I64(self.parts["scales"]), b.mul(loop.index, I64(64)))
            scales = [load_as(b, b.add(panel, place), I32X16) for panel in panels]
            for slot, dot, (p, _) in zip(slots, dots, self.places, strict=True):
                b.store(b.add(b.load(slot), b.mul(dot, scales[p])), slot)
        return [b.load(slot) for slot in slots]

    def _dots(self, b: ir.IRBuilder, run: Any, panels: Sequence[Any], tokens: Sequence[Any]) -> list[Any]:
        """Σ (code - zero)·a over a run."""
        values, zero = self.block.record.run, self.block.zero
        dots, small = [constant(0, I32X16)] * len(self.places), self.block.small
        if zero:
            place = b.add(I64(A_RUN_STARTS), b.mul(run, I64(4 * values // 16)))
            starts = [self._start(b, b.add(token, place)) for token in tokens]
            dots = [spread(b, starts[t], I32X16) for _, t in self.places]
        for word in range(values // 4):
            place = b.add(I64(16 * 4 * word), b.mul(run, I64(16 * values)))
            codes = [load_as(b, b.add(at(b, panel, self.parts["codes"]), place), I32X16) for panel in panels]
            place = b.add(I64(A_CODES + 4 * word), b.mul(run, I64(values)))
            four = [spread(b, load_as(b, b.add(token, place), I32), I32X16) for token in tokens]
            dots = [dot_bytes(b, dot, codes[p], four[t], small) for dot, (p, t) in zip(dots, self.places, strict=True)]
        return dots

    def _start(self, b: ir.IRBuilder, starts: Any) -> Any:
        """What the sum of a run begins with: minus the zero times its codes of the vector."""
        sums = [load_as(b, at(b, starts, 4 * i), I32) for i in range(self.block.record.run // 16)]
        return times_zero(b, functools.reduce(b.add, sums), self.block.zero, START_ZERO)

    def min_sums(self, b: ir.IRBuilder, panels: Sequence[Any], tokens: Sequence[Any]) -> list[Any]:
        """M i32 [16 rows] for each panel and token."""
        sums = [constant(0, I32X16)] * len(self.places)
        begin = A_SUMS16 if self.block.record.run == 16 else A_SUMS32
        for pair in range(self.block.runs // 2):
            mins = [load_as(b, at(b, panel, self.parts["mins"] + 64 * pair), I16X32) for panel in panels]
            two = [spread(b, load_as(b, at(b, token, begin + 4 * pair), I32), I32X16) for token in tokens]
            two = [b.bitcast(x, I16X32) for x in two]
            sums = [dot_words(b, s, mins[p], two[t]) for s, (p, t) in zip(sums, self.places, strict=True)]
        return sums

    def add(self, b: ir.IRBuilder, panels: Sequence[Any], tokens: Sequence[Any], sums: Any) -> None:
        """sums, f32 [d, dmin][panels][tokens][16 rows], += what the block adds."""
        das = [spread(b, load_as(b, at(b, token, A_SCALE), F32), F32X16) for token in tokens]
        for i, name in enumerate(self.block.factor_names):
            whole = (self.whole_sums, self.min_sums)[i](b, panels, tokens)
            factors = [load_as(b, at(b, panel, self.parts[name]), F32X16) for panel in panels]
            for k, (p, t) in enumerate(self.places):
                place = at(b, sums, 64 * (i * len(self.places) + k))
                factor = b.fmul(factors[p], das[t])
                store_as(b, place, mad.emit(b, b.sitofp(whole[k], F32X16), factor, load_as(b, place, F32X16)))


def make_tile(block: Superblock) -> Any:
    """The operation (panel, distance of the next, tokens, distance of the next, sums): `SuperblockTile.add`."""
    tile = SuperblockTile(block)

    @op(nothing, address, integer, address, integer, address)
    def add_tile(b: ir.IRBuilder, panel: Any, stride: Any, token: Any, apart: Any, sums: Any) -> None:
        panels = [b.add(panel, b.mul(stride, I64(p))) for p in range(K_TILE.panels)]
        tokens = [b.add(token, b.mul(apart, I64(t))) for t in range(K_TILE.tokens)]
        tile.add(b, panels, tokens, sums)

    return add_tile


TILE_PANELS, TILE_TOKENS = K_TILE.panels, K_TILE.tokens
TILE_SUMS = 64 * TILE_PANELS * TILE_TOKENS  # bytes


@compiled
def put_tile(sums, tokens, row, last, y, y_stride, accumulate):
    """Write (or add) a tile's results: the first sums minus the second, rows from `row` to `last`."""
    for p in range(TILE_PANELS):
        for t in range(tokens):
            place, first = sums + 64 * (p * TILE_TOKENS + t), row + GROUP * p
            value = sub(load(place), load(place + TILE_SUMS))
            put_rows(y + t * y_stride + 4 * first, value, last - first, accumulate)


def make_panel(block: Superblock) -> Any:
    """The function `Product.panel`."""
    pack_block, add_tile = make_pack_block(block), make_tile(block)
    size, values, packed = block.record.type_size, block.record.blck_size, parts_of(block.record)["end"]

    @compiled
    def pack(base, row_bytes, first, last, n_blocks, table, panel):
        """Rows first … first+15 (those from `last` on repeat the one before) to a panel. table: i64 [16]."""
        keep_apart()
        for row in range(GROUP):
            store_i64(table + 8 * row, base + min(first + row, last - 1) * row_bytes)
        for i in range(n_blocks):
            pack_block(table, i * size, panel + i * packed)

    @compiled
    def panel_product(base, cols, first, last, n, x, panel, sums, y, y_stride, accumulate):
        keep_apart()
        n_blocks, n_panels = cols // values, (last - first + GROUP - 1) // GROUP
        row_bytes, stride, apart = n_blocks * size, n_blocks * packed, n_blocks * A_BYTES
        n_panels = (n_panels + TILE_PANELS - 1) // TILE_PANELS * TILE_PANELS
        for i in range(n_panels):
            pack(base, row_bytes, min(first + GROUP * i, last - 1), last, n_blocks, sums, panel + i * stride)
        for t in range(0, n, TILE_TOKENS):
            for i in range(0, n_panels, TILE_PANELS):
                zero_bytes(sums, 2 * TILE_SUMS)
                for k in range(n_blocks):
                    add_tile(panel + i * stride + k * packed, stride, x + t * apart + k * A_BYTES, apart, sums)
                place = y + t * y_stride
                put_tile(sums, min(TILE_TOKENS, n - t), first + GROUP * i, last, place, y_stride, accumulate)
        return 0

    return panel_product
