"""Across lanes. The order of additions is part of the result, so each function says its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from ggmlpy.machine.jit import types

from .arithmetic import maximum, minimum
from .language import (
    I1,
    I16,
    I32,
    I64,
    LANES,
    call,
    f32x8,
    f32x16,
    i32x8,
    int32,
    integer,
    lanewise,
    number,
    op,
    shuffle,
    spread,
)

__all__ = [
    "add_in_order",
    "any_greater",
    "first_lane",
    "gather_sums",
    "largest",
    "least",
    "total",
    "total_crosswise",
    "total_int",
    "total_int_high",
    "total_int_low",
    "total_neighbors",
    "totals_in_lanes",
]


def _fold(b: ir.IRBuilder, x: Any, combine: Callable[[ir.IRBuilder, Any, Any], Any]) -> Any:
    """Lane i with i+8, then i+4, i+2, i+1."""
    for distance in (8, 4, 2, 1):
        x = combine(b, x, shuffle(b, x, x, [lane ^ distance for lane in range(LANES)]))
    return b.extract_element(x, I32(0))


@op(number, f32x16)
def total(b: ir.IRBuilder, x: Any) -> Any:
    """The sum of all lanes: i with i+8, then i+4, i+2, i+1 (as ``_mm512_reduce_add_ps`` does)."""
    return _fold(b, x, lambda b, x, y: b.fadd(x, y))


def totals_in_lanes(b: ir.IRBuilder, vectors: Sequence[Any]) -> Any:
    """Lane i becomes the `total` of vector i of sixteen, its lanes added in the same order."""
    for distance in (8, 4, 2, 1):
        first, second = vectors[:distance], vectors[distance:]
        low = [
            lane // (2 * distance) * 2 * distance + lane % distance + lane // distance % 2 * LANES
            for lane in range(LANES)
        ]
        high = [lane + distance for lane in low]
        pairs = zip(first, second, strict=True)
        vectors = [b.fadd(shuffle(b, x, y, low), shuffle(b, x, y, high)) for x, y in pairs]
    return vectors[0]


@op(number, f32x16)
def largest(b: ir.IRBuilder, x: Any) -> Any:
    """The maximum of all lanes."""
    return _fold(b, x, maximum.emit)


@op(number, f32x16)
def least(b: ir.IRBuilder, x: Any) -> Any:
    """The minimum of all lanes, none of which is NaN."""
    return _fold(b, x, minimum.emit)


@op(types.boolean, f32x16, f32x16)
def any_greater(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Whether x > y in any lane."""
    greater = b.bitcast(b.fcmp_ordered(">", x, y), I16)
    return b.icmp_unsigned("!=", greater, I16(0))


@op(integer, f32x16, number)
def first_lane(b: ir.IRBuilder, x: Any, value: Any) -> Any:
    """The number of the first lane that equals ``value``; 16 if none does."""
    equal = b.bitcast(b.fcmp_ordered("==", x, spread(b, value, x.type)), I16)
    return b.zext(call(b, "llvm.cttz.i16", I16, [equal, I1(0)]), I64)


@op(number, f32x8)
def total_crosswise(b: ir.IRBuilder, x: Any) -> Any:
    """((a4+a0)+(a6+a2)) + ((a5+a1)+(a7+a3)): high half onto low, then `movehl`, then `movehdup`."""
    x = b.fadd(shuffle(b, x, x, [4, 5, 6, 7]), shuffle(b, x, x, [0, 1, 2, 3]))
    x = b.fadd(shuffle(b, x, x, [0, 1]), shuffle(b, x, x, [2, 3]))
    return b.fadd(b.extract_element(x, I32(0)), b.extract_element(x, I32(1)))


@op(number, f32x8)
def total_neighbors(b: ir.IRBuilder, x: Any) -> Any:
    """((a0+a4)+(a1+a5)) + ((a2+a6)+(a3+a7)): low half and high, then `hadd` twice."""
    x = b.fadd(shuffle(b, x, x, [0, 1, 2, 3]), shuffle(b, x, x, [4, 5, 6, 7]))
    x = b.fadd(shuffle(b, x, x, [0, 2]), shuffle(b, x, x, [1, 3]))
    return b.fadd(b.extract_element(x, I32(0)), b.extract_element(x, I32(1)))


@op(number, number, f32x8)
def add_in_order(b: ir.IRBuilder, start: Any, x: Any) -> Any:
    """start + a0 + a1 + … + a7, one after another."""
    for lane in range(8):
        start = b.fadd(start, b.extract_element(x, I32(lane)))
    return start


# Integers, whose order does not matter.


@lanewise(1, lambda kind: int32)
def total_int(b: ir.IRBuilder, x: Any) -> Any:
    """All lanes of a vector of int32."""
    return call(b, f"llvm.vector.reduce.add.v{x.type.count}i32", I32, [x])


@op(int32, i32x8)
def total_int_low(b: ir.IRBuilder, x: Any) -> Any:
    """Lanes 0 … 3."""
    return total_int.emit(b, shuffle(b, x, x, [0, 1, 2, 3]))


@op(int32, i32x8)
def total_int_high(b: ir.IRBuilder, x: Any) -> Any:
    """Lanes 4 … 7."""
    return total_int.emit(b, shuffle(b, x, x, [4, 5, 6, 7]))


def gather_sums(b: ir.IRBuilder, s: Sequence[Any], plus: Callable[[Any, Any], Any]) -> Any:
    """Four vectors to one: lane 4L + j becomes the sum of lanes 4L … 4L+3 of vector j.

    >>> # s0 = [a b c d | …], s1 = [e f g h | …], …      ->      [a+b+c+d  e+f+g+h  …  … | …]
    """
    low, high = [], []
    for lane in range(0, LANES, 4):
        low += [lane, lane + LANES, lane + 1, lane + 1 + LANES]
        high += [lane + 2, lane + 2 + LANES, lane + 3, lane + 3 + LANES]
    pairs = [plus(shuffle(b, x, y, low), shuffle(b, x, y, high)) for x, y in (s[0:2], s[2:4])]  # [x02 y02 x13 y13]
    low, high = [], []
    for lane in range(0, LANES, 4):
        low += [lane, lane + 1, lane + LANES, lane + 1 + LANES]
        high += [lane + 2, lane + 3, lane + 2 + LANES, lane + 3 + LANES]
    return plus(shuffle(b, pairs[0], pairs[1], low), shuffle(b, pairs[0], pairs[1], high))
