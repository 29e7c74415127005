"""Polynomials over GF(2), 64 coefficients to a word: addition is XOR. For x86 with PCLMULQDQ."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .language import I8, I32, address, call, i64x2, integer, load_as, nothing, op, store_as

__all__ = ["fold_polynomial", "load_i64x2", "pair_i64", "store_i64x2"]


@op(i64x2, address)
def load_i64x2(b: ir.IRBuilder, a: Any) -> Any:
    return load_as(b, a, i64x2.llvm)


@op(nothing, address, i64x2)
def store_i64x2(b: ir.IRBuilder, a: Any, x: Any) -> None:
    store_as(b, a, x)


@op(i64x2, integer, integer)
def pair_i64(b: ir.IRBuilder, low: Any, high: Any) -> Any:
    first = b.insert_element(ir.Constant(i64x2.llvm, ir.Undefined), low, I32(0))
    return b.insert_element(first, high, I32(1))


@op(i64x2, i64x2, i64x2, i64x2)
def fold_polynomial(b: ir.IRBuilder, x: Any, factors: Any, plus: Any) -> Any:
    """x's low word times that of `factors`, plus the high ones' product, plus `plus`; products have 128 bits."""
    low, high = (call(b, "llvm.x86.pclmulqdq", i64x2.llvm, [x, factors, I8(which)]) for which in (0x00, 0x11))
    return b.xor(b.xor(low, high), plus)
