"""Quantizers of iq4_nl and iq4_xs: codes are indices into sixteen levels that stand closer together around 0.

For each 32 values a scale is searched: first the one that gives the value of greatest magnitude the outermost level,
then fourteen that give it a little more or less; kept is what leaves the least weighted error. A value x weighs x^2, or
with importance v, v * sqrt(2 * sum x^2 / n + x^2) with the sum over the n values of its block.

iq4_nl stores that scale and codes with it before it is rounded to float16. In iq4_xs the eight scales of a block become
codes of six bits, and its values are coded anew.

Before 2024-02-27 the codes of iq4_nl were those that led to the scale; a block of nothing had the codes of the block
before (which are not known of the first one a program made; here its values are divided by 1). Before 2024-05-18 only
zeros were nothing, and up to 2025 values whose weights are all 0 had a scale that is not a number.

Source: quantize_row_iq4_nl_impl in ggml-quants.c of ggml 0.25.3 and, in llama.cpp, at a14679cc3 (2024-02-21),
0becb22ac (2024-02-27) and 05834841d (2024-05-18).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ggmlpy.formats.eras import FEBRUARY_21_24, FEBRUARY_27_24, MAY_18_24, TODAY, Era
from ggmlpy.formats.tensor_types import NON_LINEAR, TENSOR_TYPES, TensorType
from ggmlpy.machine.contraction import Contraction
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import mul_add

from .k_quants import store_half
from .search import clipped_product, magnitude_of
from .weighted_search import NEGLIGIBLE, OLD_ZERO, Least

__all__ = ["NON_LINEAR_WAYS", "non_linear_quantizer"]

F0, F1 = np.float32(0), np.float32(1)
LOWEST = np.float32(NON_LINEAR[0])
MIDDLES = np.array([(a + b) / 2 for a, b in pairwise(NON_LINEAR)], np.float32)
STEPS = np.array([b - a for a, b in pairwise(NON_LINEAR)], np.float32)
TRIES = 7
RUN = 32
XS = TENSOR_TYPES["iq4_xs"]
D_AT, HIGH_AT, LOW_AT, QS_AT = (XS.offset(field) for field in ("d", "scales_h", "scales_l", "qs"))
NL_D_AT, NL_QS_AT = (TENSOR_TYPES["iq4_nl"].offset(field) for field in ("d", "qs"))


class Way(NamedTuple):
    """What eras do differently: constants of a kernel.

    Attributes:
        nothing: below which greatest magnitude 32 values are all zero; and the first scale of values that count
            nothing, from which all tries are measured.
        codes_of_scale: whether the codes of iq4_nl are those of its scale; or those that led to it, if it is anything.
    """

    nothing: Least
    codes_of_scale: bool


NON_LINEAR_WAYS: dict[Era, Way] = {
    FEBRUARY_21_24: Way(OLD_ZERO, False),
    FEBRUARY_27_24: Way(OLD_ZERO, True),
    MAY_18_24: Way(Least(NEGLIGIBLE, True), True),
    TODAY: Way(Least(NEGLIGIBLE), True),
}


@inlined
def level_near(v):
    """The level nearest to ``v``; of two as near, the greater. No branches, so that many become one vector."""
    level = LOWEST
    for k in range(15):
        level += F0 if v < MIDDLES[k] else STEPS[k]
    return level


@inlined
def index_near(v):
    """Its index."""
    index = 0
    for k in range(15):
        index += 0 if v < MIDDLES[k] else 1
    return np.uint8(index)


@inlined
def sums_at(x, w, inverse, levels, by):
    """sum w q x and sum w q q over the levels q that ``inverse`` gives."""
    for i in range(RUN):
        levels[i] = level_near(inverse * x[i])
    sum_qx, sum_q2 = F0, F0
    for i in range(RUN):
        weighted = w[i] * levels[i]
        sum_qx = mul_add(weighted, x[i], sum_qx, by.both)
        sum_q2 = mul_add(weighted, levels[i], sum_q2, by.both)
    return sum_qx, sum_q2


@inlined
def scale_of(x, w, levels, way, by):
    """The scale of 32 values, and the inverse that led to it; 0 and 1 if they are nothing."""
    greatest, most = F0, F0
    for v in x:
        if magnitude_of(v) > greatest:
            greatest, most = magnitude_of(v), v
    if greatest < way.nothing.magnitude:
        return F0, F1
    kept = F1 / (-most / LOWEST)
    sum_qx, sum_q2 = sums_at(x, w, kept, levels, by)
    scale = sum_qx / sum_q2 if way.nothing.divides or sum_q2 > F0 else F0
    best = scale * sum_qx
    for k in range(-TRIES, TRIES + 1):
        inverse = (np.float32(k) + LOWEST) / most
        sum_qx, sum_q2 = sums_at(x, w, inverse, levels, by)
        if sum_q2 > F0 and sum_qx * sum_qx > best * sum_q2:
            scale, kept = sum_qx / sum_q2, inverse
            best = scale * sum_qx
    return scale, kept


@inlined
def weigh(x, importance, weighted, w, by):
    """The weights of a block's values."""
    total = F0
    for v in x:
        total = mul_add(v, v, total, by.clang)
    mean = total * (np.float32(2) / np.float32(len(x)))
    for i in range(len(x)):
        w[i] = importance[i] * np.sqrt(mul_add(x[i], x[i], mean, by.both)) if weighted else x[i] * x[i]


@inlined
def code_with(x, inverse, out, at):
    """The codes of 32 values, value j and j + 16 in a byte."""
    for j in range(16):
        out[at + j] = index_near(inverse * x[j]) | index_near(inverse * x[j + 16]) << np.uint8(4)


@inlined
def inverse_of(scale):
    return F1 / scale if scale != F0 else F0


@inlined
def iq4_nl(x, w, out, levels, scales, way, by):
    scale, kept = scale_of(x, w, levels, way, by)
    store_half(out, NL_D_AT, scale)
    code_with(x, inverse_of(scale) if way.codes_of_scale else kept, out, NL_QS_AT)


@inlined
def iq4_xs(x, w, out, levels, scales, way, by):
    """Of eight scales four low bits each stand in four bytes, two high bits each in a word."""
    most = F0
    for k in range(8):
        scales[k], _ = scale_of(x[RUN * k : RUN * k + RUN], w[RUN * k : RUN * k + RUN], levels, way, by)
        most = scales[k] if magnitude_of(scales[k]) > magnitude_of(most) else most
    d = -most / np.float32(32)
    store_half(out, D_AT, d)
    inverse, high = inverse_of(d), np.int32(0)
    out[LOW_AT : LOW_AT + 4] = 0
    for k in range(8):
        code = clipped_product(inverse, scales[k], -32, 31, by.gcc)
        code_with(x[RUN * k : RUN * k + RUN], inverse_of(d * np.float32(code)), out, QS_AT + 16 * k)
        biased = code + np.int32(32)
        out[LOW_AT + k // 2] |= np.uint8((biased & np.int32(15)) << np.int32(4 * (k % 2)))
        high |= (biased >> np.int32(4)) << np.int32(2 * k)
    out[HIGH_AT], out[HIGH_AT + 1] = np.uint8(high), np.uint8(high >> np.int32(8))


def rows_kernel(record: TensorType, weighted: bool, way: Way, by: Contraction) -> Callable:
    """The loop over blocks ``rows`` (float32 [n, blck_size]) into ``out`` [n, type_size].

    ``importance``: float32 [blocks per row, blck_size], the weights of one row's values.
    """
    size, block, stale = record.blck_size, iq4_nl if record.blck_size == RUN else iq4_xs, not way.codes_of_scale

    def quantize_blocks(rows, importance, out):
        w, levels, scales = np.empty(size, np.float32), np.empty(RUN, np.float32), np.empty(8, np.float32)
        for i in range(rows.shape[0]):
            weigh(rows[i], importance[i % importance.shape[0]], weighted, w, by)
            block(rows[i], w, out[i], levels, scales, way, by)
            if stale and i > 0 and not rows[i].any():
                out[i, NL_QS_AT:] = out[i - 1, NL_QS_AT:]

    return quantize_blocks


@cache
def non_linear_quantizer(record: TensorType, weighted: bool, way: Way, by: Contraction) -> Callable:
    """The compiled loop for iq4_nl or iq4_xs, made in one of the ways of :data:`NON_LINEAR_WAYS`."""
    floats = types.Array(types.float32, 2, "C", readonly=True)
    return kernel(rows_kernel(record, weighted, way, by), types.void(floats, floats, types.uint8[:, ::1]))
