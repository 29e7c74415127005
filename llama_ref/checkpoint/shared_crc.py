"""The CRC-32 of a record, computed by all threads that wait for it.

Threads that want values of a record need its CRC first. If one of them computed it, the others would stand idle, as
often as there are records. So each takes a part of the record that nobody has taken yet, until there is none left.
"""

from __future__ import annotations

import threading
from collections import deque
from functools import partial

import numpy as np

from ggmlpy.files.mapping import read_out
from ggmlpy.files.segments import Segment

from .crc32 import RunningCrc

__all__ = ["SharedCrc"]

PART = 2 << 20  # bytes: they are summed while a core's cache holds them


class SharedCrc:
    """The CRC of bytes ``start`` to ``stop`` of a mapped file, which are read, not mapped: none stays in memory.

    Args:
        what: whose bytes they are, for the error.
    """

    def __init__(self, buffer: memoryview, start: int, stop: int, what: str) -> None:
        self._sum = RunningCrc()
        bytes_of_file = np.frombuffer(buffer, np.uint8)
        self._left: deque[Segment] = deque()
        for at in range(start, stop, PART):
            part = bytes_of_file[at : min(at + PART, stop)]
            self._left.append(self._sum.over(Segment(len(part), partial(read_out, part, what))))
        self._n_missing = len(self._left)
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def value(self) -> int:
        """The CRC; any number of threads may ask, and compute it together.

        Raises:
            TruncatedError: the file has become shorter, as every thread is told.
        """
        while (part := self._take()) is not None:
            try:
                part.made()
            except BaseException as error:
                self._give(error)
                raise
            self._give(None)
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or not self._n_missing)
            if self._error is not None:
                raise self._error
        return self._sum.value

    def _take(self) -> Segment | None:
        with self._changed:
            return self._left.popleft() if self._left and self._error is None else None

    def _give(self, error: BaseException | None) -> None:
        with self._changed:
            self._n_missing -= 1
            self._error = self._error or error
            self._changed.notify_all()
