"""The kernel of :mod:`.crc32`: 64 bytes folded onto the next 64, by multiplying polynomials.

A CRC is the remainder of a polynomial division by P. Multiplying the halves of a 128-bit lane by x^(512+64) and x^512
modulo P, without carries, and adding them to the lane 64 bytes further on leaves the remainder as it was. Four lanes
are independent of each other, which hides the latency of the multiplication.

Source: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009; the
constants are those of its bit-reflected CRC-32 (k1 and k2).
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ggmlpy.machine.compiling import listen_to_numba

__all__ = ["fold"]

listen_to_numba()

K1, K2 = 0x154442BD4, 0x1C6E41596  # x^(4*128+64), x^(4*128) modulo P, reflected
LANES = 4
_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_LANE = ir.VectorType(_WORD, 2)


@intrinsic
def _fold_blocks(context: Any, state: Any, data: Any, n_blocks: Any) -> Any:
    """Blocks 1 … n-1 of ``data`` folded onto the 64 bytes of ``state``."""

    def emit(context: Any, do: Any, signature: Any, values: Any) -> Any:
        arrays = [context.make_array(kind)(context, do, x) for kind, x in zip(signature.args[:2], values)]
        state, data = (do.bitcast(array.data, _LANE.as_pointer()) for array in arrays)
        kind = ir.FunctionType(_LANE, [_LANE, _LANE, _BYTE])
        multiply = cgutils.get_or_insert_function(do.module, kind, "llvm.x86.pclmulqdq")
        factor = ir.Constant(_LANE, [K1, K2])
        places = [do.gep(state, [_WORD(i)]) for i in range(LANES)]
        lanes = [cgutils.alloca_once_value(do, do.load(place, align=1)) for place in places]
        with cgutils.for_range(do, do.sub(values[2], _WORD(1))) as loop:
            first = do.mul(do.add(loop.index, _WORD(1)), _WORD(LANES))
            for i, lane in enumerate(lanes):
                old = do.load(lane)
                low, high = (do.call(multiply, [old, factor, _BYTE(which)]) for which in (0x00, 0x11))
                new = do.load(do.gep(data, [do.add(first, _WORD(i))]), align=1)
                do.store(do.xor(do.xor(low, high), new), lane)
        for lane, place in zip(lanes, places):
            do.store(do.load(lane), place, align=1)
        return context.get_dummy_value()

    return types.void(state, data, types.int64), emit


_READ_ONLY = types.Array(types.uint8, 1, "C", readonly=True)


def _fold(state: Any, data: Any, n_blocks: Any) -> None:
    _fold_blocks(state, data, n_blocks)  # type: ignore[call-arg, unused-ignore]


fold: Any = None
"""``fold(state, data, n_blocks)``, or None where the processor lacks the instruction."""
if binding.get_host_cpu_features().get("pclmul"):
    fold = njit(types.void(types.uint8[::1], _READ_ONLY, types.int64), nogil=True, cache=True)(_fold)
