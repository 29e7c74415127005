"""Quantized rows times many vectors: sixteen rows are packed side by side, and then meet the tokens in tiles."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ggmlpy.machine.features import MACHINE
from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    add,
    f32x16,
    integer,
    keep_apart,
    load,
    nothing,
    number,
    op,
    release_tiles,
    store,
    store_i64,
    use_tiles,
)

from .blocks import MatrixTile, make_pack_block, make_tile
from .layouts import GROUP, LEVELS, TOKEN_BYTES, Layout, panel_bytes
from .layouts import TILE_TOKENS as TOKENS
from .matrix_functions import put
from .side_by_side import make_fetch
from .work import units

__all__ = ["TOKENS", "fetch_part", "lane_count", "lane_start", "make_panel", "put_rows"]

LEVEL = 64 * TOKENS  # bytes of a tile's sums
TREE = LEVEL * LEVELS


@compiled
def lane_start(lane, n_blocks):
    """How many blocks lie before those of `lane` when blocks lane, lane+16, lane+32 … stand together."""
    return lane * (n_blocks // GROUP) + min(lane, n_blocks % GROUP)


@compiled
def lane_count(lane, n_blocks):
    """How many blocks are lane, lane+16, lane+32 …"""
    return (n_blocks - lane + GROUP - 1) // GROUP


# Chain i is that of the blocks i, i+16, i+32 … of a row. Here they are in the order that `put_sums` needs, in which
# `total` adds the lanes (lane 4L + j holds chain 4j + L), and how many levels of sums each of them completes.
CHAINS = tuple(4 * (lane % 4) + lane // 4 for lane in (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15))
COMPLETED = (0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0, 4)

fetch_line = make_fetch(64)


@compiled
def fetch_part(start, size, part, parts):
    """Ask for one of `parts` parts of what is packed next, so that packing does not wait for memory."""
    for line in range(size * part // parts // 64, size * (part + 1) // parts // 64):
        fetch_line(start + 64 * line)


@compiled
def put_rows(y, value, valid, accumulate):
    """Write (or add) the first `valid` lanes to y: f32."""
    if valid >= GROUP:
        store(y, add(load(y), value) if accumulate != 0 else value)
    else:
        for i in range(valid):
            put(y + 4 * i, lane_of(value, i), accumulate)


@op(number, f32x16, integer)
def lane_of(b: ir.IRBuilder, x: Any, i: Any) -> Any:
    return b.extract_element(x, i)


@op(nothing)
def end_tiles(b: ir.IRBuilder) -> None:
    if MACHINE.simd == "amx":
        release_tiles(b)


def make_pack(layout: Layout) -> Any:
    """The function that packs sixteen rows."""
    pack_block, size, record_size = make_pack_block(layout), layout.size, panel_bytes(layout)

    @compiled
    def pack(base, row_bytes, first, last, n_blocks, table, panel):
        """Rows first … first+15 (those from `last` on repeat the one before) to a panel, by chains. table: i64 [16]."""
        keep_apart()
        for row in range(GROUP):
            store_i64(table + 8 * row, base + min(first + row, last - 1) * row_bytes)
        for block in range(n_blocks):
            place = lane_start(block % GROUP, n_blocks) + block // GROUP
            pack_block(table, block * size, panel + place * record_size)

    return pack


@compiled
def put_tile(whole, tokens, row, last, y, y_stride, accumulate):
    """Write (or add) the whole sums of a tile's tokens, rows from `row` to `last`."""
    for t in range(tokens):
        put_rows(y + t * y_stride + 4 * row, load(whole + 64 * t), last - row, accumulate)


def make_panel(layout: Layout) -> Any:
    """The function `Product.panel` of a layout.

    What is packed of a chain of sixteen rows, a few KB, meets all tokens before the next does.
    """
    pack, multiply_tile = make_pack(layout), make_tile(layout)
    size, record_size = layout.size, panel_bytes(layout)

    @op(nothing)
    def begin_tiles(b: ir.IRBuilder) -> None:
        if MACHINE.simd == "amx":
            use_tiles(b, MatrixTile(layout).shapes)

    @compiled
    def panel_product(base, cols, first, last, n, records, panel, sums, y, y_stride, accumulate):
        keep_apart()
        n_blocks, n_tiles, row_bytes = cols // 32, units(n, TOKENS), cols // 32 * size
        panel_stride, table = n_blocks * record_size, sums  # nothing is summed yet
        for row in range(first, last, GROUP):
            pack(base, row_bytes, row, last, n_blocks, table, panel + (row - first) // GROUP * panel_stride)
        begin_tiles()
        parts = units(last - first, GROUP) * GROUP * n_tiles
        for row in range(first, last, GROUP):
            for step in range(GROUP):
                count, start = lane_count(CHAINS[step], n_blocks), lane_start(CHAINS[step], n_blocks)
                codes = panel + (row - first) // GROUP * panel_stride + start * record_size
                part = ((row - first) // GROUP * GROUP + step) * n_tiles
                for tile in range(n_tiles):
                    fetch_part(base + last * row_bytes, (last - first) * row_bytes, part + tile, parts)
                    tokens = records + (start * n_tiles + tile * count) * TOKENS * TOKEN_BYTES
                    multiply_tile(codes, tokens, count, sums + tile * TREE, COMPLETED[step])
            for tile in range(n_tiles):
                whole, t = sums + tile * TREE + (LEVELS - 1) * LEVEL, tile * TOKENS
                put_tile(whole, min(TOKENS, n - t), row, last, y + t * y_stride, y_stride, accumulate)
        end_tiles()
        return 0

    return panel_product
