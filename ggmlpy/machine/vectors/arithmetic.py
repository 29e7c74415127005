"""Arithmetic, lane by lane."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ggmlpy.machine.features import MACHINE
from ggmlpy.machine.jit import types

from .language import (
    F32,
    F32X16,
    F64,
    I32,
    I32X16,
    I64,
    Vector,
    call,
    call_once_made,
    constant,
    double,
    f32x8,
    f32x16,
    f64x16,
    i32x8,
    i32x16,
    int32,
    integer,
    lanewise,
    number,
    op,
    shuffle,
    spread,
    vector,
)

__all__ = [
    "absolute",
    "add",
    "alternating",
    "bits",
    "bits_of_double",
    "div",
    "double_of",
    "exp",
    "fill",
    "fill_f32x8",
    "float_of",
    "fma",
    "halves_of",
    "lane_numbers",
    "low_bytes",
    "mad",
    "maximum",
    "minimum",
    "mul",
    "nearest_codes",
    "ones_in",
    "round_to_int",
    "sqrt",
    "sub",
    "to_doubles",
    "to_floats",
    "where_equal",
    "where_greater",
    "zeros",
    "zeros_f32x8",
    "zeros_f64x16",
    "zeros_i32x8",
]

MAGIC = 12582912.0  # 1.5 · 2²³

# The same value, or two, in every lane.


@op(f32x16)
def zeros(b: ir.IRBuilder) -> Any:
    return constant(0.0, F32X16)


@op(f32x8)
def zeros_f32x8(b: ir.IRBuilder) -> Any:
    return constant(0.0, f32x8.llvm)


@op(f64x16)
def zeros_f64x16(b: ir.IRBuilder) -> Any:
    return constant(0.0, f64x16.llvm)


@op(i32x8)
def zeros_i32x8(b: ir.IRBuilder) -> Any:
    return constant(0, i32x8.llvm)


@op(f32x16, number)
def fill(b: ir.IRBuilder, x: Any) -> Any:
    """One number in every lane."""
    return spread(b, x, F32X16)


@op(f32x16)
def lane_numbers(b: ir.IRBuilder) -> Any:
    """0, 1, 2, … 15."""
    return constant([float(lane) for lane in range(16)], F32X16)


@op(f32x8, number)
def fill_f32x8(b: ir.IRBuilder, x: Any) -> Any:
    """One number in every lane."""
    return spread(b, x, f32x8.llvm)


def _both(b: ir.IRBuilder, x: Any, y: Any, lanes: list[int]) -> Any:
    return shuffle(b, spread(b, x, f32x8.llvm), spread(b, y, f32x8.llvm), lanes)


@op(f32x8, number, number)
def alternating(b: ir.IRBuilder, even: Any, odd: Any) -> Any:
    """even in lanes 0, 2, 4, 6 and odd in the others."""
    return _both(b, even, odd, [0, 9, 2, 11, 4, 13, 6, 15])


@op(f32x8, number, number)
def halves_of(b: ir.IRBuilder, low: Any, high: Any) -> Any:
    """low in lanes 0 … 3 and high in the others."""
    return _both(b, low, high, [0, 1, 2, 3, 12, 13, 14, 15])


# Sums and products, of vectors of floats.


@lanewise(2)
def add(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.fadd(x, y)


@lanewise(2)
def sub(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.fsub(x, y)


@lanewise(2)
def mul(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.fmul(x, y)


@lanewise(2)
def div(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.fdiv(x, y)


@lanewise(3)
def fma(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once, of float32, float64 or vectors of them."""
    lanes = f"v{x.type.count}" if isinstance(x.type, ir.VectorType) else ""
    element = x.type.element if lanes else x.type
    if element == F32 and not MACHINE.has_fma:
        return call_once_made(b, _fused_in_doubles, x.type, x, y, z)
    return call(b, f"llvm.fma.{lanes}{'f32' if element == F32 else 'f64'}", x.type, [x, y, z])


mad = fma


def _fused_in_doubles(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    """x * y + z of float32, rounded once, where the processor has no instruction for it.

    In float64 the product is exact. The sum is rounded to odd (Boldo and Melquiond 2008): where it is not exact (its
    error is Knuth's), an even last bit becomes the odd one on the error's side. So the rounding to float32 sees on
    which side of a tie the exact sum lies.
    """
    narrow, lanes = x.type, x.type.count if isinstance(x.type, ir.VectorType) else 0
    wide, whole = (vector(F64, lanes), vector(I64, lanes)) if lanes else (F64, I64)
    x, y, z = (b.fpext(value, wide) for value in (x, y, z))
    product = b.fmul(x, y)
    total = b.fadd(product, z)
    added = b.fsub(total, product)
    error = b.fadd(b.fsub(product, b.fsub(total, added)), b.fsub(z, added))
    word, one, zero = b.bitcast(total, whole), constant(1, whole), constant(0.0, wide)
    even = b.icmp_signed("==", b.and_(word, one), constant(0, whole))
    outward = b.icmp_signed("==", b.fcmp_ordered(">", error, zero), b.fcmp_ordered(">", total, zero))
    odd = b.select(outward, b.add(word, one), b.sub(word, one))
    inexact = b.fcmp_ordered("!=", error, zero)
    return b.fptrunc(b.bitcast(b.select(b.and_(inexact, even), odd, word), wide), narrow)


@lanewise(2)
def maximum(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


@lanewise(2)
def minimum(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered("<", x, y), x, y)


@lanewise(4)
def where_greater(b: ir.IRBuilder, x: Any, y: Any, then: Any, otherwise: Any) -> Any:
    """``then`` where x > y, else ``otherwise`` (also where x or y is NaN)."""
    return b.select(b.fcmp_ordered(">", x, y), then, otherwise)


@lanewise(4)
def where_equal(b: ir.IRBuilder, x: Any, y: Any, then: Any, otherwise: Any) -> Any:
    """``then`` where x = y, else ``otherwise``."""
    return b.select(b.fcmp_ordered("==", x, y), then, otherwise)


@lanewise(1)
def sqrt(b: ir.IRBuilder, x: Any) -> Any:
    """The square root, correctly rounded."""
    lanes = f"v{x.type.count}" if isinstance(x.type, ir.VectorType) else ""
    return call(b, f"llvm.sqrt.{lanes}f32", x.type, [x])


@op(f32x16, f32x16)
def absolute(b: ir.IRBuilder, x: Any) -> Any:
    return b.bitcast(b.and_(b.bitcast(x, I32X16), constant(0x7FFFFFFF, I32X16)), F32X16)


@op(f32x16, f32x16)
def exp(b: ir.IRBuilder, x: Any) -> Any:
    """e to the x, to about 1e-7 of its value; x is first brought into [-87, 88].

    e^x = 2^n · e^r with n the nearest integer to x/ln 2, and |r| < 0.35, where seven terms of the series are enough.
    """

    def c(value: float) -> ir.Constant:
        return constant(value, F32X16)

    x = maximum.emit(b, minimum.emit(b, x, c(88.0)), c(-87.0))
    n = round_to_int.emit(b, b.fmul(x, c(1.44269504)))
    whole = b.sitofp(n, F32X16)
    r = mad.emit(b, whole, c(-0.693145752), x)  # ln 2 in two pieces, so that n · ln 2 is subtracted exactly
    r = mad.emit(b, whole, c(-1.42860677e-6), r)
    series = c(1 / 5040)
    for term in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        series = mad.emit(b, series, r, c(term))
    power = b.bitcast(b.shl(b.add(n, constant(127, I32X16)), constant(23, I32X16)), F32X16)
    return b.fmul(series, power)


# From one type to another.


@op(i32x16, f32x16)
def round_to_int(b: ir.IRBuilder, x: Any) -> Any:
    """To the nearest integer, ties to even; |x| < 2²². Adding 1.5 · 2²³ leaves the integer in the low bits."""
    return b.sub(b.bitcast(b.fadd(x, constant(MAGIC, F32X16)), I32X16), constant(0x4B400000, I32X16))


@op(f32x16, f32x16, int32, int32)
def nearest_codes(b: ir.IRBuilder, x: Any, low: Any, high: Any) -> Any:
    """The nearest integers, ties to even, kept between two others, as floats.

    It is the quantizers' way of rounding: adding 1.5 · 2²³ leaves the integer in the low bits. What those bits say
    beyond 2²², and of inf and NaN, is kept.
    """
    return codes_of_sum(b, b.fadd(x, constant(MAGIC, F32X16)), low, high)


def codes_of_sum(b: ir.IRBuilder, total: Any, low: Any, high: Any) -> Any:
    """The same, once 1.5 · 2²³ was added."""
    word = b.bitcast(total, I32X16)
    code = b.sub(b.and_(word, constant(0x007FFFFF, I32X16)), constant(0x00400000, I32X16))
    for limit, sign in ((low, ">"), (high, "<")):
        bound = spread(b, limit, I32X16)
        code = b.select(b.icmp_signed(sign, code, bound), code, bound)
    return b.sitofp(code, F32X16)


@op(f32x16, f32x16)
def low_bytes(b: ir.IRBuilder, x: Any) -> Any:
    """What is left of whole numbers in unsigned bytes, as floats."""
    return b.sitofp(b.and_(b.fptosi(x, I32X16), constant(255, I32X16)), F32X16)


@lanewise(1, lambda kind: Vector("f32", kind.lanes))
def to_floats(b: ir.IRBuilder, x: Any) -> Any:
    """Signed integers of any width to float32 (rounded to nearest even)."""
    return b.sitofp(x, vector(F32, x.type.count))


@lanewise(1, lambda kind: Vector("f64", kind.lanes))
def to_doubles(b: ir.IRBuilder, x: Any) -> Any:
    """float32 to float64, exactly."""
    return b.fpext(x, vector(F64, x.type.count))


# The bits of scalars.


@op(int32, number)
def bits(b: ir.IRBuilder, x: Any) -> Any:
    """The bits of a float32 as an int32."""
    return b.bitcast(x, I32)


@op(number, int32)
def float_of(b: ir.IRBuilder, x: Any) -> Any:
    """The float32 that has these bits."""
    return b.bitcast(x, F32)


@op(integer, double)
def bits_of_double(b: ir.IRBuilder, x: Any) -> Any:
    """The bits of a float64 as an int64."""
    return b.bitcast(x, I64)


@op(double, integer)
def double_of(b: ir.IRBuilder, x: Any) -> Any:
    """The float64 that has these bits."""
    return b.bitcast(x, F64)


@op(integer, types.uint64)
def ones_in(b: ir.IRBuilder, word: Any) -> Any:
    """How many bits of a word are set."""
    return call(b, "llvm.ctpop.i64", I64, [word])
