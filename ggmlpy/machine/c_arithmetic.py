"""C's float conversions exactly as an x86 processor carries them out, for use inside Numba kernels.

llama.cpp's quantizers lean on behaviour that C leaves undefined (a NaN cast to an integer) or that differs from
numpy's (``roundf`` rounds halves away from zero). LLVM may turn an undefined cast into anything, so every such step is
spelled out here on the bits of the float. All of it is branch-free, so that LLVM vectorises a loop over it.

f32 bits: sign 0x80000000, exponent 0x7f800000, mantissa 0x007fffff. f16 bits: 0x8000, 0x7c00, 0x03ff.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from ggmlpy.machine.jit import intrinsic, overload, types

from .kernels import inlined
from .vectors import I64, bits, call, constant, f16_of_bits, float_of, vector

__all__ = ["ABS", "narrow", "order_extremes", "round_half_away", "truncate", "value_of", "widen"]

SIGN = np.int32(-0x80000000)
ABS = np.int32(0x7FFFFFFF)
INF = np.int32(0x7F800000)
TWO_31 = np.int32(0x4F000000)  # 2.0 ** 31: the first float that an int32 can't hold
ALMOST_HALF = np.int32(0x3EFFFFFF)  # the largest float below 0.5
TINY_F16 = np.int32(0x38800000)  # 2.0 ** -14: the smallest normal f16
HUGE_F16 = np.int32(0x47800000)  # 2.0 ** 16: beyond every finite f16
HALF = np.float32(0.5)

_intrinsic: Callable[[Callable[..., Any]], Any] = intrinsic  # typed: its result takes no typing context


def widen(x):
    """An element of a row as float32: float32 as it is, uint16 read as the bits of an f16."""
    raise NotImplementedError("only inside a kernel")


@overload(widen)
def _widen(x):
    if isinstance(x, types.Float):
        return lambda x: x
    return lambda x: f16_of_bits(x)


@_intrinsic  # and not `op`: its instructions depend on the types of its arguments
def order_extremes(typing_context: Any, rows: Any, i: Any, size: Any) -> Any:
    """The least and the greatest *order* among the first ``size`` (a literal: the row's length) elements of row ``i``.

    An order is a float's bits as a signed integer of their width that orders as the values do: -NaN below -inf, -0
    directly below +0, NaN above inf. All elements are compared at once, in a vector of ``size`` lanes.
    """
    if not isinstance(size, types.IntegerLiteral):
        return None  # Numba then asks again with the literal
    width, lanes = (32 if rows.dtype == types.float32 else 16), size.literal_value
    word = ir.IntType(width)
    row = vector(word, lanes)
    order = types.int32 if width == 32 else types.int16

    def emit(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> Any:
        elements = b.bitcast(context.make_array(signature.args[0])(context, b, values[0]).data, word.as_pointer())
        first = b.gep(elements, [b.mul(values[1], I64(lanes))])
        x = b.load(b.bitcast(first, row.as_pointer()), align=width // 8)
        negative = b.ashr(x, constant(width - 1, row))
        orders = b.xor(x, b.and_(negative, constant(2 ** (width - 1) - 1, row)))
        ends = [call(b, f"llvm.vector.reduce.{kind}.v{lanes}i{width}", word, [orders]) for kind in ("smin", "smax")]
        return context.make_tuple(b, signature.return_type, ends)

    return types.UniTuple(order, 2)(rows, types.int64, size), emit


def value_of(order):
    """The float32 that has this order (int32 for float32, int16 for f16), see :func:`order_extremes`."""
    raise NotImplementedError("only inside a kernel")


@overload(value_of)
def _value_of(order):
    if order == types.int16:
        return lambda order: f16_of_bits(np.uint16(order ^ ((order >> np.int16(15)) & np.int16(0x7FFF))))
    return lambda order: float_of(np.int32(order ^ ((order >> np.int32(31)) & ABS)))


@inlined
def truncate(v):
    """``(int) v`` in its low 8 bits: NaN, inf and what exceeds int32 give INT_MIN on x86, whose low byte is 0."""
    return np.int32(v if bits(v) & ABS < TWO_31 else np.float32(0))


@inlined
def round_half_away(v):
    """``(int) roundf(v)`` in its low 8 bits. Adding the largest float below 0.5 is exact where adding 0.5 is not."""
    return truncate(v + float_of((bits(v) & SIGN) | ALMOST_HALF))


@inlined
def narrow(v):
    """float32 -> the bits of the nearest f16 (ties to even), overflow to inf, NaN to a quiet NaN of its sign."""
    sign = (bits(v) >> np.int32(16)) & np.int32(0x8000)
    a = bits(v) & ABS
    if a > INF:
        return sign | np.int32(0x7E00)
    if a >= HUGE_F16:
        return sign | np.int32(0x7C00)
    if a < TINY_F16:  # a denormal f16 counts units of 2^-24, which is the last place of 0.5
        return sign | (bits(float_of(a) + HALF) - bits(HALF))
    odd = (a >> np.int32(13)) & np.int32(1)
    return sign | ((a - np.int32(112 << 23) + np.int32(0xFFF) + odd) >> np.int32(13))
