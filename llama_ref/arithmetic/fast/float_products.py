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
    I64,
    address,
    at,
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
    zero_bytes,
    zeros,
)

from .layouts import FLOAT_COLUMNS, FLOAT_ROWS, FLOAT_TILES, FLOAT_TOKENS
from .matrix_functions import Product, put, put_four

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


# Many vectors: the sums of a few rows times a few tokens stay in registers.


def make_tile(load_values: Any, size: int, tokens: int) -> Any:
    """The operation that adds columns of FLOAT_ROWS rows times as many of `tokens` tokens.

    Args of the operation:
        w, w_stride, rows: address of the first row; the next is `w_stride` on; how many there are, the last of which
            stands for those that are missing.
        x, x_stride, n: the same of the vectors.
        columns: how many, a multiple of sixteen.
        sums: address of f32 [FLOAT_ROWS][tokens][16].
    """

    @op(nothing, address, integer, integer, address, integer, integer, integer, address)
    def add_tile(
        b: ir.IRBuilder, w: Any, w_stride: Any, rows: Any, x: Any, x_stride: Any, n: Any, columns: Any, sums: Any
    ) -> None:
        def places(first: Any, stride: Any, count: Any, most: int) -> list[Any]:
            last = b.sub(count, I64(1))
            numbers = [b.select(b.icmp_signed("<", I64(i), count), I64(i), last) for i in range(most)]
            return [b.add(first, b.mul(stride, number)) for number in numbers]

        at_rows, at_vectors = places(w, w_stride, rows, FLOAT_ROWS), places(x, x_stride, n, tokens)
        slots = [cgutils.alloca_once(b, F32X16) for _ in range(FLOAT_ROWS * tokens)]
        for i, slot in enumerate(slots):
            b.store(load_as(b, at(b, sums, 64 * i), F32X16), slot)
        with cgutils.for_range(b, b.udiv(columns, I64(16))) as loop:
            vectors = [load_as(b, b.add(a, b.mul(loop.index, I64(64))), F32X16) for a in at_vectors]
            for row, a in enumerate(at_rows):
                values = load_values.emit(b, b.add(a, b.mul(loop.index, I64(16 * size))))
                for slot, vector in zip(slots[tokens * row :], vectors):
                    b.store(mad.emit(b, values, vector, b.load(slot)), slot)
        for i, slot in enumerate(slots):
            store_as(b, at(b, sums, 64 * i), b.load(slot))

    return add_tile


def make_tokens(load_values: Any, size: int, tokens: int) -> Any:
    """The functions for all rows of a unit: add some columns, and write (or add) what they give."""
    add_tile = make_tile(load_values, size, tokens)

    @compiled
    def add_columns(w, w_stride, n_rows, x, x_stride, n, columns, sums):
        for row in range(0, n_rows, FLOAT_ROWS):
            rows, place = min(FLOAT_ROWS, n_rows - row), sums + 64 * tokens * row
            add_tile(w + row * w_stride, w_stride, rows, x, x_stride, n, columns, place)

    @compiled
    def put_tokens(sums, n_rows, n, y, y_stride, accumulate):
        for row in range(n_rows):
            for t in range(n):
                value = total(load(sums + 64 * (tokens * row + t)))
                put(y + t * y_stride + 4 * row, value, accumulate)

    return add_columns, put_tokens


def make_panel(load_values: Any, size: int) -> Any:
    """The function `Product.panel`."""
    add_columns, put_tokens = make_tokens(load_values, size, FLOAT_TOKENS)

    @compiled
    def panel(base, cols, first, last, n, vectors, panel, sums, y, y_stride, accumulate):
        keep_apart()
        w_stride, x_stride, n_rows = cols * size, 4 * cols, last - first
        tile_bytes = 64 * FLOAT_TOKENS * (n_rows + FLOAT_ROWS)
        for begin in range(0, n, FLOAT_TOKENS * FLOAT_TILES):
            tokens = min(FLOAT_TOKENS * FLOAT_TILES, n - begin)
            zero_bytes(sums, FLOAT_TILES * tile_bytes)
            for start in range(0, cols, FLOAT_COLUMNS):
                w, columns = base + first * w_stride + start * size, min(FLOAT_COLUMNS, cols - start)
                for t in range(0, tokens, FLOAT_TOKENS):
                    x, place = vectors + (begin + t) * x_stride + 4 * start, sums + t // FLOAT_TOKENS * tile_bytes
                    count = min(FLOAT_TOKENS, tokens - t)
                    add_columns(w, w_stride, n_rows, x, x_stride, count, columns, place)
            for t in range(0, tokens, FLOAT_TOKENS):
                place, target = sums + t // FLOAT_TOKENS * tile_bytes, y + (begin + t) * y_stride + 4 * first
                put_tokens(place, n_rows, min(FLOAT_TOKENS, tokens - t), target, y_stride, accumulate)
        return 0

    return panel
