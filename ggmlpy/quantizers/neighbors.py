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
    lane_numbers,
    least,
    load_f32,
    load_i32,
    mul,
    picked,
    sub,
    where_greater,
    zeros,
)

__all__ = ["ADDRESSES", "NeighborTables", "neighbor_finder", "neighbor_tables", "numbers_of_levels"]

#: of each grid: the number of distinct distances
SHELLS = {"iq2xxs": 2, "iq2xs": 2, "iq2s": 1, "iq1s": 3, "iq3xxs": 2, "iq3s": 3, "iq1s-2024-02": 3, "iq3s-2024-02": 3}
AT_ONCE = 512
ADDRESSES = types.UniTuple(types.int64, 5)
LANES = 16
FLT_MAX, INF = np.float32(np.finfo(np.float32).max), np.float32(np.inf)


class NeighborTables(NamedTuple):
    """What a kernel looks up.

    Attributes:
        places: int32 [numbers of levels], the index of a point; ``-1 - k`` where there is none, k being a list's.
        starts: int32 [lists + 1], the first row of each list.
        near: int32 [rows, 16], the indices of neighbors. A list's last row is filled with its first neighbor.
        near_levels: uint8 [rows, width, 16], their levels.
        points: uint8 [points, width], the levels of all points.
    """

    places: NDArray[np.int32]
    starts: NDArray[np.int32]
    near: NDArray[np.int32]
    near_levels: NDArray[np.uint8]
    points: NDArray[np.uint8]

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
    near_levels = np.ascontiguousarray(points[near].transpose(0, 2, 1))
    return NeighborTables(places, starts, near, near_levels, points)


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


@inlined
def numbers_of_levels(low, step):
    """Lane l has low + step * l."""
    return add(fill(low), mul(fill(step), lane_numbers()))


def neighbor_finder(width: int) -> Callable:
    """The function (x, w, scale, numbers, starts, near, near_levels, k) -> the index of that point of list ``k`` which
    leaves the least weighted error of the ``width`` values at ``x``, the first of equals; -1 if no error is a number.

    Lane l of ``numbers`` says what level l stands for, times the scale. All but these two and ``k`` are addresses.
    """

    def best_neighbor(x, w, scale, numbers, starts, near, near_levels, k):
        scaled, best, smallest = mul(fill(scale), numbers), np.int32(-1), FLT_MAX
        for row in range(np.int64(load_i32(starts + 4 * k)), np.int64(load_i32(starts + 4 * k + 4))):
            error = zeros()
            for i in range(width):
                left = sub(scaled, fill(load_f32(x + 4 * i)))
                of_levels = mul(mul(fill(load_f32(w + 4 * i)), left), left)
                error = add(error, picked(of_levels, near_levels + LANES * (width * row + i)))
            error = where_greater(fill(FLT_MAX), error, error, fill(INF))
            here = least(error)
            if here < smallest:
                smallest, best = here, load_i32(near + 4 * (LANES * row + first_lane(error, here)))
        return best

    return inlined(best_neighbor)
