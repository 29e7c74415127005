"""Integer dot products of bytes.

The one operation of the language whose instructions differ by machine is ``dot_bytes``:

=========== =========================================== ====================================================
name        instructions                                found in
=========== =========================================== ====================================================
vnni        vpdpbusd, 64 bytes                          AVX-512 VNNI: servers since 2019, Ryzen since Zen 4
avxvnni     vpdpbusd, 32 bytes                          Core since Alder Lake (2021)
avx2        vpmaddubsw and vpmaddwd                     every PC since about 2015
neon        sdot                                        aarch64 with the dot product extension (since about 2018)
portable    multiply-adds of 16-bit halves              everything else that LLVM compiles for
=========== =========================================== ====================================================

``amx`` (Xeons since Sapphire Rapids) is ``vnni`` with matrix registers besides: see ``tiles``. All of them give the
same integers. ``LLAMA_SIMD`` chooses another than the processor's best, see `ggmlpy.machine.features`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ggmlpy.machine.features import MACHINE

from .language import (
    I8,
    I8X64,
    I16,
    I16X32,
    I32,
    I32X16,
    call,
    constant,
    i8x32,
    i32x8,
    i32x16,
    int32,
    join,
    op,
    shuffle,
    split,
    spread,
    vector,
)

__all__ = [
    "add_columns",
    "add_quads",
    "dot_bytes",
    "dot_neon",
    "dot_pairs",
    "dot_quads",
    "dot_split_pairs",
    "dot_words",
    "pack_words",
    "sums_of_eights",
]

# The dot product of bytes: acc[lane] + Σ u[4·lane + i] · s[4·lane + i], i = 0…3; u without sign, s with.


def multiply_pairs(b: ir.IRBuilder, x: Any, y: Any) -> Any:
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
    even = multiply_pairs(b, b.and_(u, constant(0xFF, I16X32)), b.ashr(b.shl(s, eight), eight))
    odd = multiply_pairs(b, b.lshr(u, eight), b.ashr(s, eight))
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


# Dot products of words, from sums of bytes.


def dot_words(b: ir.IRBuilder, acc: Any, x: Any, y: Any) -> Any:
    """acc[lane] + x[2·lane]·y[2·lane] + x[2·lane + 1]·y[2·lane + 1]; x, y: <32 x i16>."""
    if MACHINE.wide:
        modern = MACHINE.llvm_version >= 22  # as in `dot_bytes`
        args = [x, y] if modern else [b.bitcast(v, I32X16) for v in (x, y)]
        return call(b, "llvm.x86.avx512.vpdpwssd.512", I32X16, [acc, *args])
    return b.add(acc, multiply_pairs(b, x, y))


def pack_words(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Two <16 x i32> that fit 16 bits as <32 x i16>: of each four lanes those of x, then those of y."""
    if MACHINE.wide:
        return call(b, "llvm.x86.avx512.packssdw.512", I16X32, [x, y])
    order = [side + 8 * part + 2 * lane for part in range(4) for side in (0, 32) for lane in range(4)]
    return shuffle(b, b.bitcast(x, I16X32), b.bitcast(y, I16X32), order)


# Two blocks of 32 signed bytes, and which elements a lane sums: the orders of llama.cpp's kernels.


def _products(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    wide = vector(I32, 32)
    return b.mul(b.sext(x, wide), b.sext(y, wide))


def _sum_lanes(b: ir.IRBuilder, products: Any, groups: list[list[int]]) -> Any:
    total = None
    for k in range(len(groups[0])):
        part = shuffle(b, products, products, [group[k] for group in groups])
        total = part if total is None else b.add(total, part)
    return total


@op(i32x8, i8x32, i8x32)
def dot_quads(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Lane l = sum of x*y over elements 4l … 4l+3; y must not hold -128, whose sign `vpsignb` cannot change."""
    if not MACHINE.has("avx2"):
        return _sum_lanes(b, _products(b, x, y), [[4 * lane + k for k in range(4)] for lane in range(8)])
    signed_y = call(b, "llvm.x86.avx2.psign.b", i8x32.llvm, [y, x])
    magnitude_x = call(b, "llvm.x86.avx2.psign.b", i8x32.llvm, [x, x])
    pairs = call(b, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), [magnitude_x, signed_y])
    return call(b, "llvm.x86.avx2.pmadd.wd", i32x8.llvm, [pairs, constant(1, vector(I16, 16))])


@op(i32x8, i8x32, i8x32)
def dot_split_pairs(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Lane l = sum of x*y over elements 2l, 2l+1, 16+2l, 17+2l."""
    groups = [[2 * lane, 2 * lane + 1, 16 + 2 * lane, 17 + 2 * lane] for lane in range(8)]
    if not MACHINE.has("avx2"):
        return _sum_lanes(b, _products(b, x, y), groups)
    words = vector(I16, 16)
    halves = [[b.sext(shuffle(b, v, v, part), words) for v in (x, y)] for part in (range(16), range(16, 32))]
    return b.add(*(call(b, "llvm.x86.avx2.pmadd.wd", i32x8.llvm, half) for half in halves))


@op(i32x16, i8x32, i8x32)
def dot_pairs(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Lane l of sixteen = sum of x*y over elements 2l, 2l+1."""
    return _sum_lanes(b, _products(b, x, y), [[2 * lane, 2 * lane + 1] for lane in range(16)])


@op(i32x8, i32x8, i8x32, i8x32, int32, int32)
def add_quads(b: ir.IRBuilder, total: Any, x: Any, y: Any, low: Any, high: Any) -> Any:
    """total + `dot_quads`, the products of the first 16 elements times `low`, of the others times `high`.

    x must not hold -128, y may.
    """
    scales = shuffle(
        b, spread(b, low, i32x8.llvm), spread(b, high, i32x8.llvm), [0, 1, 2, 3, 12, 13, 14, 15]
    )  # by half
    return b.add(total, b.mul(dot_quads.emit(b, y, x), scales))


@op(i32x8, i32x8, i8x32, i8x32, int32, int32)
def add_columns(b: ir.IRBuilder, total: Any, x: Any, y: Any, low: Any, high: Any) -> Any:
    """total + x*y, lane l over elements l, 8+l (times `low`) and 16+l, 24+l (times `high`)."""
    products = _products(b, x, y)
    for first, scale in ((0, low), (16, high)):
        pair = [shuffle(b, products, products, range(k, k + 8)) for k in (first, first + 8)]
        total = b.add(total, b.mul(b.add(*pair), spread(b, scale, i32x8.llvm)))
    return total


@op(i32x8, i8x32, i8x32)
def sums_of_eights(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Lanes X0 Y0 X1 Y1 X2 Y2 X3 Y3: the sum of each run of eight codes of x, then of y."""
    ones = constant(1, i8x32.llvm)
    of_x, of_y, lanes = dot_quads.emit(b, x, ones), dot_quads.emit(b, y, ones), [0, 8, 2, 10, 4, 12, 6, 14]
    return b.add(shuffle(b, of_x, of_y, lanes), shuffle(b, of_x, of_y, [lane + 1 for lane in lanes]))
