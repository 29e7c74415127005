"""CRC-32 as zip files have it, at the speed of memory where the processor can multiply polynomials.

zlib takes about a second a gigabyte, and a merge checks every byte that it reads and sums every byte that it writes.
A CRC is the remainder of a polynomial division, so 64 bytes can be *folded* onto the next 64: multiply the halves of
each 128-bit lane by x^(512+64) and x^512 modulo P, without carries, and add, which leaves the remainder as it was. What
remains after the last fold are 64 bytes with the CRC of all, which zlib finishes with the bytes behind them.

Source: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009; the
constants are those of its bit-reflected CRC-32 (k1, k2 on page 16).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

__all__ = ["crc32"]

SMALL = 1 << 20  # buffers below this are zlib's
PATIENCE = 256 << 20  # bytes that zlib sums before loading numba and the kernel (half a second) pays
BLOCK = 64
_patience = PATIENCE
K1, K2 = 0x154442BD4, 0x1C6E41596  # x^(4*128+64), x^(4*128) modulo P, reflected


def crc32(data: Any, crc: int = 0) -> int:
    """``zlib.crc32(data, crc)`` for any contiguous buffer.

    >>> crc32(bytes(3 << 20)) == zlib.crc32(bytes(3 << 20))
    True
    """
    global _patience
    view = memoryview(data).cast("B")
    _patience -= len(view)
    ready = len(view) >= SMALL and (_patience < 0 or "numba" in sys.modules)
    fold = _kernel() if ready else None
    if fold is None:
        return zlib.crc32(view, crc)
    array = np.frombuffer(view, np.uint8)
    n_blocks = len(array) // BLOCK
    state = array[:BLOCK].copy()
    state[:4] ^= np.frombuffer((crc ^ 0xFFFFFFFF).to_bytes(4, "little"), np.uint8)
    fold(state, array, n_blocks)
    rest = zlib.crc32(state, 0xFFFFFFFF)  # zlib inverts on the way in: this starts from a remainder of 0
    return zlib.crc32(view[n_blocks * BLOCK :], rest)


@cache
def _kernel() -> Callable[[np.ndarray, np.ndarray, int], None] | None:
    """``fold(state, data, n_blocks)``: blocks 1 … n-1 of ``data`` folded onto ``state``; None without PCLMULQDQ."""
    from llvmlite import binding, ir

    if not binding.get_host_cpu_features().get("pclmul"):
        return None
    from numba import njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic

    byte, word = ir.IntType(8), ir.IntType(64)
    lane = ir.VectorType(word, 2)

    @intrinsic
    def fold_blocks(context: Any, state: Any, data: Any, n_blocks: Any) -> Any:
        def emit(context: Any, do: Any, signature: Any, values: Any) -> Any:
            pointers = [context.make_array(kind)(context, do, x).data for kind, x in zip(signature.args[:2], values)]
            state, data = (do.bitcast(pointer, lane.as_pointer()) for pointer in pointers)
            multiply = cgutils.get_or_insert_function(
                do.module, ir.FunctionType(lane, [lane, lane, byte]), "llvm.x86.pclmulqdq"
            )
            factor = ir.Constant(lane, [K1, K2])
            lanes = [cgutils.alloca_once_value(do, do.load(do.gep(state, [word(i)]), align=1)) for i in range(4)]
            with cgutils.for_range(do, do.sub(values[2], word(1))) as loop:
                first = do.mul(do.add(loop.index, word(1)), word(4))
                for i, held in enumerate(lanes):
                    old = do.load(held)
                    low, high = (do.call(multiply, [old, factor, byte(which)]) for which in (0x00, 0x11))
                    new = do.load(do.gep(data, [do.add(first, word(i))]), align=1)
                    do.store(do.xor(do.xor(low, high), new), held)
            for i, held in enumerate(lanes):
                do.store(do.load(held), do.gep(state, [word(i)]), align=1)
            return context.get_dummy_value()

        return types.void(state, data, types.int64), emit

    read_only = types.Array(types.uint8, 1, "C", readonly=True)

    @njit(types.void(types.uint8[::1], read_only, types.int64), nogil=True, cache=True)
    def fold(state: Any, data: Any, n_blocks: Any) -> None:
        fold_blocks(state, data, n_blocks)  # type: ignore[call-arg, unused-ignore]

    return fold
