"""Files mapped into memory: their bytes are read when they are used, and not before.

Reading a page of a mapped file for the first time costs a fault, even if the file is in the page cache: 0.1 s for a
model of 4 GB. :class:`Touching` has the system map pages in advance, in a thread beside the rest of a program's start.
It reads one byte of every 64 KB, because that is how much Linux maps around a missing page. numpy does the reading,
without Python's lock, so imports go on meanwhile. (One request of the system, ``MADV_POPULATE_READ``, would do it too,
but it keeps the lock of the address space and so holds up the loading of libraries.)
"""

from __future__ import annotations

import mmap
import os
import stat
import threading
from collections.abc import Iterable

import numpy as np

from .errors import MissingFileError, TruncatedError

__all__ = ["Touching", "map_file"]

STEP = 1 << 16
CHUNK = 1 << 30  # bytes between two looks at whether the thread is still wanted
SMALL = 1 << 26  # bytes; less is not worth a thread


def map_file(path: str | os.PathLike[str]) -> memoryview:
    """The bytes of a file, mapped into memory for reading. Pipes, devices and directories are refused unopened.

    Raises:
        MissingFileError: there is no such file, it is not a regular file, or it may not be read.
        TruncatedError: it is empty.
    """
    try:
        status = os.stat(path)
        _check_regular(path, status)
        with open(path, "rb") as stream:
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise MissingFileError("no such file", path=path, next_step="check the name and the directory") from error
    except (OSError, ValueError) as error:  # ValueError: a name with NUL in it, or a file that was emptied meanwhile
        reason = getattr(error, "strerror", None) or str(error)
        raise MissingFileError(f"cannot be read: {reason}", path=path, next_step="check its permissions") from error


def _check_regular(path: str | os.PathLike[str], status: os.stat_result) -> None:
    """A file that can be mapped: a regular one, and not empty."""
    if stat.S_ISDIR(status.st_mode):
        next_step = f"`doctor {os.fspath(path)}`"
        raise MissingFileError("is a directory, not a regular file", path=path, next_step=next_step)
    if not stat.S_ISREG(status.st_mode):
        raise MissingFileError("not a regular file", path=path, next_step="name the model file itself")
    if status.st_size == 0:
        raise TruncatedError(
            "the file is empty",
            path=path,
            offset=0,
            field="magic",
            expected="at least 4 bytes",
            found="0 (llama.cpp says: bad magic, got 0)",
            cause="a download or copy that never began",
            next_step="fetch the file again",
        )


class Touching:
    """Touches pages in advance, from the start of the first buffer to the end of the last.

    A file of more than half of the machine's memory is left alone: its first pages would be gone before the last came.

    >>> Touching([memoryview(b"small")]).stop()
    """

    def __init__(self, buffers: Iterable[memoryview]) -> None:
        self._wanted = True
        pages = [np.frombuffer(buffer, np.uint8) for buffer in buffers]
        if SMALL <= sum(map(len, pages)) <= physical_memory() // 2:
            threading.Thread(target=self._touch, args=(pages,), name="touch", daemon=True).start()

    def _touch(self, pages: list[np.ndarray]) -> None:
        for page in pages:
            for start in range(0, len(page), CHUNK):
                if self._wanted:
                    page[start : start + CHUNK : STEP].max()

    def stop(self) -> None:
        """Touch no more pages, soon."""
        self._wanted = False


def physical_memory() -> int:
    """Bytes of memory, 0 if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
