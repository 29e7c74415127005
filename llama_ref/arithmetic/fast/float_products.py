"""Rows of f32, f16 and bf16, times one vector and times many, which stay f32.

Four sums, of columns 0…15, 16…31, 32…47, 48…63 of every 64, are added at the end; the same in both products.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    add,
    address,
    at,
    f32x16,
    fetch_ahead,
    keep_apart,
    load,
    mad,
    nothing,
    op,
    store_as,
    total,
    zero_bytes,
    zeros,
)

from .matrix_functions import Product, put, put_four

__all__ = ["make_float_product"]

FLOAT_COLUMNS, FLOAT_TOKENS = 1024, 32  # what stays in the first and in the second-level cache


def make_float_product(load_values: Any, size: int) -> Product:
    """The functions for values of `size` bytes, which `load_values` reads sixteen at a time."""
    row_dot, four_dots = make_row_dots(load_values, size)
    panel = make_panel(row_dot, load_values, size)
    return Product(make_rows(row_dot, four_dots, size), panel, few=panel)


# One vector.


def make_sums(load_values: Any, size: int) -> Any:
    """The functions that add 64 columns to the four sums, and that end them."""

    @op(nothing, address)
    def fetch_values(b: ir.IRBuilder, a: Any) -> None:
        fetch_ahead(b, a, 64 * size)

    @compiled
    def add_64(sums, p, x):
        """sums, f32 [4][16], += 64 columns at p times those of x, f32 [4][16]."""
        fetch_values(p)
        s0, s1 = mad(load_values(p), x[0], sums[0]), mad(load_values(p + 16 * size), x[1], sums[1])
        s2, s3 = mad(load_values(p + 32 * size), x[2], sums[2]), mad(load_values(p + 48 * size), x[3], sums[3])
        return s0, s1, s2, s3

    @compiled
    def sum_up(sums, p, x, left):
        """The sum of all, after the last columns: 0, 16, 32 or 48."""
        s0, s1, s2, s3 = sums
        if left >= 16:
            s0 = mad(load_values(p), load(x), s0)
        if left >= 32:
            s1 = mad(load_values(p + 16 * size), load(x + 64), s1)
        if left >= 48:
            s2 = mad(load_values(p + 32 * size), load(x + 128), s2)
        return total(add(add(s0, s1), add(s2, s3)))

    return add_64, sum_up


def make_row_dots(load_values: Any, size: int) -> Any:
    """The functions that multiply one row, or four, with a vector."""
    add_64, sum_up = make_sums(load_values, size)

    @compiled
    def row_dot(p, x, cols):
        sums, left = (zeros(), zeros(), zeros(), zeros()), cols % 64
        for _ in range(cols // 64):
            sums = add_64(sums, p, (load(x), load(x + 64), load(x + 128), load(x + 192)))
            p, x = p + 64 * size, x + 256
        return sum_up(sums, p, x, left)

    @compiled
    def four_dots(p0, apart, x, cols):
        """The same for four rows, `apart` bytes from one to the next."""
        p1, p2, p3 = p0 + apart, p0 + 2 * apart, p0 + 3 * apart
        sums, left = (zeros(), zeros(), zeros(), zeros()), cols % 64
        s0, s1, s2, s3 = sums, sums, sums, sums
        for _ in range(cols // 64):
            v = load(x), load(x + 64), load(x + 128), load(x + 192)
            s0, s1, s2, s3 = add_64(s0, p0, v), add_64(s1, p1, v), add_64(s2, p2, v), add_64(s3, p3, v)
            p0, p1, p2, p3, x = p0 + 64 * size, p1 + 64 * size, p2 + 64 * size, p3 + 64 * size, x + 256
        return sum_up(s0, p0, x, left), sum_up(s1, p1, x, left), sum_up(s2, p2, x, left), sum_up(s3, p3, x, left)

    return row_dot, four_dots


def make_rows(row_dot: Any, four_dots: Any, size: int) -> Any:
    """The function `Product.rows`."""

    @compiled
    def rows(base, cols, vector, scratch, first, quarter, apart, last, y, accumulate):
        keep_apart()
        row_bytes = cols * size
        for row in range(first, first + quarter):
            dots = four_dots(base + row * row_bytes, apart * row_bytes, vector, cols)
            put_four(y + 4 * row, 4 * apart, dots, accumulate)
        for row in range(first + 4 * quarter, last):
            put(y + 4 * row, row_dot(base + row * row_bytes, vector, cols), accumulate)
        return 0

    return rows


# Many vectors.


@op(nothing, address, *[f32x16] * 16)
def store_sixteen(b: ir.IRBuilder, a: Any, *values: Any) -> None:
    for i, value in enumerate(values):
        store_as(b, at(b, a, 64 * i), value)


def make_four_by_four(load_values: Any, size: int) -> Any:
    """The innermost loop: four rows times four tokens."""

    @compiled
    def four_by_four(w, w_stride, x, x_stride, start, stop, sums):
        """sums f32 [4 rows][4 tokens][16] += the columns from `start` to `stop`, sixteen of every 64."""
        a00, a01, a02, a03 = load(sums), load(sums + 64), load(sums + 128), load(sums + 192)
        a10, a11, a12, a13 = load(sums + 256), load(sums + 320), load(sums + 384), load(sums + 448)
        a20, a21, a22, a23 = load(sums + 512), load(sums + 576), load(sums + 640), load(sums + 704)
        a30, a31, a32, a33 = load(sums + 768), load(sums + 832), load(sums + 896), load(sums + 960)
        w1, w2, w3 = w + w_stride, w + 2 * w_stride, w + 3 * w_stride
        x1, x2, x3 = x + x_stride, x + 2 * x_stride, x + 3 * x_stride
        for c in range(start, stop, 64):
            v0, v1, v2, v3 = load(x + 4 * c), load(x1 + 4 * c), load(x2 + 4 * c), load(x3 + 4 * c)
            u = load_values(w + size * c)
            a00, a01, a02, a03 = mad(u, v0, a00), mad(u, v1, a01), mad(u, v2, a02), mad(u, v3, a03)
            u = load_values(w1 + size * c)
            a10, a11, a12, a13 = mad(u, v0, a10), mad(u, v1, a11), mad(u, v2, a12), mad(u, v3, a13)
            u = load_values(w2 + size * c)
            a20, a21, a22, a23 = mad(u, v0, a20), mad(u, v1, a21), mad(u, v2, a22), mad(u, v3, a23)
            u = load_values(w3 + size * c)
            a30, a31, a32, a33 = mad(u, v0, a30), mad(u, v1, a31), mad(u, v2, a32), mad(u, v3, a33)
        store_sixteen(sums, a00, a01, a02, a03, a10, a11, a12, a13, a20, a21, a22, a23, a30, a31, a32, a33)

    return four_by_four


def make_four_rows(load_values: Any, size: int) -> Any:
    """Four rows times many tokens."""
    four_by_four = make_four_by_four(load_values, size)

    @compiled
    def four_rows(w, w_stride, cols, tokens, x, sums, y, y_stride, accumulate):
        """Four rows times all tokens (a multiple of four), FLOAT_COLUMNS at a time, which fit the first-level cache."""
        x_stride = 4 * cols
        zero_bytes(sums, 1024 * tokens)
        for start in range(0, cols, FLOAT_COLUMNS):
            stop = min(start + FLOAT_COLUMNS, cols)
            for t in range(0, tokens, 4):
                for i in range(4):
                    place = sums + 1024 * (t + i)
                    four_by_four(w, w_stride, x + t * x_stride, x_stride, start + 16 * i, stop, place)
        for t in range(tokens):
            for row in range(4):
                s = sums + 1024 * (t - t % 4) + 64 * (4 * row + t % 4)
                low, high = add(load(s), load(s + 1024)), add(load(s + 2048), load(s + 3072))
                put(y + t * y_stride + 4 * row, total(add(low, high)), accumulate)

    return four_rows


def make_panel(row_dot: Any, load_values: Any, size: int) -> Any:
    """The function `Product.panel`."""
    four_rows = make_four_rows(load_values, size)

    @compiled
    def panel(base, cols, first, last, n, vectors, panel, sums, y, y_stride, accumulate):
        w_stride, x_stride = cols * size, 4 * cols
        whole_rows, whole_tokens = first + (last - first) // 4 * 4, n // 4 * 4
        for t in range(0, whole_tokens, FLOAT_TOKENS):
            tokens, x = min(FLOAT_TOKENS, whole_tokens - t), vectors + t * x_stride
            for row in range(first, whole_rows, 4):
                place = y + t * y_stride + 4 * row
                four_rows(base + row * w_stride, w_stride, cols, tokens, x, sums, place, y_stride, accumulate)
        for row in range(first, last):
            for t in range(whole_tokens if row < whole_rows else 0, n):
                value = row_dot(base + row * w_stride, vectors + t * x_stride, cols)
                put(y + t * y_stride + 4 * row, value, accumulate)
        return 0

    return panel
