"""Vector instructions for Numba: sixteen lanes at a time, written once, for whatever the processor has.

Numba compiles scalars and arrays; it knows no vector registers. But it lets a module register a type and say which
LLVM instructions an operation on it becomes. That is all there is here: two types and about forty operations.

======== =================== ==================================================================================
type     LLVM                what it holds
======== =================== ==================================================================================
f32x16   <16 x float>        sixteen numbers
i32x16   <16 x i32>          sixteen integers; also seen as 64 bytes, four to a lane, by the dot products
======== =================== ==================================================================================

A register of 64 bytes exists in AVX-512 only. Elsewhere LLVM splits each operation into two (AVX2) or four (SSE2, NEON)
of the machine's own width, so a kernel written with these is written once. Addresses are plain integers (bytes), as in
`load(x + 64)`: the kernels walk over a memory map whose bounds were checked when the file was opened.

The one operation of these that differs by machine is the dot product of bytes, `dot_bytes`:

=========== =========================================== ====================================================
name        instructions                                found in
=========== =========================================== ====================================================
vnni        vpdpbusd, 64 bytes                          AVX-512 VNNI: servers since 2019, Ryzen since Zen 4
avxvnni     vpdpbusd, 32 bytes                          Core since Alder Lake (2021)
avx2        vpmaddubsw and vpmaddwd                     every PC since about 2015
neon        sdot                                        aarch64 with the dot product extension (since about 2018)
portable    multiply-adds of 16-bit halves              everything else that LLVM compiles for
=========== =========================================== ====================================================

`amx` (Xeons since Sapphire Rapids) is `vnni` with matrix registers besides: see "Tiles" below. All of them give the
same integers. With a fused multiply-add (`fma`), which all but the portable path have, the floats
are the same to the last bit too.

`LLAMA_SIMD=avx2` (or another name of the table) makes this process compile for that machine instead of the one it
runs on, to compare or to test; it cannot ask for what the processor lacks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from .features import MACHINE

LANES = 16
I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F16, F32 = ir.HalfType(), ir.FloatType()


def vector(element: ir.Type, n: int) -> ir.VectorType:
    return ir.VectorType(element, n)


I32X16, F32X16 = vector(I32, LANES), vector(F32, LANES)
I8X64, I16X32 = vector(I8, 64), vector(I16, 32)


class Vector(types.Type):
    """A vector register as a Numba type."""


i32x16, f32x16 = Vector("i32x16"), Vector("f32x16")
address, integer, number, nothing = types.int64, types.int64, types.float32, types.void


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """How Numba keeps a `Vector`: as one LLVM value."""

    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, I32X16 if kind is i32x16 or kind.name == "i32x16" else F32X16)


Emit = Callable[..., Any]


def op(returns: types.Type, *takes: types.Type) -> Callable[[Emit], Any]:
    """Make an operation that compiled code can call, out of a function that writes its LLVM instructions.

    The decorated function takes LLVM's instruction builder and one LLVM value an argument. It stays callable from other
    such functions as the operation's attribute ``emit``.
    """

    def decorate(emit: Emit) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[Any]) -> Any:
            result = emit(builder, *values)
            return context.get_dummy_value() if returns is nothing else result

        def typer(typing_context: Any, *arguments: Any) -> Any:
            return returns(*takes), codegen

        names = ["typing_context", *(f"argument_{i}" for i in range(len(takes)))]  # Numba counts the parameters
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typer.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
        typer.__name__, typer.__doc__ = emit.__name__, emit.__doc__
        operation: Any = intrinsic(typer)
        operation.emit = emit
        return operation

    return decorate


# Building blocks for the functions that write instructions.


def constant(values: Sequence[int | float] | int | float, kind: ir.VectorType) -> ir.Constant:
    """A vector of these values, or of one value everywhere."""
    return ir.Constant(kind, list(values) if isinstance(values, Sequence) else [values] * kind.count)


def shuffle(b: ir.IRBuilder, x: Any, y: Any, indices: Sequence[int]) -> Any:
    """Pick lanes by number: 0… from x, and the following numbers from y."""
    return b.shuffle_vector(x, y, constant(indices, vector(I32, len(indices))))


def spread(b: ir.IRBuilder, scalar: Any, kind: ir.VectorType) -> Any:
    """One value in every lane."""
    undefined = ir.Constant(kind, ir.Undefined)
    return shuffle(b, b.insert_element(undefined, scalar, I32(0)), undefined, [0] * kind.count)


def at(b: ir.IRBuilder, base: Any, offset: int) -> Any:
    return b.add(base, I64(offset)) if offset else base


def load_as(b: ir.IRBuilder, a: Any, kind: ir.Type) -> Any:
    """Read a value of any type from an address that need not be aligned."""
    return b.load(b.inttoptr(a, kind.as_pointer()), align=1)


def store_as(b: ir.IRBuilder, a: Any, value: Any) -> None:
    b.store(value, b.inttoptr(a, value.type.as_pointer()), align=1)


def call(b: ir.IRBuilder, name: str, returns: ir.Type, arguments: Sequence[Any]) -> Any:
    """Call an LLVM intrinsic or a C function by its name."""
    kind = ir.FunctionType(returns, [argument.type for argument in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)


def join(b: ir.IRBuilder, parts: Sequence[Any]) -> Any:
    """Vectors one after the other, as one vector. Their number is a power of two."""
    while len(parts) > 1:
        wide = list(range(2 * parts[0].type.count))
        parts = [shuffle(b, x, y, wide) for x, y in zip(parts[0::2], parts[1::2], strict=True)]
    return parts[0]


def split(b: ir.IRBuilder, x: Any, n: int) -> list[Any]:
    """The inverse of `join`: n equal parts."""
    size = x.type.count // n
    return [shuffle(b, x, x, range(i * size, (i + 1) * size)) for i in range(n)]


# Memory.


@op(f32x16, address)
def load(b: ir.IRBuilder, a: Any) -> Any:
    """Sixteen float32."""
    return load_as(b, a, F32X16)


@op(nothing, address, f32x16)
def store(b: ir.IRBuilder, a: Any, x: Any) -> None:
    store_as(b, a, x)


@op(number, address)
def load_f32(b: ir.IRBuilder, a: Any) -> Any:
    return load_as(b, a, F32)


@op(nothing, address, number)
def store_f32(b: ir.IRBuilder, a: Any, x: Any) -> None:
    store_as(b, a, x)


@op(integer, address)
def load_i64(b: ir.IRBuilder, a: Any) -> Any:
    return load_as(b, a, I64)


@op(nothing, address, integer)
def store_i64(b: ir.IRBuilder, a: Any, x: Any) -> None:
    store_as(b, a, x)


@op(nothing, address, types.int32)
def store_i32(b: ir.IRBuilder, a: Any, x: Any) -> None:
    store_as(b, a, x)


@op(nothing, address, address, integer)
def copy_bytes(b: ir.IRBuilder, target: Any, source: Any, n: Any) -> None:
    """memcpy."""
    pointer = I8.as_pointer()
    cgutils.raw_memcpy(b, b.inttoptr(target, pointer), b.inttoptr(source, pointer), n, 1)


@op(nothing, address, integer)
def zero_bytes(b: ir.IRBuilder, target: Any, n: Any) -> None:
    """memset to 0."""
    cgutils.memset(b, b.inttoptr(target, I8.as_pointer()), n, 0)


NEAR = 640  # bytes


def fetch_ahead(b: ir.IRBuilder, a: Any, size: int) -> None:
    """Ask for the `size` bytes that will be read after a few thousand others, and again when they are NEAR.

    First into the second-level cache, then into the first. Without it one core of a recent Xeon gets three quarters of
    what it can read: too few lines are under way at a time. On a Ryzen it halves the speed, so `MACHINE.fetch_distance`
    is 0 there and nothing is asked for.
    """
    if MACHINE.fetch_distance == 0:
        return
    pointer, data = I8.as_pointer(), I32(1)
    kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    name = "llvm.prefetch.p0" if MACHINE.llvm_version >= 15 else "llvm.prefetch.p0i8"
    function = cgutils.get_or_insert_function(b.module, kind, name)
    for offset in range(0, size, 64):
        for distance, locality in ((MACHINE.fetch_distance, I32(2)), (NEAR, I32(3))):
            b.call(function, [b.inttoptr(at(b, a, distance + offset), pointer), I32(0), locality, data])


# float16. LLVM turns `fpext` and `fptrunc` into single instructions where there are any (F16C, AVX-512, NEON), and
# elsewhere into a call for each lane; so elsewhere the bits are moved by hand.

HAS_F16 = MACHINE.has("f16c") or MACHINE.is_arm


def widen_f16(b: ir.IRBuilder, h: Any) -> Any:
    """float16 to float32, exactly: one value or a vector of them."""
    n = h.type.count if isinstance(h.type, ir.VectorType) else 0
    f32, i32, i16 = (vector(t, n) if n else t for t in (F32, I32, I16))
    if HAS_F16:
        return b.fpext(h, f32)

    def c(value: int) -> ir.Constant:
        return constant(value, i32) if n else I32(value)

    bits = b.zext(b.bitcast(h, i16), i32)
    magnitude = b.and_(bits, c(0x7FFF))
    scale = constant(2.0**112, f32) if n else ir.Constant(F32, 2.0**112)
    moved = b.bitcast(b.fmul(b.bitcast(b.shl(magnitude, c(13)), f32), scale), i32)  # the exponent's bias: 127 - 15
    special = b.icmp_unsigned(">=", magnitude, c(0x7C00))
    moved = b.select(special, b.or_(moved, c(0x7F800000)), moved)  # infinities and NaN keep an exponent of all ones
    return b.bitcast(b.or_(moved, b.shl(b.and_(bits, c(0x8000)), c(16))), f32)


def narrow_f16(b: ir.IRBuilder, x: Any) -> Any:
    """Sixteen float32 to float16, to nearest, ties to even."""
    if HAS_F16:
        return b.fptrunc(x, vector(F16, LANES))

    def c(value: int) -> ir.Constant:
        return constant(value, I32X16)

    bits = b.bitcast(x, I32X16)
    sign = b.and_(bits, c(-0x80000000))
    magnitude = b.xor(bits, sign)
    odd = b.and_(b.lshr(magnitude, c(13)), c(1))
    normal = b.lshr(b.add(b.add(magnitude, c(0xFFF - (112 << 23))), odd), c(13))
    tiny = b.sub(b.bitcast(b.fadd(b.bitcast(magnitude, F32X16), constant(0.5, F32X16)), I32X16), c(0x3F000000))
    half = b.select(b.icmp_signed("<", magnitude, c(113 << 23)), tiny, normal)
    half = b.select(b.icmp_signed(">=", magnitude, c(143 << 23)), c(0x7C00), half)  # 65536 and more: infinity
    half = b.select(b.icmp_signed(">", magnitude, c(255 << 23)), c(0x7E00), half)
    return b.bitcast(b.trunc(b.or_(half, b.lshr(sign, c(16))), vector(I16, LANES)), vector(F16, LANES))


@op(f32x16, address)
def load_f16(b: ir.IRBuilder, a: Any) -> Any:
    """Sixteen float16, widened."""
    return widen_f16(b, b.bitcast(load_as(b, a, vector(I16, LANES)), vector(F16, LANES)))


@op(nothing, address, f32x16)
def store_f16(b: ir.IRBuilder, a: Any, x: Any) -> None:
    """Sixteen float32, rounded to float16."""
    store_as(b, a, b.bitcast(narrow_f16(b, x), vector(I16, LANES)))


# Arithmetic, lane by lane.


@op(f32x16)
def zeros(b: ir.IRBuilder) -> Any:
    return constant(0.0, F32X16)


@op(f32x16, number)
def fill(b: ir.IRBuilder, x: Any) -> Any:
    """One number in every lane."""
    return spread(b, x, F32X16)


@op(f32x16, f32x16, f32x16)
def add(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.fadd(x, y)


@op(f32x16, f32x16, f32x16)
def sub(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.fsub(x, y)


@op(f32x16, f32x16, f32x16)
def mul(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.fmul(x, y)


@op(f32x16, f32x16, f32x16)
def div(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.fdiv(x, y)


@op(f32x16, f32x16, f32x16, f32x16)
def fma(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once where the machine can (without hardware it would be a slow library call)."""
    if MACHINE.has("fma") or MACHINE.is_arm:
        return call(b, "llvm.fma.v16f32", F32X16, [x, y, z])
    return b.fadd(b.fmul(x, y), z)


@op(f32x16, f32x16, f32x16)
def maximum(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


@op(f32x16, f32x16, f32x16)
def minimum(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered("<", x, y), x, y)


@op(f32x16, f32x16)
def absolute(b: ir.IRBuilder, x: Any) -> Any:
    return b.bitcast(b.and_(b.bitcast(x, I32X16), constant(0x7FFFFFFF, I32X16)), F32X16)


@op(i32x16, f32x16)
def round_to_int(b: ir.IRBuilder, x: Any) -> Any:
    """To the nearest integer, ties to even; |x| < 2²². Adding 1.5 · 2²³ leaves the integer in the low bits."""
    magic = constant(12582912.0, F32X16)
    return b.sub(b.bitcast(b.fadd(x, magic), I32X16), constant(0x4B400000, I32X16))


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
    r = fma.emit(b, whole, c(-0.693145752), x)  # ln 2 in two pieces, so that n · ln 2 is subtracted exactly
    r = fma.emit(b, whole, c(-1.42860677e-6), r)
    series = c(1 / 5040)
    for term in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        series = fma.emit(b, series, r, c(term))
    power = b.bitcast(b.shl(b.add(n, constant(127, I32X16)), constant(23, I32X16)), F32X16)
    return b.fmul(series, power)


# Across lanes. The order of additions is part of the result, so it is the same everywhere: lane i with i+8, then i+4,
# i+2, i+1.


def fold(b: ir.IRBuilder, x: Any, combine: Callable[[ir.IRBuilder, Any, Any], Any]) -> Any:
    for distance in (8, 4, 2, 1):
        x = combine(b, x, shuffle(b, x, x, [lane ^ distance for lane in range(LANES)]))
    return b.extract_element(x, I32(0))


@op(number, f32x16)
def total(b: ir.IRBuilder, x: Any) -> Any:
    """The sum of all lanes."""
    return fold(b, x, lambda b, x, y: b.fadd(x, y))


@op(number, f32x16)
def largest(b: ir.IRBuilder, x: Any) -> Any:
    """The maximum of all lanes."""
    return fold(b, x, maximum.emit)


@op(types.int32, i32x16)
def total_int(b: ir.IRBuilder, x: Any) -> Any:
    """The sum of all lanes."""
    return fold(b, x, lambda b, x, y: b.add(x, y))


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


# The dot product of bytes: acc[lane] + Σ u[4·lane + i] · s[4·lane + i], i = 0…3; u without sign, s with.


def multiply_add_16(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Two <32 x i16> to <16 x i32>: products of neighbours, added in pairs."""
    for feature, width, name in (
        ("avx512bw", 32, "llvm.x86.avx512.pmaddw.d.512"),
        ("avx2", 16, "llvm.x86.avx2.pmadd.wd"),
        ("sse2", 8, "llvm.x86.sse2.pmadd.wd"),
    ):
        if MACHINE.has(feature):
            n = 32 // width
            halves = zip(split(b, x, n), split(b, y, n), strict=True) if n > 1 else [(x, y)]
            return join(b, [call(b, name, vector(I32, width // 2), pair) for pair in halves])
    sixteen = constant(16, I32X16)
    x, y = b.bitcast(x, I32X16), b.bitcast(y, I32X16)
    even = b.mul(b.ashr(b.shl(x, sixteen), sixteen), b.ashr(b.shl(y, sixteen), sixteen))
    return b.add(even, b.mul(b.ashr(x, sixteen), b.ashr(y, sixteen)))


def dot_halves(b: ir.IRBuilder, acc: Any, u: Any, s: Any) -> Any:
    """The portable way: bytes 0 and 2 of a lane as 16-bit numbers, then bytes 1 and 3."""
    eight = constant(8, I16X32)
    u, s = b.bitcast(u, I16X32), b.bitcast(s, I16X32)
    even = multiply_add_16(b, b.and_(u, constant(0xFF, I16X32)), b.ashr(b.shl(s, eight), eight))
    odd = multiply_add_16(b, b.lshr(u, eight), b.ashr(s, eight))
    return b.add(acc, b.add(even, odd))


def dot_bytes(b: ir.IRBuilder, acc: Any, u: Any, s: Any, small: bool) -> Any:
    """acc + Σ u·s in every lane. `small` promises |u|·|s| < 2¹⁴, so that two products fit 16 bits."""
    if MACHINE.wide:
        modern = MACHINE.llvm_version >= 22  # LLVM 22 takes the bytes as bytes, older ones as integers
        args = [b.bitcast(v, I8X64) for v in (u, s)] if modern else [u, s]
        return call(b, "llvm.x86.avx512.vpdpbusd.512", I32X16, [acc, *args])
    if MACHINE.simd == "avxvnni":
        kind = vector(I8, 32) if MACHINE.llvm_version >= 22 else vector(I32, 8)
        parts = zip(*(split(b, v, 2) for v in (acc, u, s)), strict=True)
        return join(
            b,
            [
                call(b, "llvm.x86.avx512.vpdpbusd.256", vector(I32, 8), [a, b.bitcast(x, kind), b.bitcast(y, kind)])
                for a, x, y in parts
            ],
        )
    if MACHINE.simd == "avx2" and small:
        kind = vector(I8, 32)
        parts = zip(split(b, u, 2), split(b, s, 2), strict=True)
        pairs = [
            call(b, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), [b.bitcast(x, kind), b.bitcast(y, kind)])
            for x, y in parts
        ]
        ones = constant(1, vector(I16, 16))
        return b.add(acc, join(b, [call(b, "llvm.x86.avx2.pmadd.wd", vector(I32, 8), [p, ones]) for p in pairs]))
    if MACHINE.simd == "neon":
        return dot_neon(b, acc, u, s)
    return dot_halves(b, acc, u, s)


def dot_neon(b: ir.IRBuilder, acc: Any, u: Any, s: Any) -> Any:
    """`sdot` takes two signed factors: u = (u - 128) + 128, and 128 · Σs is a dot product with ones, shifted."""
    kind = vector(I8, 16)
    flipped = b.xor(u, constant(-0x7F7F7F80, I32X16))  # 0x80 in every byte
    result = []
    for a, x, y in zip(*(split(b, v, 4) for v in (acc, flipped, s)), strict=True):
        y = b.bitcast(y, kind)
        name, i32x4 = "llvm.aarch64.neon.sdot.v4i32.v16i8", vector(I32, 4)
        sum_s = call(b, name, i32x4, [constant(0, i32x4), constant(1, kind), y])
        result.append(call(b, name, i32x4, [b.add(a, b.shl(sum_s, constant(7, i32x4))), b.bitcast(x, kind), y]))
    return join(b, result)


# Tiles (AMX): eight registers, of up to 16 rows of up to 64 bytes, and an instruction that multiplies two as matrices.
# They are numbered by the program, hold nothing over `release_tiles`, and meet other registers only through memory.


def use_tiles(b: ir.IRBuilder, shapes: Sequence[tuple[int, int]]) -> None:
    """Set the tiles 0, 1 … up as (rows, bytes of a row), all zero."""
    rows, widths = [r for r, _ in shapes], [w for _, w in shapes]
    pad = [0] * (8 - len(shapes))
    settings = np.zeros(1, [("palette", "u1"), ("start", "u1", 15), ("widths", "<u2", 16), ("rows", "u1", 16)])
    settings["palette"], settings["widths"][0, :8], settings["rows"][0, :8] = 1, widths + pad, rows + pad
    place = cgutils.global_constant(b.module, "tile_settings", cgutils.make_bytearray(settings.tobytes()))
    call(b, "llvm.x86.ldtilecfg", ir.VoidType(), [b.bitcast(place, I8.as_pointer())])


def release_tiles(b: ir.IRBuilder) -> None:
    call(b, "llvm.x86.tilerelease", ir.VoidType(), [])


def tile_load(b: ir.IRBuilder, tile: int, a: Any, stride: int) -> None:
    """Read a tile's rows, which lie `stride` bytes apart."""
    call(b, "llvm.x86.tileloadd64", ir.VoidType(), [I8(tile), b.inttoptr(a, I8.as_pointer()), I64(stride)])


def tile_store(b: ir.IRBuilder, tile: int, a: Any, stride: int) -> None:
    call(b, "llvm.x86.tilestored64", ir.VoidType(), [I8(tile), b.inttoptr(a, I8.as_pointer()), I64(stride)])


def tile_dots(b: ir.IRBuilder, sums: int, x: int, y: int) -> None:
    """sums i32 [m][n] = x · y of signed bytes; x: i8 [m][k], y: i8 [k/4][n][4]."""
    call(b, "llvm.x86.tilezero", ir.VoidType(), [I8(sums)])
    call(b, "llvm.x86.tdpbssd", ir.VoidType(), [I8(tile) for tile in (sums, x, y)])


# To the compiler.


#: Compiles a function that only compiled code calls: without Python's lock, and without the wrappers by which Python
#: could call it, which take a third of the time to compile. `fast_object` calls functions by their addresses.
compiled: Any = njit(  # type: ignore[call-overload]
    nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
)


@op(nothing)
def keep_apart(b: ir.IRBuilder) -> None:
    """Compile the function that says this once, instead of copying it to each of its callers: less to compile."""
    b.function.attributes.add("noinline")


# Between threads.


@op(integer, address, integer)
def fetch_add(b: ir.IRBuilder, a: Any, x: Any) -> Any:
    """Add to a counter that other threads use too; returns what it was."""
    return b.atomic_rmw("add", b.inttoptr(a, I64.as_pointer()), x, "seq_cst")


@op(integer, address)
def load_shared(b: ir.IRBuilder, a: Any) -> Any:
    """Read what another thread may have written."""
    return b.load_atomic(b.inttoptr(a, I64.as_pointer()), "seq_cst", 8)


@op(nothing, address, integer)
def store_shared(b: ir.IRBuilder, a: Any, x: Any) -> None:
    """Write what other threads will read."""
    b.store_atomic(x, b.inttoptr(a, I64.as_pointer()), "seq_cst", 8)


@op(nothing)
def pause(b: ir.IRBuilder) -> None:
    """A breath between two looks at a counter; costs the other hyperthread nothing."""
    if MACHINE.is_x86:
        call(b, "llvm.x86.sse2.pause", ir.VoidType(), [])
