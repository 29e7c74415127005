"""Attention over the cache, and the rotation of queries and keys.

Where several heads of queries share one of keys and values, these are kept once, and for a single token also read once
for every four queries. What a query gives does not depend on which others are with it.
"""

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
    load_i64,
    mul,
    store,
    store_f16x16,
    store_f32,
    zero_bytes,
)

from .mixing import make_mixing
from .plan import PLACE_BYTES
from .plan_fields import (
    EPS,
    attention_at,
    head_bytes,
    head_dim,
    head_norm_wk,
    head_norm_wq,
    head_pad,
    layer_at,
    layer_bytes,
    memory_f32,
    n_group,
    n_kv,
    n_q,
    n_tokens,
    one_text,
    pair_apart,
    pair_step,
    places_at,
    position_bytes,
    position_of,
    qkv_at,
    qkv_width,
    rope_at,
    score_bytes,
    scratch_scores,
    scratch_vector,
)
from .scores import inverse_sum, make_scores

__all__ = ["attention_group", "attention_head", "remember_head"]


@compiled
def norm_head(x, weight, n, eps, y):
    """y = x / sqrt(mean(x²) + eps) · weight, each f32 [n]: one head."""
    squares = np.float32(0)
    for i in range(0, 4 * n, 4):
        squares += load_f32(x + i) * load_f32(x + i)
    scale = np.float32(1) / np.sqrt(squares / np.float32(n) + eps)
    for i in range(0, 4 * n, 4):
        store_f32(y + i, load_f32(x + i) * scale * load_f32(weight + i))


@compiled
def rotate(plan, x, position, y):
    """Rotate the pairs of a head, f32 [head_dim], to y, which may be x."""
    step, apart, angles = pair_step(plan), pair_apart(plan), rope_at(plan) + 4 * head_dim(plan) * position
    for i in range(head_dim(plan) // 2):
        c, s, place = load_f32(angles + 8 * i), load_f32(angles + 8 * i + 4), step * i
        first, second = load_f32(x + place), load_f32(x + place + apart)
        store_f32(y + place, first * c - second * s)
        store_f32(y + place + apart, first * s + second * c)


@compiled
def normed_and_rotated(plan, x, norm, t, y):
    """A head of token t, f32 [head_dim], as it meets others; norm 0: it is not normed."""
    if norm != 0:
        norm_head(x, norm, head_dim(plan), load_f32(plan + EPS), y)
        x = y
    rotate(plan, x, position_of(plan, t), y)


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
    def attend_four(q, keys, values, stride, n_keys, more, n, scores, apart, y):
        """The same for four queries, of n_keys, n_keys + more … positions (more: 0 or 1); q, y: f32 [4][n]."""
        keep_apart()
        scores_of_four(q, keys, stride, n_keys + 3 * more, n, scores, apart)
        first, second = inverse_sum(scores, n_keys), inverse_sum(scores + apart, n_keys + more)
        third = inverse_sum(scores + 2 * apart, n_keys + 2 * more)
        fourth = inverse_sum(scores + 3 * apart, n_keys + 3 * more)
        weighted_sums_of_four(scores, apart, values, stride, n_keys, more, n, (first, second, third, fourth), y)

    return remember, attend, attend_four


remember_f16, attend_f16, attend_four_f16 = make_attention(load_f16x16, store_f16x16, 2)
remember_f32, attend_f32, attend_four_f32 = make_attention(load, store, 4)


@compiled
def query_of(plan, layer, head, t, q):
    """The head's part of token t's query, normed, rotated and scaled: f32 [head_dim]."""
    n, padded = head_dim(plan), head_pad(plan)
    x = qkv_at(plan) + 4 * (t * qkv_width(plan) + n * head)
    normed_and_rotated(plan, x, head_norm_wq(layer_at(plan, layer)), t, q)
    scale = fill(np.float32(1) / np.sqrt(np.float32(n)))
    for i in range(0, 4 * padded, 64):
        store(q + i, mul(load(q + i), scale))


@compiled
def cache_of(plan, layer, head_kv, t):
    """Keys and values of a head in the text of token t, each [n_ctx][head_pad], position_bytes apart."""
    place, text = layer * layer_bytes(plan) + head_kv * head_bytes(plan), places_at(plan) + PLACE_BYTES * t
    return load_i64(text + 8) + place, load_i64(text + 16) + place


@compiled
def remember_token(plan, layer, head_kv, t, k, v):
    """Token t's key, rotated, and its value into the cache. k, v: room for f32 [head_pad], zero beyond head_dim."""
    n, padded = head_dim(plan), head_pad(plan)
    keys, values = cache_of(plan, layer, head_kv, t)
    place = position_bytes(plan) * position_of(plan, t)
    x = qkv_at(plan) + 4 * (t * qkv_width(plan) + n_q(plan) + n * head_kv)
    normed_and_rotated(plan, x, head_norm_wk(layer_at(plan, layer)), t, k)
    copy_bytes(v, x + 4 * n_kv(plan), 4 * n)
    if memory_f32(plan) != 0:
        remember_f32(k, padded, keys + place)
        remember_f32(v, padded, values + place)
    else:
        remember_f16(k, padded, keys + place)
        remember_f16(v, padded, values + place)


@compiled
def result_of(plan, head, t):
    """Where what attention gives for a head of token t goes: f32 [head_dim]."""
    return attention_at(plan) + 4 * (t * n_q(plan) + head_dim(plan) * head)


@compiled
def attend_one(plan, layer, head, t, q, y, scores):
    """Token t's query to what attention gives for it."""
    padded, stride, n_keys = head_pad(plan), position_bytes(plan), position_of(plan, t) + 1
    keys, values = cache_of(plan, layer, head // n_group(plan), t)
    query_of(plan, layer, head, t, q)
    if memory_f32(plan) != 0:
        attend_f32(q, keys, values, stride, n_keys, padded, scores, y)
    else:
        attend_f16(q, keys, values, stride, n_keys, padded, scores, y)
    copy_bytes(result_of(plan, head, t), y, 4 * head_dim(plan))


@compiled
def attend_to_four(plan, layer, head, t, next_head, next_token, q, y, scores):
    """The same for four queries: of the tokens t … t+3, or of the heads head … head+3. q, y: f32 [4][head_pad]."""
    padded, stride, n_keys = head_pad(plan), position_bytes(plan), position_of(plan, t) + 1
    keys, values = cache_of(plan, layer, head // n_group(plan), t)
    for i in range(4):
        query_of(plan, layer, head + next_head * i, t + next_token * i, q + 4 * padded * i)
    if memory_f32(plan) != 0:
        attend_four_f32(q, keys, values, stride, n_keys, next_token, padded, scores, score_bytes(plan), y)
    else:
        attend_four_f16(q, keys, values, stride, n_keys, next_token, padded, scores, score_bytes(plan), y)
    for i in range(4):
        copy_bytes(result_of(plan, head + next_head * i, t + next_token * i), y + 4 * padded * i, 4 * head_dim(plan))


@compiled
def room_for_heads(plan, scratch):
    """Queries and results, f32 [4][head_pad] each, zero at the ends; scores, f32 [4][n_ctx + 32]."""
    q, half = scratch + scratch_vector(plan), 16 * head_pad(plan)
    zero_bytes(q, 2 * half)
    return q, q + half, scratch + scratch_scores(plan)


# What one unit of work is.


@compiled
def remember_head(plan, layer, head_kv, scratch):
    """Keys and values of one head, of all tokens of this call, into the cache."""
    keep_apart()
    k, v, _ = room_for_heads(plan, scratch)
    for t in range(n_tokens(plan)):
        remember_token(plan, layer, head_kv, t, k, v)


@compiled
def attention_head(plan, layer, head, scratch):
    """One head of queries of all tokens, which are all remembered, four by four where they follow each other."""
    keep_apart()
    q, y, scores = room_for_heads(plan, scratch)
    tokens = n_tokens(plan)
    by_four = tokens - tokens % 4 if one_text(plan) != 0 else 0
    for t in range(0, by_four, 4):
        attend_to_four(plan, layer, head, t, 0, 1, q, y, scores)
    for t in range(by_four, tokens):
        attend_one(plan, layer, head, t, q, y, scores)


@compiled
def attention_group(plan, layer, head_kv, scratch):
    """One token: remember it, and then the queries that share these keys and values, four by four."""
    keep_apart()
    remember_head(plan, layer, head_kv, scratch)
    q, y, scores = room_for_heads(plan, scratch)
    n = n_group(plan)
    for head in range(head_kv * n, head_kv * n + n - n % 4, 4):
        attend_to_four(plan, layer, head, 0, 1, 0, q, y, scores)
    for head in range(head_kv * n + n - n % 4, head_kv * n + n):
        attend_one(plan, layer, head, 0, q, y, scores)
