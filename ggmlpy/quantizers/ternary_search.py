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

from .early_ternary_splits import early_splitter
from .grid_packing import store_bytes
from .k_quants import store_half
from .neighbors import ADDRESSES, neighbor_finder
from .search import clipped
from .ternary_splits import MOVE, MOVES, number_of, splitter, weigh
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


# ── one run: how it is cut, see ternary_splits and early_ternary_splits ───────────────────────────────────────────────


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
def fit_again(x, w, levels, run, first_move, second_move, factor, sum_qx, sum_q2):
    """Both sums, with sum w q x and sum w q q of a run added; a level stands for ``factor`` times its number."""
    for i in range(run):
        q = number_of(levels[i], first_move if 2 * i < run else second_move) * factor
        sum_qx += w[i] * q * x[i]
        sum_q2 += w[i] * q * q
    return sum_qx, sum_q2


@inlined
def turn(levels):
    """The levels of the same values with a scale of the other sign."""
    for i in range(len(levels)):
        levels[i] = np.uint8(2) - levels[i]


def searcher(run: int, halves: bool, split: Callable) -> Callable:
    """The function (x, w, points, tables, room, lane, levels, indices) -> whether there is a fit, the scale of a run,
    and how it is moved: by how much, or in which way its ``halves`` are; it fills ``indices`` [run / 8]."""

    def search(x, w, points, tables, room, lane, levels, indices):
        fits, scale, way = split(x, w, room, lane, levels)
        if not fits:
            return False, F0, 0 if halves else 1
        if scale < F0:
            scale, way = -scale, 3 - way if halves else -way
            turn(levels)
        first, second = MOVES[way] if halves else (way, way)
        missed = False
        for k in range(run // 8):
            move = first if 16 * k < run else second
            indices[k], found = place(x, w, 8 * k, scale, move, points, tables, levels)
            missed |= found
        if missed:
            sum_qx, sum_q2 = fit_again(x, w, levels, run, first, second, F1, F0, F0)
            if sum_qx > F0 and sum_q2 > F0:
                scale = sum_qx / sum_q2
        return True, scale, way

    return inlined(search)


@inlined
def scale_at(x, w, point):
    """sum w x q and sum w q q of eight values over the numbers q of a point."""
    sum_qx, sum_q2 = F0, F0
    for i in range(8):
        q = number_of(point[i], 0)
        sum_qx += w[i] * q * x[i]
        sum_q2 += w[i] * q * q
    return sum_qx, sum_q2


def searcher_8(split: Callable) -> Callable:
    """iq1_s of February 2024: the same of eight values, which are one point; it fills ``indices`` [1]."""

    def search(x, w, points, tables, room, lane, levels, indices):
        _, scale, _ = split(x, w, room, lane, levels)
        if scale < F0:
            scale = -scale
            turn(levels)
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

    return inlined(search)


def searcher_of_runs(way: Way, search: Callable, greatest: Callable, resting: int) -> Callable:
    """The function that searches the runs of one block: how large the largest scale is, and how many have no fit.

    Scales, moves and indices are left in ``work``. A run of nearly nothing gets the scale 0, the move `resting` (where
    it does not keep that of the block before), and the indices 0; the shortest runs keep a bit of theirs.
    """
    run, groups, stale, negligible = way.run, way.run // 8, way.stale, way.negligible
    kept = 256 if run == 8 else 0

    def runs(x, w, lane, room, points, tables, work):
        levels, scales, moves, indices = work
        most, failures = F0, 0
        for k in range(QK_K // run):
            part, here = x[run * k : run * k + run], w[run * k : run * k + run]
            found = indices[groups * k : groups * k + groups]
            scales[k], moves[k] = F0, moves[k] if stale else resting
            found[:] = found[0] & kept
            if greatest(part, room, lane + k) >= negligible:
                fits, scale, move = search(part, here, points, tables, room, lane + k, levels, found)
                scales[k], moves[k] = scale, move
                failures += stale and not fits
            most = most if most > scales[k] else scales[k]
        return most, failures

    return inlined(runs)


def block_of_iq1_s(way: Way, split: Callable, greatest: Callable) -> Callable:
    """The function that makes one block, whose first run is number ``lane``, and returns how many runs have no fit."""
    run, top, old, fudge = way.run, way.top, way.run == 8, way.fudge
    search = searcher_8(split) if old else searcher(run, False, split)
    runs = searcher_of_runs(way, search, greatest, resting=1)

    def block(x, w, lane, room, points, tables, work, out):
        _, scales, moves, indices = work
        most, failures = runs(x, w, lane, room, points, tables, work)
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


def block_of_iq1_m(way: Way, split: Callable, greatest: Callable) -> Callable:
    """The function that makes one block, whose first run is number ``lane``, and returns how many runs have no fit."""
    top, fudge, runs = way.top, way.fudge, searcher_of_runs(way, searcher(16, True, split), greatest, resting=0)

    def block(x, w, lane, room, points, tables, work, out):
        levels, scales, ways, indices = work
        most, failures = runs(x, w, lane, room, points, tables, work)
        if most == F0:
            return failures
        d, words, sum_qx, sum_q2 = most / np.float32(2 * top + 1), np.zeros(4, np.uint32), F0, F0
        for k in range(16):
            code = clipped(HALF * (F1 / d * scales[k] - F1), 0, top)
            words[k // 4] |= np.uint32(code) << np.uint32(3 * (k % 4))
            put_halves(indices, k, MOVES[ways[k]], points, levels, out)
            part, here = x[16 * k : 16 * k + 16], w[16 * k : 16 * k + 16]
            first, second = MOVES[ways[k]]
            factor = np.float32(2 * code + 1)
            sum_qx, sum_q2 = fit_again(part, here, levels, 16, first, second, factor, sum_qx, sum_q2)
        d = sum_qx / sum_q2 if sum_q2 > F0 else d
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
    run, factor, still = way.run, np.float32(2 if way.doubled else 1), 1 if name == "iq1_s" else 0
    together, room_for, prepare, greatest, split = early_splitter(name, way) if way.stale else splitter(name, run)
    block_of = (block_of_iq1_s if name == "iq1_s" else block_of_iq1_m)(way, split, greatest)

    def quantize_blocks(rows, importance, weighted, points, tables, out):
        room, levels, scales = room_for(), np.empty(run, np.uint8), np.empty(32, np.float32)
        work, failures = (levels, scales, np.full(32, still, np.int64), np.zeros(32, np.int32)), 0
        values, weights = np.zeros((together, QK_K), np.float32), np.zeros((together, QK_K), np.float32)
        for start in range(0, rows.shape[0], together):
            n = min(together, rows.shape[0] - start)
            for k in range(n):
                total = F0
                for v in rows[start + k]:
                    total += v * v
                values[k] = rows[start + k]
                mean = factor * total / np.float32(QK_K)
                weigh(values[k], importance[(start + k) % importance.shape[0]], mean, weighted, weights[k])
            prepare(values, weights, room)
            for k in range(n):
                out[start + k] = 0
                lane = QK_K // run * k
                failures += block_of(values[k], weights[k], lane, room, points, tables, work, out[start + k])
        return failures

    return quantize_blocks


@cache
def ternary_quantizer(record: TensorType, way: Way) -> Callable:
    """The compiled loop for iq1_s or iq1_m, made in one of the ways of :data:`TERNARY`."""
    floats = types.Array(types.float32, 2, "C", readonly=True)
    signature = types.int64(floats, floats, types.boolean, types.uint8[:, ::1], ADDRESSES, types.uint8[:, ::1])
    return kernel(rows_kernel(record.name, way), signature)
