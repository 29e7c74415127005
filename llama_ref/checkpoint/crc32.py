"""CRC-32 as zip files have it, several times as fast as zlib where the processor can multiply polynomials.

zlib takes about a second a gigabyte, and a merge checks every byte that it reads and sums every byte that it writes.
Here most of the work is folding 64 bytes onto the next 64: what remains of a buffer are 64 bytes with the same CRC,
which zlib finishes together with the bytes behind the last whole block.

A CRC is the remainder of a polynomial division by P. Multiplying the halves of a 128-bit lane by x^(512+64) and x^512
modulo P, without carries, and adding them to the lane 64 bytes further on leaves the remainder as it was. Four lanes
are independent of each other, which hides the latency of the multiplication.

Source: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009; the
constants are those of its bit-reflected CRC-32 (k1 and k2).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache, reduce
from typing import Any

import numpy as np

from ggmlpy.files.segments import Segment

__all__ = ["RunningCrc", "crc32", "joined_crc"]

SMALL = 1 << 20  # buffers below this are zlib's
PATIENCE = 256 << 20  # bytes that zlib sums before loading numba and the kernel (half a second) pays
BLOCK = 64  # bytes folded at a time
POLYNOMIAL = 0xEDB88320  # P, reflected: the highest bit is that of x^0
K1, K2 = 0x154442BD4, 0x1C6E41596  # x^(4*128+64), x^(4*128) modulo P, reflected
_patience = PATIENCE

# Operations of `ggmlpy.machine.vectors`, imported with Numba when they are first needed.
fold_polynomial: Any = None
load_i64x2: Any = None
pair_i64: Any = None
store_i64x2: Any = None


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


def joined_crc(crc: int, following: int, n_bytes: int) -> int:
    """The CRC of bytes that end with ``n_bytes`` whose own CRC is ``following``; ``crc`` is that of those before.

    >>> joined_crc(zlib.crc32(b"spam"), zlib.crc32(b"eggs!"), 5) == zlib.crc32(b"spameggs!")
    True
    """
    return _times(_power(8 * n_bytes), crc) ^ following if crc else following


@lru_cache(maxsize=64)
def _power(n: int) -> int:
    """x^n modulo P."""
    power, square = 1 << 31, 1 << 30  # x^0, x^1
    while n:
        power = _times(power, square) if n & 1 else power
        square, n = _times(square, square), n >> 1
    return power


def _times(a: int, b: int) -> int:
    """The product of two polynomials modulo P."""
    product = 0
    while a:
        if a & 1 << 31:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (POLYNOMIAL if b & 1 else 0)
    return product


class RunningCrc:
    """The CRC of segments that follow each other, each computed by the thread that makes the segment."""

    def __init__(self) -> None:
        self._parts: dict[int, tuple[int, int]] = {}  # the CRC and the length of each
        self._n = 0

    def over(self, segment: Segment) -> Segment:
        """The next segment, summed when it is made."""
        index, self._n = self._n, self._n + 1

        def make() -> memoryview:
            data = segment.made()
            self._parts[index] = crc32(data), data.nbytes
            return data

        return replace(segment, make=make)

    @property
    def value(self) -> int:
        """That of all of them, once they are made."""
        return reduce(lambda crc, index: joined_crc(crc, *self._parts[index]), range(self._n), 0)


@cache
def _kernel() -> Callable[[np.ndarray, np.ndarray, int], None] | None:
    """The compiled `_fold`; None where the processor cannot multiply polynomials."""
    global fold_polynomial, load_i64x2, pair_i64, store_i64x2
    from ggmlpy.machine.features import MACHINE

    if not MACHINE.has("pclmul"):
        return None
    from ggmlpy.machine.jit import types
    from ggmlpy.machine.kernels import kernel
    from ggmlpy.machine.vectors import fold_polynomial, load_i64x2, pair_i64, store_i64x2

    read_only = types.Array(types.uint8, 1, "C", readonly=True)
    return kernel(_fold, types.void(types.uint8[::1], read_only, types.int64))


def _fold(state: Any, data: Any, n_blocks: Any) -> None:
    """Blocks 1 … n-1 of ``data`` folded onto the 64 bytes of ``state``."""
    s, d, k = state.ctypes.data, data.ctypes.data, pair_i64(K1, K2)
    lane0, lane1, lane2, lane3 = load_i64x2(s), load_i64x2(s + 16), load_i64x2(s + 32), load_i64x2(s + 48)
    for block in range(d + BLOCK, d + BLOCK * n_blocks, BLOCK):
        lane0 = fold_polynomial(lane0, k, load_i64x2(block))
        lane1 = fold_polynomial(lane1, k, load_i64x2(block + 16))
        lane2 = fold_polynomial(lane2, k, load_i64x2(block + 32))
        lane3 = fold_polynomial(lane3, k, load_i64x2(block + 48))
    store_i64x2(s, lane0)
    store_i64x2(s + 16, lane1)
    store_i64x2(s + 32, lane2)
    store_i64x2(s + 48, lane3)
