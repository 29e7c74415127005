"""Quantized rows times one vector, straight from their blocks."""

from __future__ import annotations

from typing import Any

from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    copy_bytes,
    keep_apart,
    make_fetch_ahead,
    total,
    zero_bytes,
    zeros,
)

from .blocks import make_group_dot
from .layouts import GROUP, GROUP_BYTES, Layout
from .matrix_functions import put, put_four

__all__ = ["make_row_dots", "make_rows"]


def make_add_rest(layout: Layout) -> Any:
    """The function that adds the last blocks of a row, fewer than a group."""
    one_quad, two_quads, three_quads, group_dot = (make_group_dot(layout, quads) for quads in (1, 2, 3, 4))
    size = layout.size

    @compiled
    def add_rest(acc, p, record, left, scratch):
        keep_apart()
        if left % 4:  # a model whose rows are not a multiple of 128: read the rest from a copy with zeros behind it
            copy_bytes(scratch, p, left * size)
            return group_dot(acc, scratch, record)
        if left == 4:
            return one_quad(acc, p, record)
        if left == 8:
            return two_quads(acc, p, record)
        if left == 12:
            return three_quads(acc, p, record)
        return acc

    return add_rest


def make_row_dots(layout: Layout) -> Any:
    """The functions that multiply one row, or four, with a vector."""
    group_dot, add_rest = make_group_dot(layout), make_add_rest(layout)
    group_size = GROUP * layout.size
    fetch_group = make_fetch_ahead(group_size)

    @compiled
    def row_dot(p, record, n_blocks, scratch):
        """One row, n_blocks blocks at p, times a quantized vector."""
        acc = zeros()
        for _ in range(n_blocks // GROUP):
            acc = group_dot(acc, p, record)
            p += group_size
            record += GROUP_BYTES
        return total(add_rest(acc, p, record, n_blocks % GROUP, scratch))

    @compiled
    def four_dots(p0, apart, record, n_blocks, scratch, far, near):
        """The same for four rows, `apart` bytes from one to the next."""
        p1, p2, p3 = p0 + apart, p0 + 2 * apart, p0 + 3 * apart
        a0, a1, a2, a3 = zeros(), zeros(), zeros(), zeros()
        for _ in range(n_blocks // GROUP):
            fetch_group(p0, far, near), fetch_group(p1, far, near)
            fetch_group(p2, far, near), fetch_group(p3, far, near)
            a0, a1 = group_dot(a0, p0, record), group_dot(a1, p1, record)
            a2, a3 = group_dot(a2, p2, record), group_dot(a3, p3, record)
            p0, p1, p2, p3 = p0 + group_size, p1 + group_size, p2 + group_size, p3 + group_size
            record += GROUP_BYTES
        left = n_blocks % GROUP
        a0, a1 = add_rest(a0, p0, record, left, scratch), add_rest(a1, p1, record, left, scratch)
        a2, a3 = add_rest(a2, p2, record, left, scratch), add_rest(a3, p3, record, left, scratch)
        return total(a0), total(a1), total(a2), total(a3)

    return row_dot, four_dots


def make_rows(layout: Layout) -> Any:
    """The function `Product.rows` of a layout."""
    row_dot, four_dots = make_row_dots(layout)
    size, group_size = layout.size, GROUP * layout.size

    @compiled
    def rows(base, cols, record, scratch, first, quarter, apart, last, y, accumulate, far, near):
        keep_apart()
        n_blocks = cols // 32
        row_bytes = n_blocks * size
        if n_blocks % 4:
            zero_bytes(scratch, group_size)
        for row in range(first, first + quarter):
            p = base + row * row_bytes
            dots = four_dots(p, apart * row_bytes, record, n_blocks, scratch, far, near)
            put_four(y + 4 * row, 4 * apart, dots, accumulate)
        for row in range(first + 4 * quarter, last):
            put(y + 4 * row, row_dot(base + row * row_bytes, record, n_blocks, scratch), accumulate)
        return 0

    return rows
