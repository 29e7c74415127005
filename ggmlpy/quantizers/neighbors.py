"""Which points of a grid are near one that is not on it: tables that the quantizers of IQ1, IQ2 and IQ3 look up.

The levels of eight (or four) values are a number of two (or three) bits each, as in ``grids.txt``. Neighbors of a
number that is no point of the grid are the points at the few smallest distinct distances, in the order of distance, and
of their indices where that is the same. Sixteen of them are looked at side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.grids import GRIDS, grid_levels
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined
from ggmlpy.machine.vectors import (
    add,
    fill,
    first_lane,
    least,
    load_i32,
    lookups_of_levels,
    mul,
    sub,
    where_greater,
)

__all__ = ["ADDRESSES", "NeighborTables", "neighbor_finder", "neighbor_tables"]

#: of each grid: the number of distinct distances
SHELLS = {"iq2xxs": 2, "iq2xs": 2, "iq2s": 1, "iq1s": 3, "iq3xxs": 2, "iq3s": 3, "iq1s-2024-02": 3, "iq3s-2024-02": 3}
AT_ONCE = 512
ADDRESSES = types.UniTuple(types.int64, 6)
LANES = 16
LEVELS_OF_WIDTH = {8: 4, 4: 8}  # of that many values in a point: levels for which there is room
LOOKUPS = {levels: lookups_of_levels(levels) for levels in (4, 8)}
FLT_MAX, INF = np.float32(np.finfo(np.float32).max), np.float32(np.inf)


class NeighborTables(NamedTuple):
    """What a kernel looks up.

    Attributes:
        places: int32 [numbers of levels], the index of a point; ``-1 - k`` where there is none, k being a list's.
        starts: int32 [lists + 1], the first row of each list.
        near: int32 [rows, 16], the indices of neighbors. A list's last row is filled with its first neighbor.
        near_lanes: uint8 [rows, width, 16], their levels, as lanes of :func:`lookups_of_levels`.
        points: uint8 [points, width], the levels of all points.
        numbers: float32 [points, width], what they stand for in IQ2 and IQ3: 2 l + 1.
    """

    places: NDArray[np.int32]
    starts: NDArray[np.int32]
    near: NDArray[np.int32]
    near_lanes: NDArray[np.uint8]
    points: NDArray[np.uint8]
    numbers: NDArray[np.float32]

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where each of them lies."""
        return tuple(table.ctypes.data for table in self)


@cache
def neighbor_tables(name: str) -> NeighborTables:
    """The tables of a grid."""
    grid, points = GRIDS[name], grid_levels(name)
    weights = 1 << grid.bits * np.arange(grid.width)
    every = np.indices((len(grid.numbers),) * grid.width, np.uint8).reshape(grid.width, -1).T  # [n, width]
    places = np.full(1 << grid.bits * grid.width, -1, np.int32)
    places[points @ weights] = np.arange(grid.size, dtype=np.int32)
    outside = every[places[every @ weights] < 0]
    places[outside @ weights] = -1 - np.arange(len(outside), dtype=np.int32)
    lists: list[NDArray[np.int32]] = []
    for first in range(0, len(outside), AT_ONCE):
        lists += _nearest(outside[first : first + AT_ONCE], points, SHELLS[name])
    starts = np.cumsum([0, *(len(rows) for rows in lists)], dtype=np.int32)
    near = np.concatenate(lists)
    levels = LEVELS_OF_WIDTH[grid.width]
    near_lanes = points[near].transpose(0, 2, 1) + levels * (np.arange(grid.width) % (LANES // levels))[:, None]
    numbers = (2 * points + 1).astype(np.float32)
    return NeighborTables(places, starts, near, near_lanes.astype(np.uint8, order="C"), points, numbers)


def _nearest(some: NDArray[np.uint8], points: NDArray[np.uint8], shells: int) -> list[NDArray[np.int32]]:
    """Of each of some places its neighbors, int32 [rows, 16]."""
    x, y = some.astype(np.float32), points.astype(np.float32)  # exact, and a product of matrices
    distances = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * (x @ y.T)  # [n, points]
    found = []
    for row in distances.astype(np.int32):
        limit = np.unique(row)[:shells][-1]
        near = np.flatnonzero(row <= limit)
        near = near[np.argsort(row[near], kind="stable")]
        rows = np.full((-(-len(near) // LANES), LANES), near[0], np.int32)
        rows.reshape(-1)[: len(near)] = near
        found.append(rows)
    return found


def neighbor_finder(width: int) -> tuple[Callable, Callable]:
    """The function (x, w, scale, numbers, starts, near, near_lanes, k) -> the index of that point of list ``k`` which
    leaves the least weighted error of the ``width`` values at ``x``, the first of equals; -1 if no error is a number.

    ``numbers`` says what levels stand for, times the scale; it is made by the second function, (low, step) -> low +
    step * level. All but these two and ``k`` are addresses.
    """
    lane_levels, each_repeated, sums_picked = LOOKUPS[LEVELS_OF_WIDTH[width]]
    half, row_bytes = 2 * width, LANES * width

    def errors_of_levels(scaled, x, w):
        left = sub(scaled, each_repeated(x))
        return mul(mul(each_repeated(w), left), left)

    errors_of_levels = inlined(errors_of_levels)

    def best_neighbor(x, w, scale, numbers, starts, near, near_lanes, k):
        scaled, best, smallest = mul(fill(scale), numbers), np.int32(-1), FLT_MAX
        first, second = errors_of_levels(scaled, x, w), errors_of_levels(scaled, x + half, w + half)
        for row in range(np.int64(load_i32(starts + 4 * k)), np.int64(load_i32(starts + 4 * k + 4))):
            error = sums_picked(first, second, near_lanes + row_bytes * row)
            error = where_greater(fill(FLT_MAX), error, error, fill(INF))
            here = least(error)
            if here < smallest:
                smallest, best = here, load_i32(near + 4 * (LANES * row + first_lane(error, here)))
        return best

    def numbers_of_levels(low, step):
        return add(fill(low), mul(fill(step), lane_levels()))

    return inlined(best_neighbor), inlined(numbers_of_levels)
