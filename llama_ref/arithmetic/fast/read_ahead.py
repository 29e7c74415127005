"""How memory is best asked for while rows meet one vector: measured once, when the kernels of a type are first used.

Generating is reading, and processors differ in what helps them to read: some reach three quarters of their bandwidth
unless they are told early what comes next, others are slowed down by being told. No result depends on it. So each
candidate multiplies a matrix larger than most caches a few times, in turns with the first, which is taken unless
another is clearly faster. The choice is kept beside the compiled code (see `machine_code`). While other programs keep
the machine busy nothing is measured, and the first is taken.

Memory is shared, with neighbors that nobody here sees if the machine is a virtual one. While they use it every answer
takes longer. Then a processor left to itself reads with half of its speed, on an EPYC as well, and one that was told in
time loses nothing. A measurement may fall into a quiet moment, which flatters what leaves the processor to itself: it
has to be faster by a fifth.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from .arrays import address_of, aligned
from .layouts import LONG_STREAMS, OWN_STREAMS, ROWS, SIDE_BY_SIDE, matrix_bytes

__all__ = ["CANDIDATES", "USUAL", "ReadAhead", "choose", "fastest"]


@dataclass(frozen=True)
class ReadAhead:
    """How the rows of one type are asked for.

    Attributes:
        far: how many bytes ahead lines are asked for into the second-level cache; 0: not at all.
        near: how many bytes ahead they are asked for into the first-level cache.
        shape: which rows are read together: OWN_STREAMS, LONG_STREAMS or SIDE_BY_SIDE (of `layouts`).
    """

    far: int
    near: int
    shape: int = LONG_STREAMS

    @property
    def by_itself(self) -> bool:
        """Whether the processor is told nothing."""
        return not self.far and self.shape != SIDE_BY_SIDE

    def __str__(self) -> str:
        if self.shape == SIDE_BY_SIDE:
            return "16 rows"
        asked = "by itself" if self.by_itself else f"{self.far / 1024:g} KB ahead"
        return asked if self.shape == LONG_STREAMS else f"{asked}, short"


USUAL = ReadAhead(3072, 640)
CANDIDATES = (
    USUAL,
    ReadAhead(4096, 1024),
    ReadAhead(8192, 1024),
    ReadAhead(0, 0, SIDE_BY_SIDE),
    ReadAhead(0, 0),
    ReadAhead(0, 0, OWN_STREAMS),
)

ROUNDS = 3
CLEARLY = 0.97  # of the time of the first candidate
FLATTERED = 1.2  # by which the time of a processor left to itself is multiplied
COLS = 4096
SIZE = 64 << 20  # bytes of the matrix: all candidates together take about a tenth of a second

#: what `reading.multiply_units` is told, in this order
JOB_FIELDS = ("rows", "few", "base", "cols", "x", "scratch", "y", "n_units", "far", "near", "shape")
JOB = np.dtype([(name, "<i8") for name in JOB_FIELDS])


def fastest(kind: str, rows: int, few: int, multiply_units: Callable[[int, int], None]) -> ReadAhead:
    """The candidate with which this machine multiplies a kind of matrix fastest.

    Args:
        rows, few: the addresses of these functions of `Product`.
        multiply_units: `reading.multiply_units`.
    """
    n_units = SIZE // (matrix_bytes(kind, COLS) * ROWS)
    matrix = aligned(n_units * ROWS * matrix_bytes(kind, COLS), np.uint8)
    matrix[:: mmap.PAGESIZE] = 0  # so that there are pages, and small ones, as in a mapped file
    x, scratch = aligned(8 * COLS, np.uint8), aligned(1 << 18, np.uint8)
    y, job = aligned(n_units * ROWS, np.float32), np.zeros(1, JOB)
    common = (rows, few, address_of(matrix), COLS, address_of(x), address_of(scratch), address_of(y), n_units)

    def time_of(ahead: ReadAhead) -> int:
        job[0] = (*common, *astuple(ahead))
        begin = clock()
        multiply_units(address_of(job), 0)
        return clock() - begin

    return choose(CANDIDATES, [[time_of(ahead) for ahead in CANDIDATES] for _ in range(ROUNDS)])


#: nanoseconds of this thread, which others do not disturb, where the system counts them finely enough
clock = time.thread_time_ns if time.get_clock_info("thread_time").resolution < 1e-5 else time.perf_counter_ns


def choose(candidates: Sequence[ReadAhead], rounds: Sequence[Sequence[int]]) -> ReadAhead:
    """The first candidate, unless another is clearly faster: in most rounds, and in its best one.

    Args:
        rounds: the times of the candidates, round by round.

    >>> candidates = [ReadAhead(3072, 640), ReadAhead(2048, 512), ReadAhead(0, 0)]
    >>> print(choose(candidates, [[100, 91, 90], [150, 92, 91], [101, 93, 92]]))
    2 KB ahead
    >>> print(choose(candidates, [[100, 99, 95], [150, 100, 94], [101, 98, 95]]))
    3 KB ahead
    """
    first, *_ = of_each = list(zip(*rounds, strict=True))

    def relative(times: tuple[int, ...]) -> float:
        in_turns = sorted(a / max(b, 1) for a, b in zip(times, first, strict=True))
        return max(in_turns[len(in_turns) // 2], min(times) / max(min(first), 1))

    found = [relative(times) for times in of_each]
    weighed = [time * FLATTERED if ahead.by_itself else time for ahead, time in zip(candidates, found, strict=True)]
    best = min(range(len(weighed)), key=weighed.__getitem__)
    return candidates[best if weighed[best] < CLEARLY else 0]
