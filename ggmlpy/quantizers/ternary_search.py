"""Quantizers of IQ1: eight values become one point whose coordinates are -1, 0 or 1, all moved up or down by an eighth.

For the 32 (iq1_s) or 16 (iq1_m) values x of a run, weighing w, all ways are tried to give the least of them -1, the
greatest 1, and those between 0, with each move; sums over sorted values make that quick. Kept is the way, with its best
scale, that leaves the least weighted error. Values that are then no point of the grid get the best of the points near
it, and the scale is fitted again. Scales of runs become odd multiples 1, 3, … 15 of the block's own.

In iq1_s all of a run is moved alike, and importance is needed. In iq1_m each half of a run is moved on its own; the
block's scale is fitted once more when all else is fixed, and its float16 is spread over four words.

A value x weighs v * sqrt(2 * mean square of its block + x^2) with importance v, and x^2 without.

That is today's way. How earlier eras differ the table :data:`WAYS` says:

- iq1_s for ten hours of 2024-03-11 moved nothing; scales were multiples up to 31;
- iq1_s before (since 2024-02-18) had a smaller grid and runs of eight, of which each is one point. One that is not on
  the grid gets the best of the points near it with the scale that suits this point best, and that is then raised by a
  twentieth. The mean square counts once;
- iq1_m up to 2025 added up the sums of each way in the order of the values, not from sums over sorted values.

Where all of a run is nothing, eras before today's left its move (in February 2024 the highest bit of its index) as it
was in the block before. What was there before the first block is not known; here it is as if nothing was moved back.

Source: quantize_row_iq1_s_impl and quantize_row_iq1_m_impl in ggml-quants.c of ggml 0.25.3 and, in llama.cpp, at
bd2d4e393 (2024-02-18), be858f620 and 44ca159fa (2024-03-11), 55c1b2a3b (2024-03-26), 05834841d (2024-05-18), cddaf028a
(2024-06-16).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ggmlpy.formats.eras import (
    FEBRUARY_18_24,
    JUNE_16_24,
    MARCH_11_24,
    MARCH_11_24_08,
    MARCH_26_24,
    MAY_18_24,
    TODAY,
    Era,
)
from ggmlpy.formats.tensor_types import QK_K, TENSOR_TYPES, TensorType
from ggmlpy.machine.c_arithmetic import narrow
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import load_i32

from .grid_packing import store_bytes
from .k_quants import store_half
from .neighbors import ADDRESSES, neighbor_finder
from .search import clipped
from .ternary_splits import (
    MOVE,
    MOVES,
    cut,
    greatest_magnitude,
    number_of,
    sort,
    split_alike,
    split_halves,
    split_in_order,
    weigh,
)
from .weighted_search import ONLY_ZERO

__all__ = ["TERNARY", "ternary_quantizer"]

F0, F1, HALF = np.float32(0), np.float32(1), np.float32(0.5)
FLT_MAX = np.float32(np.finfo(np.float32).max)
TWENTIETH_MORE = np.float32(1.05)
S_D, S_QS, S_QH = (TENSOR_TYPES["iq1_s"].offset(field) for field in ("d", "qs", "qh"))
OLD_SCALES = TENSOR_TYPES["iq1_s-2024-02"].offset("scales")
M_QS, M_QH, M_SCALES = (TENSOR_TYPES["iq1_m"].offset(field) for field in ("qs", "qh", "scales"))
best_neighbor, numbers_of_levels = neighbor_finder(8)


class Way(NamedTuple):
    """How the blocks of one type are made: constants of a kernel.

    Attributes:
        run: values that share a scale.
        doubled: whether the mean square counts twice beside the square of a value.
        moves: by how many eighths a run may be moved; of iq1_m a half of it.
        least: what the first way that is tried must exceed to be kept.
        negligible: a run whose greatest magnitude is below it is all zero.
        top: the greatest code of a scale; it stands for 2 * top + 1.
        fudge: what the stored scale of a block is multiplied by.
        stale: whether a run of nothing is moved as that of the block before.
        sums_in_order: whether the sums of iq1_m are those of each way, value after value.
    """

    run: int
    doubled: bool
    moves: tuple[int, ...]
    least: np.float32
    negligible: np.float32
    top: int
    fudge: np.float32
    stale: bool = True
    sums_in_order: bool = False


EIGHTHS, NONE = (1, -1), (0,)
FLT_MIN = np.float32(np.finfo(np.float32).tiny)

# fmt: off
TERNARY: dict[str, dict[Era, Way]] = {
    #                    run doubled moves  least      negligible         top fudge           stale sums in order
    "iq1_s": {
        FEBRUARY_18_24: Way(8,  False, NONE,    F0,       ONLY_ZERO,         7,  np.float32(1.085)),
        MARCH_11_24_08: Way(32, True,  NONE,    F0,       ONLY_ZERO,         15, np.float32(1.125)),
        MARCH_11_24:    Way(32, True,  EIGHTHS, F0,       ONLY_ZERO,         7,  np.float32(1.125)),
        MAY_18_24:      Way(32, True,  EIGHTHS, F0,       np.float32(1e-12), 7,  np.float32(1.125)),
        JUNE_16_24:     Way(32, True,  EIGHTHS, -FLT_MIN, np.float32(1e-12), 7,  np.float32(1.125)),
        TODAY:          Way(32, True,  EIGHTHS, -FLT_MAX, np.float32(1e-12), 7,  np.float32(1.125), False),
    },
    "iq1_m": {
        MARCH_26_24:    Way(16, True,  EIGHTHS, F0,       ONLY_ZERO,         7,  np.float32(1.1125), True, True),
        MAY_18_24:      Way(16, True,  EIGHTHS, F0,       np.float32(1e-7),  7,  np.float32(1.1125), True, True),
        JUNE_16_24:     Way(16, True,  EIGHTHS, -FLT_MIN, np.float32(1e-7),  7,  np.float32(1.1125), True, True),
        TODAY:          Way(16, True,  EIGHTHS, -FLT_MAX, np.float32(1e-7),  7,  np.float32(1.1125), False),
    },
}
# fmt: on


# ── one run: how it is cut, see ternary_splits ───────────────────────────────────────────────────────────────────────


@inlined
def place(x, w, first, scale, move, points, tables, levels):
    """The point of eight values, which may get other levels; whether they did."""
    number = 0
    for i in range(8):
        number |= np.int32(levels[first + i]) << (2 * i)
    places, starts, near, near_lanes, _, _ = tables
    where = np.int64(load_i32(places + 4 * np.int64(number)))
    if where >= 0:
        return where, False
    x_at, w_at = np.int64(x.ctypes.data) + 4 * first, np.int64(w.ctypes.data) + 4 * first
    numbers = numbers_of_levels(np.float32(move) * MOVE - F1, F1)
    best = best_neighbor(x_at, w_at, scale, numbers, starts, near, near_lanes, -1 - where)
    best = max(best, np.int32(0))
    for i in range(8):
        levels[first + i] = points[best, i]
    return np.int64(best), True


@inlined
def fit_again(x, w, levels, run, first_move, second_move, factor, sums):
    """Add sum w q x and sum w q q over a run to ``sums``; a level stands for ``factor`` times its number."""
    for i in range(run):
        q = number_of(levels[i], first_move if 2 * i < run else second_move) * factor
        sums[0] += w[i] * q * x[i]
        sums[1] += w[i] * q * q


@inlined
def sorted_split(x, w, order, sums, levels, way):
    """iq1_s: whether there is a way to cut, the scale of the run, and its move; fills its levels."""
    sort(x, order)
    scale, first, second, move = split_alike(x, w, order, sums, way)
    if first < 0:
        return False, F0, 1
    cut(order, first, second, levels)
    if scale < F0:
        scale, move = -scale, -move
        for i in range(len(x)):
            levels[i] = np.uint8(2) - levels[i]
    return True, scale, move


@inlined
def search_s(x, w, points, tables, order, sums, levels, indices, way):
    """iq1_s: whether there is a fit, the scale of a run, and how it is moved; fills ``indices`` [4]."""
    fits, scale, move = sorted_split(x, w, order, sums, levels, way)
    if not fits:
        return False, F0, 1
    missed, fit = False, np.zeros(2, np.float32)
    for k in range(4):
        indices[k], found = place(x, w, 8 * k, scale, move, points, tables, levels)
        missed |= found
    if missed:
        fit_again(x, w, levels, 32, move, move, F1, fit)
        if fit[0] > F0 and fit[1] > F0:
            scale = fit[0] / fit[1]
    return True, scale, move


@inlined
def scale_at(x, w, point):
    """sum w x q and sum w q q of eight values over the numbers q of a point."""
    sum_qx, sum_q2 = F0, F0
    for i in range(8):
        q = number_of(point[i], 0)
        sum_qx += w[i] * q * x[i]
        sum_q2 += w[i] * q * q
    return sum_qx, sum_q2


@inlined
def search_8(x, w, points, tables, order, sums, levels, indices, way):
    """iq1_s of February 2024: whether there is a fit, and the scale of eight values; fills ``indices`` [1]."""
    _, scale, _ = sorted_split(x, w, order, sums, levels, way)
    number = 0
    for i in range(8):
        number |= np.int32(levels[i]) << (2 * i)
    places, starts, near, _, _, _ = tables
    where = np.int64(load_i32(places + 4 * np.int64(number)))
    if where >= 0:
        indices[0] = where
        return True, scale, 0
    first, end = load_i32(starts + 4 * (-1 - where)), load_i32(starts + 4 * (-where))
    best, kept = F0, -1
    for some in range(2):  # the points near it; and if none fits, all
        for k in range(16 * np.int64(first), 16 * np.int64(end)) if some == 0 else range(np.int64(0), len(points)):
            index = np.int64(load_i32(near + 4 * k)) if some == 0 else k
            sum_qx, sum_q2 = scale_at(x, w, points[index])
            if sum_qx > F0 and sum_q2 > F0 and sum_qx * sum_qx > best * sum_q2:
                scale, kept = sum_qx / sum_q2, index
                best = scale * sum_qx
        if kept >= 0:
            break
    indices[0] = max(kept, 0)
    return kept >= 0, scale * TWENTIETH_MORE, 0


def block_of_iq1_s(way: Way) -> Callable:
    """The function that makes one block, and returns how many runs have no fit."""
    run, groups, top, search = way.run, way.run // 8, way.top, search_8 if way.run == 8 else search_s
    stale, fudge, negligible, old = way.stale, way.fudge, way.negligible, way.run == 8

    def block(x, importance, weighted, mean, points, tables, work, out):
        order, sums, levels, w, scales, moves, indices = work
        most, failures = F0, 0
        for k in range(QK_K // run):
            part, found = x[run * k : run * k + run], indices[groups * k : groups * k + groups]
            weigh(part, importance[run * k : run * k + run], mean, weighted, w)
            scales[k], moves[k] = F0, moves[k] if stale else 1
            found[:] = found[0] & 256 if old else 0
            if greatest_magnitude(part) >= negligible:
                fits, scale, move = search(part, w, points, tables, order, sums, levels, found, way)
                scales[k], moves[k] = scale, move
                failures += stale and not fits
            most = most if most > scales[k] else scales[k]
        if most == F0:
            return failures
        d = most / np.float32(2 * top + 1)
        store_half(out, S_D, d * fudge)
        for k in range(QK_K // run):
            code = clipped(HALF * (F1 / d * scales[k] - F1), 0, top)
            if old:
                out[S_QS + k] = np.uint8(indices[k])
                out[OLD_SCALES + k // 2] |= np.uint8((code | indices[k] >> 8 << 3) << 4 * (k % 2))
            else:
                put_run(indices, k, np.uint32(code | (8 if moves[k] < 0 else 0)), out)
        return failures

    return inlined(block)


@inlined
def put_run(indices, k, code, out):
    """Four indices of a run, their high bits in a word with the code."""
    word = code << np.uint32(12)
    for i in range(4):
        out[S_QS + 4 * k + i] = np.uint8(indices[4 * k + i])
        word |= np.uint32(indices[4 * k + i] >> 8) << np.uint32(3 * i)
    store_bytes(out, S_QH + 2 * k, word, 2)


@inlined
def search_m(x, w, points, tables, order, sums, levels, indices, least, in_order):
    """iq1_m: whether there is a fit, the scale of a run, and how its halves are moved; fills ``indices`` [2]."""
    sort(x, order)
    if in_order:
        scale, first, second, way = split_in_order(x, w, order, least)
    else:
        scale, first, second, way = split_halves(x, w, order, sums, least)
    if first < 0:
        return False, F0, 0
    cut(order, first, second, levels)
    if scale < F0:
        scale, way = -scale, 3 - way
        for i in range(len(x)):
            levels[i] = np.uint8(2) - levels[i]
    missed, fit = False, np.zeros(2, np.float32)
    for k in range(2):
        indices[k], found = place(x, w, 8 * k, scale, MOVES[way][k], points, tables, levels)
        missed |= found
    if missed:
        fit_again(x, w, levels, 16, MOVES[way][0], MOVES[way][1], F1, fit)
        if fit[0] > F0 and fit[1] > F0:
            scale = fit[0] / fit[1]
    return True, scale, way


def block_of_iq1_m(way: Way) -> Callable:
    """The function that makes one block, and returns how many runs have no fit."""
    top, fudge, negligible, least, in_order = way.top, way.fudge, way.negligible, way.least, way.sums_in_order
    stale = way.stale

    def block(x, importance, weighted, mean, points, tables, work, out):
        order, sums, levels, w, scales, ways, indices = work
        most, failures = F0, 0
        for k in range(16):
            part, here, found = x[16 * k : 16 * k + 16], w[16 * k : 16 * k + 16], indices[2 * k : 2 * k + 2]
            weigh(part, importance[16 * k : 16 * k + 16], mean, weighted, here)
            scales[k], ways[k], found[:] = F0, ways[k] if stale else 0, 0
            if greatest_magnitude(part) >= negligible:
                fits, scale, halves = search_m(part, here, points, tables, order, sums, levels, found, least, in_order)
                scales[k], ways[k] = scale, halves
                failures += stale and not fits
            most = most if most > scales[k] else scales[k]
        if most == F0:
            return failures
        d, fit, words = most / np.float32(2 * top + 1), np.zeros(2, np.float32), np.zeros(4, np.uint32)
        for k in range(16):
            code = clipped(HALF * (F1 / d * scales[k] - F1), 0, top)
            words[k // 4] |= np.uint32(code) << np.uint32(3 * (k % 4))
            put_halves(indices, k, MOVES[ways[k]], points, levels, out)
            part, here = x[16 * k : 16 * k + 16], w[16 * k : 16 * k + 16]
            first, second = MOVES[ways[k]]
            fit_again(part, here, levels, 16, first, second, np.float32(2 * code + 1), fit)
        d = fit[0] / fit[1] if fit[1] > F0 else d
        bits_of_d = np.uint32(narrow(d * fudge))
        for k in range(4):
            word = words[k] | (bits_of_d >> np.uint32(4 * k) & np.uint32(15)) << np.uint32(12)
            store_bytes(out, M_SCALES + 2 * k, word, 2)
        return failures

    return inlined(block)


@inlined
def put_halves(indices, k, moves, points, levels, out):
    """Two indices of a run, with their high bits where they are moved; and the levels of their points."""
    for half in range(2):
        index = indices[2 * k + half]
        out[M_QS + 2 * k + half] = np.uint8(index)
        out[M_QH + k] |= np.uint8((index >> 8 | (8 if moves[half] < 0 else 0)) << 4 * half)
        levels[8 * half : 8 * half + 8] = points[index]


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_kernel(name: str, way: Way) -> Callable:
    """The loop over blocks ``rows`` (float32 [n, 256]) into ``out`` [n, type_size]; it returns how often there was no
    fit where ggml ends the program then.

    ``importance``: float32 [blocks per row, 256], the weights of one row's values, if they are ``weighted``.
    ``tables``: see :mod:`ggmlpy.quantizers.neighbors`.
    """
    block_of = block_of_iq1_s(way) if name == "iq1_s" else block_of_iq1_m(way)
    run, factor, still = way.run, np.float32(2 if way.doubled else 1), 1 if name == "iq1_s" else 0

    def quantize_blocks(rows, importance, weighted, points, tables, out):
        order, sums, levels = np.empty(run, np.int64), np.empty((4, run + 1), np.float32), np.empty(run, np.uint8)
        w, scales, moves = np.empty(QK_K, np.float32), np.empty(32, np.float32), np.full(32, still, np.int64)
        work, failures = (order, sums, levels, w, scales, moves, np.zeros(32, np.int32)), 0
        for block in range(rows.shape[0]):
            x, total = rows[block], F0
            for v in x:
                total += v * v
            out[block, :] = 0
            mean, weights = factor * total / np.float32(QK_K), importance[block % importance.shape[0]]
            failures += block_of(x, weights, weighted, mean, points, tables, work, out[block])
        return failures

    return quantize_blocks


@cache
def ternary_quantizer(record: TensorType, way: Way) -> Callable:
    """The compiled loop for iq1_s or iq1_m, made in one of the ways of :data:`TERNARY`."""
    floats = types.Array(types.float32, 2, "C", readonly=True)
    signature = types.int64(floats, floats, types.boolean, types.uint8[:, ::1], ADDRESSES, types.uint8[:, ::1])
    return kernel(rows_kernel(record.name, way), signature)
