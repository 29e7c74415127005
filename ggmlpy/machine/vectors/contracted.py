"""A product that meets a sum, contracted or not: see :mod:`ggmlpy.machine.contraction`.

The last argument of each operation is a :class:`~ggmlpy.machine.contraction.Rounded` or
:class:`~ggmlpy.machine.contraction.Fused`; its type alone says which instructions are emitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ggmlpy.machine.contraction import Fused
from ggmlpy.machine.jit import intrinsic, types

from .arithmetic import MAGIC, codes_of_sum, fma
from .language import Vector, constant, f32x16, int32

__all__ = ["difference_of_products", "mul_add", "mul_sub", "nearest_codes_of_product", "sub_mul"]

_intrinsic: Callable[[Callable[..., Any]], Any] = intrinsic  # typed: its result takes no typing context


def _multiply_add(b: ir.IRBuilder, x: Any, y: Any, z: Any, how: Any) -> Any:
    return fma.emit(b, x, y, z) if how.instance_class is Fused else b.fadd(b.fmul(x, y), z)


def _of_three(emit: Callable[..., Any], x: Any, y: Any, z: Any, how: Any) -> Any:
    """What an intrinsic returns whose operands are vectors or numbers of one type."""
    if not x == y == z or not isinstance(x, (Vector, types.Float)):
        return None
    return x(x, y, z, how), lambda context, b, signature, values: emit(b, *values[:3], how)


@_intrinsic
def mul_add(typing_context: Any, x: Any, y: Any, z: Any, how: Any) -> Any:
    """x * y + z."""
    return _of_three(_multiply_add, x, y, z, how)


@_intrinsic
def mul_sub(typing_context: Any, x: Any, y: Any, z: Any, how: Any) -> Any:
    """x * y - z."""

    def emit(b: ir.IRBuilder, x: Any, y: Any, z: Any, how: Any) -> Any:
        return _multiply_add(b, x, y, b.fneg(z), how)

    return _of_three(emit, x, y, z, how)


@_intrinsic
def sub_mul(typing_context: Any, z: Any, x: Any, y: Any, how: Any) -> Any:
    """z - x * y."""

    def emit(b: ir.IRBuilder, z: Any, x: Any, y: Any, how: Any) -> Any:
        return _multiply_add(b, b.fneg(x), y, z, how)

    return _of_three(emit, z, x, y, how)


@_intrinsic
def difference_of_products(typing_context: Any, u: Any, v: Any, x: Any, y: Any, first: Any, second: Any) -> Any:
    """u * v - x * y; ``first`` says whether u * v is contracted, and if not ``second`` whether x * y is."""
    if not u == v == x == y == f32x16:
        return None

    def emit(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> Any:
        u, v, x, y = values[:4]
        if first.instance_class is Fused:
            return _multiply_add(b, u, v, b.fneg(b.fmul(x, y)), first)
        return _multiply_add(b, b.fneg(x), y, b.fmul(u, v), second)

    return f32x16(u, v, x, y, first, second), emit


@_intrinsic
def nearest_codes_of_product(typing_context: Any, x: Any, y: Any, low: Any, high: Any, how: Any) -> Any:
    """``nearest_codes`` of x * y, to which the rounding adds: what is contracted is not rounded before it is cut."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> Any:
        x, y, low, high = values[:4]
        return codes_of_sum(b, _multiply_add(b, x, y, constant(MAGIC, x.type), how), low, high)

    return f32x16(f32x16, f32x16, int32, int32, how), emit
