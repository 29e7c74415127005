"""Attention over the cache, and the rotation of queries and keys."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    add,
    address,
    copy_bytes,
    exp,
    f32x16,
    fill,
    gather_sums,
    keep_apart,
    largest,
    load,
    load_f16x16,
    load_f32,
    mad,
    maximum,
    mul,
    nothing,
    op,
    shuffle,
    store,
    store_as,
    store_f16x16,
    store_f32,
    sub,
    total,
    zero_bytes,
    zeros,
)

from .plan_fields import (
    attention_at,
    head_bytes,
    head_dim,
    head_pad,
    keys_at,
    layer_bytes,
    memory_f32,
    n_embd,
    n_past,
    position_bytes,
    qkv_at,
    rope_at,
    score_bytes,
    scratch_scores,
    scratch_vector,
    values_at,
)

LOWEST = -1e30  # instead of -inf: exp brings it to 0 without a special case


@compiled
def rope(x, pairs, angles, y):
    """Rotate pairs (2i, 2i+1) of x f32 [2·pairs] by angles f32 [pairs][cos, sin], to y."""
    for i in range(0, 8 * pairs, 8):
        c, s = load_f32(angles + i), load_f32(angles + i + 4)
        even, odd = load_f32(x + i), load_f32(x + i + 4)
        store_f32(y + i, even * c - odd * s)
        store_f32(y + i + 4, even * s + odd * c)


@op(nothing, address, f32x16, f32x16, f32x16, f32x16)
def store_four_totals(b: ir.IRBuilder, a: Any, *sums: Any) -> None:
    """Write the totals of four vectors: f32 [4]."""
    x = gather_sums(b, sums, b.fadd)
    for distance in (4, 8):
        x = b.fadd(x, shuffle(b, x, x, [lane ^ distance for lane in range(16)]))
    store_as(b, a, shuffle(b, x, x, range(4)))


def make_attention(load_values: Any, store_values: Any, size: int) -> Any:
    """Attention of one query, and of four that follow each other, over one head's cache of values of `size` bytes."""

    @compiled
    def remember(x, n, place):
        """f32 [n] into the cache, rounded as the cache is."""
        for i in range(0, n, 16):
            store_values(place + size * i, load(x + 4 * i))

    @compiled
    def add_products(sums, k, q):
        """sums f32 [4][16] += sixteen columns of four keys times those of a query; k: their addresses."""
        s0, s1 = mad(load_values(k[0]), q, sums[0]), mad(load_values(k[1]), q, sums[1])
        s2, s3 = mad(load_values(k[2]), q, sums[2]), mad(load_values(k[3]), q, sums[3])
        return s0, s1, s2, s3

    @compiled
    def four_keys(keys, stride, j, n_keys):
        """The addresses of keys j … j+3; beyond the last, the last."""
        last = keys + (n_keys - 1) * stride
        k = keys + j * stride
        return k, min(k + stride, last), min(k + 2 * stride, last), min(k + 3 * stride, last)

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
    def weighted_sums_of_four(weights, apart, values, stride, n_keys, n, scales, y):
        """The same for four queries, the first of n_keys positions, each of the others of one more. y: f32 [4][n]."""
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
            put_weighted(s1, v, stride, w1 + end, 1, scales[1], place + 4 * n)
            put_weighted(s2, v, stride, w2 + end, 2, scales[2], place + 8 * n)
            put_weighted(s3, v, stride, w3 + end, 3, scales[3], place + 12 * n)
        for k in range(4 if n % 64 else 0):
            weighted_rest(weights + k * apart, values, stride, n_keys + k, n, scales[k], y + 4 * n * k)

    @compiled
    def inverse_sum(scores, n_keys):
        """scores = exp(scores - the largest); returns 1 / their sum."""
        keep_apart()
        return np.float32(1) / exponentials(scores, n_keys, softmax_top(scores, n_keys))

    @compiled
    def attend(q, keys, values, stride, n_keys, n, scores, y):
        """y = softmax(q·keysᵀ) · values; q, y: f32 [n], scores: room for n_keys numbers and 16 more."""
        keep_apart()
        scores_of(q, keys, stride, n_keys, n, scores)
        weighted_sum(scores, values, stride, n_keys, n, inverse_sum(scores, n_keys), y)

    @compiled
    def attend_four(q, keys, values, stride, n_keys, n, scores, apart, y):
        """The same for four queries, of n_keys, n_keys + 1 … positions; q, y: f32 [4][n]."""
        keep_apart()
        scores_of_four(q, keys, stride, n_keys + 3, n, scores, apart)
        first, second = inverse_sum(scores, n_keys), inverse_sum(scores + apart, n_keys + 1)
        third, fourth = inverse_sum(scores + 2 * apart, n_keys + 2), inverse_sum(scores + 3 * apart, n_keys + 3)
        weighted_sums_of_four(scores, apart, values, stride, n_keys, n, (first, second, third, fourth), y)

    return remember, attend, attend_four


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


remember_f16, attend_f16, attend_four_f16 = make_attention(load_f16x16, store_f16x16, 2)
remember_f32, attend_f32, attend_four_f32 = make_attention(load, store, 4)


@compiled
def query_of(plan, head, t, q):
    """The head's part of token t's query, rotated and scaled: f32 [head_dim]."""
    n, padded = head_dim(plan), head_pad(plan)
    x = qkv_at(plan) + 4 * (t * 3 * n_embd(plan) + n * head)
    rope(x, n // 2, rope_at(plan) + 4 * n * (n_past(plan) + t), q)
    scale = fill(np.float32(1) / np.sqrt(np.float32(n)))
    for i in range(0, 4 * padded, 64):
        store(q + i, mul(load(q + i), scale))


@compiled
def attention_head(plan, layer, head, tokens, scratch):
    """Rope, remember and attend: one head, all tokens of this call, four by four.

    scratch + vector: f32 [2][4][head_pad]; + scores: f32 [4][n_ctx + 32].
    """
    keep_apart()
    n, padded, width = head_dim(plan), head_pad(plan), 4 * n_embd(plan)
    stride, in_f32 = position_bytes(plan), memory_f32(plan) != 0
    place = layer * layer_bytes(plan) + head * head_bytes(plan)
    keys, values = keys_at(plan) + place, values_at(plan) + place
    q = scratch + scratch_vector(plan)  # f32 [4][head_pad], zero beyond head_dim
    y, scores, apart = q + 16 * padded, scratch + scratch_scores(plan), score_bytes(plan)
    zero_bytes(q, 32 * padded)
    for t in range(tokens):
        position = n_past(plan) + t
        x = qkv_at(plan) + t * 3 * width + 4 * n * head  # f32 [3][n_embd], the head's part
        rope(x + width, n // 2, rope_at(plan) + 4 * n * position, q)
        copy_bytes(y, x + 2 * width, 4 * n)
        if in_f32:
            remember_f32(q, padded, keys + stride * position)
            remember_f32(y, padded, values + stride * position)
        else:
            remember_f16(q, padded, keys + stride * position)
            remember_f16(y, padded, values + stride * position)
    target = attention_at(plan) + 4 * n * head
    for t in range(0, tokens - tokens % 4, 4):
        for i in range(4):
            query_of(plan, head, t + i, q + 4 * padded * i)
        if in_f32:
            attend_four_f32(q, keys, values, stride, n_past(plan) + t + 1, padded, scores, apart, y)
        else:
            attend_four_f16(q, keys, values, stride, n_past(plan) + t + 1, padded, scores, apart, y)
        for i in range(4):
            copy_bytes(target + (t + i) * width, y + 4 * padded * i, 4 * n)
    for t in range(tokens - tokens % 4, tokens):
        query_of(plan, head, t, q)
        if in_f32:
            attend_f32(q, keys, values, stride, n_past(plan) + t + 1, padded, scores, y)
        else:
            attend_f16(q, keys, values, stride, n_past(plan) + t + 1, padded, scores, y)
        copy_bytes(target + t * width, y, 4 * n)
