"""Quantizers of IQ1: eight values become one point whose coordinates are -1, 0 or 1, all moved up or down by an eighth.

For the 32 (iq1_s) or 16 (iq1_m) values x of a run, weighing w, all ways are tried to give the least of them -1, the
greatest 1, and those between 0, with each move; sums over sorted values make that quick. Kept is the way, with its best
scale, that leaves the least weighted error. Values that are then no point of the grid get the best of the points near
it, and the scale is fitted again. Scales of runs become odd multiples 1, 3, … 15 of the block's own.

In iq1_s all of a run is moved alike, and importance is needed. In iq1_m each half of a run is moved on its own; the
block's scale is fitted once more when all else is fixed, and its float16 is spread over four words.

A value x weighs v * sqrt(2 * mean square of its block + x^2) with importance v, and x^2 without.

Source: quantize_row_iq1_s_impl and quantize_row_iq1_m_impl in ggml-quants.c of ggml 0.25.3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from ggmlpy.formats.tensor_types import QK_K, TENSOR_TYPES
from ggmlpy.machine.c_arithmetic import narrow
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import load_i32

from .grid_packing import store_bytes
from .k_quants import store_half
from .neighbors import ADDRESSES, neighbor_finder, numbers_of_levels
from .search import clipped, magnitude_of

__all__ = ["ternary_quantizer"]

F0, F1, HALF = np.float32(0), np.float32(1), np.float32(0.5)
FLT_MAX = np.float32(np.finfo(np.float32).max)
MOVE = np.float32(0.125)
NEGLIGIBLE_S, NEGLIGIBLE_M = np.float32(1e-12), np.float32(1e-7)
FUDGE_S, FUDGE_M = np.float32(1.125), np.float32(1.1125)
S_D, S_QS, S_QH = (TENSOR_TYPES["iq1_s"].offset(field) for field in ("d", "qs", "qh"))
M_QS, M_QH, M_SCALES = (TENSOR_TYPES["iq1_m"].offset(field) for field in ("qs", "qh", "scales"))
best_neighbor = neighbor_finder(8)


# ── values of one run ─────────────────────────────────────────────────────────────────────────────────────────────────
#
# x, w: float32 [run]. order: which value is the least, the next … levels: uint8 [run], 0 1 2 for -1 0 1. A move is 1 or
# -1 eighth; way k of four moves the halves of a run as in MOVES[k].


@inlined
def weigh(x, importance, mean, weighted, w):
    for i in range(len(x)):
        square = x[i] * x[i]
        w[i] = importance[i] * np.sqrt(mean + square) if weighted else square


@inlined
def greatest_magnitude(x):
    greatest = F0
    for v in x:
        greatest = greatest if greatest > magnitude_of(v) else magnitude_of(v)
    return greatest


@inlined
def sort(x, order):
    """The places of the values from the least to the greatest; equals stay in order."""
    for i in range(len(x)):
        k = i
        while k > 0 and x[order[k - 1]] > x[i]:
            order[k] = order[k - 1]
            k -= 1
        order[k] = i


@inlined
def cut(order, first, second, levels):
    """The least values get level 0, from place ``first`` on 1, from ``second`` on 2."""
    for k in range(len(order)):
        levels[order[k]] = np.uint8((k >= first) + (k >= second))


@inlined
def number_of(level, move):
    """What a level stands for."""
    return np.float32(np.int32(level) - 1) + np.float32(move) * MOVE


@inlined
def place(x, w, first, scale, move, points, tables, levels):
    """The point of eight values, which may get other levels; whether they did."""
    number = 0
    for i in range(8):
        number |= np.int32(levels[first + i]) << (2 * i)
    places, starts, near, near_levels, _ = tables
    where = np.int64(load_i32(places + 4 * np.int64(number)))
    if where >= 0:
        return where, False
    x_at, w_at = np.int64(x.ctypes.data) + 4 * first, np.int64(w.ctypes.data) + 4 * first
    numbers = numbers_of_levels(np.float32(move) * MOVE - F1, F1)
    best = best_neighbor(x_at, w_at, scale, numbers, starts, near, near_levels, -1 - where)
    best = max(best, np.int32(0))
    for i in range(8):
        levels[first + i] = points[best, i]
    return np.int64(best), True


@inlined
def split_alike(x, w, order, sums):
    """iq1_s: where to cut, the move, and the scale. sums: float32 [2, 33], of w x and w over the sorted values."""
    n = len(x)
    sums[:, 0] = F0
    for k in range(n):
        i = order[k]
        sums[0, k + 1] = sums[0, k] + w[i] * x[i]
        sums[1, k + 1] = sums[1, k] + w[i]
    best, scale, first, second, kept = -FLT_MAX, F0, -1, -1, 0
    for a in range(n + 1):
        for b in range(a, n + 1):
            x0, x1, x2 = sums[0, a] - sums[0, 0], sums[0, b] - sums[0, a], sums[0, n] - sums[0, b]
            w0, w1, w2 = sums[1, a] - sums[1, 0], sums[1, b] - sums[1, a], sums[1, n] - sums[1, b]
            for move in (1, -1):
                low, zero, high = number_of(0, move), number_of(1, move), number_of(2, move)
                sum_qx = x0 * low + x1 * zero + x2 * high
                sum_q2 = w0 * low * low + w1 * zero * zero + w2 * high * high
                if sum_q2 > F0 and sum_qx * sum_qx > best * sum_q2:
                    scale = sum_qx / sum_q2
                    best, first, second, kept = scale * sum_qx, a, b, move
    return scale, first, second, kept


@inlined
def fit_again(x, w, levels, run, first_move, second_move, factor, sums):
    """Add sum w q x and sum w q q over a run to ``sums``; a level stands for ``factor`` times its number."""
    for i in range(run):
        q = number_of(levels[i], first_move if 2 * i < run else second_move) * factor
        sums[0] += w[i] * q * x[i]
        sums[1] += w[i] * q * q


@inlined
def search_s(x, w, points, tables, order, sums, levels, indices):
    """iq1_s: the scale of a run, and how it is moved; fills ``indices`` [4]."""
    sort(x, order)
    scale, first, second, move = split_alike(x, w, order, sums)
    if first < 0:
        return F0, 1
    cut(order, first, second, levels)
    if scale < F0:
        scale, move = -scale, -move
        for i in range(len(x)):
            levels[i] = np.uint8(2) - levels[i]
    missed, fit = False, np.zeros(2, np.float32)
    for k in range(4):
        indices[k], found = place(x, w, 8 * k, scale, move, points, tables, levels)
        missed |= found
    if missed:
        fit_again(x, w, levels, 32, move, move, F1, fit)
        if fit[0] > F0 and fit[1] > F0:
            scale = fit[0] / fit[1]
    return scale, move


@inlined
def iq1_s(x, importance, weighted, mean, points, tables, work, out):
    order, sums, levels, w, scales, moves, indices = work
    most = F0
    for k in range(8):
        part, found = x[32 * k : 32 * k + 32], indices[4 * k : 4 * k + 4]
        weigh(part, importance[32 * k : 32 * k + 32], mean, weighted, w)
        scales[k], moves[k], found[:] = F0, 1, 0
        if greatest_magnitude(part) >= NEGLIGIBLE_S:
            scales[k], moves[k] = search_s(part, w, points, tables, order, sums, levels, found)
        most = most if most > scales[k] else scales[k]
    if most == F0:
        return
    d = most / np.float32(15)
    store_half(out, S_D, d * FUDGE_S)
    for k in range(8):
        code = clipped(HALF * (F1 / d * scales[k] - F1), 0, 7)
        word = np.uint32(code | (8 if moves[k] < 0 else 0)) << np.uint32(12)
        for i in range(4):
            out[S_QS + 4 * k + i] = np.uint8(indices[4 * k + i])
            word |= np.uint32(indices[4 * k + i] >> 8) << np.uint32(3 * i)
        store_bytes(out, S_QH + 2 * k, word, 2)


MOVES = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # of the first and the second half of a run


@inlined
def half_sums(x, w, order, sums):
    """Sums of w x and w over the sorted values, of those in each half of the run: float32 [4, 17]."""
    n = len(x)
    sums[:, 0] = F0
    for k in range(n):
        i = order[k]
        half = 0 if i < n // 2 else 2
        sums[:, k + 1] = sums[:, k]
        sums[half, k + 1] += w[i] * x[i]
        sums[half + 1, k + 1] += w[i]


@inlined
def split_halves(x, w, order, sums):
    """iq1_m: where to cut, which of the four ways to move, and the scale.

    As a level is one more than the one below it, the sums of three parts are that of all at the upper level, less those
    up to the cuts.
    """
    n = len(x)
    half_sums(x, w, order, sums)
    best, scale, first, second, kept = -FLT_MAX, F0, -1, -1, 0
    for a in range(n + 1):
        for b in range(a, n + 1):
            for way in range(4):
                sum_qx, sum_q2 = F0, F0
                for half in range(2):
                    move = MOVES[way][half]
                    low, zero, high = number_of(0, move), number_of(1, move), number_of(2, move)
                    xs, ws = sums[2 * half], sums[2 * half + 1]
                    up, down = zero * zero - low * low, high * high - zero * zero
                    sum_qx += xs[n] * high - (xs[a] + xs[b])
                    sum_q2 += ws[n] * high * high - ws[a] * up - ws[b] * down
                if sum_q2 > F0 and sum_qx * sum_qx > best * sum_q2:
                    scale = sum_qx / sum_q2
                    best, first, second, kept = scale * sum_qx, a, b, way
    return scale, first, second, kept


@inlined
def search_m(x, w, points, tables, order, sums, levels, indices):
    """iq1_m: the scale of a run, and how its halves are moved; fills ``indices`` [2]."""
    sort(x, order)
    scale, first, second, way = split_halves(x, w, order, sums)
    if first < 0:
        return F0, 0
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
    return scale, way


@inlined
def iq1_m(x, importance, weighted, mean, points, tables, work, out):
    order, sums, levels, w, scales, ways, indices = work
    most = F0
    for k in range(16):
        part, here, found = x[16 * k : 16 * k + 16], w[16 * k : 16 * k + 16], indices[2 * k : 2 * k + 2]
        weigh(part, importance[16 * k : 16 * k + 16], mean, weighted, here)
        scales[k], ways[k], found[:] = F0, 0, 0
        if greatest_magnitude(part) >= NEGLIGIBLE_M:
            scales[k], ways[k] = search_m(part, here, points, tables, order, sums, levels, found)
        most = most if most > scales[k] else scales[k]
    if most == F0:
        return
    d, fit, words = most / np.float32(15), np.zeros(2, np.float32), np.zeros(4, np.uint32)
    for k in range(16):
        code = clipped(HALF * (F1 / d * scales[k] - F1), 0, 7)
        words[k // 4] |= np.uint32(code) << np.uint32(3 * (k % 4))
        first, second = MOVES[ways[k]]
        for half in range(2):
            index, move = indices[2 * k + half], MOVES[ways[k]][half]
            out[M_QS + 2 * k + half] = np.uint8(index)
            out[M_QH + k] |= np.uint8((index >> 8 | (8 if move < 0 else 0)) << 4 * half)
            levels[8 * half : 8 * half + 8] = points[index]
        part, here = x[16 * k : 16 * k + 16], w[16 * k : 16 * k + 16]
        fit_again(part, here, levels, 16, first, second, np.float32(2 * code + 1), fit)
    d = fit[0] / fit[1] if fit[1] > F0 else d
    bits_of_d = np.uint32(narrow(d * FUDGE_M))
    for k in range(4):
        word = words[k] | (bits_of_d >> np.uint32(4 * k) & np.uint32(15)) << np.uint32(12)
        store_bytes(out, M_SCALES + 2 * k, word, 2)


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_kernel(name: str) -> Callable:
    """The loop over blocks ``rows`` (float32 [n, 256]) into ``out`` [n, type_size].

    ``importance``: float32 [blocks per row, 256], the weights of one row's values, if they are ``weighted``.
    ``tables``: see :mod:`ggmlpy.quantizers.neighbors`.
    """
    run, block_of = (32, iq1_s) if name == "iq1_s" else (16, iq1_m)

    def quantize_blocks(rows, importance, weighted, points, tables, out):
        order, sums, levels = np.empty(run, np.int64), np.empty((4, run + 1), np.float32), np.empty(run, np.uint8)
        w, scales, moves = np.empty(QK_K, np.float32), np.empty(16, np.float32), np.ones(16, np.int64)
        work = order, sums, levels, w, scales, moves, np.empty(32, np.int32)
        for block in range(rows.shape[0]):
            x, total = rows[block], F0
            for v in x:
                total += v * v
            out[block, :] = 0
            mean = np.float32(2) * total / np.float32(QK_K)
            block_of(x, importance[block % importance.shape[0]], weighted, mean, points, tables, work, out[block])
        return 0

    return quantize_blocks


@cache
def ternary_quantizer(name: str) -> Callable:
    """The compiled loop for "iq1_s" or "iq1_m"."""
    floats = types.Array(types.float32, 2, "C", readonly=True)
    signature = types.int64(floats, floats, types.boolean, types.uint8[:, ::1], ADDRESSES, types.uint8[:, ::1])
    return kernel(rows_kernel(name), signature)
