"""Vectors of eight and sixteen lanes for Numba kernels, one LLVM operation each.

Numba has no fused multiply-add and no vectors, and llama.cpp's SIMD builds are defined by both: which products a lane
sums, and that they are fused. Each function here is one or a few LLVM instructions without any licence to reassociate
or contract, so a kernel rounds exactly where it says. Addresses are plain int64; no load needs alignment. Everything is
generic LLVM, so that it runs (and rounds alike) on any processor; where the host is known to have the one instruction
that llama.cpp used, that instruction is emitted.

=======  ================  =======================================
suffix   LLVM type         what it holds
=======  ================  =======================================
`b32`    <32 x i8>         codes of one block of 32 values
`i8`     <8 x i32>         integer sums, one a lane
`i16`    <16 x i32>        the same, sixteen lanes
`f8`     <8 x float>       an AVX register of floats
`f16`    <16 x float>      an AVX-512 register, or sixteen rows
`d16`    <16 x double>     sixteen rows summed in double
=======  ================  =======================================
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from ggmlpy.machine.features import MACHINE
from ggmlpy.quantizers import c_arithmetic
from ggmlpy.quantizers.c_arithmetic import JIT_OPTIONS

INT1, INT8, INT16, INT32, INT64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
HALF, FLOAT, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()


def _host_features() -> frozenset[str]:
    """What Numba compiles for: the processor at hand, unless NUMBA_CPU_FEATURES names another."""
    named = getattr(config, "CPU_FEATURES", None)
    if named is not None:
        return frozenset(word[1:] for word in named.split(",") if word.startswith("+"))
    return frozenset(name for name, there in llvmlite.binding.get_host_cpu_features().items() if there)


HOST = _host_features()
HAS_AVX2 = {"avx2", "fma"} <= HOST
FETCH_DISTANCE = MACHINE.fetch_distance  # Intel's cores want it; AMD's lose by it
HAS_F16C = "f16c" in HOST or llvmlite.binding.get_process_triple().startswith(("aarch64", "arm64"))


def _stamp() -> int:
    """A number that changes with any source file that kernels are made of."""
    here = Path(__file__)
    sources = [Path(c_arithmetic.__file__), *sorted(here.parent.glob("*.py"))]
    try:
        return zlib.crc32(b"".join(source.read_bytes() for source in sources))
    except OSError:  # sources in an archive
        return 0


STAMP = _stamp()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called, or load its machine code from Numba's cache.

    Numba notices that the file of a kernel changed, not the files whose functions it calls; `STAMP` covers those. Where
    no cache can be written, kernels are compiled anew in every process.
    """
    try:
        compiled = njit(cache=True, **JIT_OPTIONS)(function)
    except RuntimeError:
        return njit(**JIT_OPTIONS)(function)
    index = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if index is not None:
        index._source_stamp = (index._source_stamp, STAMP)
    return compiled


class Vector(types.Type):
    """A Numba type that is one LLVM vector."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)


class B32(Vector):
    pass


class I8(Vector):
    pass


class I16(Vector):
    pass


class F8(Vector):
    pass


class F16(Vector):
    pass


class D16(Vector):
    pass


LLVM = {
    B32: ir.VectorType(INT8, 32),
    I8: ir.VectorType(INT32, 8),
    I16: ir.VectorType(INT32, 16),
    F8: ir.VectorType(FLOAT, 8),
    F16: ir.VectorType(FLOAT, 16),
    D16: ir.VectorType(DOUBLE, 16),
}


def _register(vector_class: type[Vector], llvm_type: ir.Type) -> Vector:
    class Model(models.PrimitiveModel):
        def __init__(self, manager: Any, numba_type: Any) -> None:
            super().__init__(manager, numba_type, llvm_type)

    register_model(vector_class)(Model)
    return vector_class(f"exact_{vector_class.__name__}")


b32, i8, i16, f8, f16, d16 = (_register(vector_class, llvm_type) for vector_class, llvm_type in LLVM.items())
i32, i64, f32, f64, void = types.int32, types.int64, types.float32, types.float64, types.void


def operation(returns: Any, *takes: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make an LLVM emitter `f(builder, *values)` callable from Numba kernels with these types."""

    def wrap(emitter: Callable[..., Any]) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            result = emitter(builder, *values)
            return context.get_dummy_value() if returns is void else result

        parameters = ", ".join(f"a{i}" for i in range(len(takes)))
        scope = {"signature": returns(*takes), "emit": emit}
        exec(f"def typed(typingctx, {parameters}):\n    return signature, emit", scope)  # Numba counts parameters
        scope["typed"].__name__ = scope["typed"].__qualname__ = emitter.__name__
        return intrinsic(scope["typed"])

    return wrap


def _pointer(builder: Any, address: Any, llvm_type: Any) -> Any:
    return builder.inttoptr(address, llvm_type.as_pointer())


def _load(builder: Any, address: Any, llvm_type: Any) -> Any:
    return builder.load(_pointer(builder, address, llvm_type), align=1)


def _constant(values: list[Any], element: Any) -> Any:
    return ir.Constant(ir.VectorType(element, len(values)), values)


def _shuffle(builder: Any, x: Any, y: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(x, y, _constant(lanes, INT32))


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, INT32(0))
    return _shuffle(builder, first, first, [0] * vector.count)


def _call(builder: Any, name: str, returns: Any, values: list[Any]) -> Any:
    function_type = ir.FunctionType(returns, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), values)


def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    suffix = f"v{x.type.count}f32" if isinstance(x.type, ir.VectorType) else {FLOAT: "f32", DOUBLE: "f64"}[x.type]
    return _call(builder, f"llvm.fma.{suffix}", x.type, [x, y, z])


def widen_half(builder: Any, h: Any) -> Any:
    """A vector of f16 (as i16 lanes) to float, exactly, with or without the processor's help."""
    n = h.type.count
    floats, ints = ir.VectorType(FLOAT, n), ir.VectorType(INT32, n)
    if HAS_F16C:
        return builder.fpext(builder.bitcast(h, ir.VectorType(HALF, n)), floats)
    wide = builder.zext(h, ints)
    magnitude = builder.shl(builder.and_(wide, _constant([0x7FFF] * n, INT32)), _constant([13] * n, INT32))
    scaled = builder.fmul(builder.bitcast(magnitude, floats), _constant([2.0**112] * n, FLOAT))
    special = builder.or_(magnitude, _constant([0x7F800000] * n, INT32))  # inf and NaN
    is_special = builder.icmp_unsigned(">=", magnitude, _constant([0x0F800000] * n, INT32))
    value = builder.select(is_special, special, builder.bitcast(scaled, ints))
    sign = builder.shl(builder.and_(wide, _constant([0x8000] * n, INT32)), _constant([16] * n, INT32))
    return builder.bitcast(builder.or_(value, sign), floats)


# Scalars.


@operation(f32, f32, f32, f32)
def fma(b, x, y, z):
    """x * y + z with one rounding."""
    return _fma(b, x, y, z)


@operation(f64, f64, f64, f64)
def fma64(b, x, y, z):
    """x * y + z in double with one rounding."""
    return _fma(b, x, y, z)


@operation(f32, i64)
def load_f32(b, address):
    return _load(b, address, FLOAT)


@operation(f32, i64)
def load_half(b, address):
    """The float32 of an f16 in memory."""
    return b.extract_element(widen_half(b, _load(b, address, ir.VectorType(INT16, 1))), INT32(0))


@operation(i32, i64)
def load_i8(b, address):
    """A signed byte."""
    return b.sext(_load(b, address, INT8), INT32)


@operation(i32, i64)
def load_u8(b, address):
    """An unsigned byte."""
    return b.zext(_load(b, address, INT8), INT32)


@operation(void, i64, f32)
def store_f32(b, address, x):
    b.store(x, _pointer(b, address, FLOAT), align=1)


@operation(void, i64)
def fetch_ahead(b, address):
    """Ask for the memory that a loop over rows will read a little later; it never faults."""
    if FETCH_DISTANCE:
        pointer = b.inttoptr(b.add(address, INT64(FETCH_DISTANCE)), INT8.as_pointer())
        arguments = [pointer, INT32(0), INT32(3), INT32(1)]  # to read, into every level, data
        function_type = ir.FunctionType(ir.VoidType(), [value.type for value in arguments])
        name = "llvm.prefetch.p0" if MACHINE.llvm_version >= 15 else "llvm.prefetch.p0i8"
        b.call(cgutils.get_or_insert_function(b.module, function_type, name), arguments)


@operation(f32, types.uint16)
def half_value(b, h):
    """The float32 of an f16's bits."""
    lane = b.insert_element(ir.Constant(ir.VectorType(INT16, 1), ir.Undefined), h, INT32(0))
    return b.extract_element(widen_half(b, lane), INT32(0))


# Codes of a block of 32.


def _nibbles(b: Any, address: Any) -> tuple[Any, Any]:
    packed = _load(b, address, ir.VectorType(INT8, 16))
    return b.and_(packed, _constant([15] * 16, INT8)), b.lshr(packed, _constant([4] * 16, INT8))


@operation(b32, i64)
def nibbles_in_pairs(b, address):
    """16 bytes to 32 codes 0…15: byte j holds element 2j low and 2j+1 high."""
    low, high = _nibbles(b, address)
    return _shuffle(b, low, high, [k // 2 + 16 * (k % 2) for k in range(32)])


@operation(b32, i64)
def nibbles_in_halves(b, address):
    """16 bytes to 32 codes 0…15: byte j holds element j low and j+16 high."""
    low, high = _nibbles(b, address)
    return _shuffle(b, low, high, list(range(32)))


@operation(b32, i64, i64)
def nibbles_of_two(b, first, second):
    """Two q4_2 blocks of 8 bytes to 32 codes 0…15, elements in pairs."""
    low8, high8 = (_load(b, address, ir.VectorType(INT8, 8)) for address in (first, second))
    packed = _shuffle(b, low8, high8, list(range(16)))
    low, high = b.and_(packed, _constant([15] * 16, INT8)), b.lshr(packed, _constant([4] * 16, INT8))
    return _shuffle(b, low, high, [k // 2 + 16 * (k % 2) for k in range(32)])


@operation(b32, i64)
def fifth_bits(b, address):
    """A 32-bit word to 32 bytes: 16 where bit l is set, else 0."""
    bits = b.bitcast(_load(b, address, INT32), ir.VectorType(INT1, 32))
    return b.select(bits, _constant([16] * 32, INT8), _constant([0] * 32, INT8))


@operation(b32, i64)
def load_b32(b, address):
    """32 signed bytes."""
    return _load(b, address, LLVM[B32])


@operation(void, i64, b32)
def store_b32(b, address, x):
    b.store(x, _pointer(b, address, LLVM[B32]), align=1)


@operation(b32, b32, b32)
def or_b32(b, x, y):
    return b.or_(x, y)


@operation(b32, b32, i32)
def minus(b, x, offset):
    """Every code minus an offset (which fits a byte)."""
    return b.sub(x, _splat(b, b.trunc(offset, INT8), LLVM[B32]))


# Integer dot products of two blocks.


def _products(b: Any, x: Any, y: Any) -> Any:
    wide = ir.VectorType(INT32, 32)
    return b.mul(b.sext(x, wide), b.sext(y, wide))


def _sum_lanes(b: Any, products: Any, groups: list[list[int]]) -> Any:
    total = None
    for k in range(len(groups[0])):
        part = _shuffle(b, products, products, [group[k] for group in groups])
        total = part if total is None else b.add(total, part)
    return total


def _dot_quads(b: Any, x: Any, y: Any) -> Any:
    if not HAS_AVX2:
        return _sum_lanes(b, _products(b, x, y), [[4 * lane + k for k in range(4)] for lane in range(8)])
    words = ir.VectorType(INT16, 16)
    signed_y = _call(b, "llvm.x86.avx2.psign.b", LLVM[B32], [y, x])
    magnitude_x = _call(b, "llvm.x86.avx2.psign.b", LLVM[B32], [x, x])
    pairs = _call(b, "llvm.x86.avx2.pmadd.ub.sw", words, [magnitude_x, signed_y])
    return _call(b, "llvm.x86.avx2.pmadd.wd", LLVM[I8], [pairs, _constant([1] * 16, INT16)])


@operation(i8, b32, b32)
def dot_quads(b, x, y):
    """Lane l = sum of x*y over elements 4l … 4l+3; y must not hold -128, whose sign `vpsignb` cannot change."""
    return _dot_quads(b, x, y)


@operation(i8, b32, b32)
def dot_split_pairs(b, x, y):
    """Lane l = sum of x*y over elements 2l, 2l+1, 16+2l, 17+2l."""
    groups = [[2 * lane, 2 * lane + 1, 16 + 2 * lane, 17 + 2 * lane] for lane in range(8)]
    if not HAS_AVX2:
        return _sum_lanes(b, _products(b, x, y), groups)
    words, lower, upper = ir.VectorType(INT16, 16), list(range(16)), list(range(16, 32))
    halves = [
        [b.sext(_shuffle(b, v, v, part), words) for v in (x, y)]
        for part in (lower, upper)
    ]  # fmt: skip
    low, high = (_call(b, "llvm.x86.avx2.pmadd.wd", LLVM[I8], half) for half in halves)
    return b.add(low, high)


@operation(i16, b32, b32)
def dot_pairs(b, x, y):
    """Lane l of sixteen = sum of x*y over elements 2l, 2l+1."""
    return _sum_lanes(b, _products(b, x, y), [[2 * lane, 2 * lane + 1] for lane in range(16)])


def _by_half(b: Any, low: Any, high: Any) -> Any:
    """low in lanes 0 … 3 and high in the others."""
    return _shuffle(b, _splat(b, low, LLVM[I8]), _splat(b, high, LLVM[I8]), [0, 1, 2, 3, 12, 13, 14, 15])


@operation(i8)
def zero_i8(b):
    return _constant([0] * 8, INT32)


@operation(i8, i8, b32, b32, i32, i32)
def add_quads(b, total, x, y, low, high):
    """total + `dot_quads`, the products of the first 16 elements times `low`, of the others times `high`.

    x must not hold -128, y may.
    """
    return b.add(total, b.mul(_dot_quads(b, y, x), _by_half(b, low, high)))


@operation(i8, i8, b32, b32, i32, i32)
def add_columns(b, total, x, y, low, high):
    """total + x*y, lane l over elements l, 8+l (times `low`) and 16+l, 24+l (times `high`)."""
    products = _products(b, x, y)
    for first, scale in ((0, low), (16, high)):
        pair = [_shuffle(b, products, products, list(range(k, k + 8))) for k in (first, first + 8)]
        total = b.add(total, b.mul(b.add(*pair), _splat(b, scale, LLVM[I8])))
    return total


@operation(f8, i64)
def load_i8_as_f8(b, address):
    """Eight int32 in memory as floats."""
    return b.sitofp(_load(b, address, LLVM[I8]), LLVM[F8])


@operation(f8, f8, f8)
def mul_f8(b, x, y):
    return b.fmul(x, y)


@operation(f32, f32, f8)
def add_in_order(b, start, x):
    """start + a0 + a1 + … + a7, one after another."""
    for lane in range(8):
        start = b.fadd(start, b.extract_element(x, INT32(lane)))
    return start


@operation(i8, b32, b32)
def sums_of_eights(b, x, y):
    """Lanes X0 Y0 X1 Y1 X2 Y2 X3 Y3: the sum of each run of eight codes of x, then of y."""
    ones = _constant([1] * 32, INT8)
    of_x, of_y, lanes = _dot_quads(b, x, ones), _dot_quads(b, y, ones), [0, 8, 2, 10, 4, 12, 6, 14]
    return b.add(_shuffle(b, of_x, of_y, lanes), _shuffle(b, of_x, of_y, [lane + 1 for lane in lanes]))


@operation(i32, i8)
def sum_i8(b, x):
    """All eight lanes, as integers (no order matters)."""
    return _call(b, "llvm.vector.reduce.add.v8i32", INT32, [x])


@operation(i32, i8)
def sum_low(b, x):
    """Lanes 0 … 3, as integers."""
    return _call(b, "llvm.vector.reduce.add.v4i32", INT32, [_shuffle(b, x, x, [0, 1, 2, 3])])


@operation(i32, i8)
def sum_high(b, x):
    """Lanes 4 … 7, as integers."""
    return _call(b, "llvm.vector.reduce.add.v4i32", INT32, [_shuffle(b, x, x, [4, 5, 6, 7])])


# Eight floats.


@operation(f8)
def zero_f8(b):
    return _constant([0.0] * 8, FLOAT)


@operation(f8, f32)
def splat_f8(b, x):
    return _splat(b, x, LLVM[F8])


@operation(f8, f32, f32)
def alternate_f8(b, even, odd):
    """even in lanes 0, 2, 4, 6 and odd in the others."""
    return _shuffle(b, _splat(b, even, LLVM[F8]), _splat(b, odd, LLVM[F8]), [0, 9, 2, 11, 4, 13, 6, 15])


@operation(f8, f32, f32)
def halves_f8(b, low, high):
    """low in lanes 0 … 3 and high in the others."""
    return _shuffle(b, _splat(b, low, LLVM[F8]), _splat(b, high, LLVM[F8]), [0, 1, 2, 3, 12, 13, 14, 15])


@operation(f8, i64)
def load_f8(b, address):
    return _load(b, address, LLVM[F8])


@operation(f8, i64)
def load_half8(b, address):
    """Eight f16 in memory as floats."""
    return widen_half(b, _load(b, address, ir.VectorType(INT16, 8)))


@operation(f8, i8)
def to_f8(b, x):
    """Integers to floats (rounded to nearest even)."""
    return b.sitofp(x, LLVM[F8])


@operation(f8, f8, f8, f8)
def fma_f8(b, x, y, z):
    return _fma(b, x, y, z)


@operation(f8, f8, f8)
def add_f8(b, x, y):
    return b.fadd(x, y)


@operation(f32, f8)
def sum_crosswise(b, x):
    """((a4+a0)+(a6+a2)) + ((a5+a1)+(a7+a3)): high half onto low, then `movehl`, then `movehdup`."""
    x = b.fadd(_shuffle(b, x, x, [4, 5, 6, 7]), _shuffle(b, x, x, [0, 1, 2, 3]))
    x = b.fadd(_shuffle(b, x, x, [0, 1]), _shuffle(b, x, x, [2, 3]))
    return b.fadd(b.extract_element(x, INT32(0)), b.extract_element(x, INT32(1)))


@operation(f32, f8)
def sum_neighbours(b, x):
    """((a0+a4)+(a1+a5)) + ((a2+a6)+(a3+a7)): low half and high, then `hadd` twice."""
    x = b.fadd(_shuffle(b, x, x, [0, 1, 2, 3]), _shuffle(b, x, x, [4, 5, 6, 7]))
    x = b.fadd(_shuffle(b, x, x, [0, 2]), _shuffle(b, x, x, [1, 3]))
    return b.fadd(b.extract_element(x, INT32(0)), b.extract_element(x, INT32(1)))


# Sixteen floats or doubles: an AVX-512 register, or one value of each of sixteen rows.


@operation(f16)
def zero_f16(b):
    return _constant([0.0] * 16, FLOAT)


@operation(d16)
def zero_d16(b):
    return _constant([0.0] * 16, DOUBLE)


@operation(f16, f32)
def splat_f16(b, x):
    return _splat(b, x, LLVM[F16])


@operation(f16, i16)
def to_f16(b, x):
    return b.sitofp(x, LLVM[F16])


@operation(d16, f16)
def to_d16(b, x):
    """Floats to doubles, exactly."""
    return b.fpext(x, LLVM[D16])


@operation(f16, f16, f16, f16)
def fma_f16(b, x, y, z):
    return _fma(b, x, y, z)


@operation(f16, f16, f16)
def add_f16(b, x, y):
    return b.fadd(x, y)


@operation(f16, f16, f16)
def mul_f16(b, x, y):
    return b.fmul(x, y)


@operation(d16, d16, d16)
def add_d16(b, x, y):
    return b.fadd(x, y)


@operation(f32, f16)
def sum_halving(b, x):
    """Halves onto each other: 8, 4, 2, 1 (what `_mm512_reduce_add_ps` does)."""
    for width in (8, 4, 2):
        x = b.fadd(_shuffle(b, x, x, list(range(width))), _shuffle(b, x, x, list(range(width, 2 * width))))
    return b.fadd(b.extract_element(x, INT32(0)), b.extract_element(x, INT32(1)))


@operation(void, i64, f16)
def store_f16(b, address, x):
    b.store(x, _pointer(b, address, LLVM[F16]), align=1)


def _rows(b: Any, address: Any, stride: Any, element: Any) -> list[Any]:
    return [_load(b, b.add(address, b.mul(stride, INT64(row))), element) for row in range(16)]


def _gather(b: Any, values: list[Any]) -> Any:
    vector = ir.Constant(ir.VectorType(values[0].type, len(values)), ir.Undefined)
    for lane, value in enumerate(values):
        vector = b.insert_element(vector, value, INT32(lane))
    return vector


@operation(f16, i64, i64)
def column_f32(b, address, stride):
    """The float at `address` of each of sixteen rows, `stride` bytes apart."""
    return _gather(b, _rows(b, address, stride, FLOAT))


@operation(f16, i64, i64)
def column_half(b, address, stride):
    """The f16 at `address` of each of sixteen rows, as floats."""
    return widen_half(b, _gather(b, _rows(b, address, stride, INT16)))


def _transpose(b: Any, rows: list[Any]) -> list[Any]:
    """Sixteen vectors of sixteen lanes, lane i of vector j swapped with lane j of vector i: four perfect shuffles."""
    low = [k // 2 + 16 * (k % 2) for k in range(16)]
    high = [lane + 8 for lane in low]
    for _ in range(4):
        rows = [_shuffle(b, rows[i], rows[i + 8], half) for i in range(8) for half in (low, high)]
    return rows


@operation(void, i64, i64, i32, i64)
def transpose_nibbles(b, address, stride, offset, target):
    """16 bytes of each of sixteen rows to 32 columns of 16 codes less `offset`: 512 signed bytes, in pair order."""
    bytes16 = ir.VectorType(INT8, 16)
    offsets = _splat(b, b.trunc(offset, INT8), bytes16)
    for j, column in enumerate(_transpose(b, _rows(b, address, stride, bytes16))):
        low, high = b.and_(column, _constant([15] * 16, INT8)), b.lshr(column, _constant([4] * 16, INT8))
        for k, codes in enumerate((low, high)):
            place = b.add(target, INT64(16 * (2 * j + k)))
            b.store(b.sub(codes, offsets), _pointer(b, place, bytes16), align=1)


@operation(void, i64, i64, i64)
def transpose_floats(b, address, stride, target):
    """16 floats of each of sixteen rows to 16 columns of 16 floats, 1024 bytes at `target`."""
    for j, column in enumerate(_transpose(b, _rows(b, address, stride, LLVM[F16]))):
        b.store(column, _pointer(b, b.add(target, INT64(64 * j)), LLVM[F16]), align=1)


@operation(void, i64, i64, i64)
def transpose_halves(b, address, stride, target):
    """16 f16 of each of sixteen rows to 16 columns of 16 floats, 1024 bytes at `target`."""
    for j, column in enumerate(_transpose(b, _rows(b, address, stride, ir.VectorType(INT16, 16)))):
        b.store(widen_half(b, column), _pointer(b, b.add(target, INT64(64 * j)), LLVM[F16]), align=1)


@operation(f16, i64)
def load_f16(b, address):
    return _load(b, address, LLVM[F16])


@operation(f16, i64)
def load_codes(b, address):
    """Sixteen signed bytes as floats."""
    return b.sitofp(_load(b, address, ir.VectorType(INT8, 16)), LLVM[F16])


@operation(d16, i64)
def load_d16(b, address):
    return _load(b, address, LLVM[D16])


@operation(void, i64, d16)
def store_d16(b, address, x):
    b.store(x, _pointer(b, address, LLVM[D16]), align=1)
