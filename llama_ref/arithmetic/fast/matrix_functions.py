"""The two compiled functions that each kind of matrix brings, and how they are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from ggmlpy.machine.jit import cgutils, types
from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import I8, I32, I64, address, load_f32, nothing, op, store_f32

__all__ = ["PANEL_SIGNATURE", "ROWS_SIGNATURE", "Product", "call_by_address", "put", "put_four"]

ROWS_SIGNATURE = types.int64(*[types.int64] * 12)  # see Product
PANEL_SIGNATURE = types.int64(*[types.int64] * 11)


@dataclass(frozen=True)
class Product:
    """The compiled functions of one kind of matrix.

    Attributes:
        rows: (base, cols, x, scratch, first, quarter, apart, last, y, accumulate, far, near): y of one vector x, which
            lies in the form that the kind of matrix meets (`layouts.form_of`). Of the rows `first` … `first + quarter`
            - 1, and of those `apart`, 2 · `apart` and 3 · `apart` after them; then of the rows from first + 4 ·
            `quarter` to `last`. The first ones are asked for `far` and `near` bytes ahead (see `read_ahead`).
        panel: (base, cols, first, last, n_tokens, x, panel, sums, y, y_stride, accumulate): the same rows for all
            tokens.
        few: the same as `panel`, for at most FEW_TOKENS tokens (of `layouts`); they need no panel.
    """

    rows: Any
    panel: Any
    few: Any


@compiled
def put(y, value, accumulate):
    store_f32(y, load_f32(y) + value if accumulate != 0 else value)


@compiled
def put_four(y, apart, values, accumulate):
    put(y, values[0], accumulate)
    put(y + apart, values[1], accumulate)
    put(y + 2 * apart, values[2], accumulate)
    put(y + 3 * apart, values[3], accumulate)


def call_by_address(signature: Any) -> Any:
    """The operation (address of a compiled function, arguments …): call it.

    Numba's convention: a place for the result and one for an exception come before the arguments.
    """
    place = I8.as_pointer()
    kind = ir.FunctionType(I32, [place, place, *[I64] * len(signature.args)])

    @op(nothing, address, *signature.args)
    def call_function(b: ir.IRBuilder, function: Any, *arguments: Any) -> None:
        nowhere = b.bitcast(cgutils.alloca_once(b, I64), place)
        b.call(b.inttoptr(function, kind.as_pointer()), [nowhere, nowhere, *arguments])

    return call_function
