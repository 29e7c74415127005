"""Quantizers of IQ2 and IQ3: the magnitudes of eight (or four) values become one point of a grid.

Level l of a value stands for 2 l + 1 in units of a scale that 16 or 32 values share. For each such run:

1. the signs are noted. Where a block has only seven bits for eight of them, their number must be even: if it is odd,
   the value whose sign matters least (w x^2) counts as negative from here on;
2. about twenty scales are tried. With each, every value gets its nearest level; where the levels of eight values are
   no point of the grid, the best of the points near it is taken. Kept is what leaves the least weighted error;
3. values that missed the grid (in some types all) are placed anew with the scale that was kept, and it is fitted again.

Then the scales of the runs become odd multiples 1, 3, … 31 of the block's own, which is stored a little larger than it
is, by a factor of the type.

=======  ===  ==================  ==============================  ==============================================
type     run  weight of x         importance v                    scales tried
=======  ===  ==================  ==============================  ==============================================
iq2_xxs  32   (needs importance)  v sqrt(mean square + x^2)       around the best fit of codes 0 … 4
iq2_xs   16   (needs importance)  v sqrt(mean square + x^2)       (5 + 0.1 k) / max, k = -9 … 9
iq2_s    16   mean square/2 +x^2  v sqrt(2 mean square + x^2)     (5 + 0.1 k) / max, k = -9 … 9
iq3_xxs  32   x^2                 v sqrt(2 mean square + x^2)     (15 + 0.2 k) / max, k = -15 … 15
iq3_s    32   x^2                 v sqrt(2 mean square + x^2)     (15 + 0.2 k) / max, k = -9 … 9
=======  ===  ==================  ==============================  ==============================================

Sums of values about 1e18 overflow, and then no point is best: ggml ends the program there, and here it is an error.

Source: quantize_row_iq2_xxs_impl and so on in ggml-quants.c of ggml 0.25.3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ggmlpy.formats.grids import GRIDS
from ggmlpy.formats.tensor_types import QK_K, TENSOR_TYPES
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import store

from .grid_packing import PACKERS
from .k_quants import store_half
from .search import clipped
from .weighted_search import fit_positive

__all__ = ["WAYS", "grid_quantizer"]

F0, F1, HALF = np.float32(0), np.float32(1), np.float32(0.5)
FLT_MAX = np.float32(np.finfo(np.float32).max)
NOTHING = np.float32(-1)  # instead of a scale


class Way(NamedTuple):
    """How the blocks of one type are made: constants of a kernel.

    Attributes:
        run: values that share a scale.
        doubled: whether the mean square counts twice beside the square of a value.
        base: what part of the mean square a value weighs without importance, beside its square.
        even: whether the number of minus signs in eight values must be even.
        negligible: a run whose greatest magnitude is below it is all zero.
        tries, step: scales are tried from -tries to tries steps around the first.
        anew: which values are placed anew at the end: those that "missed" the grid, all if "any" missed it, or "all".
        fudge: what the stored scale of a block is multiplied by.
        keeps: whether indices and signs are stored even where all scales are 0.
    """

    run: int
    doubled: bool
    base: float
    even: bool
    negligible: float
    tries: int
    step: float
    anew: str
    fudge: float
    keeps: bool


# fmt: off
WAYS = {
    #              run doubled base  even   negligible tries step anew    fudge   keeps
    "iq2_xxs": Way(32, False, 0,    True,  1e-15,       6, 0.1, "all",    1,      False),
    "iq2_xs":  Way(16, False, 0,    True,  1e-15,       9, 0.1, "missed", 1,      False),
    "iq2_s":   Way(16, True,  0.25, False, 1e-8,        9, 0.1, "missed", 0.9875, True),
    "iq3_xxs": Way(32, True,  0,    True,  1e-8,       15, 0.2, "missed", 1.0125, False),
    "iq3_s":   Way(32, True,  0,    False, 0,           9, 0.2, "any",    1.033,  True),
}
# fmt: on


# ── values of one run ─────────────────────────────────────────────────────────────────────────────────────────────────
#
# x: float32 [run]. xv: their magnitudes, negative where a sign was given up. w: weights, wa: their roots. signs: a byte
# for each eight values. levels: uint8 [run]. missed: of each group of ``width`` values whether it is not on the grid.


@inlined
def weigh(x, importance, mean, weighted, base, w, wa):
    for i in range(len(x)):
        square = x[i] * x[i]
        w[i] = importance[i] * np.sqrt(mean + square) if weighted else base * mean + square
        wa[i] = np.sqrt(w[i])


@inlined
def take_signs(x, w, even, xv, signs):
    for k in range(len(x) // 8):
        byte, count = np.uint8(0), 0
        for i in range(8 * k, 8 * k + 8):
            negative = not x[i] >= F0
            xv[i] = -x[i] if negative else x[i]
            byte |= np.uint8(negative) << np.uint8(i % 8)
            count += negative
        if even and count % 2:
            least, place = w[8 * k] * x[8 * k] * x[8 * k], 0
            for i in range(1, 8):
                loss = w[8 * k + i] * x[8 * k + i] * x[8 * k + i]
                if loss < least:
                    least, place = loss, i
            xv[8 * k + place] = -xv[8 * k + place]
            byte ^= np.uint8(1) << np.uint8(place)
        signs[k] = byte


@inlined
def best_neighbor(xv, wa, first, width, scale, tables, start, levels):
    """Give ``width`` values the levels of the best point of a list; whether there was one."""
    _, lists, points = tables
    best, least = np.int32(-1), FLT_MAX
    for k in range(start + 1, start + 1 + lists[start]):
        point, error = lists[k], F0
        for i in range(width):
            left = scale * np.float32(2 * np.int32(points[point, i]) + 1) - xv[first + i]
            error += wa[first + i] * left * left
        if error < least:
            best, least = point, error
    for i in range(width):
        levels[first + i] = points[max(best, 0), i]
    return best >= 0


@inlined
def place(xv, wa, first, width, top, bits, inverse, scale, tables, levels):
    """Give ``width`` values levels that are a point; return -1 if their own are, 1 if others had to be found, and 0 if
    there are none."""
    number = 0
    for i in range(width):
        level = clipped(HALF * (inverse * xv[first + i] - F1), 0, top)
        levels[first + i] = np.uint8(level)
        number |= level << (bits * i)
    where = tables[0][number]
    if where >= 0:
        return -1
    return np.int64(best_neighbor(xv, wa, first, width, scale, tables, -1 - where, levels))


@inlined
def fit_of(xv, w, levels):
    """sum w x q and sum w q q over the numbers q that levels stand for."""
    sum_qx, sum_q2 = F0, F0
    for i in range(len(xv)):
        q = np.float32(2 * np.int32(levels[i]) + 1)
        sum_qx += w[i] * xv[i] * q
        sum_q2 += w[i] * q * q
    return sum_qx, sum_q2


@inlined
def scale_of_codes(xv, w, limit, lanes):
    """The scale that fits best by codes 0 … ``limit``. ``lanes``: float32 [4, run, 16], of which it takes one."""
    for i in range(len(xv)):
        lanes[0, i, 0], lanes[1, i, 0] = xv[i], w[i]
    x_at, w_at, codes_at, scale_at = [np.int64(lanes[k].ctypes.data) for k in range(4)]
    store(scale_at, fit_positive(x_at, w_at, codes_at, len(xv), limit))
    return lanes[3, 0, 0]


def searcher(name: str) -> Callable:
    """The function (xv, w, wa, signs, tables, levels, tried, missed, missed_now, lanes) -> (scale, failures) of a type.

    A run of nothing has no scale; one whose sums underflow has the scale 0.
    """
    way, grid = WAYS[name], GRIDS[TENSOR_TYPES[name].grid]
    width, bits, top = grid.width, grid.bits, len(grid.numbers) - 1
    groups, outermost, fits = way.run // width, np.float32(2 * top + 1), name == "iq2_xxs"
    tries, step, negligible = way.tries, np.float32(way.step), np.float32(way.negligible)
    anew_all, anew_any = way.anew == "all", way.anew == "any"

    def search(xv, w, wa, signs, tables, levels, tried, missed, missed_now, lanes):
        greatest = xv[0]
        for v in xv[1:]:
            greatest = greatest if greatest > v else v
        failures = 0
        levels[:] = 0
        if greatest < negligible or greatest == F0:
            return NOTHING, failures
        scale, best = greatest / outermost, F0
        if fits:
            scale = scale_of_codes(xv, w, top + 2, lanes)
            greatest = scale * np.float32(top + 1)
            if greatest <= F0:
                return NOTHING, failures
        missed[:] = anew_any
        for k in range(-tries, tries + 1):
            inverse = (outermost + np.float32(k) * step) / greatest
            here = F1 / inverse
            for group in range(groups):
                found = place(xv, wa, group * width, width, top, bits, inverse, here, tables, tried)
                missed_now[group] = found >= 0
                failures += found == 0
            sum_qx, sum_q2 = fit_of(xv, w, tried)
            if sum_q2 > F0 and sum_qx * sum_qx > best * sum_q2:
                scale = sum_qx / sum_q2
                best = scale * sum_qx
                levels[:], missed[:] = tried, missed_now
        if scale > F0 and (anew_all or missed.any()):
            inverse = F1 / scale
            for group in range(groups):
                if anew_all or anew_any or missed[group]:
                    found = place(xv, wa, group * width, width, top, bits, inverse, scale, tables, levels)
                    failures += found == 0
            sum_qx, sum_q2 = fit_of(xv, w, levels)
            scale = sum_qx / sum_q2 if sum_q2 > F0 else scale
        if scale < F0:
            scale = -scale
            for k in range(len(signs)):
                signs[k] = ~signs[k]
        return scale, failures

    return inlined(search)


@inlined
def indices_of(levels, width, bits, places, indices):
    """Of each group of values the point that their levels are."""
    for group in range(len(indices)):
        number = 0
        for i in range(width):
            number |= np.int32(levels[group * width + i]) << (bits * i)
        indices[group] = max(places[number], 0)


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_kernel(name: str) -> Callable:
    """The loop over blocks ``rows`` (float32 [n, 256]) into ``out`` [n, type_size]; it returns how often no point was
    found.

    ``importance``: float32 [blocks per row, 256], the weights of one row's values, if they are ``weighted``. The others
    are the tables of :mod:`ggmlpy.quantizers.neighbors`.
    """
    way, record, grid = WAYS[name], TENSOR_TYPES[name], GRIDS[TENSOR_TYPES[name].grid]
    search, pack, width, bits = searcher(name), PACKERS[name], grid.width, grid.bits
    run, even, base, fudge = way.run, way.even, np.float32(way.base), np.float32(way.fudge)
    keeps, d_at, factor, runs, groups = (
        way.keeps,
        record.offset("d"),
        np.float32(2 if way.doubled else 1),
        QK_K // way.run,
        way.run // grid.width,
    )

    def quantize_blocks(rows, importance, weighted, places, lists, points, out):
        tables, failures = (places, lists, points), 0
        xv, w, wa = np.empty(run, np.float32), np.empty(run, np.float32), np.empty(run, np.float32)
        levels, tried = np.empty(run, np.uint8), np.empty(run, np.uint8)
        missed, missed_now = np.empty(groups, np.bool_), np.empty(groups, np.bool_)
        scales, signs, indices = np.empty(runs, np.float32), np.empty(32, np.uint8), np.empty(64, np.int32)
        codes, live, lanes = np.empty(runs, np.int32), np.empty(runs, np.bool_), np.zeros((4, run, 16), np.float32)
        for block in range(rows.shape[0]):
            x, weights = rows[block], importance[block % importance.shape[0]]
            total = F0
            for v in x:
                total += v * v
            mean, most = factor * total / np.float32(QK_K), F0
            for k in range(runs):
                part, some = x[run * k : run * k + run], signs[run // 8 * k : run // 8 * k + run // 8]
                weigh(part, weights[run * k : run * k + run], mean, weighted, base, w, wa)
                take_signs(part, w, even, xv, some)
                scales[k], failed = search(xv, w, wa, some, tables, levels, tried, missed, missed_now, lanes)
                failures += failed
                found = indices[groups * k : groups * k + groups]
                indices_of(levels, width, bits, places, found)
                live[k] = scales[k] != NOTHING
                if not live[k]:
                    scales[k], some[:], found[:] = F0, 0, 0
                most = most if most > scales[k] else scales[k]
            out[block, :] = 0
            if most == F0 and not keeps:
                continue
            d = most / np.float32(31)
            store_half(out[block], d_at, d * fudge)
            for k in range(runs):
                codes[k] = clipped(HALF * (F1 / d * scales[k] - F1), 0, 15) if most != F0 else 0
            pack(indices, signs, codes, live, out[block])
        return failures

    return quantize_blocks


@cache
def grid_quantizer(name: str) -> Callable:
    """The compiled loop for one of :data:`WAYS`."""
    floats, numbers = types.Array(types.float32, 2, "C", readonly=True), types.int32[::1]
    signature = types.int64(floats, floats, types.boolean, numbers, numbers, types.uint8[:, ::1], types.uint8[:, ::1])
    return kernel(rows_kernel(name), signature)
