"""CRC-32 as zip files have it, several times as fast as zlib where the processor can multiply polynomials.

zlib takes about a second a gigabyte, and a merge checks every byte that it reads and sums every byte that it writes.
Here most of the work is folding (:mod:`.crc32_fold`): what remains of a buffer are 64 bytes with the same CRC, which
zlib finishes together with the bytes behind the last whole block.
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
BLOCK = 64  # bytes folded at a time
_patience = PATIENCE


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
    """The compiled fold; None where the processor cannot multiply polynomials."""
    from .crc32_fold import fold

    return fold
