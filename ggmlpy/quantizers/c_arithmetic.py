"""C's float conversions exactly as an x86 processor carries them out, for use inside Numba kernels.

llama.cpp's quantizers lean on behaviour that C leaves undefined (a NaN cast to an integer) or that differs from
numpy's (``roundf`` rounds halves away from zero). LLVM may turn an undefined cast into anything, so every such step is
spelled out here on the bits of the float. All of it is branch-free, so that LLVM vectorises a loop over it.

f32 bits: sign 0x80000000, exponent 0x7f800000, mantissa 0x007fffff. f16 bits: 0x8000, 0x7c00, 0x03ff.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from ggmlpy.machine.compiling import listen_to_numba

__all__ = [
    "JIT_OPTIONS",
    "bits",
    "compile_kernel",
    "float_of",
    "narrow",
    "order_extremes",
    "round_half_away",
    "source_stamp",
    "truncate",
    "value_of",
    "widen",
    "widen_by_bits",
]

listen_to_numba()

# Division by zero gives inf as in C; no contraction, no reassociation: every operation rounds to f32 as written.
JIT_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}

SIGN = np.int32(-0x80000000)
ABS = np.int32(0x7FFFFFFF)
INF = np.int32(0x7F800000)
TWO_31 = np.int32(0x4F000000)  # 2.0 ** 31: the first float that an int32 can't hold
ALMOST_HALF = np.int32(0x3EFFFFFF)  # the largest float below 0.5
TINY_F16 = np.int32(0x38800000)  # 2.0 ** -14: the smallest normal f16
HUGE_F16 = np.int32(0x47800000)  # 2.0 ** 16: beyond every finite f16
HALF = np.float32(0.5)

_operation: Callable[[Callable[..., Any]], Any] = intrinsic  # typed: its result takes no typing context


def compile_kernel(function: Callable[..., Any], signature: Any) -> Callable[..., Any]:
    """Compile a kernel, or load it from Numba's cache: beside the source, in the user's cache directory, or, where
    neither can be written, not at all."""
    try:
        return njit(signature, cache=True, **JIT_OPTIONS)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return njit(signature, **JIT_OPTIONS)(function)


def source_stamp(*files: str) -> int:
    """A number that changes when one of these source files does.

    Numba's cache notices a change of the file that a kernel is in, not of the files whose functions it calls. A kernel
    that holds this number as a constant is compiled again when they change.
    """
    try:
        return zlib.crc32(b"".join(Path(file).read_bytes() for file in (__file__, *files)))
    except OSError:  # sources in an archive
        return 0


def _converts_f16() -> bool:
    """Whether the processor itself widens f16 (F16C on x86, always on 64-bit Arm)."""
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("f16c")) or llvmlite.binding.get_process_triple().startswith(("aarch64", "arm64"))


@_operation
def bits(typingctx, x):
    """The bits of a float32 as an int32."""
    return types.int32(types.float32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.IntType(32))


@_operation
def float_of(typingctx, x):
    """The float32 that has these bits."""
    return types.float32(types.int32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.FloatType())


@_operation
def _widen_in_hardware(typingctx, h):
    """f16 bits (uint16) -> float32, exactly."""

    def emit(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), emit


@njit(**JIT_OPTIONS)
def widen_by_bits(h):
    """f16 bits (uint16) -> float32, exactly, with integer operations and one multiplication."""
    exponent_and_mantissa = (np.int32(h) & np.int32(0x7FFF)) << np.int32(13)
    scaled = bits(float_of(exponent_and_mantissa) * np.float32(2.0**112))
    special = exponent_and_mantissa | INF  # f16 inf and NaN have every exponent bit set
    value = special if exponent_and_mantissa >= np.int32(0x0F800000) else scaled
    return float_of(value | ((np.int32(h) & np.int32(0x8000)) << np.int32(16)))


_widen_f16 = _widen_in_hardware if _converts_f16() else widen_by_bits


def widen(x):
    """An element of a row as float32: float32 as it is, uint16 read as the bits of an f16."""
    raise NotImplementedError("only inside a kernel")


@overload(widen)
def _widen(x):
    if isinstance(x, types.Float):
        return lambda x: x
    return lambda x: _widen_f16(x)


@_operation
def order_extremes(typingctx, rows, i, size):
    """The least and the greatest *order* among the first ``size`` (a literal: the row's length) elements of row ``i``.

    An order is a float's bits as a signed integer of their width that orders as the values do: -NaN below -inf, -0
    directly below +0, NaN above inf. All elements are compared at once, in a vector of ``size`` lanes.
    """
    if not isinstance(size, types.IntegerLiteral):
        return None  # Numba then asks again with the literal
    width, lanes = (32 if rows.dtype == types.float32 else 16), size.literal_value
    word = ir.IntType(width)
    vector = ir.VectorType(word, lanes)
    order = types.int32 if width == 32 else types.int16

    def emit(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        first = builder.gep(
            builder.bitcast(array.data, word.as_pointer()), [builder.mul(args[1], ir.IntType(64)(lanes))]
        )
        b = builder.load(builder.bitcast(first, vector.as_pointer()), align=width // 8)
        negative = builder.ashr(b, ir.Constant(vector, [width - 1] * lanes))
        orders = builder.xor(b, builder.and_(negative, ir.Constant(vector, [2 ** (width - 1) - 1] * lanes)))
        reduced = []
        for kind in ("smin", "smax"):
            name = f"llvm.vector.reduce.{kind}.v{lanes}i{width}"
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(word, [vector]), name)
            reduced.append(builder.call(function, [orders]))
        return context.make_tuple(builder, signature.return_type, reduced)

    return types.UniTuple(order, 2)(rows, types.int64, size), emit


def value_of(order):
    """The float32 that has this order (int32 for float32, int16 for f16), see :func:`order_extremes`."""
    raise NotImplementedError("only inside a kernel")


@overload(value_of)
def _value_of(order):
    if order == types.int16:
        return lambda order: _widen_f16(np.uint16(order ^ ((order >> np.int16(15)) & np.int16(0x7FFF))))
    return lambda order: float_of(np.int32(order ^ ((order >> np.int32(31)) & ABS)))


@njit(**JIT_OPTIONS)
def truncate(v):
    """``(int) v`` in its low 8 bits: NaN, inf and what exceeds int32 give INT_MIN on x86, whose low byte is 0."""
    return np.int32(v if bits(v) & ABS < TWO_31 else np.float32(0))


@njit(**JIT_OPTIONS)
def round_half_away(v):
    """``(int) roundf(v)`` in its low 8 bits. Adding the largest float below 0.5 is exact where adding 0.5 is not."""
    return truncate(v + float_of((bits(v) & SIGN) | ALMOST_HALF))


@njit(**JIT_OPTIONS)
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
