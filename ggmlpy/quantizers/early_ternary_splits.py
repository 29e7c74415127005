"""How eras before today's cut the values of a run of IQ1, one run after another.

x, w: float32 [run], values and their weights. order: which value is the least, the next … levels: uint8 [run], 0 1 2
for -1 0 1. A move is 1 or -1 eighth (or none); way k of four moves the halves of a run as in MOVES[k].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ggmlpy.machine.kernels import inlined

from .search import magnitude_of
from .ternary_splits import MOVES, Splitter, number_of

__all__ = ["early_splitter"]

F0 = np.float32(0)


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
def split_in_order(x, w, order, sums, way):
    """iq1_m up to 2025: where to cut, which of the four ways to move, and the scale. Each way's sums are added up in
    the order of the values."""
    n, totals = len(x), np.empty((3, 2, 4), np.float32)  # up to the first cut, up to the second, of all
    best, scale, first, second, kept = way.least, F0, -1, -1, 0
    totals[0] = F0
    for a in range(n + 1):
        totals[1] = totals[0]
        for b in range(a, n + 1):
            totals[2] = totals[1]
            add_terms(x, w, order, b, n, 2, totals[2])
            for k in range(4):
                sum_qx, sum_q2 = totals[2, 0, k], totals[2, 1, k]
                if sum_q2 > F0 and sum_qx * sum_qx > best * sum_q2:
                    scale = sum_qx / sum_q2
                    best, first, second, kept = scale * sum_qx, a, b, k
            if b < n:
                add_terms(x, w, order, b, b + 1, 1, totals[1])
        if a < n:
            add_terms(x, w, order, a, a + 1, 0, totals[0])
    return scale, first, second, kept


def early_splitter(name: str, way: Any) -> Splitter:
    """What cuts the runs of a type in an early way; see :class:`ggmlpy.quantizers.ternary_splits.Splitter`."""
    run, split_run = way.run, split_alike if name == "iq1_s" else split_in_order

    def room_for():
        return np.empty(run, np.int64), np.empty((2, run + 1), np.float32)

    def prepare(values, weights, room):
        return None

    def greatest(x, room, lane):
        return greatest_magnitude(x)

    def split(x, w, room, lane, levels):
        order, sums = room
        sort(x, order)
        scale, first, second, kept = split_run(x, w, order, sums, way)
        if first >= 0:
            cut(order, first, second, levels)
        return first >= 0, scale, kept

    return Splitter(1, inlined(room_for), inlined(prepare), inlined(greatest), inlined(split))
