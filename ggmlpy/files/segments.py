"""A file written in segments, each by the thread that made it, at the place where it belongs.

How many bytes a segment has is known before it is made, and so is where it goes. Threads make segments and write them
there, in whatever order they finish: none waits for its turn, and bytes go to the file from the processor in whose
cache they are. On the way the system is asked to begin with the disk, so that little is left to do at the end. A pipe
or a device gets the same bytes from first to last.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .ordered import Workers

__all__ = ["Chunk", "Segment", "bytes_of", "write_segments"]

Chunk = bytes | bytearray | memoryview | NDArray[Any]
WRITEBACK = 32 << 20  # bytes that are written before the disk begins with them


@dataclass(frozen=True)
class Segment:
    """Bytes of a file that are about to be made.

    Attributes:
        nbytes: how many.
        make: makes them, in any thread.
        late: they depend on segments before them, so they are made when those are written.
        written: called by the thread that called :func:`write_segments`, when these bytes and all before are written.
        of: what they are a segment of, for messages.
    """

    nbytes: int
    make: Callable[[], Chunk]
    late: bool = False
    written: Callable[[], object] | None = None
    of: str = "a segment"

    @classmethod
    def of_bytes(cls, data: bytes) -> Segment:
        """Bytes that are there."""
        return cls(len(data), lambda: data)

    def made(self) -> memoryview:
        """The bytes.

        Raises:
            UsageError: they are more or fewer than was promised.
        """
        data = bytes_of(self.make())
        if data.nbytes != self.nbytes:
            raise UsageError(f"{self.of}: {self.nbytes:,} bytes promised, {data.nbytes:,} written")
        return data


def bytes_of(chunk: Chunk) -> memoryview:
    """The bytes of a buffer, or of an array row by row."""
    if isinstance(chunk, np.ndarray):
        return np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
    return memoryview(chunk).cast("B")


def write_segments(stream: BinaryIO, segments: Iterable[Segment], workers: Workers | None = None) -> int:
    """Write a whole file and return how many bytes it has. They do not depend on the number of threads.

    Args:
        stream: open for writing, and empty; anything that has a ``write`` method.
        segments: in the order of the file; the next are asked for when there is somebody to make them.
        workers: who makes and writes them; by default one thread per processor.

    Raises:
        OSError: the disk is full, or alike.
        UsageError: a segment has not the promised size.

    What making a segment raises is raised where its turn would have come. No thread writes any more then.
    """
    if workers is None:
        with Workers() as own:
            return write_segments(stream, segments, own)
    put = _writer_at_places(stream)
    end = begun = 0

    def make(task: tuple[int, Segment]) -> tuple[int, Segment, memoryview | None]:
        place, segment = task
        data = None if segment.late else segment.made()
        if put is None or data is None:
            return place, segment, data
        put(data, place)
        return place, segment, None

    with contextlib.closing(workers.ordered(make, _placed(segments))) as results:
        for place, segment, data in results:
            left = segment.made() if segment.late else data
            if left is not None:
                stream.write(left) if put is None else put(left, place)
            end = place + segment.nbytes
            if put and end - begun >= WRITEBACK:
                _begin_writeback(stream.fileno(), begun, end - begun)
                begun = end
            if segment.written:
                segment.written()
    return end


def _placed(segments: Iterable[Segment]) -> Iterator[tuple[int, Segment]]:
    place = 0
    for segment in segments:
        yield place, segment
        place += segment.nbytes


def _writer_at_places(stream: BinaryIO) -> Callable[[memoryview, int], None] | None:
    """What writes bytes at an offset of a file; None where they can only follow each other."""
    if not hasattr(os, "pwrite"):
        return None
    try:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return None
    except (OSError, AttributeError):  # no file of the system's at all
        return None

    def put(data: memoryview, place: int) -> None:
        while data:  # the system may write less than it is asked to
            n = os.pwrite(stream.fileno(), data, place)
            data, place = data[n:], place + n

    return put


def _begin_writeback(descriptor: int, start: int, size: int) -> None:
    """Have the disk begin with a range of a file, without waiting for it; nothing where the system cannot."""
    begin = _sync_file_range()
    if begin is not None:
        begin(descriptor, start, size, 2)  # SYNC_FILE_RANGE_WRITE


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        function = ctypes.CDLL(None).sync_file_range
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        return function
    return None
