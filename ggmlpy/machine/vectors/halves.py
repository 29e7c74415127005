"""float16.

LLVM turns ``fpext`` and ``fptrunc`` into single instructions where there are any (F16C, AVX-512, NEON), and elsewhere
into a call for each lane; so elsewhere the bits are moved by hand.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ggmlpy.machine.features import MACHINE
from ggmlpy.machine.jit import types

from .language import (
    F16,
    F32,
    I16,
    I32,
    LANES,
    address,
    at,
    constant,
    f32x8,
    f32x16,
    integer,
    load_as,
    nothing,
    number,
    op,
    store_as,
    vector,
)
from .memory import gather, rows_at, transpose

__all__ = [
    "bits_of_f16",
    "column_f16",
    "f16_of_bits",
    "f16_of_bits_by_hand",
    "load_bf16x16",
    "load_f16",
    "load_f16x8",
    "load_f16x16",
    "narrow_f16",
    "store_f16x16",
    "transpose_f16",
    "widen_f16",
]


def _like(element: ir.Type, x: Any) -> ir.Type:
    """The type of as many elements as x has."""
    return vector(element, x.type.count) if isinstance(x.type, ir.VectorType) else element


def _constant(value: int | float, kind: ir.Type) -> ir.Constant:
    return constant(value, kind) if isinstance(kind, ir.VectorType) else ir.Constant(kind, value)


def widen_f16(b: ir.IRBuilder, h: Any) -> Any:
    """float16 (or its bits) to float32, exactly: one value or a vector of them."""
    return b.fpext(b.bitcast(h, _like(F16, h)), _like(F32, h)) if MACHINE.has_f16 else widen_by_hand(b, h)


def widen_by_hand(b: ir.IRBuilder, h: Any) -> Any:
    f32, i32 = _like(F32, h), _like(I32, h)

    def c(value: int) -> ir.Constant:
        return _constant(value, i32)

    bits = b.zext(b.bitcast(h, _like(I16, h)), i32)
    magnitude = b.and_(bits, c(0x7FFF))
    rebias = _constant(2.0**112, f32)  # the exponent's bias: 127 - 15
    moved = b.bitcast(b.fmul(b.bitcast(b.shl(magnitude, c(13)), f32), rebias), i32)
    special = b.icmp_unsigned(">=", magnitude, c(0x7C00))  # infinities and NaN keep an exponent of all ones
    moved = b.select(special, b.or_(b.shl(magnitude, c(13)), c(0x7F800000)), moved)
    return b.bitcast(b.or_(moved, b.shl(b.and_(bits, c(0x8000)), c(16))), f32)


def narrow_f16(b: ir.IRBuilder, x: Any) -> Any:
    """float32 to float16, to nearest, ties to even: one value or a vector of them."""
    return b.fptrunc(x, _like(F16, x)) if MACHINE.has_f16 else narrow_by_hand(b, x)


def narrow_by_hand(b: ir.IRBuilder, x: Any) -> Any:
    f32, i32 = _like(F32, x), _like(I32, x)

    def c(value: int) -> ir.Constant:
        return _constant(value, i32)

    bits = b.bitcast(x, i32)
    sign = b.and_(bits, c(-0x80000000))
    magnitude = b.xor(bits, sign)
    odd = b.and_(b.lshr(magnitude, c(13)), c(1))
    normal = b.lshr(b.add(b.add(magnitude, c(0xFFF - (112 << 23))), odd), c(13))
    tiny = b.sub(b.bitcast(b.fadd(b.bitcast(magnitude, f32), _constant(0.5, f32)), i32), c(0x3F000000))
    half = b.select(b.icmp_signed("<", magnitude, c(113 << 23)), tiny, normal)
    half = b.select(b.icmp_signed(">=", magnitude, c(143 << 23)), c(0x7C00), half)  # 65536 and more: infinity
    half = b.select(b.icmp_signed(">", magnitude, c(255 << 23)), c(0x7E00), half)
    return b.bitcast(b.trunc(b.or_(half, b.lshr(sign, c(16))), _like(I16, x)), _like(F16, x))


# Scalars: a float16 is kept as its bits, an uint16.


@op(number, types.uint16)
def f16_of_bits(b: ir.IRBuilder, h: Any) -> Any:
    """The float32 of a float16's bits."""
    return widen_f16(b, h)


@op(number, types.uint16)
def f16_of_bits_by_hand(b: ir.IRBuilder, h: Any) -> Any:
    """The same without the processor's help."""
    return widen_by_hand(b, h)


@op(types.uint16, number)
def bits_of_f16(b: ir.IRBuilder, x: Any) -> Any:
    """The bits of the float16 nearest to a float32, ties to even."""
    return b.bitcast(narrow_f16(b, x), I16)


# Memory: values are widened when they are read.


@op(number, address)
def load_f16(b: ir.IRBuilder, a: Any) -> Any:
    return widen_f16(b, load_as(b, a, I16))


@op(f32x8, address)
def load_f16x8(b: ir.IRBuilder, a: Any) -> Any:
    return widen_f16(b, load_as(b, a, vector(I16, 8)))


@op(f32x16, address)
def load_f16x16(b: ir.IRBuilder, a: Any) -> Any:
    return widen_f16(b, load_as(b, a, vector(I16, LANES)))


@op(f32x16, address)
def load_bf16x16(b: ir.IRBuilder, a: Any) -> Any:
    """Sixteen bfloat16, the upper halves of float32."""
    upper = b.zext(load_as(b, a, vector(I16, LANES)), vector(I32, LANES))
    return b.bitcast(b.shl(upper, constant(16, vector(I32, LANES))), vector(F32, LANES))


@op(nothing, address, f32x16)
def store_f16x16(b: ir.IRBuilder, a: Any, x: Any) -> None:
    """Sixteen float32, rounded to float16."""
    store_as(b, a, b.bitcast(narrow_f16(b, x), vector(I16, LANES)))


@op(f32x16, address, integer)
def column_f16(b: ir.IRBuilder, a: Any, stride: Any) -> Any:
    """The float16 at `a` of each of sixteen rows, `stride` bytes apart."""
    return widen_f16(b, gather(b, rows_at(b, a, stride, I16)))


@op(nothing, address, integer, address)
def transpose_f16(b: ir.IRBuilder, a: Any, stride: Any, target: Any) -> None:
    """16 float16 of each of sixteen rows to 16 columns of 16 floats, 1024 bytes at `target`."""
    for j, column in enumerate(transpose(b, rows_at(b, a, stride, vector(I16, LANES)))):
        store_as(b, at(b, target, 64 * j), widen_f16(b, column))
