"""The types of the vector language, how an operation on them is made, and the building blocks that all of them use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from ggmlpy.machine.jit import cgutils, intrinsic, models, register_model, types

__all__ = [
    "F16",
    "F32",
    "F32X16",
    "F64",
    "I1",
    "I8",
    "I8X64",
    "I16",
    "I16X32",
    "I32",
    "I32X16",
    "I64",
    "LANES",
    "Vector",
    "address",
    "at",
    "call",
    "call_once_made",
    "constant",
    "double",
    "f32x8",
    "f32x16",
    "f64x16",
    "i8x16",
    "i8x32",
    "i32x8",
    "i32x16",
    "i64x2",
    "int32",
    "integer",
    "join",
    "lanewise",
    "load_as",
    "nothing",
    "number",
    "op",
    "shuffle",
    "signed_byte",
    "split",
    "spread",
    "store_as",
    "vector",
]

LANES = 16
I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
ELEMENTS = {"i8": I8, "i32": I32, "i64": I64, "f32": F32, "f64": F64}


def vector(element: ir.Type, n: int) -> ir.VectorType:
    return ir.VectorType(element, n)


I32X16, F32X16 = vector(I32, LANES), vector(F32, LANES)
I8X64, I16X32 = vector(I8, 64), vector(I16, 32)


class Vector(types.Type):
    """A vector register as a Numba type."""

    def __init__(self, element: str, lanes: int) -> None:
        super().__init__(name=f"{element}x{lanes}")
        self.element, self.lanes = element, lanes

    @property
    def llvm(self) -> ir.VectorType:
        return vector(ELEMENTS[self.element], self.lanes)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """How Numba keeps a `Vector`: as one LLVM value."""

    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


i8x16, i8x32 = Vector("i8", 16), Vector("i8", 32)
i32x8, i32x16, i64x2 = Vector("i32", 8), Vector("i32", 16), Vector("i64", 2)
f32x8, f32x16, f64x16 = Vector("f32", 8), Vector("f32", 16), Vector("f64", 16)
address, integer, int32 = types.int64, types.int64, types.int32
number, double, nothing = types.float32, types.float64, types.void

Emit = Callable[..., Any]


def op(returns: types.Type, *takes: types.Type) -> Callable[[Emit], Any]:
    """Make an operation that compiled code can call, out of a function that writes its LLVM instructions.

    The decorated function takes LLVM's instruction builder and one LLVM value per argument. It stays callable from
    other such functions as the operation's attribute ``emit``.
    """

    def decorate(emit: Emit) -> Any:
        return _operation(emit, len(takes), lambda arguments: returns(*takes))

    return decorate


def lanewise(n: int, returns: Callable[[Any], types.Type] = lambda kind: kind) -> Callable[[Emit], Any]:
    """The same for an operation on ``n`` values of one type, whichever that is.

    Args:
        returns: the type of the values -> the type of the result; the same unless given.
    """

    def decorate(emit: Emit) -> Any:
        def signature_of(arguments: Sequence[types.Type]) -> Any:
            kind = arguments[0]
            same = all(argument == kind for argument in arguments)
            return returns(kind)(*arguments) if same and isinstance(kind, (Vector, types.Number)) else None

        return _operation(emit, n, signature_of)

    return decorate


def _operation(emit: Emit, n: int, signature_of: Callable[[Sequence[types.Type]], Any]) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[Any]) -> Any:
        result = emit(builder, *values)
        return context.get_dummy_value() if signature.return_type is nothing else result

    def typer(typing_context: Any, *arguments: Any) -> Any:
        signature = signature_of(arguments)
        return None if signature is None else (signature, codegen)

    names = ["typing_context", *(f"argument_{i}" for i in range(n))]  # Numba counts the parameters
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    typer.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
    typer.__name__, typer.__doc__ = emit.__name__, emit.__doc__
    operation: Any = intrinsic(typer)
    operation.emit = emit
    return operation


def constant(values: Sequence[int | float] | int | float, kind: ir.Type) -> ir.Constant:
    """A vector of these values, or of one value everywhere; of a scalar type, the value."""
    if not isinstance(kind, ir.VectorType):
        return ir.Constant(kind, values)
    return ir.Constant(kind, list(values) if isinstance(values, Sequence) else [values] * kind.count)


def signed_byte(byte: int) -> int:
    """The same eight bits as a number with a sign, as LLVM's constants are given.

    >>> signed_byte(255), signed_byte(-128)
    (-1, -128)
    """
    return (byte & 0x7F) - (byte & 0x80)


def shuffle(b: ir.IRBuilder, x: Any, y: Any, indices: Sequence[int]) -> Any:
    """Pick lanes by number: 0… from x, and the following numbers from y."""
    return b.shuffle_vector(x, y, constant(indices, vector(I32, len(indices))))


def spread(b: ir.IRBuilder, scalar: Any, kind: ir.VectorType) -> Any:
    """One value in every lane."""
    undefined = ir.Constant(kind, ir.Undefined)
    return shuffle(b, b.insert_element(undefined, scalar, I32(0)), undefined, [0] * kind.count)


def at(b: ir.IRBuilder, base: Any, offset: int) -> Any:
    """The address `offset` bytes behind `base`."""
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


def call_once_made(b: ir.IRBuilder, emit: Callable[..., Any], returns: ir.Type, *arguments: Any) -> Any:
    """What emit(b, *arguments) gives, from a function that each module has once.

    For what is long and stands in kernels many times: else these take long to compile.
    """
    words = "_".join(f"{getattr(a.type, 'count', 1)}x{getattr(a.type, 'element', a.type)}" for a in arguments)
    name = f"{emit.__name__}_{words}"
    function = b.module.globals.get(name)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(returns, [a.type for a in arguments]), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        inside = ir.IRBuilder(function.append_basic_block())
        inside.ret(emit(inside, *function.args))
    return b.call(function, arguments)


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
