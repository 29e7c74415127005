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

That is today's way; :data:`ON_GRID` says how those of earlier eras differ. The first iq2_xxs (until 2024-02-05) did as
iq2_xs does; and when the scales were odd multiples, each eight values got the best of **all** points, and the block's
own scale was fitted to them. The first iq3_s (until 2024-03-02) had another grid.

Where nothing decides what a run of almost nothing is, as its values count nothing, eras before today's wrote whatever
memory held; here it is what today's writes.

Source: quantize_row_iq2_xxs_impl and so on in ggml-quants.c of ggml 0.25.3 and, in llama.cpp, at 147b17ac9
(2024-01-14), f4d7e5497 (2024-01-30), 6fdfa2ecc (2024-02-05), 4c4cb3073 (2024-02-24), a33e6a0d2 (2024-02-26), bbde6eb25
(2024-03-02) and 05834841d (2024-05-18).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ggmlpy.formats.eras import (
    FEBRUARY_5_24,
    FEBRUARY_24_24,
    FEBRUARY_26_24,
    JANUARY_14_24,
    JANUARY_30_24,
    MARCH_2_24,
    MAY_18_24,
    Era,
)
from ggmlpy.formats.grids import GRIDS, Grid
from ggmlpy.formats.tensor_types import QK_K, TensorType
from ggmlpy.machine.contraction import BASELINE, COMPILERS
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import (
    LANES,
    add,
    div,
    fill,
    lane_numbers,
    load,
    load_f32,
    load_i32,
    mul,
    nearest_codes,
    store,
    store_f32,
    sub,
    zeros,
)

from .grid_packing import PACKERS
from .k_quants import store_half
from .neighbors import ADDRESSES, neighbor_finder
from .search import clipped
from .weighted_search import NEGLIGIBLE, ROW, Least, fit_positive

__all__ = ["ON_GRID", "grid_quantizer"]

F0, F1, F2, HALF = np.float32(0), np.float32(1), np.float32(2), np.float32(0.5)
NOTHING = np.float32(-1)  # instead of a scale
NOTHING_NOW, AS_WRITTEN = Least(NEGLIGIBLE), COMPILERS[BASELINE]
SUMS, INVERSE = 16 * ROW, 18 * ROW  # where they are in the memory of lanes


class Way(NamedTuple):
    """How the blocks of one type are made: constants of a kernel.

    Attributes:
        run: values that share a scale.
        doubled: whether the mean square counts twice beside the square of a value.
        base: what part of the mean square a value weighs without importance, beside its square.
        even: whether the number of minus signs in eight values must be even.
        negligible: a run whose greatest magnitude is below it is all zero; one of zeros only is anyway.
        tries, step: scales are tried from -tries to tries steps around the first.
        anew: which values are placed anew at the end: those that "missed" the grid, all if "any" missed it, or "all".
        fudge: what the stored scale of a block is multiplied by.
        keeps: whether indices and signs are stored even where all scales are 0.
        fits: whether the scales tried are around that of a fit by codes.
        settles: whether at last each point is the best of all, and the block's scale the best for them.
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
    fits: bool = False
    settles: bool = False


# fmt: off
ON_GRID: dict[str, dict[Era, Way]] = {
    #                     run doubled base  even   negligible tries step anew    fudge   keeps  fits   settles
    "iq2_xxs": {
        JANUARY_14_24:  Way(32, False, 0,    True,  0,      9, 0.1, "missed", 1,      False, False, True),
        FEBRUARY_5_24:  Way(32, False, 0,    True,  0,      6, 0.1, "all",    1,      False, True),
        MAY_18_24:      Way(32, False, 0,    True,  1e-15,  6, 0.1, "all",    1,      False, True),
    },
    "iq2_xs": {
        JANUARY_14_24:  Way(16, False, 0,    True,  0,      9, 0.1, "missed", 1,      False),
        MAY_18_24:      Way(16, False, 0,    True,  1e-15,  9, 0.1, "missed", 1,      False),
    },
    "iq2_s": {
        FEBRUARY_26_24: Way(16, True,  0.25, False, 0,      9, 0.1, "missed", 0.9875, True),
        MAY_18_24:      Way(16, True,  0.25, False, 1e-8,   9, 0.1, "missed", 0.9875, True),
    },
    "iq3_xxs": {
        JANUARY_30_24:  Way(32, False, 0,    True,  0,     15, 0.2, "missed", 1,      False),
        FEBRUARY_24_24: Way(32, True,  0,    True,  0,     15, 0.2, "missed", 1.0125, False),
        MAY_18_24:      Way(32, True,  0,    True,  1e-8,  15, 0.2, "missed", 1.0125, False),
    },
    "iq3_s": {
        FEBRUARY_24_24: Way(32, True,  0,    False, 0,     15, 0.2, "missed", 1,      True),
        MARCH_2_24:     Way(32, True,  0,    False, 0,      9, 0.2, "any",    1.033,  True),
    },
}
# fmt: on


# ── values of one run ─────────────────────────────────────────────────────────────────────────────────────────────────
#
# x: float32 [run]. xv: their magnitudes, negative where a sign was given up. w: weights, wa: their roots. signs: a byte
# for each eight values. levels: uint8 [run].
#
# Sixteen scales are tried side by side, one per lane: numbers: float32 [run, 16], what the level of each value stands
# for; lanes: float32 [groups, 16], the levels of a group as one number, and then whether they are a point; behind them
# two sums and the scale of each lane. All are addresses: arrays that are handed from function to function are counted,
# which took most of the time.


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
def fits_of(xv, w, run, numbers, sums):
    """sum w x q and sum w q q over the numbers q, of each lane."""
    sum_qx, sum_q2 = zeros(), zeros()
    for i in range(run):
        q, weight = load(numbers + ROW * i), fill(load_f32(w + 4 * i))
        sum_qx = add(sum_qx, mul(mul(weight, fill(load_f32(xv + 4 * i))), q))
        sum_q2 = add(sum_q2, mul(mul(weight, q), q))
    store(sums, sum_qx)
    store(sums + ROW, sum_q2)


def placers(width: int, bits: int, top: int) -> tuple[Callable, Callable]:
    """Functions about the ``width`` values at an address that become one point, with levels 0 … ``top``."""
    best_neighbor, numbers_of_levels = neighbor_finder(width)

    def levels_at(xv, inverse, numbers, place_at):
        """Give values their nearest levels with each of sixteen scales."""
        place, one = zeros(), fill(F1)
        for i in range(width):
            scaled = mul(fill(HALF), sub(mul(inverse, fill(load_f32(xv + 4 * i))), one))
            level = nearest_codes(scaled, np.int32(0), np.int32(top))
            store(numbers + ROW * i, add(mul(fill(F2), level), one))
            place = add(place, mul(fill(np.float32(1 << bits * i)), level))
        store(place_at, place)

    def put_on_grid(xv, wa, scale, tables, place, numbers):
        """Give values of a lane the levels of the best point near theirs; return -1 if theirs are a point, 1 if others
        had to be found, and 0 if there are none."""
        places, starts, near, near_lanes, _, point_numbers = tables
        where = np.int64(load_i32(places + 4 * np.int64(place)))
        if where >= 0:
            return np.float32(-1)
        best = best_neighbor(xv, wa, scale, numbers_of_levels(F1, F2), starts, near, near_lanes, -1 - where)
        point = point_numbers + 4 * width * np.int64(max(best, np.int32(0)))
        for i in range(width):
            store_f32(numbers + ROW * i, load_f32(point + 4 * i))
        return F1 if best >= 0 else F0

    return inlined(levels_at), inlined(put_on_grid)


def trier(way: Way, grid: Grid) -> Callable:
    """The function (xv, w, wa, greatest, start, live, tables, numbers, lanes) -> failures that tries ``live`` scales
    from step ``start`` on."""
    width, top, run, step = grid.width, len(grid.numbers) - 1, way.run, np.float32(way.step)
    groups, outermost = run // width, np.float32(2 * top + 1)
    levels_at, put_on_grid = placers(width, grid.bits, top)

    def try_scales(xv, w, wa, greatest, start, live, tables, numbers, lanes):
        failures, steps = 0, mul(add(fill(np.float32(start)), lane_numbers()), fill(step))
        inverse = div(add(fill(outermost), steps), fill(greatest))
        store(lanes + INVERSE, inverse)
        for group in range(groups):
            first = group * width
            levels_at(xv + 4 * first, inverse, numbers + ROW * first, lanes + ROW * group)
        for lane in range(0, 4 * live, 4):
            here = F1 / load_f32(lanes + INVERSE + lane)
            for group in range(groups):
                x, weights, at = xv + 4 * width * group, wa + 4 * width * group, lanes + ROW * group + lane
                place = np.int32(load_f32(at))
                got = put_on_grid(x, weights, here, tables, place, numbers + ROW * width * group + lane)
                store_f32(at, got)
                failures += got == F0
        fits_of(xv, w, run, numbers, lanes + SUMS)
        return failures

    return inlined(try_scales)


def renewer(way: Way, grid: Grid) -> Callable:
    """The function (xv, w, wa, scale, missed, tables, levels, numbers, lanes) -> (scale, failures) that places those
    groups anew whose bits ``missed`` has."""
    width, top, run = grid.width, len(grid.numbers) - 1, way.run
    levels_at, put_on_grid = placers(width, grid.bits, top)

    def place_anew(xv, w, wa, scale, missed, tables, levels, numbers, lanes):
        failures = 0
        for i in range(run):
            store_f32(numbers + ROW * i, np.float32(2 * np.int32(levels[i]) + 1))
        for group in range(run // width):
            if missed >> group & 1:
                x, weights, at = xv + 4 * width * group, wa + 4 * width * group, numbers + ROW * width * group
                levels_at(x, fill(F1 / scale), at, lanes)
                failures += put_on_grid(x, weights, scale, tables, np.int32(load_f32(lanes)), at) == F0
        take_lane(numbers, levels)
        fits_of(xv, w, run, numbers, lanes + SUMS)
        sum_qx, sum_q2 = load_f32(lanes + SUMS), load_f32(lanes + SUMS + ROW)
        return sum_qx / sum_q2 if sum_q2 > F0 else scale, failures

    return inlined(place_anew)


def searcher(way: Way, grid: Grid) -> Callable:
    """The function (xv, w, wa, fitted, signs, tables, levels, numbers, lanes) -> (scale, failures) of a type.

    ``fitted`` is the scale of a fit by codes, for those types that try scales around it. A run of nothing has no scale;
    one whose sums underflow has the scale 0.
    """
    top, run, tries, negligible = len(grid.numbers) - 1, way.run, way.tries, np.float32(way.negligible)
    groups, fits, every = run // grid.width, way.fits, (1 << run // grid.width) - 1
    anew_all, anew_any = way.anew == "all", way.anew == "any"
    try_scales, place_anew = trier(way, grid), renewer(way, grid)

    def search(xv, w, wa, fitted, signs, tables, levels, numbers, lanes):
        greatest = greatest_of(xv, run)
        failures, missed = 0, every if anew_any else 0
        levels[:] = 0
        if greatest < negligible or greatest == F0:
            return NOTHING, failures
        scale, best = greatest / np.float32(2 * top + 1), F0
        if fits:
            scale, greatest = fitted, fitted * np.float32(top + 1)
            if greatest <= F0:
                return NOTHING, failures
        for start in range(-tries, tries + 1, LANES):
            live, kept = min(LANES, tries + 1 - start), -1
            failures += try_scales(xv, w, wa, greatest, start, live, tables, numbers, lanes)
            for lane in range(0, 4 * live, 4):
                sum_qx, sum_q2 = load_f32(lanes + SUMS + lane), load_f32(lanes + SUMS + ROW + lane)
                if sum_q2 > F0 and sum_qx * sum_qx > best * sum_q2:
                    scale = sum_qx / sum_q2
                    best, kept = scale * sum_qx, lane
            if kept >= 0:
                take_lane(numbers + kept, levels)
                missed = missed_groups(lanes + kept, groups)
        if scale > F0 and (anew_all or missed):
            anew = every if anew_all or anew_any else missed
            scale, failed = place_anew(xv, w, wa, scale, anew, tables, levels, numbers, lanes)
            failures += failed
        if scale < F0:
            scale = -scale
            for k in range(len(signs)):
                signs[k] = ~signs[k]
        return scale, failures

    return inlined(search)


@inlined
def greatest_of(x, n):
    greatest = load_f32(x)
    for i in range(1, n):
        v = load_f32(x + 4 * i)
        greatest = greatest if greatest > v else v
    return greatest


@inlined
def missed_groups(found, groups):
    """A bit for each group that was not on the grid."""
    missed = 0
    for group in range(groups):
        missed |= np.int64(load_f32(found + ROW * group) >= F0) << group
    return missed


@inlined
def take_lane(numbers, levels):
    """The levels of one lane."""
    for i in range(len(levels)):
        levels[i] = np.uint8(np.int32(load_f32(numbers + ROW * i)) >> np.int32(1))


@inlined
def indices_of(levels, width, bits, places, indices):
    """Of each group of values the point that their levels are."""
    for group in range(len(indices)):
        number = 0
        for i in range(width):
            number |= np.int64(levels[group * width + i]) << (bits * i)
        indices[group] = max(load_i32(places + 4 * number), np.int32(0))


@inlined
def fit_codes(xv, w, limit, lanes):
    """The scales that fit the runs of a block best by codes 0 … ``limit``: row 3 of ``lanes``, float32 [4, run, 16]."""
    run = lanes.shape[1]
    for k in range(len(xv) // run):
        for i in range(run):
            lanes[0, i, k], lanes[1, i, k] = xv[run * k + i], w[run * k + i]
    x_at, w_at, codes_at, scale_at = [np.int64(lanes[k].ctypes.data) for k in range(4)]
    store(scale_at, fit_positive(x_at, w_at, codes_at, run, limit, NOTHING_NOW, AS_WRITTEN))


@inlined
def number_of(level):
    """What a level stands for."""
    return np.float32(2 * np.int32(level) + 1)


@inlined
def signed(v, signs, i):
    """A magnitude with the sign of value ``i``."""
    return -v if signs >> np.uint8(i) & np.uint8(1) else v


@inlined
def left_by(x, w, signs, point, scale):
    """The weighted sum of the squares of what a point leaves of the values."""
    total = F0
    for i in range(len(x)):
        left = signed(scale * number_of(point[i]), signs, i) - x[i]
        total += w[i] * left * left
    return total


def settler(way: Way, grid: Grid) -> Callable:
    """The function (x, w, signs, points, codes, d, indices) -> d that gives each group of a block the best of all
    points, and returns the scale that fits them best."""
    width, groups = grid.width, way.run // grid.width

    def settle(x, w, signs, points, codes, d, indices):
        sum_qx, sum_q2, fitted = F0, F0, d
        for group in range(QK_K // width):
            first, scale = width * group, d * np.float32(1 + 2 * codes[group // groups])
            part, weights, kept = x[first : first + width], w[first : first + width], indices[group]
            least = left_by(part, weights, signs[group], points[kept], scale)
            for index in range(len(points)):
                left = left_by(part, weights, signs[group], points[index], scale)
                if left < least:
                    least, kept = left, index
            for i in range(width):
                q = signed(scale * number_of(points[kept, i]), signs[group], i)
                sum_qx += weights[i] * q * part[i]
                sum_q2 += weights[i] * q * q
            indices[group] = kept
        if sum_q2 > F0:
            fitted = d * sum_qx / sum_q2
        return fitted

    return inlined(settle)


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_kernel(record: TensorType, way: Way) -> Callable:
    """The loop over blocks ``rows`` (float32 [n, 256]) into ``out`` [n, type_size]; it returns how often no point was
    found.

    ``importance``: float32 [blocks per row, 256], the weights of one row's values, if they are ``weighted``.
    ``tables``: see :mod:`ggmlpy.quantizers.neighbors`.
    """
    grid = GRIDS[record.grid]
    search, pack, width, bits = searcher(way, grid), PACKERS[record.name], grid.width, grid.bits
    settle, settles = settler(way, grid), way.settles
    run, even, base, fudge = way.run, way.even, np.float32(way.base), np.float32(way.fudge)
    fits, top = way.fits, len(grid.numbers) - 1
    keeps, d_at, factor, runs, groups = (
        way.keeps,
        record.offset("d"),
        np.float32(2 if way.doubled else 1),
        QK_K // way.run,
        way.run // grid.width,
    )

    def quantize_blocks(rows, importance, weighted, points, tables, out):
        failures, memory = 0, np.zeros((3, QK_K), np.float32)
        xv_at, w_at, wa_at = [np.int64(memory[k].ctypes.data) for k in range(3)]
        xv, w, wa = memory
        work, levels = np.zeros((run + 19, LANES), np.float32), np.empty(run, np.uint8)
        scales, signs, indices = np.empty(runs, np.float32), np.empty(32, np.uint8), np.empty(64, np.int32)
        codes, live, fit = np.empty(runs, np.int32), np.empty(runs, np.bool_), np.zeros((4, run, LANES), np.float32)
        for block in range(rows.shape[0]):
            x, weights = rows[block], importance[block % importance.shape[0]]
            total = F0
            for v in x:
                total += v * v
            mean, most = factor * total / np.float32(QK_K), F0
            weigh(x, weights, mean, weighted, base, w, wa)
            take_signs(x, w, even, xv, signs)
            if fits:
                fit_codes(xv, w, top + 2, fit)
            numbers = np.int64(work.ctypes.data)  # asked for in every round, so that the array outlives it
            for k in range(runs):
                some, at = signs[run // 8 * k : run // 8 * k + run // 8], 4 * run * k
                scales[k], failed = search(
                    xv_at + at, w_at + at, wa_at + at, fit[3, 0, k], some, tables, levels, numbers, numbers + ROW * run
                )
                failures += failed
                found = indices[groups * k : groups * k + groups]
                indices_of(levels, width, bits, tables[0], found)
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
            if settles:
                store_half(out[block], d_at, settle(x, w, signs, points, codes, d, indices))
            pack(indices, signs, codes, live, out[block])
        return failures

    return quantize_blocks


@cache
def grid_quantizer(record: TensorType, way: Way) -> Callable:
    """The compiled loop for a type, made in one of the ways of :data:`ON_GRID`."""
    floats = types.Array(types.float32, 2, "C", readonly=True)
    signature = types.int64(floats, floats, types.boolean, types.uint8[:, ::1], ADDRESSES, types.uint8[:, ::1])
    return kernel(rows_kernel(record, way), signature)
