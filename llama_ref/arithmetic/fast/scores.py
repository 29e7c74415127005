"""The first half of attention: queries times keys, and softmax.

Keys are read four at a time, so that four sums are under way, and meet one query or four.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    add,
    address,
    exp,
    f32x16,
    fill,
    gather_sums,
    keep_apart,
    largest,
    load,
    mad,
    maximum,
    nothing,
    op,
    shuffle,
    store,
    store_as,
    store_f32,
    sub,
    total,
    zeros,
)

__all__ = ["inverse_sum", "make_scores"]

LOWEST = -1e30  # instead of -inf: exp brings it to 0 without a special case


@op(nothing, address, f32x16, f32x16, f32x16, f32x16)
def store_four_totals(b: ir.IRBuilder, a: Any, *sums: Any) -> None:
    """Write the totals of four vectors: f32 [4]."""
    x = gather_sums(b, sums, b.fadd)
    for distance in (4, 8):
        x = b.fadd(x, shuffle(b, x, x, [lane ^ distance for lane in range(16)]))
    store_as(b, a, shuffle(b, x, x, range(4)))


@compiled
def four_keys(keys, stride, j, n_keys):
    """The addresses of keys j … j+3; beyond the last, the last."""
    last = keys + (n_keys - 1) * stride
    k = keys + j * stride
    return k, min(k + stride, last), min(k + 2 * stride, last), min(k + 3 * stride, last)


def make_scores(load_values: Any, size: int) -> Any:
    """The functions for one query and for four, over keys of `size` bytes a value."""

    @compiled
    def add_products(sums, k, q):
        """sums f32 [4][16] += sixteen columns of four keys times those of a query; k: their addresses."""
        s0, s1 = mad(load_values(k[0]), q, sums[0]), mad(load_values(k[1]), q, sums[1])
        s2, s3 = mad(load_values(k[2]), q, sums[2]), mad(load_values(k[3]), q, sums[3])
        return s0, s1, s2, s3

    @compiled
    def scores_of(q, keys, stride, n_keys, n, scores):
        """scores[j] = Σ q·keys[j], four keys at a time. q: f32 [n], keys: [n_keys][n] `stride` bytes apart."""
        for j in range(0, n_keys, 4):
            k0, k1, k2, k3 = four_keys(keys, stride, j, n_keys)
            sums = zeros(), zeros(), zeros(), zeros()
            for i in range(0, n, 16):
                c = size * i
                sums = add_products(sums, (k0 + c, k1 + c, k2 + c, k3 + c), load(q + 4 * i))
            store_four_totals(scores + 4 * j, sums[0], sums[1], sums[2], sums[3])

    @compiled
    def scores_of_four(q, keys, stride, n_keys, n, scores, apart):
        """The same for four queries, f32 [4][n], to scores f32 [4] `apart` bytes apart."""
        for j in range(0, n_keys, 4):
            k0, k1, k2, k3 = four_keys(keys, stride, j, n_keys)
            sums = zeros(), zeros(), zeros(), zeros()
            s0, s1, s2, s3 = sums, sums, sums, sums
            for i in range(0, n, 16):
                c, v = size * i, q + 4 * i
                k = k0 + c, k1 + c, k2 + c, k3 + c
                s0, s1 = add_products(s0, k, load(v)), add_products(s1, k, load(v + 4 * n))
                s2, s3 = add_products(s2, k, load(v + 8 * n)), add_products(s3, k, load(v + 12 * n))
            place = scores + 4 * j
            store_four_totals(place, s0[0], s0[1], s0[2], s0[3])
            store_four_totals(place + apart, s1[0], s1[1], s1[2], s1[3])
            store_four_totals(place + 2 * apart, s2[0], s2[1], s2[2], s2[3])
            store_four_totals(place + 3 * apart, s3[0], s3[1], s3[2], s3[3])

    return scores_of, scores_of_four


@compiled
def softmax_top(scores, n):
    """The largest of f32 [n]; also fills up to the next sixteen with something that weighs nothing."""
    padded = (n + 15) // 16 * 16
    for j in range(n, padded):
        store_f32(scores + 4 * j, np.float32(LOWEST))
    most = fill(np.float32(LOWEST))
    for j in range(0, 4 * padded, 64):
        most = maximum(most, load(scores + j))
    return largest(most)


@compiled
def exponentials(scores, n, most):
    """scores = exp(scores - most); returns their sum."""
    m, weights = fill(most), zeros()
    for j in range(0, 4 * n, 64):
        e = exp(sub(load(scores + j), m))
        store(scores + j, e)
        weights = add(weights, e)
    return total(weights)


@compiled
def inverse_sum(scores, n_keys):
    """scores = exp(scores - the largest); returns 1 / their sum."""
    keep_apart()
    return np.float32(1) / exponentials(scores, n_keys, softmax_top(scores, n_keys))
