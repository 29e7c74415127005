"""The second half of attention: values, weighted by the softmax of the scores, and summed.

64 columns of a value at a time stay in registers while the positions pass by.
"""

from __future__ import annotations

from typing import Any

from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import fill, load_f32, mad, mul, store, zeros

__all__ = ["make_mixing"]


def make_adders(load_values: Any, size: int) -> Any:
    """What one position adds to 64 columns, and what a few positions leave of them."""

    @compiled
    def add_weighted(sums, v, weight):
        """sums f32 [64] += 64 values at v times the number at `weight`."""
        w = fill(load_f32(weight))
        s0, s1 = mad(load_values(v), w, sums[0]), mad(load_values(v + 16 * size), w, sums[1])
        s2, s3 = mad(load_values(v + 32 * size), w, sums[2]), mad(load_values(v + 48 * size), w, sums[3])
        return s0, s1, s2, s3

    @compiled
    def put_weighted(sums, v, stride, weights, count, scale, y):
        """y f32 [64] = scale · (sums + the values of `count` more positions)."""
        for j in range(count):
            sums = add_weighted(sums, v + j * stride, weights + 4 * j)
        s = fill(scale)
        store(y, mul(sums[0], s))
        store(y + 64, mul(sums[1], s))
        store(y + 128, mul(sums[2], s))
        store(y + 192, mul(sums[3], s))

    return add_weighted, put_weighted


def make_mixing(load_values: Any, size: int) -> Any:
    """The functions for one query and for four, over values of `size` bytes each."""
    add_weighted, put_weighted = make_adders(load_values, size)

    @compiled
    def weighted_rest(weights, values, stride, n_keys, n, scale, y):
        """`weighted_sum` of the columns after the last whole 64."""
        for i in range(n - n % 64, n, 16):
            total_ = zeros()
            for j in range(n_keys):
                total_ = mad(load_values(values + j * stride + size * i), fill(load_f32(weights + 4 * j)), total_)
            store(y + 4 * i, mul(total_, fill(scale)))

    @compiled
    def weighted_sum(weights, values, stride, n_keys, n, scale, y):
        """y = scale · Σ weights[j] · values[j]; values: [n_keys][n] `stride` bytes apart, y: f32 [n]."""
        for i in range(0, n - n % 64, 64):
            sums = zeros(), zeros(), zeros(), zeros()
            put_weighted(sums, values + size * i, stride, weights, n_keys, scale, y + 4 * i)
        weighted_rest(weights, values, stride, n_keys, n, scale, y)

    @compiled
    def weighted_sums_of_four(weights, apart, values, stride, n_keys, more, n, scales, y):
        """The same for four queries, the first of n_keys positions, each other of `more` more. y: f32 [4][n]."""
        w1, w2, w3 = weights + apart, weights + 2 * apart, weights + 3 * apart
        for i in range(0, n - n % 64, 64):
            v = values + size * i
            sums = zeros(), zeros(), zeros(), zeros()
            s0, s1, s2, s3 = sums, sums, sums, sums
            for j in range(0, 4 * n_keys, 4):
                s0, s1 = add_weighted(s0, v, weights + j), add_weighted(s1, v, w1 + j)
                s2, s3 = add_weighted(s2, v, w2 + j), add_weighted(s3, v, w3 + j)
                v += stride
            end, place = 4 * n_keys, y + 4 * i
            put_weighted(s0, v, stride, weights + end, 0, scales[0], place)
            put_weighted(s1, v, stride, w1 + end, more, scales[1], place + 4 * n)
            put_weighted(s2, v, stride, w2 + end, 2 * more, scales[2], place + 8 * n)
            put_weighted(s3, v, stride, w3 + end, 3 * more, scales[3], place + 12 * n)
        for k in range(4 if n % 64 else 0):
            weighted_rest(weights + k * apart, values, stride, n_keys + k * more, n, scales[k], y + 4 * n * k)

    return weighted_sum, weighted_sums_of_four
