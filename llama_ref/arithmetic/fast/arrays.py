"""Memory that compiled code is given the addresses of."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from .threads import LINE

__all__ = ["address_of", "aligned"]


def aligned(shape: Any, dtype: Any) -> npt.NDArray[Any]:
    """Zeros that begin at a cache line; pages that are never touched take no memory.

    Large arrays are mapped in small pages: in the large ones that Linux and numpy prefer, the first token of a
    conversation would already fill the memory of a whole context.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size < 1 << 20:
        room = np.zeros(size + LINE, np.uint8)
        start = -room.ctypes.data % LINE
        return room[start : start + size].view(dtype).reshape(shape)
    try:
        pages = mmap.mmap(-1, size)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"{size:,} bytes") from error
    with contextlib.suppress(AttributeError, OSError):  # only Linux knows this advice, and not every Linux
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.uint8).view(dtype).reshape(shape)


def address_of(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
