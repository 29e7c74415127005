"""How the values of a run of IQ1 are cut into those that become -1, 0 and 1: of sixteen runs side by side.

x, w: the addresses of float32 [run, 16], values and their weights, one run per lane. ranks: that of as much, which
value is the least, the next … sums: that of float32 [rows, run + 1, 16], over the sorted values. levels: uint8 [run],
0 1 2 for -1 0 1. A move is 1 or -1 eighth; way k of four moves the halves of a run as in MOVES[k]. What a search keeps
is a number: way + 4 * second + 256 * first, the places where to cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ggmlpy.formats.tensor_types import QK_K
from ggmlpy.machine.kernels import inlined
from ggmlpy.machine.vectors import (
    add,
    any_greater,
    div,
    fill,
    load,
    load_f32,
    mul,
    sqrt,
    store,
    store_f32,
    sub,
    where_equal,
    where_greater,
    zero_bytes,
    zeros,
)

from .classic import greatest_forgetting
from .weighted_search import ROW, side_by_side

__all__ = ["MOVE", "MOVES", "Splitter", "number_of", "splitter", "weigh"]

F0, F1 = np.float32(0), np.float32(1)
FLT_MAX, INF = np.float32(np.finfo(np.float32).max), np.float32(np.inf)
MOVE = np.float32(0.125)
MOVES = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # of the first and the second half of a run
NOTHING = np.float32(-1)  # where no way is better than none
ROOM = 6144  # float32: ranks, values, weights, sums, and what ends add


class Splitter(NamedTuple):
    """What cuts runs.

    Attributes:
        together: how many blocks are prepared together.
        room_for: () -> what the others work in.
        prepare: (values, weights, room), of so many blocks, float32 [together, 256].
        greatest: (x, room, lane) -> the greatest magnitude of a run.
        split: (x, w, room, lane, levels) -> whether there is a way to cut, the scale, and how the run is moved: by how
            much in iq1_s, in which of the four ways in iq1_m. It fills ``levels``. x, w: float32 [run], the values of
            run number ``lane`` of those prepared, and their weights.
    """

    together: int
    room_for: Callable
    prepare: Callable
    greatest: Callable
    split: Callable


@inlined
def weigh(x, importance, mean, weighted, w):
    """The weights ``w`` of the values of a block; arrays, one value after another."""
    at, by, to = np.int64(x.ctypes.data), np.int64(importance.ctypes.data), np.int64(w.ctypes.data)
    for i in range(0, 4 * QK_K, ROW):
        v = load(at + i)
        square = mul(v, v)
        store(to + i, mul(load(by + i), sqrt(add(fill(mean), square))) if weighted else square)


@inlined
def number_of(level, move):
    """What a level stands for."""
    return np.float32(np.int32(level) - 1) + np.float32(move) * MOVE


@inlined
def rank(x, n, ranks):
    """The places of the values from the least to the greatest; equals stay in order."""
    for j in range(n):
        v, place = load(x + ROW * j), fill(np.float32(j))
        for i in range(j):
            less = where_greater(load(x + ROW * i), v, fill(F1), zeros())
            place = sub(place, less)
            store(ranks + ROW * i, add(load(ranks + ROW * i), less))
        store(ranks + ROW * j, place)


@inlined
def sort_by_insertion(x, n, ranks):
    """The same of one lane, in which a NaN ends up where insertion leaves it."""
    order = np.empty(n, np.int64)
    for i in range(n):
        k = i
        while k > 0 and load_f32(x + ROW * order[k - 1]) > load_f32(x + ROW * i):
            order[k] = order[k - 1]
            k -= 1
        order[k] = i
    for k in range(n):
        store_f32(ranks + ROW * order[k], np.float32(k))


@inlined
def sort(x, n, ranks):
    rank(x, n, ranks)
    nothing = zeros()
    for i in range(n):
        v = load(x + ROW * i)
        nothing = where_equal(v, v, nothing, fill(F1))
    if any_greater(nothing, zeros()):
        for lane in range(16):
            sort_by_insertion(x + 4 * lane, n, ranks + 4 * lane)


@inlined
def sums_over_sorted(x, w, n, ranks, halves, sums):
    """Sums of w x and w; if ``halves``, of the values in the first half of the run, and then in the second."""
    row, rows = ROW * (n + 1), 4 if halves else 2
    zero_bytes(sums, rows * row)
    for i in range(n):
        at = sums + 2 * row if halves and 2 * i >= n else sums
        for lane in range(0, ROW, 4):
            place = ROW * (np.int64(load_f32(ranks + ROW * i + lane)) + 1) + lane
            weight = load_f32(w + ROW * i + lane)
            store_f32(at + place, weight * load_f32(x + ROW * i + lane))
            store_f32(at + row + place, weight)
    for k in range(rows):
        total = zeros()
        for i in range(n + 1):
            total = add(total, load(sums + row * k + ROW * i))
            store(sums + row * k + ROW * i, total)


@inlined
def better(sum_qx, sum_q2, what, best, scale, kept):
    """Keep, in each lane, what leaves less error than the best so far."""
    new = mul(sum_qx, sum_qx)
    old = where_greater(sum_q2, zeros(), mul(best, sum_q2), fill(INF))
    if any_greater(new, old):
        here = div(sum_qx, sum_q2)
        best, scale, kept = (
            where_greater(new, old, mul(here, sum_qx), best),
            where_greater(new, old, here, scale),
            where_greater(new, old, fill(np.float32(what)), kept),
        )
    return best, scale, kept


@inlined
def scaled(x, level, move):
    return mul(x, fill(number_of(level, move)))


@inlined
def squared(w, level, move):
    return scaled(scaled(w, level, move), level, move)


@inlined
def store_ends(xs, ws, n, upper):
    """Of each place to cut what the values from there on add to both sums with either move: [n + 1, 4, 16]."""
    for b in range(n + 1):
        x2, w2 = sub(load(xs + ROW * n), load(xs + ROW * b)), sub(load(ws + ROW * n), load(ws + ROW * b))
        at = upper + 4 * ROW * b
        store(at, scaled(x2, 2, 1))
        store(at + ROW, squared(w2, 2, 1))
        store(at + 2 * ROW, scaled(x2, 2, -1))
        store(at + 3 * ROW, squared(w2, 2, -1))


@inlined
def split_alike(sums, n, upper):
    """iq1_s: the scales, and what was kept: way 0 moves up, way 3 down. upper: float32 [n + 1, 4, 16] to work in."""
    xs, ws = sums, sums + ROW * (n + 1)
    store_ends(xs, ws, n, upper)
    best, scale, kept = fill(-FLT_MAX), zeros(), fill(NOTHING)
    for a in range(n + 1):
        x0, w0 = load(xs + ROW * a), load(ws + ROW * a)
        for b in range(a, n + 1):
            x1, w1 = sub(load(xs + ROW * b), x0), sub(load(ws + ROW * b), w0)
            what, at = 256 * a + 4 * b, upper + 4 * ROW * b
            sum_qx = add(add(scaled(x0, 0, 1), scaled(x1, 1, 1)), load(at))
            sum_q2 = add(add(squared(w0, 0, 1), squared(w1, 1, 1)), load(at + ROW))
            best, scale, kept = better(sum_qx, sum_q2, what, best, scale, kept)
            sum_qx = add(add(scaled(x0, 0, -1), scaled(x1, 1, -1)), load(at + 2 * ROW))
            sum_q2 = add(add(squared(w0, 0, -1), squared(w1, 1, -1)), load(at + 3 * ROW))
            best, scale, kept = better(sum_qx, sum_q2, what + 3, best, scale, kept)
    return scale, kept


@inlined
def half_sums(xs, ws, a, b, n, move):
    """What a half adds to both sums. As a level is one more than the one below it, the sums of three parts are that of
    all at the upper level, less those up to the cuts."""
    low, zero, high = number_of(0, move), number_of(1, move), number_of(2, move)
    up, down = fill(zero * zero - low * low), fill(high * high - zero * zero)
    sum_qx = sub(scaled(load(xs + ROW * n), 2, move), add(load(xs + ROW * a), load(xs + ROW * b)))
    sum_q2 = sub(squared(load(ws + ROW * n), 2, move), mul(load(ws + ROW * a), up))
    return sum_qx, sub(sum_q2, mul(load(ws + ROW * b), down))


@inlined
def split_halves(sums, n):
    """iq1_m: the scales, and what was kept."""
    row = ROW * (n + 1)
    best, scale, kept = fill(-FLT_MAX), zeros(), fill(NOTHING)
    for a in range(n + 1):
        for b in range(a, n + 1):
            x_up, w_up = half_sums(sums, sums + row, a, b, n, 1)
            x_down, w_down = half_sums(sums, sums + row, a, b, n, -1)
            y_up, v_up = half_sums(sums + 2 * row, sums + 3 * row, a, b, n, 1)
            y_down, v_down = half_sums(sums + 2 * row, sums + 3 * row, a, b, n, -1)
            what = 256 * a + 4 * b
            best, scale, kept = better(add(x_up, y_up), add(w_up, v_up), what, best, scale, kept)
            best, scale, kept = better(add(x_up, y_down), add(w_up, v_down), what + 1, best, scale, kept)
            best, scale, kept = better(add(x_down, y_up), add(w_down, v_up), what + 2, best, scale, kept)
            best, scale, kept = better(add(x_down, y_down), add(w_down, v_down), what + 3, best, scale, kept)
    return scale, kept


@inlined
def cut(ranks, n, lane, kept, levels):
    """The least values get level 0, from the first place to cut on 1, from the second on 2."""
    first, second = np.float32(kept >> 8), np.float32(kept >> 2 & 63)
    for i in range(n):
        place = load_f32(ranks + ROW * i + 4 * lane)
        levels[i] = np.uint8((place >= first) + (place >= second))


def splitter(name: str, run: int) -> Splitter:
    """What cuts the runs of a type."""
    halves, tile = name == "iq1_m", ROW * run

    def room_for():
        return np.zeros(ROOM, np.float32), np.zeros((3, 16), np.float32)

    def prepare(values, weights, room):
        memory, found = room
        ranks = np.int64(memory.ctypes.data)
        x, w, sums = ranks + tile, ranks + 2 * tile, ranks + 3 * tile
        side_by_side(np.int64(values.ctypes.data), run, x)
        side_by_side(np.int64(weights.ctypes.data), run, w)
        sort(x, run, ranks)
        sums_over_sorted(x, w, run, ranks, halves, sums)
        if halves:
            scale, kept = split_halves(sums, run)
        else:
            scale, kept = split_alike(sums, run, sums + 2 * ROW * (run + 1))
        at = np.int64(found.ctypes.data)
        store(at, scale)
        store(at + ROW, kept)
        store(at + 2 * ROW, greatest_forgetting(x, run))

    def greatest(x, room, lane):
        return room[1][2, lane]

    def split(x, w, room, lane, levels):
        memory, found = room
        kept = np.int64(found[1, lane])
        if kept >= 0:
            cut(np.int64(memory.ctypes.data), run, lane, kept, levels)
        way = kept & 3
        return kept >= 0, found[0, lane], way if halves else MOVES[way][0]

    return Splitter(run // 16, inlined(room_for), inlined(prepare), inlined(greatest), inlined(split))
