"""Searching for the scales of blocks as llama.cpp does since 2023-08-22: each value has a weight.

Sixteen groups of values are searched side by side, one per lane of a vector: ``x`` and ``w`` are the addresses of
float32 [n, 16], a value's lane being its group; sums add up in the order of the values. Each search tries a number of
scales that are a little larger or smaller than the range of the values says, and keeps what leaves the least weighted
error. All in float32; ``by`` says which products a compiler adds without rounding them
(:mod:`ggmlpy.machine.contraction`). It fills ``codes``, the address of float32 [n, 16].

===================  ==================  ===================================================================
here                 in llama.cpp        x is nearly
===================  ==================  ===================================================================
``fit_affine``       make_qkx2_quants    scale * code - minimum, codes 0 … limit, scale and minimum fitted
``fit_symmetric``    make_qx_quants      scale * (code - zero), codes 0 … 2 * zero - 1
``fit_and_improve``  make_q3_quants      the same, but one scale is tried, then single codes are improved
``fit_positive``     make_qp_quants      scale * code, codes 0 … limit; for scales that are to become codes
===================  ==================  ===================================================================

Source: k_quants.c at llama.cpp bac66994c (2023-08-22), ggml-quants.c as of 2026.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ggmlpy.machine.kernels import inlined
from ggmlpy.machine.vectors import (
    absolute,
    add,
    difference_of_products,
    div,
    fill,
    largest,
    load,
    load_f32,
    low_bytes,
    maximum,
    minimum,
    mul,
    mul_add,
    mul_sub,
    nearest_codes,
    nearest_codes_of_product,
    sqrt,
    store,
    store_f32,
    sub,
    sub_mul,
    transpose_f32,
    where_equal,
    where_greater,
    zeros,
)

__all__ = [
    "NEGLIGIBLE",
    "OLD_ZERO",
    "ONLY_ZERO",
    "ROW",
    "Least",
    "extreme_of",
    "fit_affine",
    "fit_and_improve",
    "fit_positive",
    "fit_symmetric",
    "raise_weights",
    "side_by_side",
    "total_of",
]

ROW = 64  # bytes from a value of each lane to the next ones
#: a group whose greatest magnitude is below it is all zero; the least float there is where only zeros counted as such
NEGLIGIBLE, ONLY_ZERO = np.float32(1e-15), np.float32(1e-45)
INT_MIN = -(1 << 31)
ROUNDS = 5
F0 = np.float32(0)
TENTH = np.float32(0.1)


class Least(NamedTuple):
    """What is nothing: constants of a kernel.

    Attributes:
        magnitude: a group whose greatest magnitude is below it is all zero.
        divides: whether sums of nothing are divided all the same, which gives no number; if not, the scale is 0. Sums
            of squares of values below 1e-23 are nothing, too, as are those of values that weigh nothing.
    """

    magnitude: np.float32
    divides: bool = False


#: before May 2024
OLD_ZERO = Least(ONLY_ZERO, True)


@inlined
def negative(v):
    """-v: 0 becomes -0."""
    return mul(v, fill(np.float32(-1)))


@inlined
def total_of(w, n):
    """The sum of each lane."""
    total = zeros()
    for i in range(n):
        total = add(total, load(w + ROW * i))
    return total


# ── groups side by side ─────────────────────────────────────────────────────────────────────────────────────────────


@inlined
def side_by_side(values, run, lanes):
    """Sixteen sub-blocks of ``run`` values, one after another in memory, as the lanes of float32 [run, 16]."""
    for part in range(run // 16):
        transpose_f32(values + 64 * part, 4 * run, lanes + 1024 * part)


@inlined
def raise_weights(x, run, variance, w, by):
    """Multiply importances by the root of a block's variance and a value's square."""
    for i in range(run):
        v = load(x + ROW * i)
        store(w + ROW * i, mul(load(w + ROW * i), sqrt(mul_add(v, v, variance, by.both))))


# ── a scale and a minimum ─────────────────────────────────────────────────────────────────────────────────────────────


@inlined
def error_left(x, w, codes, n, scale, low, squared, by):
    """The weighted sum of what scale * code + low leaves of x, squared or not."""
    total = zeros()
    for i in range(n):
        left = sub(mul_add(scale, load(codes + ROW * i), low, by.both), load(x + ROW * i))
        total = mul_add(load(w + ROW * i), mul(left, left) if squared else absolute(left), total, by.both)
    return total


@inlined
def code_from(x, codes, n, limit, inverse, low, by):
    """Codes 0 … limit of values that begin at ``low``."""
    for i in range(n):
        above = sub(load(x + ROW * i), low)
        store(codes + ROW * i, nearest_codes_of_product(inverse, above, np.int32(0), np.int32(limit), by.gcc))


@inlined
def range_and_sums(x, w, n, by):
    """Least value (at most 0) and greatest, sum of weights, and of weighted values."""
    low, sum_w = load(x), load(w)
    high, sum_x = low, mul(sum_w, low)
    for i in range(1, n):
        v, weight = load(x + ROW * i), load(w + ROW * i)
        low, high = minimum(v, low), maximum(v, high)
        sum_w, sum_x = add(sum_w, weight), mul_add(weight, v, sum_x, by.both)
    return minimum(zeros(), low), high, sum_w, sum_x


@inlined
def refit(x, w, codes, n, sum_w, sum_x, by):
    """Scale and lowest value (at most 0) that fit the codes best, and the determinant, without which there is none."""
    sum_l, sum_l2, sum_xl = zeros(), zeros(), zeros()
    for i in range(n):
        code, weight = load(codes + ROW * i), load(w + ROW * i)
        weighted = mul(weight, code)
        sum_l, sum_l2 = mul_add(weight, code, sum_l, by.clang), mul_add(weighted, code, sum_l2, by.both)
        sum_xl = mul_add(weighted, load(x + ROW * i), sum_xl, by.both)
    determinant = mul_sub(sum_w, sum_l2, mul(sum_l, sum_l), by.both)
    scale = div(difference_of_products(sum_w, sum_xl, sum_x, sum_l, by.clang, by.gcc), determinant)
    low = div(mul_sub(sum_l2, sum_x, mul(sum_l, sum_xl), by.both), determinant)
    scale = where_greater(low, zeros(), div(sum_xl, sum_l2), scale)
    return scale, minimum(zeros(), low), determinant


@inlined
def fit_affine(x, w, codes, n, limit, first, step, tries, squared, by):
    """Fit x = scale * code - minimum; return scale and minimum.

    Args:
        limit: the greatest code.
        first, step, tries: the range of the values gets ``limit`` codes first, then ``limit + first``, then ``step``
            more at each try.
        squared: whether an error counts by its square.
    """
    low, high, sum_w, sum_x = range_and_sums(x, w, n, by)
    flat = low
    inverse = div(fill(np.float32(limit)), sub(high, low))
    scale = div(fill(np.float32(1)), inverse)
    code_from(x, codes, n, limit, inverse, low, by)
    least = error_left(x, w, codes, n, scale, low, squared, by)
    kept_inverse, kept_low = inverse, low
    for k in range(tries + 1):
        steps = mul_add(step, np.float32(k), first, by.both)
        inverse = div(fill(steps + np.float32(limit)), sub(high, low))
        code_from(x, codes, n, limit, inverse, low, by)
        new_scale, new_low, determinant = refit(x, w, codes, n, sum_w, sum_x, by)
        error = error_left(x, w, codes, n, new_scale, new_low, squared, by)
        error = where_greater(determinant, zeros(), error, fill(np.float32(np.inf)))
        kept_inverse, kept_low = (
            where_greater(least, error, inverse, kept_inverse),
            where_greater(least, error, low, kept_low),
        )
        scale, low = where_greater(least, error, new_scale, scale), where_greater(least, error, new_low, low)
        least = where_greater(least, error, error, least)
    for i in range(n):
        above = sub(load(x + ROW * i), kept_low)
        code = nearest_codes_of_product(kept_inverse, above, np.int32(0), np.int32(limit), by.gcc)
        store(codes + ROW * i, where_equal(flat, high, zeros(), code))
    return where_equal(flat, high, zeros(), scale), negative(where_equal(flat, high, flat, low))


# ── a scale alone ─────────────────────────────────────────────────────────────────────────────────────────────────────


@inlined
def extreme_of(x, n):
    """The first value of the greatest magnitude, and that magnitude."""
    greatest, most = zeros(), zeros()
    for i in range(n):
        v = load(x + ROW * i)
        most = where_greater(absolute(v), greatest, v, most)
        greatest = maximum(absolute(v), greatest)
    return most, greatest


@inlined
def symmetric_sums(x, w, n, zero, inverse, near, how):
    """sum w x l and sum w l l over the codes l from -zero to zero - 1 that ``inverse`` gives.

    Args:
        near, how: whether rounding, and the sums, are contracted.
    """
    sum_lx, sum_l2 = zeros(), zeros()
    for i in range(n):
        v, weight = load(x + ROW * i), load(w + ROW * i)
        code = nearest_codes_of_product(inverse, v, np.int32(-zero), np.int32(zero - 1), near)
        sum_lx = mul_add(mul(weight, v), code, sum_lx, how)
        sum_l2 = mul_add(mul(weight, code), code, sum_l2, how)
    return sum_lx, sum_l2


@inlined
def ratio(sum_lx, sum_l2, nothing):
    """The scale that fits best."""
    if nothing.divides:
        return div(sum_lx, sum_l2)
    return where_equal(sum_l2, zeros(), zeros(), div(sum_lx, sum_l2))


@inlined
def positive_ratio(sum_lx, sum_l2, nothing):
    """The same where a sum that is not above 0 gives 0."""
    if nothing.divides:
        return div(sum_lx, sum_l2)
    return where_greater(sum_l2, zeros(), div(sum_lx, sum_l2), zeros())


@inlined
def shifted_codes(x, codes, n, zero, inverse, greatest, negligible, by):
    """Codes 0 … 2 * zero - 1; 0 in a lane of nothing."""
    for i in range(n):
        code = nearest_codes_of_product(inverse, load(x + ROW * i), np.int32(-zero), np.int32(zero - 1), by.gcc)
        code = add(code, fill(np.float32(zero)))
        store(codes + ROW * i, where_greater(fill(negligible), greatest, zeros(), code))


@inlined
def fit_symmetric(x, w, codes, n, zero, nothing, by, tried):
    """Fit x = scale * (code - zero), trying 19 scales; return the scale. ``tried``: whether the sums of those behind
    the first are contracted."""
    most, greatest = extreme_of(x, n)
    inverse = div(fill(np.float32(-zero)), most)
    sum_lx, sum_l2 = symmetric_sums(x, w, n, zero, inverse, by.gcc, by.both)
    scale = ratio(sum_lx, sum_l2, nothing)
    best, kept = mul(scale, sum_lx), inverse
    for k in range(-9, 10):
        if k != 0:
            inverse = div(fill(-mul_add(TENTH, np.float32(k), np.float32(zero), by.both)), most)
            sum_lx, sum_l2 = symmetric_sums(x, w, n, zero, inverse, by.gcc, tried)
            old = where_greater(sum_l2, zeros(), mul(best, sum_l2), fill(np.float32(np.inf)))
            new = mul(sum_lx, sum_lx)
            kept = where_greater(new, old, inverse, kept)
            scale = where_greater(new, old, div(sum_lx, sum_l2), scale)
            best = where_greater(new, old, mul(scale, sum_lx), best)
    shifted_codes(x, codes, n, zero, kept, greatest, nothing.magnitude, by)
    return where_greater(fill(nothing.magnitude), greatest, zeros(), scale)


# ── codes improved one at a time ──────────────────────────────────────────────────────────────────────────────────────


@inlined
def improve_one(x, w, codes, low, high, sum_lx, sum_l2, changed, positive, by):
    """Change the code of one value in each lane where that raises (sum w x l)^2 / sum w l^2; return the sums, and
    ``changed``, now 1 in these lanes.

    Args:
        low, high: the codes allowed.
        positive: codes are bytes, and a sum that is not above 0 without its code stays. If not, one that would not be
            above 0 with the new code does.
    """
    v, weight, code = load(x), load(w), load(codes)
    a = sub_mul(sum_lx, mul(weight, v), code, by.both)
    b = sub_mul(sum_l2, mul(weight, code), code, by.both)
    new = nearest_codes(div(mul(v, b), a), np.int32(low), np.int32(high))
    new_a, new_b = mul_add(mul(weight, v), new, a, by.both), mul_add(mul(weight, new), new, b, by.both)
    gained, had = mul(mul(new_a, new_a), sum_l2), mul(mul(sum_lx, sum_lx), new_b)
    had = where_greater(a, zeros(), had, fill(np.float32(np.inf)))
    had = where_greater(b if positive else new_b, zeros(), had, fill(np.float32(np.inf)))
    had = where_equal(new, code, fill(np.float32(np.inf)), had)
    kept = low_bytes(new) if positive else new
    store(codes, where_greater(gained, had, kept, code))
    changed = where_greater(gained, had, fill(np.float32(1)), changed)
    return where_greater(gained, had, new_a, sum_lx), where_greater(gained, had, new_b, sum_l2), changed


@inlined
def improve(x, w, codes, n, low, high, sum_lx, sum_l2, by):
    """Improve codes of bytes one at a time, in at most five rounds; return the sums."""
    for _ in range(ROUNDS):
        changed = zeros()
        for at in range(0, ROW * n, ROW):
            places = x + at, w + at, codes + at
            sum_lx, sum_l2, changed = improve_one(*places, low, high, sum_lx, sum_l2, changed, True, by)
        if largest(changed) == F0:
            break
    return sum_lx, sum_l2


#: the sums of sixteen groups, and whether their codes changed, in memory: three rows of lanes
SUM_LX, SUM_L2, CHANGED, STATE = 0, ROW, 2 * ROW, 3 * ROW
AT_ONCE = 4  # tiles of sixteen groups that are improved at a time


@inlined
def start_improving(x, w, codes, n, zero, state, by):
    """The codes of one scale, from -zero to zero - 1, and their sums."""
    inverse = div(fill(np.float32(-zero)), extreme_of(x, n)[0])
    for i in range(n):
        code = nearest_codes_of_product(inverse, load(x + ROW * i), np.int32(-zero), np.int32(zero - 1), by.gcc)
        store(codes + ROW * i, code)
    sum_lx, sum_l2 = symmetric_sums(x, w, n, zero, inverse, by.gcc, by.both)
    store(state + SUM_LX, sum_lx)
    store(state + SUM_L2, sum_l2)


@inlined
def improve_four(x, w, codes, n, zero, state, rounds, by):
    """Improve the codes of four tiles, one after another in memory, in at most ``rounds`` rounds.

    Each change waits for the sums of the one before; so four tiles take turns.
    """
    tile, low, high = ROW * n, -zero, zero - 1
    s0, s1, s2, s3 = state, state + STATE, state + 2 * STATE, state + 3 * STATE
    a0, a1, a2, a3 = load(s0 + SUM_LX), load(s1 + SUM_LX), load(s2 + SUM_LX), load(s3 + SUM_LX)
    b0, b1, b2, b3 = load(s0 + SUM_L2), load(s1 + SUM_L2), load(s2 + SUM_L2), load(s3 + SUM_L2)
    for _ in range(rounds):
        d0, d1, d2, d3 = zeros(), zeros(), zeros(), zeros()
        for i in range(0, tile, ROW):
            j, k, m = i + tile, i + 2 * tile, i + 3 * tile
            a0, b0, d0 = improve_one(x + i, w + i, codes + i, low, high, a0, b0, d0, False, by)
            a1, b1, d1 = improve_one(x + j, w + j, codes + j, low, high, a1, b1, d1, False, by)
            a2, b2, d2 = improve_one(x + k, w + k, codes + k, low, high, a2, b2, d2, False, by)
            a3, b3, d3 = improve_one(x + m, w + m, codes + m, low, high, a3, b3, d3, False, by)
        for at, a, b, changed in ((s0, a0, b0, d0), (s1, a1, b1, d1), (s2, a2, b2, d2), (s3, a3, b3, d3)):
            store(at + SUM_LX, a)
            store(at + SUM_L2, b)
            store(at + CHANGED, changed)
        if largest(maximum(maximum(d0, d1), maximum(d2, d3))) == F0:
            break


@inlined
def copy_lane(source, target, n):
    """``n`` values of a lane to another lane."""
    for i in range(0, ROW * n, ROW):
        store_f32(target + i, load_f32(source + i))


@inlined
def improve_gathered(x, w, codes, n, zero, state, count, places, room, by):
    """Improve the codes of those ``count`` groups whose ``places`` (tile and lane) say where they are."""
    tile = ROW * n
    packed, sums = AT_ONCE * tile, room + 3 * AT_ONCE * tile
    for k in range(count):
        at, to = tile * (places[k] // 16) + 4 * (places[k] % 16), tile * (k // 16) + 4 * (k % 16)
        copy_lane(x + at, room + to, n)
        copy_lane(w + at, room + packed + to, n)
        copy_lane(codes + at, room + 2 * packed + to, n)
        at, to = STATE * (places[k] // 16) + 4 * (places[k] % 16), STATE * (k // 16) + 4 * (k % 16)
        copy_lane(state + at, sums + to, 2)
    improve_four(room, room + packed, room + 2 * packed, n, zero, sums, ROUNDS - 1, by)
    for k in range(count):
        at, to = tile * (places[k] // 16) + 4 * (places[k] % 16), tile * (k // 16) + 4 * (k % 16)
        copy_lane(room + 2 * packed + to, codes + at, n)
        at, to = STATE * (places[k] // 16) + 4 * (places[k] % 16), STATE * (k // 16) + 4 * (k % 16)
        copy_lane(sums + to, state + at, 2)


@inlined
def end_improving(x, codes, n, zero, nothing, state):
    """Make the codes begin at 0, and return the scale; both are 0 in a lane of nothing."""
    greatest, sum_lx, sum_l2 = extreme_of(x, n)[1], load(state + SUM_LX), load(state + SUM_L2)
    for i in range(n):
        code = add(load(codes + ROW * i), fill(np.float32(zero)))
        store(codes + ROW * i, where_greater(fill(nothing.magnitude), greatest, zeros(), code))
    scale = positive_ratio(sum_lx, sum_l2, nothing)
    return where_greater(fill(nothing.magnitude), greatest, zeros(), scale)


@inlined
def fit_and_improve(x, w, codes, tiles, n, zero, nothing, scales, places, room, by):
    """Fit x = scale * (code - zero) with one scale, and improve single codes; fill ``scales``, float32 [tiles, 16].

    In one round a fifth of the groups change, and what does not change never will. So behind the first round the
    others are gathered, and only they go on.

    Args:
        x, w, codes: ``tiles`` tiles of sixteen groups, one after another in memory.
        places, room: int64 [64] and 16 kB to work in.
    """
    tile, state, count = ROW * n, room + 12 * ROW * n + AT_ONCE * STATE, 0
    for t in range(tiles):
        start_improving(x + tile * t, w + tile * t, codes + tile * t, n, zero, state + STATE * t, by)
    for t in range(0, tiles, AT_ONCE):
        improve_four(x + tile * t, w + tile * t, codes + tile * t, n, zero, state + STATE * t, 1, by)
    for place in range(16 * tiles):
        if load_f32(state + STATE * (place // 16) + CHANGED + 4 * (place % 16)) > F0:
            places[count] = place
            count += 1
        if count == len(places) or place == 16 * tiles - 1:
            improve_gathered(x, w, codes, n, zero, state, count, places, room, by)
            count = 0
    for t in range(tiles):
        scale = end_improving(x + tile * t, codes + tile * t, n, zero, nothing, state + STATE * t)
        store(scales + ROW * t, scale)


@inlined
def squares_left(x, w, codes, n, scale, by):
    """The weighted sum of the squares of what scale * code leaves of x."""
    total = zeros()
    for i in range(n):
        left = sub_mul(load(x + ROW * i), scale, load(codes + ROW * i), by.both)
        total = mul_add(mul(load(w + ROW * i), left), left, total, by.both)
    return total


@inlined
def code_below(x, codes, n, limit, inverse, by):
    """Codes up to ``limit``."""
    for i in range(n):
        code = nearest_codes_of_product(inverse, load(x + ROW * i), np.int32(INT_MIN), np.int32(limit), by.gcc)
        store(codes + ROW * i, code)


@inlined
def fit_positive(x, w, codes, n, limit, nothing, by):
    """Fit x = scale * code, x >= 0: nine scales, then single codes improved; return the scale."""
    greatest = zeros()
    for i in range(n):
        v = load(x + ROW * i)
        greatest = where_greater(greatest, v, greatest, v)
    one = fill(np.float32(1))
    kept = div(fill(np.float32(limit)), greatest)
    for i in range(n):
        code = nearest_codes_of_product(kept, load(x + ROW * i), np.int32(INT_MIN), np.int32((1 << 31) - 1), by.gcc)
        store(codes + ROW * i, low_bytes(code))
    least = squares_left(x, w, codes, n, div(one, kept), by)
    for k in range(-4, 5):
        if k != 0:
            inverse = div(fill(mul_add(TENTH, np.float32(k), np.float32(limit), by.both)), greatest)
            code_below(x, codes, n, limit, inverse, by)
            error = squares_left(x, w, codes, n, div(one, inverse), by)
            kept, least = where_greater(least, error, inverse, kept), where_greater(least, error, error, least)
    code_below(x, codes, n, limit, kept, by)
    sum_lx, sum_l2 = zeros(), zeros()
    for i in range(n):
        v, weight, code = load(x + ROW * i), load(w + ROW * i), load(codes + ROW * i)
        sum_lx = mul_add(mul(weight, v), code, sum_lx, by.both)
        sum_l2 = mul_add(mul(weight, code), code, sum_l2, by.both)
        store(codes + ROW * i, low_bytes(code))
    sum_lx, sum_l2 = improve(x, w, codes, n, INT_MIN, limit, sum_lx, sum_l2, by)
    for i in range(n):
        store(codes + ROW * i, where_greater(fill(nothing.magnitude), greatest, zeros(), load(codes + ROW * i)))
    scale = positive_ratio(sum_lx, sum_l2, nothing)
    return where_greater(fill(nothing.magnitude), greatest, zeros(), scale)
