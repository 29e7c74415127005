"""Quantized rows times a few vectors: sixteen rows side by side, whose blocks are unpacked once for them all.

What is unpacked of a block stays in registers while the vectors come by. So the sixteen chains in which the floats of
a row are added (see `blocks`) are kept in memory, for each vector: that is 1 KB, which stays in the first-level cache.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ggmlpy.machine.jit import cgutils
from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    F32,
    F32X16,
    I32,
    I32X16,
    I64,
    address,
    at,
    constant,
    dot_bytes,
    f32x16,
    integer,
    keep_apart,
    load_as,
    mad,
    nothing,
    op,
    spread,
    store_as,
    zero_bytes,
)

from .blocks import times_zero
from .layouts import EVEN, FIRST, GROUP, GROUP_BYTES, LEAST_ZERO, ODD, SCALE, SECOND, Layout
from .matrix_functions import put
from .panel_products import put_rows
from .row_products import make_row_dots
from .side_by_side import make_fetch, scales_of_rows, unsigned_codes

__all__ = ["make_few", "sum_chains"]


def make_add_block(layout: Layout) -> Any:
    """The operation that adds a block of sixteen rows, times that of some vectors, to their chains.

    Args of the operation:
        p, apart: address of the first row's block; the next row is `apart` on.
        codes, lane: of the first vector's block, the codes in FIRST or EVEN, and the numbers before SCALE; those of
            the next vector are `stride` on.
        n: how many vectors.
        sums: address of the chain, f32 [n][16 rows].
    """
    at_first, at_second = (EVEN, ODD) if layout.interleaved else (FIRST, SECOND)
    words = [place + 4 * j for place in (at_first, at_second) for j in range(4)]  # of the vector
    in_part = len(words) // layout.parts

    @op(nothing, address, integer, address, address, integer, integer, address)
    def add_block(b: ir.IRBuilder, p: Any, apart: Any, codes: Any, lane: Any, stride: Any, n: Any, sums: Any) -> None:
        rows = [b.add(p, b.mul(apart, I64(row))) for row in range(GROUP)]
        weights = unsigned_codes(b, rows, layout)
        scales = [scales_of_rows(b, rows, layout, part) for part in range(layout.parts)]

        def dots_of(part: int, vector: Any, start: Any) -> Any:
            dots = constant(0, I32X16)
            if layout.zero:
                dots = spread(b, times_zero(b, load_as(b, start, I32), layout.zero, LEAST_ZERO), I32X16)
            for k in range(in_part * part, in_part * (part + 1)):
                four = spread(b, load_as(b, at(b, vector, words[k]), I32), I32X16)
                dots = dot_bytes(b, dots, weights[k], four, layout.small)
            return dots

        with cgutils.for_range(b, n) as loop:
            shift = b.mul(loop.index, stride)
            vector, numbers = b.add(codes, shift), b.add(lane, shift)
            place = b.add(sums, b.mul(loop.index, I64(64)))
            da, acc = spread(b, load_as(b, at(b, numbers, SCALE), F32), F32X16), load_as(b, place, F32X16)
            for part, ((d, *minimum), (start, offset)) in enumerate(zip(scales, layout.number_places, strict=True)):
                dots = dots_of(part, vector, at(b, numbers, start))
                acc = mad.emit(b, b.sitofp(dots, F32X16), b.fmul(d, da), acc)
                for m in minimum:
                    acc = mad.emit(b, m, spread(b, load_as(b, at(b, numbers, offset), F32), F32X16), acc)
            store_as(b, place, acc)

    return add_block


@op(f32x16, address, integer)
def sum_chains(b: ir.IRBuilder, a: Any, apart: Any) -> Any:
    """The sum of sixteen chains, f32 [16 rows] each, in the order in which `total` adds lanes."""
    x = [load_as(b, b.add(a, b.mul(apart, I64(lane))), F32X16) for lane in range(GROUP)]
    for half in (8, 4, 2, 1):
        x = [b.fadd(x[i], x[i + half]) for i in range(half)]
    return x[0]


def make_few(layout: Layout) -> Any:
    """The function `Product.few` of a layout."""
    add_block, (row_dot, _) = make_add_block(layout), make_row_dots(layout)
    size, group_size, fetch_next = layout.size, GROUP * layout.size, make_fetch(GROUP * layout.size)

    @compiled
    def sixteen_rows(p, row_bytes, n_blocks, n, records, stride, sums):
        """sums, f32 [16 lanes][n][16 rows], of sixteen rows times n vectors."""
        zero_bytes(sums, 64 * GROUP * n)
        for block in range(n_blocks):
            fetch_next(p + GROUP * row_bytes + block * group_size)
            i, record = block % GROUP, records + block // GROUP * GROUP_BYTES
            lane = 4 * (i % 4) + i // 4
            place = sums + 64 * n * lane
            add_block(p + block * size, row_bytes, record + 16 * i, record + 4 * lane, stride, n, place)

    @compiled
    def few(base, cols, first, last, n, records, panel, sums, y, y_stride, accumulate):
        keep_apart()
        n_blocks, scratch = cols // 32, sums + 64 * GROUP * n
        row_bytes, stride = n_blocks * size, (n_blocks + GROUP - 1) // GROUP * GROUP_BYTES
        whole = first + (last - first) // GROUP * GROUP
        for row in range(first, whole, GROUP):
            sixteen_rows(base + row * row_bytes, row_bytes, n_blocks, n, records, stride, sums)
            for t in range(n):
                put_rows(y + t * y_stride + 4 * row, sum_chains(sums + 64 * t, 64 * n), GROUP, accumulate)
        if n_blocks % 4:
            zero_bytes(scratch, group_size)
        for row in range(whole, last):
            for t in range(n):
                value = row_dot(base + row * row_bytes, records + t * stride, n_blocks, scratch)
                put(y + t * y_stride + 4 * row, value, accumulate)
        return 0

    return few
