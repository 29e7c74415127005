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
)

from .blocks import times_zero
from .few_superblocks import make_few
from .layouts import A_BYTES, A_CODES, A_RUN_STARTS, A_SCALE, A_SUMS16, A_SUMS32, GROUP, K_BLOCKS, K_TOKENS, START_ZERO
from .layouts import superblock_panel_parts as parts_of
from .matrix_functions import Product, put, put_four
from .panel_products import fetch_part, put_rows
from .superblocks import ROWS as ROWS_READ
from .superblocks import Superblock, totals
from .work import units

__all__ = ["make_superblock_product"]


def make_superblock_product(record: TensorType) -> Product:
    """The functions for a k-quant."""
    block = Superblock(record)
    rows = make_rows(block)
    return Product(rows, make_panel(block), make_few(block, rows))


# One vector: four rows at a time.


def make_four_rows(block: Superblock) -> Any:
    """The operation (address of a row, distance of the next, vector, blocks, far, near) -> f32 [16].

    That is the sums of d·da·S of four rows, those of dmin·da·M, and eight lanes of nothing.

    The whole numbers of a block are scaled and added while those of the next one are found: else the processor, which
    has room for one block and a half, would wait for the last of them.
    """
    size = block.record.type_size
    fetch_block = make_fetch_ahead(size)

    @op(f32x16, address, integer, address, integer, integer, integer)
    def four_rows(b: ir.IRBuilder, p: Any, apart: Any, x: Any, n_blocks: Any, far: Any, near: Any) -> Any:
        n = ROWS_READ * len(block.factor_names)
        kinds = [vector(F32, n), I32X16, I32X16, vector(F32, n)]
        acc, whole, mins, factor = slots = [cgutils.alloca_once(b, kind) for kind in kinds]
        for slot, kind in zip(slots, kinds, strict=True):
            b.store(constant(0, kind), slot)

        def add_found() -> None:
            sums = totals(b, b.load(whole), b.load(mins) if block.has_mins else None)
            b.store(mad.emit(b, b.sitofp(sums, kinds[0]), b.load(factor), b.load(acc)), acc)

        with cgutils.for_range(b, n_blocks) as loop:
            place = b.mul(loop.index, I64(size))
            blocks = [b.add(b.add(p, place), b.mul(apart, I64(row))) for row in range(ROWS_READ)]
            vector_at = b.add(x, b.mul(loop.index, I64(A_BYTES)))
            for a in blocks:
                fetch_block.emit(b, a, far, near)
            add_found()
            headers = block.headers(b, blocks)
            scales, of_mins, begin = block.scales(b, headers)
            b.store(block.quarter_sums(b, blocks, scales, vector_at), whole)
            if block.has_mins:
                b.store(block.min_sums(b, of_mins, begin, vector_at), mins)
            da = spread(b, load_as(b, at(b, vector_at, A_SCALE), F32), kinds[0])
            b.store(b.fmul(block.factors(b, blocks, headers), da), factor)
        add_found()
        return shuffle(b, b.load(acc), constant(0.0, kinds[0]), [lane if lane < n else n for lane in range(16)])

    return four_rows


@op(nothing, address, f32x16)
def store_four(b: ir.IRBuilder, a: Any, acc: Any) -> None:
    """What four rows give: the first sums minus the second."""
    store_as(b, a, b.fsub(shuffle(b, acc, acc, range(4)), shuffle(b, acc, acc, range(4, 8))))


def make_rows(block: Superblock) -> Any:
    """The function `Product.rows`."""
    four_rows, size, values = make_four_rows(block), block.record.type_size, block.record.blck_size

    @compiled
    def four_dots(p0, apart, x, n_blocks, y, far, near):
        """Four rows, `apart` bytes from one to the next, times a vector: f32 [4] at y."""
        store_four(y, four_rows(p0, apart, x, n_blocks, far, near))
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
    parts = parts_of(block.record)

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
        for name, x in zip(block.factor_names, block.factors_of_rows(b, rows), strict=True):
            store_as(b, at(b, target, parts[name]), x)

    return pack_block


class SuperblockTile:
    """One block of sixteen rows times a few tokens, whose sums stay in registers.

    Args:
        panel: address of the packed block (`make_pack_block`).
        tokens: address of the tokens' records, one after the other.
    """

    def __init__(self, b: ir.IRBuilder, block: Superblock, panel: Any, tokens: Any) -> None:
        self.b, self.block, self.parts, self.panel = b, block, parts_of(block.record), panel
        self.tokens = [at(b, tokens, A_BYTES * t) for t in range(K_TOKENS)]

    def _rows(self, part: str, offset: Any, kind: Any) -> Any:
        """A register of what was packed of sixteen rows."""
        return load_as(self.b, self.b.add(at(self.b, self.panel, self.parts[part]), offset), kind)

    def _of_tokens(self, offset: Any, kind: Any, lanes: Any) -> list[Any]:
        """A number of each token's record, in all lanes."""
        return [spread(self.b, load_as(self.b, self.b.add(token, offset), kind), lanes) for token in self.tokens]

    def whole_sums(self) -> list[Any]:
        """S i32 [16 rows] for each token."""
        b = self.b
        slots = [cgutils.alloca_once(b, I32X16) for _ in self.tokens]
        for slot in slots:
            b.store(constant(0, I32X16), slot)
        with cgutils.for_range(b, I64(self.block.runs)) as loop:
            scales = self._rows("scales", b.mul(loop.index, I64(64)), I32X16)
            for slot, dots in zip(slots, self._dots(loop.index), strict=True):
                b.store(b.add(b.load(slot), b.mul(dots, scales)), slot)
        return [b.load(slot) for slot in slots]

    def _dots(self, run: Any) -> list[Any]:
        """Σ (code - zero)·a over a run."""
        b, values = self.b, self.block.record.run
        dots = self._starts(run)
        for word in range(values // 4):
            codes = self._rows("codes", b.add(I64(64 * word), b.mul(run, I64(16 * values))), I32X16)
            four = self._of_tokens(b.add(I64(A_CODES + 4 * word), b.mul(run, I64(values))), I32, I32X16)
            dots = [dot_bytes(b, dot, codes, a, self.block.small) for dot, a in zip(dots, four, strict=True)]
        return dots

    def _starts(self, run: Any) -> list[Any]:
        """What the sums of a run begin with: minus the zero times its codes of the vector."""
        b, n = self.b, self.block.record.run // 16
        if not self.block.zero:
            return [constant(0, I32X16)] * K_TOKENS
        place = b.add(I64(A_RUN_STARTS), b.mul(run, I64(4 * n)))
        sums = [self._of_tokens(b.add(place, I64(4 * i)), I32, I32X16) for i in range(n)]
        return [times_zero(b, functools.reduce(b.add, x), self.block.zero, START_ZERO) for x in zip(*sums, strict=True)]

    def min_sums(self) -> list[Any]:
        """M i32 [16 rows] for each token."""
        b, sums = self.b, [constant(0, I32X16)] * K_TOKENS
        begin = A_SUMS16 if self.block.record.run == 16 else A_SUMS32
        for pair in range(self.block.runs // 2):
            mins = self._rows("mins", I64(64 * pair), I16X32)
            two = [b.bitcast(x, I16X32) for x in self._of_tokens(I64(begin + 4 * pair), I32, I32X16)]
            sums = [dot_words(b, s, mins, x) for s, x in zip(sums, two, strict=True)]
        return sums

    def add(self, floats: Sequence[Any]) -> None:
        """Variables f32 [16 rows], [d, dmin][tokens], += what the block adds."""
        b, das = self.b, self._of_tokens(I64(A_SCALE), F32, F32X16)
        for i, name in enumerate(self.block.factor_names):
            factors = self._rows(name, I64(0), F32X16)
            whole = (self.whole_sums, self.min_sums)[i]()
            for slot, x, da in zip(floats[K_TOKENS * i :], whole, das, strict=False):
                b.store(mad.emit(b, b.sitofp(x, F32X16), b.fmul(factors, da), b.load(slot)), slot)


def make_tile(block: Superblock) -> Any:
    """The operation that adds some blocks of sixteen rows times those of K_TOKENS tokens.

    Args of the operation:
        panel, tokens: addresses of the first packed block and of the tokens' first records, [blocks][K_TOKENS].
        count: how many blocks.
        sums: address of f32 [d, dmin][K_TOKENS][16 rows].
    """
    packed, n_sums = parts_of(block.record)["end"], K_TOKENS * len(block.factor_names)

    @op(nothing, address, address, integer, address)
    def add_tile(b: ir.IRBuilder, panel: Any, tokens: Any, count: Any, sums: Any) -> None:
        floats = [cgutils.alloca_once(b, F32X16) for _ in range(n_sums)]
        for i, slot in enumerate(floats):
            b.store(load_as(b, at(b, sums, 64 * i), F32X16), slot)
        with cgutils.for_range(b, count) as loop:
            here = b.add(panel, b.mul(loop.index, I64(packed)))
            records = b.add(tokens, b.mul(loop.index, I64(K_TOKENS * A_BYTES)))
            SuperblockTile(b, block, here, records).add(floats)
        for i, slot in enumerate(floats):
            store_as(b, at(b, sums, 64 * i), b.load(slot))

    return add_tile


TILE_SUMS = 64 * K_TOKENS  # bytes of those that meet d, and of those that meet dmin


@compiled
def put_tile(sums, tokens, row, last, y, y_stride, accumulate):
    """Write (or add) a tile's results: the first sums minus the second, rows from `row` to `last`."""
    for t in range(tokens):
        place = sums + 64 * t
        value = sub(load(place), load(place + TILE_SUMS))
        put_rows(y + t * y_stride + 4 * row, value, last - row, accumulate)


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
        """Some blocks of sixteen rows, which the first-level cache keeps, meet all tokens before the next do."""
        keep_apart()
        n_blocks, n_tiles, n_panels = cols // values, units(n, K_TOKENS), units(last - first, GROUP)
        row_bytes, stride, token_bytes = n_blocks * size, n_blocks * packed, K_TOKENS * A_BYTES
        for i in range(n_panels):
            pack(base, row_bytes, first + GROUP * i, last, n_blocks, sums, panel + i * stride)
        zero_bytes(sums, 2 * TILE_SUMS * n_panels * n_tiles)
        parts = units(n_blocks, K_BLOCKS) * n_panels * n_tiles
        for k in range(0, n_blocks, K_BLOCKS):
            count = min(K_BLOCKS, n_blocks - k)
            for i in range(n_panels):
                part = (k // K_BLOCKS * n_panels + i) * n_tiles
                for t in range(n_tiles):
                    fetch_part(base + last * row_bytes, (last - first) * row_bytes, part + t, parts)
                    place = sums + 2 * TILE_SUMS * (i * n_tiles + t)
                    add_tile(panel + i * stride + k * packed, x + (t * n_blocks + k) * token_bytes, count, place)
        for i in range(n_panels):
            for t in range(n_tiles):
                place, target, row = sums + 2 * TILE_SUMS * (i * n_tiles + t), t * K_TOKENS, first + GROUP * i
                tokens = min(K_TOKENS, n - target)
                put_tile(place, tokens, row, last, y + target * y_stride, y_stride, accumulate)
        return 0

    return panel_product
