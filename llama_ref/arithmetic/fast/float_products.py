"""Rows of f32, f16 and bf16, times one vector and times many, which stay f32.

A lane adds every sixteenth column, and the lanes are added at the end; the same in both products.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ggmlpy.machine.jit import cgutils
from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    F32X16,
    I8,
    I64,
    address,
    at,
    f32x16,
    integer,
    keep_apart,
    load,
    load_as,
    mad,
    make_fetch_ahead,
    nothing,
    op,
    store_as,
    total,
    totals_in_lanes,
    vector,
    zero_bytes,
    zeros,
)

from .layouts import FLOAT_COLUMNS, FLOAT_ROWS, FLOAT_TAIL, FLOAT_TILES, FLOAT_TOKENS, GROUP
from .matrix_functions import Product, put, put_four
from .panel_products import put_rows
from .side_by_side import make_fetch
from .work import units

__all__ = ["make_float_product"]


def make_float_product(load_values: Any, size: int) -> Product:
    """The functions for values of `size` bytes, which `load_values` reads sixteen at a time."""
    row_dot, four_dots = make_row_dots(load_values, size)
    panel = make_panel(load_values, size)
    return Product(make_rows(row_dot, four_dots, size), panel, few=panel)


# One vector.


def make_row_dots(load_values: Any, size: int) -> Any:
    """The functions that multiply one row, or four, with a vector."""

    fetch_line = make_fetch_ahead(64)

    @compiled
    def row_dot(p, x, cols):
        acc = zeros()
        for _ in range(cols // 16):
            acc = mad(load_values(p), load(x), acc)
            p, x = p + 16 * size, x + 64
        return total(acc)

    @compiled
    def four_dots(p0, apart, x, cols, far, near):
        """The same for four rows, `apart` bytes from one to the next."""
        p1, p2, p3 = p0 + apart, p0 + 2 * apart, p0 + 3 * apart
        a0, a1, a2, a3 = zeros(), zeros(), zeros(), zeros()
        for start in range(0, cols, 64 // size):
            fetch_line(p0, far, near), fetch_line(p1, far, near)
            fetch_line(p2, far, near), fetch_line(p3, far, near)
            for _ in range(min(cols - start, 64 // size) // 16):
                v = load(x)
                a0, a1 = mad(load_values(p0), v, a0), mad(load_values(p1), v, a1)
                a2, a3 = mad(load_values(p2), v, a2), mad(load_values(p3), v, a3)
                p0, p1, p2, p3, x = p0 + 16 * size, p1 + 16 * size, p2 + 16 * size, p3 + 16 * size, x + 64
        return total(a0), total(a1), total(a2), total(a3)

    return row_dot, four_dots


def make_rows(row_dot: Any, four_dots: Any, size: int) -> Any:
    """The function `Product.rows`."""

    @compiled
    def rows(base, cols, vector, scratch, first, quarter, apart, last, y, accumulate, far, near):
        keep_apart()
        row_bytes = cols * size
        for row in range(first, first + quarter):
            dots = four_dots(base + row * row_bytes, apart * row_bytes, vector, cols, far, near)
            put_four(y + 4 * row, 4 * apart, dots, accumulate)
        for row in range(first + 4 * quarter, last):
            put(y + 4 * row, row_dot(base + row * row_bytes, vector, cols), accumulate)
        return 0

    return rows


# Many vectors. They lie in tiles of FLOAT_TOKENS, the last of as many as are left: [tile][column / 16][tokens][16].
# Sixteen rows are packed in the same way.


def make_pack(size: int) -> Any:
    """The function that packs some columns of sixteen rows: [GROUP / FLOAT_ROWS][columns / 16][FLOAT_ROWS][16]."""

    @compiled
    def pack(w, w_stride, rows, columns, panel):
        """Address of the first row, distance of the next, how many there are: the last stands for what is missing."""
        keep_apart()
        for row in range(GROUP):
            place = panel + (row // FLOAT_ROWS * columns * FLOAT_ROWS + row % FLOAT_ROWS * 16) * size
            source = w + min(row, rows - 1) * w_stride
            for column in range(0, columns, 16):
                copy_values(place + column * FLOAT_ROWS * size, source + column * size)

    @op(nothing, address, address)
    def copy_values(b: ir.IRBuilder, target: Any, source: Any) -> None:
        store_as(b, target, load_as(b, source, vector(I8, 16 * size)))

    return pack


def make_tile(load_values: Any, size: int, tokens: int) -> Any:
    """The operation that adds columns of FLOAT_ROWS packed rows times as many of `tokens` tokens of a tile.

    Args of the operation:
        w, x: addresses of the rows and of the first token.
        step, apart: how far the next sixteen columns of a token are, and the next token.
        columns: how many, a multiple of sixteen.
        sums: address of f32 [FLOAT_ROWS][FLOAT_TOKENS][16], at the first token.
    """
    places = [64 * (FLOAT_TOKENS * row + t) for row in range(FLOAT_ROWS) for t in range(tokens)]

    @op(nothing, address, address, integer, integer, integer, address)
    def add_tile(b: ir.IRBuilder, w: Any, x: Any, step: Any, apart: Any, columns: Any, sums: Any) -> None:
        slots = [cgutils.alloca_once(b, F32X16) for _ in places]
        for place, slot in zip(places, slots, strict=True):
            b.store(load_as(b, at(b, sums, place), F32X16), slot)
        with cgutils.for_range(b, b.udiv(columns, I64(16))) as loop:
            rows = b.add(w, b.mul(loop.index, I64(16 * size * FLOAT_ROWS)))
            here = b.add(x, b.mul(loop.index, step))
            vectors = [load_as(b, b.add(here, b.mul(apart, I64(t))), F32X16) for t in range(tokens)]
            for row in range(FLOAT_ROWS):
                values = load_values.emit(b, at(b, rows, 16 * size * row))
                for slot, one in zip(slots[tokens * row :], vectors):
                    b.store(mad.emit(b, values, one, b.load(slot)), slot)
        for place, slot in zip(places, slots, strict=True):
            store_as(b, at(b, sums, place), b.load(slot))

    return add_tile


@op(f32x16, address, integer)
def totals_of_rows(b: ir.IRBuilder, sums: Any, stride: Any) -> Any:
    """`total` of each of sixteen vectors, `stride` bytes apart."""
    return totals_in_lanes(b, [load_as(b, b.add(sums, b.mul(stride, I64(row))), F32X16) for row in range(GROUP)])


GROUP_SUMS = 64 * GROUP * FLOAT_TOKENS  # bytes, of sixteen rows and a tile


@compiled
def put_tile(sums, tokens, rows, y, y_stride, accumulate):
    """Write (or add) what a tile's sums of `rows` rows give."""
    for t in range(tokens):
        put_rows(y + t * y_stride, totals_of_rows(sums + 64 * t, 64 * FLOAT_TOKENS), rows, accumulate)


def make_panel(load_values: Any, size: int) -> Any:
    """The function `Product.panel`."""
    pack = make_pack(size)
    fetch_columns = make_fetch(FLOAT_COLUMNS * size)
    add_tile, add_tail = (make_tile(load_values, size, tokens) for tokens in (FLOAT_TOKENS, FLOAT_TAIL))

    @compiled
    def multiply_tile(panel, x, columns, tokens, sums):
        """Some columns of sixteen packed rows, times the tokens of a tile."""
        for row in range(0, GROUP, FLOAT_ROWS):
            w, place = panel + row * columns * size, sums + 64 * FLOAT_TOKENS * row
            if tokens == FLOAT_TOKENS:
                add_tile(w, x, 64 * FLOAT_TOKENS, 64, columns, place)
            else:
                for t in range(0, tokens, FLOAT_TAIL):
                    apart = 64 if t + FLOAT_TAIL <= tokens else 0  # one stands for those that are missing
                    add_tail(w, x + 64 * t, 64 * tokens, apart, columns, place + 64 * t)

    @compiled
    def panel_product(base, cols, first, last, n, vectors, panel, sums, y, y_stride, accumulate):
        """Some columns of sixteen rows, which the first-level cache keeps, meet some tokens before the next do.

        They lie behind the sums, so that a single vector, for which there is no panel, can be one of a few.
        """
        keep_apart()
        w_stride, n_groups, most = cols * size, units(last - first, GROUP), FLOAT_TOKENS * FLOAT_TILES
        for begin in range(0, n, most):
            end, n_tiles = min(begin + most, n), units(min(most, n - begin), FLOAT_TOKENS)
            packed = sums + n_groups * n_tiles * GROUP_SUMS
            zero_bytes(sums, n_groups * n_tiles * GROUP_SUMS)
            for start in range(0, cols, FLOAT_COLUMNS):
                columns = min(FLOAT_COLUMNS, cols - start)
                for i in range(n_groups):
                    row, place = first + GROUP * i, sums + i * n_tiles * GROUP_SUMS
                    w = base + row * w_stride + start * size
                    pack(w, w_stride, last - row, columns, packed)
                    ahead = w + GROUP * w_stride
                    if i == n_groups - 1:
                        ahead = base + first * w_stride + (start + columns) * size
                    for t in range(begin, end, FLOAT_TOKENS):
                        fetch_columns(ahead), fetch_columns(ahead + w_stride)
                        ahead += 2 * w_stride
                        tokens = min(FLOAT_TOKENS, end - t)
                        multiply_tile(packed, vectors + 4 * (t * cols + start * tokens), columns, tokens, place)
                        place += GROUP_SUMS
            for i in range(n_groups):
                row, place = first + GROUP * i, sums + i * n_tiles * GROUP_SUMS
                for t in range(begin, end, FLOAT_TOKENS):
                    target = y + t * y_stride + 4 * row
                    put_tile(place, min(FLOAT_TOKENS, end - t), last - row, target, y_stride, accumulate)
                    place += GROUP_SUMS
        return 0

    return panel_product
