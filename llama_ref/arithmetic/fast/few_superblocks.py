"""Rows of k-quants times a few vectors: sixteen rows side by side, unpacked once for them all.

Sixteen words of codes, which are those of whole runs, fill half of the registers while the vectors come by; the whole
numbers of a block (see `superblocks`) are added up in memory for each vector, and are scaled at the end of the block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

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
    integer,
    keep_apart,
    load,
    load_as,
    mad,
    nothing,
    op,
    spread,
    store_as,
    sub,
    zero_bytes,
)

from .blocks import times_zero
from .layouts import A_BYTES, A_CODES, A_RUN_STARTS, A_SCALE, A_SUMS16, A_SUMS32, GROUP, START_ZERO
from .panel_products import put_rows
from .side_by_side import fetch
from .superblocks import Superblock

__all__ = ["make_few"]


class FewVectors:
    """One block of sixteen rows times that of some vectors.

    Args:
        vectors, stride, n: address of the first vector's block; the next vector is `stride` on; how many.
        sums: address of i32 [n][16 rows], then f32 [d, dmin][n][16 rows].
    """

    def __init__(self, b: ir.IRBuilder, block: Superblock, vectors: Any, stride: Any, n: Any, sums: Any) -> None:
        self.b, self.block, self.vectors, self.stride, self.n, self.sums = b, block, vectors, stride, n, sums

    def each(self, do: Callable[[Any, Any, Any], None]) -> None:
        """do(number, its place in what is summed, address of its block) for each vector."""
        b = self.b
        with cgutils.for_range(b, self.n) as loop:
            place = b.add(self.sums, b.mul(loop.index, I64(64)))
            do(loop.index, place, b.add(self.vectors, b.mul(loop.index, self.stride)))

    def add(self, rows: Sequence[Any], later: Any) -> None:
        """All of the block. rows: 16 addresses; later: of as many bytes, which are asked for meanwhile.

        They are asked for bit by bit: more lines at once than a processor can wait for would stop it.
        """
        block, size = self.block, GROUP * self.block.record.type_size
        scales, mins = block.scales_of_rows(self.b, rows)
        n_steps = block.record.blck_size // 64
        for step, words in enumerate(block.words_of_rows(self.b, rows)):
            fetch(self.b, later, range(size * step // n_steps, size * (step + 1) // n_steps))
            self._add_runs(words, scales, begin=step == 0)
        self._scale(rows, mins)

    def _add_runs(self, words: dict[int, Any], scales: Sequence[Any], begin: bool) -> None:
        """The whole numbers += some runs."""
        b, size = self.b, self.block.record.run
        runs = sorted({value // size for value in words})

        def add_to(_: Any, place: Any, vector: Any) -> None:
            whole = constant(0, I32X16) if begin else load_as(b, place, I32X16)
            for run in runs:
                dots = self._start(run, vector)
                for value in range(run * size, (run + 1) * size, 4):
                    four = spread(b, load_as(b, at(b, vector, A_CODES + value), I32), I32X16)
                    dots = dot_bytes(b, dots, words[value], four, self.block.small)
                whole = b.add(whole, b.mul(dots, scales[run]))
            store_as(b, place, whole)

        self.each(add_to)

    def _start(self, run: int, vector: Any) -> Any:
        """What the sum of a run begins with: minus the zero times its codes of the vector."""
        b, n = self.b, self.block.record.run // 16
        if not self.block.zero:
            return constant(0, I32X16)
        sums = [load_as(b, at(b, vector, A_RUN_STARTS + 4 * (n * run + i)), I32) for i in range(n)]
        return spread(b, times_zero(b, functools.reduce(b.add, sums), self.block.zero, START_ZERO), I32X16)

    def _scale(self, rows: Sequence[Any], mins: Sequence[Any]) -> None:
        """The floats += what the block adds."""
        b, record = self.b, self.block.record
        factors = self.block.factors_of_rows(b, rows)
        begin, each = A_SUMS16 if record.run == 16 else A_SUMS32, b.mul(self.n, I64(64))

        def scale(_: Any, place: Any, vector: Any) -> None:
            whole = [load_as(b, place, I32X16)]
            if mins:
                total = constant(0, I32X16)
                for pair, words in enumerate(mins):
                    two = spread(b, load_as(b, at(b, vector, begin + 4 * pair), I32), I32X16)
                    total = dot_words(b, total, b.bitcast(words, I16X32), b.bitcast(two, I16X32))
                whole.append(total)
            da = spread(b, load_as(b, at(b, vector, A_SCALE), F32), F32X16)
            for x, factor in zip(whole, factors, strict=True):
                place = b.add(place, each)
                acc = mad.emit(b, b.sitofp(x, F32X16), b.fmul(factor, da), load_as(b, place, F32X16))
                store_as(b, place, acc)

        self.each(scale)


def make_few(block: Superblock, rows_product: Any) -> Any:
    """The function `Product.few`. rows_product: `Product.rows`."""
    size, values = block.record.type_size, block.record.blck_size

    @op(nothing, address, integer, address, address, integer, integer, address)
    def add_block(
        b: ir.IRBuilder, p: Any, apart: Any, later: Any, vectors: Any, stride: Any, n: Any, sums: Any
    ) -> None:
        rows = [b.add(p, b.mul(apart, I64(row))) for row in range(GROUP)]
        FewVectors(b, block, vectors, stride, n, sums).add(rows, later)

    @compiled
    def few(base, cols, first, last, n, x, panel, sums, y, y_stride, accumulate):
        keep_apart()
        n_blocks, each = cols // values, 64 * n
        row_bytes, stride, whole = n_blocks * size, n_blocks * A_BYTES, first + (last - first) // GROUP * GROUP
        for row in range(first, whole, GROUP):
            p = base + row * row_bytes
            zero_bytes(sums, 3 * each)
            for i in range(n_blocks):
                later = p + GROUP * (row_bytes + i * size)
                add_block(p + i * size, row_bytes, later, x + i * A_BYTES, stride, n, sums)
            for t in range(n):
                place = sums + each + 64 * t
                put_rows(y + t * y_stride + 4 * row, sub(load(place), load(place + each)), GROUP, accumulate)
        for t in range(n):
            rows_product(base, cols, x + t * stride, sums, whole, 0, 0, last, y + t * y_stride, accumulate, 0, 0)
        return 0

    return few
