"""Quantizers of iq4_nl and iq4_xs: codes are indices into sixteen levels that stand closer together around 0.

For each 32 values a scale is searched: first the one that gives the value of greatest magnitude the outermost level,
then fourteen that give it a little more or less; kept is what leaves the least weighted error. A value x weighs x^2, or
with importance v, v * sqrt(2 * sum x^2 / n + x^2) with the sum over the n values of its block.

iq4_nl stores that scale and codes with it before it is rounded to float16. In iq4_xs the eight scales of a block become
codes of six bits, and its values are coded anew.

Source: quantize_row_iq4_nl_impl in ggml-quants.c of ggml 0.25.3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np

from ggmlpy.formats.tensor_types import NON_LINEAR, TENSOR_TYPES, TensorType
from ggmlpy.machine.contraction import Contraction
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import mul_add

from .k_quants import store_half
from .search import clipped_product, magnitude_of

__all__ = ["non_linear_quantizer"]

F0, F1 = np.float32(0), np.float32(1)
NEGLIGIBLE = np.float32(1e-15)  # a group whose greatest magnitude is below it is all zero
LOWEST = np.float32(NON_LINEAR[0])
MIDDLES = np.array([(a + b) / 2 for a, b in pairwise(NON_LINEAR)], np.float32)
STEPS = np.array([b - a for a, b in pairwise(NON_LINEAR)], np.float32)
TRIES = 7
RUN = 32
XS = TENSOR_TYPES["iq4_xs"]
D_AT, HIGH_AT, LOW_AT, QS_AT = (XS.offset(field) for field in ("d", "scales_h", "scales_l", "qs"))
NL_D_AT, NL_QS_AT = (TENSOR_TYPES["iq4_nl"].offset(field) for field in ("d", "qs"))


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
def scale_of(x, w, levels, by):
    """The scale of 32 values; 0 if they are nothing."""
    greatest, most = F0, F0
    for v in x:
        if magnitude_of(v) > greatest:
            greatest, most = magnitude_of(v), v
    if greatest < NEGLIGIBLE:
        return F0
    sum_qx, sum_q2 = sums_at(x, w, F1 / (-most / LOWEST), levels, by)
    scale = sum_qx / sum_q2 if sum_q2 > F0 else F0
    best = scale * sum_qx
    for k in range(-TRIES, TRIES + 1):
        sum_qx, sum_q2 = sums_at(x, w, (np.float32(k) + LOWEST) / most, levels, by)
        if sum_q2 > F0 and sum_qx * sum_qx > best * sum_q2:
            scale = sum_qx / sum_q2
            best = scale * sum_qx
    return scale


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
def code_with(x, scale, out, at):
    """The codes of 32 values, value j and j + 16 in a byte."""
    inverse = F1 / scale if scale != F0 else F0
    for j in range(16):
        out[at + j] = index_near(inverse * x[j]) | index_near(inverse * x[j + 16]) << np.uint8(4)


@inlined
def iq4_nl(x, w, out, levels, scales, by):
    scale = scale_of(x, w, levels, by)
    store_half(out, NL_D_AT, scale)
    code_with(x, scale, out, NL_QS_AT)


@inlined
def iq4_xs(x, w, out, levels, scales, by):
    """Of eight scales four low bits each stand in four bytes, two high bits each in a word."""
    most = F0
    for k in range(8):
        scales[k] = scale_of(x[RUN * k : RUN * k + RUN], w[RUN * k : RUN * k + RUN], levels, by)
        most = scales[k] if magnitude_of(scales[k]) > magnitude_of(most) else most
    d = -most / np.float32(32)
    store_half(out, D_AT, d)
    inverse, high = F1 / d if d != F0 else F0, np.int32(0)
    out[LOW_AT : LOW_AT + 4] = 0
    for k in range(8):
        code = clipped_product(inverse, scales[k], -32, 31, by.gcc)
        code_with(x[RUN * k : RUN * k + RUN], d * np.float32(code), out, QS_AT + 16 * k)
        biased = code + np.int32(32)
        out[LOW_AT + k // 2] |= np.uint8((biased & np.int32(15)) << np.int32(4 * (k % 2)))
        high |= (biased >> np.int32(4)) << np.int32(2 * k)
    out[HIGH_AT], out[HIGH_AT + 1] = np.uint8(high), np.uint8(high >> np.int32(8))


def rows_kernel(record: TensorType, weighted: bool, by: Contraction) -> Callable:
    """The loop over blocks ``rows`` (float32 [n, blck_size]) into ``out`` [n, type_size].

    ``importance``: float32 [blocks per row, blck_size], the weights of one row's values.
    """
    size, block = record.blck_size, iq4_nl if record.blck_size == RUN else iq4_xs

    def quantize_blocks(rows, importance, out):
        w, levels, scales = np.empty(size, np.float32), np.empty(RUN, np.float32), np.empty(8, np.float32)
        for i in range(rows.shape[0]):
            weigh(rows[i], importance[i % importance.shape[0]], weighted, w, by)
            block(rows[i], w, out[i], levels, scales, by)

    return quantize_blocks


@cache
def non_linear_quantizer(name: str, weighted: bool, by: Contraction) -> Callable:
    """The compiled loop for "iq4_nl" or "iq4_xs"."""
    floats = types.Array(types.float32, 2, "C", readonly=True)
    return kernel(rows_kernel(TENSOR_TYPES[name], weighted, by), types.void(floats, floats, types.uint8[:, ::1]))
