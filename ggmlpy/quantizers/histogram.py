"""Counting 4-bit codes at a fraction of the cost of making them: the histogram that ``quantize`` prints.

A table incremented once a code would take longer than quantizing. Instead the codes are sliced into four bit planes
(64 codes are four words), and for each of the 15 sets of planes the ones of their conjunction are counted: how many
codes have at least these bits. From those sums the sixteen counts follow by inclusion and exclusion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from .c_arithmetic import JIT_OPTIONS

__all__ = ["count_codes", "histogram_of"]

LANES = 64
_operation: Callable[[Callable[..., Any]], Any] = intrinsic


@_operation
def plane(typingctx, pairs, k, mask):
    """The word whose bit l says whether byte ``pairs[k + l]`` has a bit of ``mask``, for 64 bytes."""
    byte, lanes = ir.IntType(8), ir.VectorType(ir.IntType(8), LANES)

    def emit(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        address = builder.bitcast(builder.gep(array.data, [args[1]]), lanes.as_pointer())
        values = builder.load(address, align=1)
        one = builder.insert_element(ir.Constant(lanes, ir.Undefined), builder.trunc(args[2], byte), ir.IntType(32)(0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        mask = builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), everywhere)
        set_bits = builder.icmp_unsigned("!=", builder.and_(values, mask), ir.Constant(lanes, [0] * LANES))
        return builder.bitcast(set_bits, ir.IntType(64))

    return types.uint64(pairs, types.int64, types.int64), emit


@_operation
def ones(typingctx, word):
    """How many bits of a word are set."""

    def emit(context, builder, signature, args):
        function_type = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
        return builder.call(cgutils.get_or_insert_function(builder.module, function_type, "llvm.ctpop.i64"), args)

    return types.int64(types.uint64), emit


@njit(**JIT_OPTIONS)
def count_codes(pairs, size, planes, sums):
    """Add to ``sums[set]`` (int64 [16]) how many codes in ``pairs[:size]``, two a byte, have all bits of ``set``.

    ``pairs`` has room up to the next multiple of 64, which is zeroed; ``planes`` is uint64 [4, codes / 64] to work in.
    """
    padded = (size + LANES - 1) // LANES * LANES
    for k in range(size, padded):
        pairs[k] = 0
    n = 0
    for k in range(0, padded, LANES):
        for bit in range(4):
            planes[bit, n] = plane(pairs, k, 1 << bit)
            planes[bit, n + 1] = plane(pairs, k, 16 << bit)
        n += 2
    s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = s11 = s12 = s13 = s14 = s15 = np.int64(0)
    for i in range(n):
        a, b, c, d = planes[0, i], planes[1, i], planes[2, i], planes[3, i]
        s1 += ones(a)
        s2 += ones(b)
        s3 += ones(a & b)
        s4 += ones(c)
        s5 += ones(a & c)
        s6 += ones(b & c)
        s7 += ones(a & b & c)
        s8 += ones(d)
        s9 += ones(a & d)
        s10 += ones(b & d)
        s11 += ones(a & b & d)
        s12 += ones(c & d)
        s13 += ones(a & c & d)
        s14 += ones(b & c & d)
        s15 += ones(a & b & c & d)
    totals = (2 * size, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15)
    for i, total in enumerate(totals):
        sums[i] += total


def histogram_of(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each code occurs, from the sums of :func:`count_codes`: int64 [16].

    >>> sums = np.zeros(16, np.int64)
    >>> sums[[0, 1, 2, 3]] = 5, 3, 2, 2          # five codes: 3, 3, 1, 0, 0
    >>> histogram_of(sums)[:4].tolist()
    [2, 1, 0, 2]
    """
    counts = sums.copy()
    for bit in (1, 2, 4, 8):
        without = [code for code in range(16) if not code & bit]
        counts[without] -= counts[[code | bit for code in without]]
    return counts
