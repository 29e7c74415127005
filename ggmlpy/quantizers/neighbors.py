"""Which points of a grid are near one that is not on it: tables that the quantizers of IQ1, IQ2 and IQ3 look up.

The levels of eight (or four) values are a number of two (or three) bits each, as in ``grids.txt``. ``places`` says of
each such number the index of its point; where it is no point of the grid, ``-1 - start``, and ``lists[start]`` is how
many neighbors follow it. Neighbors are the points at the few smallest distinct distances, in the order of distance, and
of their indices where that is the same.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.grids import GRIDS, grid_levels

__all__ = ["neighbor_tables"]

#: of each grid: the number of distinct distances
SHELLS = {"iq2xxs": 2, "iq2xs": 2, "iq2s": 1, "iq1s": 3, "iq3xxs": 2, "iq3s": 3}
AT_ONCE = 512

Tables = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]


@cache
def neighbor_tables(name: str) -> Tables:
    """``places`` int32 [numbers of levels], ``lists`` int32, and the points' levels uint8 [size, width]."""
    grid, points = GRIDS[name], grid_levels(name)
    weights = 1 << grid.bits * np.arange(grid.width)
    every = np.indices((len(grid.numbers),) * grid.width, np.uint8).reshape(grid.width, -1).T  # [n, width]
    places = np.full(1 << grid.bits * grid.width, -1, np.int32)
    places[points @ weights] = np.arange(grid.size, dtype=np.int32)
    outside = every[places[every @ weights] < 0]
    lists: list[NDArray[np.int32]] = []
    end = 0
    for first in range(0, len(outside), AT_ONCE):
        some = outside[first : first + AT_ONCE]
        for levels, near in zip(some, _nearest(some, points, SHELLS[name]), strict=True):
            places[levels @ weights] = -1 - end
            lists.append(near)
            end += len(near)
    return places, np.concatenate(lists), points


def _nearest(some: NDArray[np.uint8], points: NDArray[np.uint8], shells: int) -> list[NDArray[np.int32]]:
    """Of each of some places their number of neighbors, and these."""
    x, y = some.astype(np.float32), points.astype(np.float32)  # exact, and a product of matrices
    distances = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * (x @ y.T)  # [n, points]
    found = []
    for row in distances.astype(np.int32):
        limit = np.unique(row)[:shells][-1]
        near = np.flatnonzero(row <= limit)
        near = near[np.argsort(row[near], kind="stable")]
        found.append(np.concatenate([[len(near)], near]).astype(np.int32))
    return found
