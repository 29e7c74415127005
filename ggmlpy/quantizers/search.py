"""Searching for the scales of k-quants, in float32, each operation rounded on its own.

``search_affine`` fits a scale and a minimum in a least-squares sense; ``search_symmetric`` fits a scale alone, with
values weighted by x^2. In what order the sums add up decides the last bit, and so the bytes of a file.

Rounding is ``nearest_int``: adding 1.5 * 2^23 leaves the nearest integer (ties to even) in the low mantissa bits; what
it gives for values beyond 2^22, for inf and NaN follows from those bits and is kept.

Source: k_quants.c at llama.cpp dadbed99e (super-blocks of 256).
"""

from __future__ import annotations

import numpy as np

from ggmlpy.machine.c_arithmetic import ABS
from ggmlpy.machine.kernels import inlined
from ggmlpy.machine.vectors import bits, float_of, mul_add

__all__ = ["clipped", "clipped_product", "magnitude_of", "nearest_int", "search_affine", "search_symmetric"]

F0, F1 = np.float32(0), np.float32(1)
MAGIC = np.float32(12582912.0)  # 1.5 * 2**23
MANTISSA = np.int32(0x007FFFFF)
MIDDLE = np.int32(0x00400000)

# The affine search keeps the state of each lane in two flat arrays, floats and integers, at these offsets: with few
# arrays LLVM can prove that they do not overlap, and vectorizes.
LOW, HIGH, INVERSE, SCALE, SUM_LX, TOTAL = 0, 16, 32, 48, 64, 80
SUM_L2, CHANGED, ACTIVE = 0, 16, 32


# ── rounding ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@inlined
def nearest_int(v):
    """The nearest integer, ties to even; beyond 2^22 what the bits say."""
    return np.int32((bits(v + MAGIC) & MANTISSA) - MIDDLE)


@inlined
def clipped(v, low, high):
    """``nearest_int`` kept between two integers."""
    return between(nearest_int(v), low, high)


@inlined
def clipped_product(x, y, low, high, how):
    """The same of x * y, to which the rounding adds: what is contracted is not rounded before it is cut."""
    return between(np.int32((bits(mul_add(x, y, MAGIC, how)) & MANTISSA) - MIDDLE), low, high)


@inlined
def between(code, low, high):
    code = code if code < np.int32(high) else np.int32(high)
    return code if code > np.int32(low) else np.int32(low)


@inlined
def magnitude_of(v):
    return float_of(np.int32(bits(v) & ABS))


# ── searching for scales ──────────────────────────────────────────────────────────────────────────────────────────────
#
# All sub-blocks of a block are searched side by side, one per lane: x is float32 [n, lanes], codes int32 [n, lanes],
# everything else [lanes]. A lane whose own search would have stopped is no longer ``active`` and keeps what it has.
# Inner loops run over lanes and become vector instructions; sums still add up in the order of the values.


@inlined
def search_affine(x, codes, limit, scales, mins, work, flags):
    """Fit x = scale * code - minimum with codes 0 … ``limit``: five rounds of coding and refitting.

    Fills ``scales`` and ``mins`` (>= 0). A search stops when a round finds the codes that are there already, which for
    the first round are those that the block before left.
    """
    start_from_range(x, codes, limit, scales, mins, work, flags)
    for _ in range(5):
        code_and_sum(x, codes, limit, work, flags)
        if not refit(scales, mins, x.shape[0], work, flags):
            break


@inlined
def start_from_range(x, codes, limit, scales, mins, work, flags):
    """Let the range of each lane, widened to 0, have the codes 0 … ``limit``. A lane of equal values is not active; its
    codes are 0."""
    n, lanes = x.shape
    for k in range(lanes):
        work[LOW + k], work[HIGH + k] = x[0, k], x[0, k]
    for i in range(1, n):
        for k in range(lanes):
            v = x[i, k]
            work[LOW + k] = v if v < work[LOW + k] else work[LOW + k]
            work[HIGH + k] = v if v > work[HIGH + k] else work[HIGH + k]
    for k in range(lanes):
        low, high = work[LOW + k], work[HIGH + k]
        flags[ACTIVE + k] = np.int32(high != low)
        low = F0 if low > F0 else low
        work[LOW + k], work[INVERSE + k] = low, np.float32(limit) / (high - low)
        scales[k], mins[k] = F0, F0
    for i in range(n):
        for k in range(lanes):
            codes[i, k] = codes[i, k] if flags[ACTIVE + k] else np.int32(0)


@inlined
def code_and_sum(x, codes, limit, work, flags):
    """Code active lanes anew; the scale that fits these codes best, and the sum of what it leaves."""
    n, lanes = x.shape
    for k in range(lanes):
        work[SUM_LX + k], work[TOTAL + k] = F0, F0
        flags[SUM_L2 + k], flags[CHANGED + k] = np.int32(0), np.int32(0)
    for i in range(n):
        for k in range(lanes):
            shifted = x[i, k] - work[LOW + k]
            code = clipped(work[INVERSE + k] * shifted, 0, limit)
            code = code if flags[ACTIVE + k] else codes[i, k]
            flags[CHANGED + k] |= code ^ codes[i, k]
            flags[SUM_L2 + k] += code * code
            codes[i, k] = code
            work[SUM_LX + k] += shifted * np.float32(code)
    for k in range(lanes):
        work[SCALE + k] = work[SUM_LX + k] / np.float32(flags[SUM_L2 + k])
    for i in range(n):
        for k in range(lanes):
            work[TOTAL + k] += x[i, k] - work[SCALE + k] * np.float32(codes[i, k])


@inlined
def refit(scales, mins, n, work, flags):
    """Take the new scales, and as minimums the means of what they leave; whether any lane goes on."""
    going_on = False
    for k in range(scales.shape[0]):
        if flags[ACTIVE + k]:
            mean = work[TOTAL + k] / np.float32(n)
            low = F0 if mean > F0 else mean
            scales[k], mins[k] = work[SCALE + k], -low
            work[LOW + k], work[INVERSE + k] = low, F1 / work[SCALE + k]
            flags[ACTIVE + k] = flags[CHANGED + k]
            going_on |= flags[CHANGED + k] != 0
    return going_on


@inlined
def sums_of(x, limit, inverse, sum_lx, sum_l2):
    """sum w x l and sum w l^2 over the codes l that ``inverse`` gives, w = x^2."""
    n, lanes = x.shape
    for k in range(lanes):
        sum_lx[k], sum_l2[k] = F0, F0
    for i in range(n):
        for k in range(lanes):
            v = x[i, k]
            code = np.float32(clipped(inverse[k] * v, -limit, limit - 1))
            w = v * v
            sum_lx[k] += w * v * code
            sum_l2[k] += w * code * code


@inlined
def code_with(x, codes, limit, inverse, active):
    """Set the codes -limit … limit - 1 that ``inverse`` gives, in active lanes."""
    n, lanes = x.shape
    for i in range(n):
        for k in range(lanes):
            code = clipped(inverse[k] * x[i, k], -limit, limit - 1)
            codes[i, k] = code if active[k] else codes[i, k]


@inlined
def start_from_extremes(x, codes, limit, inverse, active):
    """Scale each lane so that its first value of the greatest magnitude gets the code -limit. A lane of zeros (or NaN)
    is not active; its codes are -limit."""
    n, lanes = x.shape
    for k in range(lanes):
        greatest, most = F0, F0
        for i in range(n):
            a = magnitude_of(x[i, k])
            most = x[i, k] if a > greatest else most
            greatest = a if a > greatest else greatest
        active[k] = greatest != F0
        inverse[k] = np.float32(-limit) / most
    for i in range(n):
        for k in range(lanes):
            codes[i, k] = np.int32(-limit)
    code_with(x, codes, limit, inverse, active)


@inlined
def improve(x, codes, limit, sum_lx, sum_l2, active):
    """Change single codes (-limit … limit - 1) while that raises (sum w x l)^2 / sum w l^2, at most five rounds."""
    n, lanes = x.shape
    changed = np.empty(lanes, np.bool_)
    for _ in range(5):
        for k in range(lanes):
            changed[k] = False
        for i in range(n):
            for k in range(lanes):
                v, code = x[i, k], np.float32(codes[i, k])
                w = v * v
                without_lx, without_l2 = sum_lx[k] - w * v * code, sum_l2[k] - w * code * code
                new_code = clipped(v * without_l2 / without_lx, -limit, limit - 1)
                new = np.float32(new_code)
                with_lx, with_l2 = without_lx + w * v * new, without_l2 + w * new * new
                better = with_lx * with_lx * sum_l2[k] > sum_lx[k] * sum_lx[k] * with_l2
                take = active[k] & (without_lx > F0) & (new != code) & (with_l2 > F0) & better
                codes[i, k] = new_code if take else codes[i, k]
                sum_lx[k] = with_lx if take else sum_lx[k]
                sum_l2[k] = with_l2 if take else sum_l2[k]
                changed[k] |= take
        going_on = False
        for k in range(lanes):
            active[k] = changed[k]
            going_on |= changed[k]
        if not going_on:
            break


@inlined
def search_symmetric(x, codes, limit, refits, scales, work):
    """Fit x = scale * code, codes -limit … limit - 1: refit the scale up to ``refits`` times, then improve single
    codes. Fills ``scales``."""
    n, lanes = x.shape
    inverse, sum_lx, sum_l2, new_lx, new_l2 = work[0:16], work[16:32], work[32:48], work[48:64], work[64:80]
    active, fitting, same = np.empty(lanes, np.bool_), np.empty(lanes, np.bool_), np.empty(lanes, np.bool_)
    start_from_extremes(x, codes, limit, inverse, active)
    sums_of(x, limit, inverse, sum_lx, sum_l2)
    for k in range(lanes):
        fitting[k] = active[k]
        scales[k] = sum_lx[k] / sum_l2[k]
    for _ in range(refits):
        for k in range(lanes):
            inverse[k], same[k] = F1 / scales[k], True
        sums_of(x, limit, inverse, new_lx, new_l2)
        for i in range(n):
            for k in range(lanes):
                same[k] &= clipped(inverse[k] * x[i, k], -limit, limit - 1) == codes[i, k]
        going_on = False
        for k in range(lanes):
            best = scales[k] * sum_lx[k]
            worse = new_l2[k] == F0 or new_lx[k] * new_lx[k] <= best * new_l2[k]
            fitting[k] &= not (same[k] or worse)
            if fitting[k]:
                sum_lx[k], sum_l2[k] = new_lx[k], new_l2[k]
                scales[k] = sum_lx[k] / sum_l2[k]
                going_on = True
        if not going_on:
            break
        code_with(x, codes, limit, inverse, fitting)
    for k in range(lanes):
        same[k] = active[k]
    improve(x, codes, limit, sum_lx, sum_l2, active)
    for k in range(lanes):
        scales[k] = sum_lx[k] / sum_l2[k] if same[k] else F0
