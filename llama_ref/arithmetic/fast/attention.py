"""Attention over the cache, and the rotation of queries and keys: one head, all tokens of a call."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    copy_bytes,
    fill,
    keep_apart,
    load,
    load_f16x16,
    load_f32,
    mul,
    store,
    store_f16x16,
    store_f32,
    zero_bytes,
)

from .mixing import make_mixing
from .plan_fields import (
    attention_at,
    head_bytes,
    head_dim,
    head_pad,
    keys_at,
    layer_bytes,
    memory_f32,
    n_past,
    n_q,
    n_tokens,
    position_bytes,
    qkv_at,
    rope_at,
    score_bytes,
    scratch_scores,
    scratch_vector,
    values_at,
)
from .scores import inverse_sum, make_scores

__all__ = ["attention_head"]


@compiled
def rope(x, pairs, angles, y):
    """Rotate pairs (2i, 2i+1) of x f32 [2·pairs] by angles f32 [pairs][cos, sin], to y."""
    for i in range(0, 8 * pairs, 8):
        c, s = load_f32(angles + i), load_f32(angles + i + 4)
        even, odd = load_f32(x + i), load_f32(x + i + 4)
        store_f32(y + i, even * c - odd * s)
        store_f32(y + i + 4, even * s + odd * c)


def make_attention(load_values: Any, store_values: Any, size: int) -> Any:
    """Attention of one query, and of four that follow each other, over one head's cache of values of `size` bytes."""
    scores_of, scores_of_four = make_scores(load_values, size)
    weighted_sum, weighted_sums_of_four = make_mixing(load_values, size)

    @compiled
    def remember(x, n, place):
        """f32 [n] into the cache, rounded as the cache is."""
        for i in range(0, n, 16):
            store_values(place + size * i, load(x + 4 * i))

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


remember_f16, attend_f16, attend_four_f16 = make_attention(load_f16x16, store_f16x16, 2)
remember_f32, attend_f32, attend_four_f32 = make_attention(load, store, 4)


@compiled
def query_of(plan, head, t, q):
    """The head's part of token t's query, rotated and scaled: f32 [head_dim]."""
    n, padded = head_dim(plan), head_pad(plan)
    x = qkv_at(plan) + 4 * (t * 3 * n_q(plan) + n * head)
    rope(x, n // 2, rope_at(plan) + 4 * n * (n_past(plan) + t), q)
    scale = fill(np.float32(1) / np.sqrt(np.float32(n)))
    for i in range(0, 4 * padded, 64):
        store(q + i, mul(load(q + i), scale))


@compiled
def cache_of(plan, layer, head):
    """Keys and values of a head, each [n_ctx][head_pad], position_bytes apart."""
    place = layer * layer_bytes(plan) + head * head_bytes(plan)
    return keys_at(plan) + place, values_at(plan) + place


@compiled
def remember_token(plan, layer, head, t, k, v):
    """Token t's key, rotated, and its value into the cache. k, v: room for f32 [head_pad], zero beyond head_dim."""
    n, padded, width = head_dim(plan), head_pad(plan), 4 * n_q(plan)
    keys, values = cache_of(plan, layer, head)
    position = n_past(plan) + t
    place = position_bytes(plan) * position
    x = qkv_at(plan) + t * 3 * width + 4 * n * head  # f32 [3][n_q], the head's part
    rope(x + width, n // 2, rope_at(plan) + 4 * n * position, k)
    copy_bytes(v, x + 2 * width, 4 * n)
    if memory_f32(plan) != 0:
        remember_f32(k, padded, keys + place)
        remember_f32(v, padded, values + place)
    else:
        remember_f16(k, padded, keys + place)
        remember_f16(v, padded, values + place)


@compiled
def attend_one(plan, layer, head, t, q, y, scores):
    """Token t's query to what attention gives for it."""
    n, padded, stride, n_keys = head_dim(plan), head_pad(plan), position_bytes(plan), n_past(plan) + t + 1
    keys, values = cache_of(plan, layer, head)
    query_of(plan, head, t, q)
    if memory_f32(plan) != 0:
        attend_f32(q, keys, values, stride, n_keys, padded, scores, y)
    else:
        attend_f16(q, keys, values, stride, n_keys, padded, scores, y)
    copy_bytes(attention_at(plan) + 4 * (t * n_q(plan) + n * head), y, 4 * n)


@compiled
def attend_next_four(plan, layer, head, t, q, y, scores):
    """The same for tokens t … t+3. q, y: f32 [4][head_pad]."""
    n, padded, stride, n_keys = head_dim(plan), head_pad(plan), position_bytes(plan), n_past(plan) + t + 1
    keys, values = cache_of(plan, layer, head)
    for i in range(4):
        query_of(plan, head, t + i, q + 4 * padded * i)
    if memory_f32(plan) != 0:
        attend_four_f32(q, keys, values, stride, n_keys, padded, scores, score_bytes(plan), y)
    else:
        attend_four_f16(q, keys, values, stride, n_keys, padded, scores, score_bytes(plan), y)
    for i in range(4):
        copy_bytes(attention_at(plan) + 4 * ((t + i) * n_q(plan) + n * head), y + 4 * padded * i, 4 * n)


@compiled
def attention_head(plan, layer, head, scratch):
    """Rope, remember and attend: one head, all tokens of this call, four by four.

    scratch + vector: f32 [2][4][head_pad]; + scores: f32 [4][n_ctx + 32].
    """
    keep_apart()
    tokens, padded = n_tokens(plan), head_pad(plan)
    q, scores = scratch + scratch_vector(plan), scratch + scratch_scores(plan)
    y = q + 16 * padded
    zero_bytes(q, 32 * padded)
    for t in range(tokens):
        remember_token(plan, layer, head, t, q, y)
    for t in range(0, tokens - tokens % 4, 4):
        attend_next_four(plan, layer, head, t, q, y, scores)
    for t in range(tokens - tokens % 4, tokens):
        attend_one(plan, layer, head, t, q, y, scores)
