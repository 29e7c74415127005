"""How the values of a run of IQ1 are cut into those that become -1, 0 and 1.

x, w: float32 [run], values and their weights. order: which value is the least, the next … levels: uint8 [run], 0 1 2
for -1 0 1. A move is 1 or -1 eighth (or none); way k of four moves the halves of a run as in MOVES[k].
"""

from __future__ import annotations

import numpy as np

from ggmlpy.machine.kernels import inlined

from .search import magnitude_of

__all__ = [
    "MOVE",
    "MOVES",
    "cut",
    "greatest_magnitude",
    "number_of",
    "sort",
    "split_alike",
    "split_halves",
    "split_in_order",
    "weigh",
]

F0 = np.float32(0)
MOVE = np.float32(0.125)


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
def split_alike(x, w, order, sums, way):
    """iq1_s: where to cut, the move, and the scale. sums: float32 [2, run + 1], of w x and w over the sorted values."""
    n = len(x)
    sums[:, 0] = F0
    for k in range(n):
        i = order[k]
        sums[0, k + 1] = sums[0, k] + w[i] * x[i]
        sums[1, k + 1] = sums[1, k] + w[i]
    best, scale, first, second, kept = way.least, F0, -1, -1, 0
    for a in range(n + 1):
        for b in range(a, n + 1):
            x0, x1, x2 = sums[0, a] - sums[0, 0], sums[0, b] - sums[0, a], sums[0, n] - sums[0, b]
            w0, w1, w2 = sums[1, a] - sums[1, 0], sums[1, b] - sums[1, a], sums[1, n] - sums[1, b]
            for move in way.moves:
                low, zero, high = number_of(0, move), number_of(1, move), number_of(2, move)
                sum_qx = x0 * low + x1 * zero + x2 * high
                sum_q2 = w0 * low * low + w1 * zero * zero + w2 * high * high
                if sum_q2 > F0 and sum_qx * sum_qx > best * sum_q2:
                    scale = sum_qx / sum_q2
                    best, first, second, kept = scale * sum_qx, a, b, move
    if first < 0 and len(way.moves) == 1:  # all stand for 1
        return greatest_magnitude(x), 0, 0, 0
    return scale, first, second, kept


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
def split_halves(x, w, order, sums, least):
    """iq1_m: where to cut, which of the four ways to move, and the scale.

    As a level is one more than the one below it, the sums of three parts are that of all at the upper level, less those
    up to the cuts.
    """
    n = len(x)
    half_sums(x, w, order, sums)
    best, scale, first, second, kept = least, F0, -1, -1, 0
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
def add_terms(x, w, order, start, stop, level, sums):
    """Add what the sorted values from place ``start`` to ``stop`` give at one level to sum w q x and sum w q q of the
    four ways: float32 [2, 4]."""
    n = len(x)
    for k in range(start, stop):
        i = order[k]
        for way in range(4):
            q = number_of(level, MOVES[way][0 if i < n // 2 else 1])
            sums[0, way] += w[i] * q * x[i]
            sums[1, way] += w[i] * q * q


@inlined
def split_in_order(x, w, order, least):
    """The same up to 2025: each way's sums are added up in the order of the values."""
    n, sums = len(x), np.empty((3, 2, 4), np.float32)  # up to the first cut, up to the second, of all
    best, scale, first, second, kept = least, F0, -1, -1, 0
    sums[0] = F0
    for a in range(n + 1):
        sums[1] = sums[0]
        for b in range(a, n + 1):
            sums[2] = sums[1]
            add_terms(x, w, order, b, n, 2, sums[2])
            for way in range(4):
                sum_qx, sum_q2 = sums[2, 0, way], sums[2, 1, way]
                if sum_q2 > F0 and sum_qx * sum_qx > best * sum_q2:
                    scale = sum_qx / sum_q2
                    best, first, second, kept = scale * sum_qx, a, b, way
            if b < n:
                add_terms(x, w, order, b, b + 1, 1, sums[1])
        if a < n:
            add_terms(x, w, order, a, a + 1, 0, sums[0])
    return scale, first, second, kept
