"""Memory that several threads use, and a word to the compiler."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ggmlpy.machine.features import MACHINE

from .language import I64, address, call, integer, nothing, op

__all__ = ["fetch_add", "keep_apart", "load_shared", "pause", "store_shared"]


@op(nothing)
def keep_apart(b: ir.IRBuilder) -> None:
    """Compile the function that says this once, instead of copying it to each of its callers: less to compile."""
    b.function.attributes.add("noinline")


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
