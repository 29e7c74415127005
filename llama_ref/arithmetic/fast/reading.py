"""How fast memory can be read and numbers multiplied: the yardsticks of ``bench`` and of `read_ahead`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from ggmlpy.machine.jit import cgutils
from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    F32,
    F32X16,
    I32,
    I32X16,
    I64,
    constant,
    dot_bytes,
    integer,
    largest,
    load,
    load_i64,
    mad,
    maximum,
    op,
    spread,
    zeros,
)

from .layouts import CHAINS_OF_PEAK, LONG_STREAMS, ROWS, SIDE_BY_SIDE
from .matrix_functions import PANEL_SIGNATURE, ROWS_SIGNATURE, call_by_address

__all__ = ["multiply_bytes", "multiply_floats", "multiply_units", "read_memory"]

multiply_rows, multiply_few = call_by_address(ROWS_SIGNATURE), call_by_address(PANEL_SIGNATURE)


@compiled
def read_memory(start, size):
    """Read `size` bytes and do next to nothing with them: how fast memory can be read by one thread.

    Eight streams side by side are faster than one, and need no requests in advance.
    """
    part = size // 8 // 64 * 64
    s0, s1, s2, s3 = zeros(), zeros(), zeros(), zeros()
    for p in range(start, start + part, 64):
        s0, s1 = maximum(load(p), s0), maximum(load(p + part), s1)
        s2, s3 = maximum(load(p + 2 * part), s2), maximum(load(p + 3 * part), s3)
        s0, s1 = maximum(load(p + 4 * part), s0), maximum(load(p + 5 * part), s1)
        s2, s3 = maximum(load(p + 6 * part), s2), maximum(load(p + 7 * part), s3)
    return np.int64(largest(maximum(maximum(s0, s1), maximum(s2, s3))) > np.float32(0))


@compiled
def multiply_units(job, nothing):
    """A matrix times one vector, unit by unit, as for a token. job: address of a `read_ahead.JOB`."""
    rows, few, base, cols = load_i64(job), load_i64(job + 8), load_i64(job + 16), load_i64(job + 24)
    x, scratch, y, n_units = load_i64(job + 32), load_i64(job + 40), load_i64(job + 48), load_i64(job + 56)
    far, near, shape = load_i64(job + 64), load_i64(job + 72), load_i64(job + 80)
    quarter = ROWS // 4
    step, apart = (quarter, n_units * quarter) if shape == LONG_STREAMS else (ROWS, quarter)
    for unit in range(n_units):
        first = unit * step
        if shape == SIDE_BY_SIDE:
            multiply_few(few, base, cols, first, first + ROWS, 1, x, 0, scratch, y, 0, 0)
        else:
            multiply_rows(rows, base, cols, x, scratch, first, quarter, apart, 0, y, 0, far, near)
    return 0


def make_multiply(kind: Any, multiply: Callable[[ir.IRBuilder, Any, Any], Any]) -> Any:
    """The compiled function (steps, 0): as many times, one multiplication of registers for each of some chains.

    Each takes what its neighbor gave before, so that nothing can be left out; there are enough to keep the units busy.
    They begin with the number of steps, which the compiler doesn't know: what begins with zeros, it knows the end of.
    """

    @op(integer, integer)
    def run(b: ir.IRBuilder, steps: Any) -> Any:
        slots = [cgutils.alloca_once(b, kind) for _ in range(CHAINS_OF_PEAK)]
        first = b.sitofp(steps, F32) if kind.element == F32 else b.trunc(steps, I32)
        for slot in slots:
            b.store(spread(b, first, kind), slot)
        with cgutils.for_range(b, steps):
            sums = [b.load(slot) for slot in slots]
            for i, slot in enumerate(slots):
                b.store(multiply(b, sums[i], sums[i - 1]), slot)
        lanes = [b.bitcast(b.load(slot), I32X16) for slot in slots]
        for x in lanes[1:]:
            lanes[0] = b.xor(lanes[0], x)
        return b.zext(b.extract_element(lanes[0], ir.Constant(ir.IntType(32), 0)), I64)

    @compiled
    def multiply_alone(steps, nothing):
        return run(steps)

    return multiply_alone


multiply_bytes = make_multiply(I32X16, lambda b, acc, x: dot_bytes(b, acc, constant(0x01010101, I32X16), x, True))
multiply_floats = make_multiply(F32X16, lambda b, acc, x: mad.emit(b, x, constant(0.5, F32X16), acc))
