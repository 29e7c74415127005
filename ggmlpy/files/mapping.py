"""Files mapped into memory: their bytes are read when they are used, and not before.

Reading a page of a mapped file for the first time costs a fault, even if the file is in the page cache: 0.1 s for a
model of 4 GB. :class:`Touching` has the system map pages in advance, in a thread beside the rest of a program's start.
It reads one byte of every 64 KB, because that is how much Linux maps around a missing page. numpy does the reading,
without Python's lock, so imports go on meanwhile. (One request of the system, ``MADV_POPULATE_READ``, would do it too,
but it keeps the lock of the address space and so holds up the loading of libraries.) Linux is also asked for pages of
2 MB. Where its file system has them, a file comes from the disk in a third of the time, and one thread reads it up to a
tenth faster ever after. What is in the page cache in small pages, because it was written so, stays as it is.

A page that the file no longer has, because another program cut it short meanwhile, can't be mapped: touching it ends
the process (a bus error), and no program can answer that. So what streams through a file reads it instead
(:func:`read_out`), which fails like any reading, and costs less than the faults of pages that are touched once. What
must work on the map, the kernels that generate text, asks before each batch whether the file is still as long as it was
(:func:`check_length`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import threading
from collections.abc import Iterable
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bus_errors import zeros_were_read
from .errors import MissingFileError, TruncatedError

__all__ = ["Touching", "check_length", "map_file", "read_out"]

STEP = 1 << 16
CHUNK = 1 << 30  # bytes between two looks at whether the thread is still wanted
SMALL = 1 << 26  # bytes; less is not worth a thread


class MappedFile(mmap.mmap):
    """A whole file, mapped for reading, that can also be read.

    Attributes:
        path: its name.
    """

    path: str | os.PathLike[str]
    _descriptor: int

    def __new__(cls, stream: FileIO, path: str | os.PathLike[str]) -> MappedFile:
        made = super().__new__(cls, stream.fileno(), 0, access=mmap.ACCESS_READ)
        made.path, made._descriptor = path, os.dup(stream.fileno())
        return made

    def __del__(self) -> None:
        os.close(self._descriptor)

    def ask_for_large_pages(self) -> None:
        """What is read of the file from now on may come in pages of 2 MB, where the system has them."""
        with contextlib.suppress(OSError, AttributeError):
            self.madvise(mmap.MADV_HUGEPAGE)

    def read_at(self, offset: int, size: int, what: str) -> bytes:
        """Bytes from the file.

        Raises:
            TruncatedError: it has become shorter.
        """
        parts, at = [], offset
        while at < offset + size:
            part = os.pread(self._descriptor, offset + size - at, at)
            if not part:
                raise _cut_short(what, self.path, at)
            parts.append(part)
            at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def read_out(view: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
    """The bytes of a contiguous view of a map, read from its file into memory of our own; any other array as it is.

    Args:
        what: whose bytes they are, for the error.

    Raises:
        TruncatedError: the file has become shorter since it was mapped.
    """
    file = _mapped_file(view)
    if file is None or not view.size or not hasattr(os, "pread"):  # Windows does not let a mapped file be cut short
        return view
    offset = view.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data
    return np.frombuffer(file.read_at(offset, view.nbytes, what), np.uint8).reshape(view.shape)


def check_length(buffer: memoryview) -> None:
    """Whether a mapped file still has all that is mapped, and had it whenever it was read; other buffers always have.

    Raises:
        TruncatedError: it has become shorter.
    """
    file = buffer.obj
    if isinstance(file, MappedFile) and ((size := file.size()) < len(file) or zeros_were_read()):
        raise _cut_short("the model", file.path, size)


def _mapped_file(view: Any) -> MappedFile | None:
    while isinstance(view, np.ndarray):
        view = view.base
    file = view.obj if isinstance(view, memoryview) else view
    return file if isinstance(file, MappedFile) else None


def _cut_short(what: str, path: str | os.PathLike[str], offset: int) -> TruncatedError:
    return TruncatedError(f"{what} ends early: the file was changed while it was read", path=path, offset=offset)


def map_file(path: str | os.PathLike[str]) -> memoryview:
    """The bytes of a file, mapped into memory for reading. Pipes, devices and directories are refused unopened.

    Raises:
        MissingFileError: there is no such file, it is not a regular file, or it may not be read.
        TruncatedError: it is empty.
    """
    try:
        status = os.stat(path)
        _check_regular(path, status)
        with open(path, "rb", buffering=0) as stream:
            return memoryview(MappedFile(stream, path))
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
    """Touches pages in advance, from the start of the first buffer to the end of the last; large ones where it can.

    A file of more than half of the machine's memory is left alone: its first pages would be gone before the last came.

    >>> Touching([memoryview(b"small")]).stop()
    """

    def __init__(self, buffers: Iterable[memoryview]) -> None:
        self._wanted = True
        pages = [np.frombuffer(buffer, np.uint8) for buffer in buffers]
        for file in filter(None, map(_mapped_file, pages)):
            file.ask_for_large_pages()
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
