"""Reading and writing memory. Names that end in a type say what lies there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from ggmlpy.machine.features import MACHINE
from ggmlpy.machine.jit import cgutils

from .language import (
    F32,
    F32X16,
    I8,
    I32,
    I64,
    LANES,
    Vector,
    address,
    at,
    call,
    f32x8,
    f32x16,
    f64x16,
    i8x16,
    i8x32,
    i32x8,
    i32x16,
    int32,
    integer,
    load_as,
    nothing,
    number,
    op,
    shuffle,
    store_as,
)

__all__ = [
    "column_f32",
    "copy_bytes",
    "fetch_later",
    "gather",
    "load",
    "load_f32",
    "load_f32x8",
    "load_f64x16",
    "load_i8",
    "load_i8x16",
    "load_i8x32",
    "load_i32",
    "load_i32x8",
    "load_i64",
    "load_u8",
    "make_fetch_ahead",
    "prefetch",
    "rows_at",
    "store",
    "store_f32",
    "store_f64x16",
    "store_i8x16",
    "store_i8x32",
    "store_i32",
    "store_i32x16",
    "store_i64",
    "transpose",
    "transpose_f32",
    "zero_bytes",
]


def load_operation(kind: Vector) -> Any:
    """The operation (address) -> the vector that lies there."""

    @op(kind, address)
    def load_vector(b: ir.IRBuilder, a: Any) -> Any:
        return load_as(b, a, kind.llvm)

    return load_vector


def store_operation(kind: Any) -> Any:
    """The operation (address, value): write the value there."""

    @op(nothing, address, kind)
    def store_value(b: ir.IRBuilder, a: Any, x: Any) -> None:
        store_as(b, a, x)

    return store_value


load, load_f32x8, load_f64x16 = map(load_operation, (f32x16, f32x8, f64x16))
load_i8x16, load_i8x32, load_i32x8 = map(load_operation, (i8x16, i8x32, i32x8))
store, store_f64x16, store_i8x32 = map(store_operation, (f32x16, f64x16, i8x32))
store_i8x16, store_i32x16 = map(store_operation, (i8x16, i32x16))
store_f32, store_i32, store_i64 = map(store_operation, (number, int32, integer))


@op(number, address)
def load_f32(b: ir.IRBuilder, a: Any) -> Any:
    return load_as(b, a, F32)


@op(int32, address)
def load_i32(b: ir.IRBuilder, a: Any) -> Any:
    return load_as(b, a, I32)


@op(integer, address)
def load_i64(b: ir.IRBuilder, a: Any) -> Any:
    return load_as(b, a, I64)


@op(int32, address)
def load_i8(b: ir.IRBuilder, a: Any) -> Any:
    """A signed byte."""
    return b.sext(load_as(b, a, I8), I32)


@op(int32, address)
def load_u8(b: ir.IRBuilder, a: Any) -> Any:
    """An unsigned byte."""
    return b.zext(load_as(b, a, I8), I32)


@op(nothing, address, address, integer)
def copy_bytes(b: ir.IRBuilder, target: Any, source: Any, n: Any) -> None:
    """memcpy."""
    pointer = I8.as_pointer()
    cgutils.raw_memcpy(b, b.inttoptr(target, pointer), b.inttoptr(source, pointer), n, 1)


@op(nothing, address, integer)
def zero_bytes(b: ir.IRBuilder, target: Any, n: Any) -> None:
    """memset to 0."""
    cgutils.memset(b, b.inttoptr(target, I8.as_pointer()), n, 0)


# Asking for memory before it is read; none of this ever faults.


def prefetch(b: ir.IRBuilder, a: Any, locality: int) -> None:
    """Ask for a cache line, into the caches that `locality` says: 2 from the second level on, 3 all of them."""
    name = "llvm.prefetch.p0" if MACHINE.llvm_version >= 15 else "llvm.prefetch.p0i8"
    to_read, data = I32(0), I32(1)
    call(b, name, ir.VoidType(), [b.inttoptr(a, I8.as_pointer()), to_read, I32(locality), data])


def make_fetch_ahead(size: int) -> Any:
    """The operation that asks for the `size` bytes that lie `far` ahead, and for those that lie `near` ahead.

    First into the second-level cache, then into the first. Without it one core of a recent Xeon gets three quarters of
    what it can read: too few lines are under way at a time. On a Ryzen it may halve the speed. If `far` is 0, nothing
    is asked for.
    """

    @op(nothing, address, integer, integer)
    def fetch_ahead(b: ir.IRBuilder, a: Any, far: Any, near: Any) -> None:
        with b.if_then(b.icmp_signed("!=", far, I64(0))):
            for offset in range(0, size, 64):
                prefetch(b, at(b, b.add(a, far), offset), 2)
                prefetch(b, at(b, b.add(a, near), offset), 3)

    return fetch_ahead


@op(nothing, address)
def fetch_later(b: ir.IRBuilder, a: Any) -> None:
    """Ask for the line that a loop over rows will read a little later."""
    if MACHINE.fetch_distance:
        prefetch(b, at(b, a, MACHINE.fetch_distance), 3)


# Columns of sixteen rows.


def rows_at(b: ir.IRBuilder, a: Any, stride: Any, kind: ir.Type) -> list[Any]:
    """What lies at `a`, `stride` bytes on, and so forth: sixteen values."""
    return [load_as(b, b.add(a, b.mul(stride, I64(row))), kind) for row in range(LANES)]


def gather(b: ir.IRBuilder, values: Sequence[Any]) -> Any:
    """Scalars as the lanes of a vector."""
    result = ir.Constant(ir.VectorType(values[0].type, len(values)), ir.Undefined)
    for lane, value in enumerate(values):
        result = b.insert_element(result, value, I32(lane))
    return result


def transpose(b: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """Sixteen vectors of sixteen lanes, lane i of vector j swapped with lane j of vector i: four perfect shuffles."""
    low = [k // 2 + 16 * (k % 2) for k in range(LANES)]
    high = [lane + 8 for lane in low]
    for _ in range(4):
        rows = [shuffle(b, rows[i], rows[i + 8], half) for i in range(8) for half in (low, high)]
    return rows


@op(f32x16, address, integer)
def column_f32(b: ir.IRBuilder, a: Any, stride: Any) -> Any:
    """The float at `a` of each of sixteen rows, `stride` bytes apart."""
    return gather(b, rows_at(b, a, stride, F32))


@op(nothing, address, integer, address)
def transpose_f32(b: ir.IRBuilder, a: Any, stride: Any, target: Any) -> None:
    """16 floats of each of sixteen rows to 16 columns of 16 floats, 1024 bytes at `target`."""
    for j, column in enumerate(transpose(b, rows_at(b, a, stride, F32X16))):
        store_as(b, at(b, target, 64 * j), column)
