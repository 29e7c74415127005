"""The transformer in compiled code: one call a thread evaluates a token, another a batch of tokens.

Both read like `llama_ref.text.model.forward`, with the work of each operation cut into units that the threads take (see
`threads`). Arrays are addresses; their shapes stand beside them.

A matrix brings the addresses of the functions that multiply it, so these two are compiled once for all models. For each
kind of matrix there is a product with one vector (straight from the blocks of the file, a row at a time: it is as fast
as the memory) and a product with many vectors (rows packed by sixteen, see `fast_blocks.make_tile`: as fast as the
arithmetic). Every sum is made of the same terms in the same order in both, so a batch gives the same floats as its
tokens one by one, and any number of threads the same as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ggmlpy.machine.features import MACHINE
from ggmlpy.machine.vectors import (
    I8,
    I32,
    I64,
    absolute,
    add,
    address,
    at,
    compiled,
    copy_bytes,
    div,
    exp,
    f32x16,
    fetch_ahead,
    fill,
    fma,
    gather_sums,
    integer,
    keep_apart,
    largest,
    load,
    load_as,
    load_f16,
    load_f32,
    maximum,
    mul,
    nothing,
    number,
    op,
    release_tiles,
    round_to_int,
    shuffle,
    store,
    store_as,
    store_f16,
    store_f32,
    store_i32,
    store_i64,
    sub,
    total,
    total_int,
    use_tiles,
    zero_bytes,
    zeros,
)

from .blocks import MatrixTile, make_group_dot, make_pack_block, make_tile, store_biased_codes, store_codes
from .layouts import (
    FEW_TOKENS,
    FLOATS,
    GROUP,
    GROUP_BYTES,
    LAYOUTS,
    LEVELS,
    OFFSET,
    OFFSET_FIRST,
    OFFSET_SECOND,
    PANELS,
    SCALE,
    SUM,
    SUM_FIRST,
    SUM_SECOND,
    TILE,
    TOKEN_BYTES,
    Layout,
    panel_bytes,
)
from .plan import LAYER, MATRIX, PLAN
from .threads import LINE, make_barrier, make_take

__all__ = ["PANEL_SIGNATURE", "ROWS_SIGNATURE", "SIGNATURE", "make_evaluators", "make_product", "read_memory"]

ROWS = 64  # of a matrix, in a unit of work of the product with one vector
PANEL_ROWS = GROUP * PANELS
FLOAT_COLUMNS, FLOAT_TOKENS = 1024, 32  # of f16 and f32: what stays in the first and in the second-level cache
LOWEST = -1e30  # instead of -inf: exp brings it to 0 without a special case
SIGNATURE = types.int64(types.int64, types.int64)  # (address of a PLAN, number of the thread) -> 0
ROWS_SIGNATURE = types.int64(*[types.int64] * 9)  # see Product
PANEL_SIGNATURE = types.int64(*[types.int64] * 12)


def field(name: str, record: np.dtype = PLAN) -> Any:
    """The operation (address of a record) -> the value of one of its fields."""
    fields = record.fields
    assert fields is not None
    offset = fields[name][1]

    @op(integer, address)
    def read(b: ir.IRBuilder, a: Any) -> Any:
        return load_as(b, at(b, a, offset), I64)

    return read


n_threads, n_vocab, n_embd, n_ff, n_head, n_layer, head_dim, head_pad = map(
    field, ("n_threads", "n_vocab", "n_embd", "n_ff", "n_head", "n_layer", "head_dim", "head_pad")
)
any_quantized, any_float = map(field, ("any_quantized", "any_float"))
n_tokens, n_past, n_logits = map(field, ("n_tokens", "n_past", "n_logits"))
layers_at, norm_at, rope_at = map(field, ("layers_at", "norm_at", "rope_at"))
keys_at, values_at, memory_f32, layer_bytes, head_bytes, position_bytes = map(
    field, ("keys_at", "values_at", "memory_f32", "layer_bytes", "head_bytes", "position_bytes")
)
x_at, qkv_at, attention_at, gate_at, up_at, normed_at, logits_at, records_at = map(
    field, ("x_at", "qkv_at", "attention_at", "gate_at", "up_at", "normed_at", "logits_at", "records_at")
)
barrier_at, counters_at, cancel_at, scratch_at, scratch_bytes = map(
    field, ("barrier_at", "counters_at", "cancel_at", "scratch_at", "scratch_bytes")
)
scratch_vector, scratch_record, scratch_panel, scratch_sums, scratch_scores, score_bytes = map(
    field, ("scratch_vector", "scratch_record", "scratch_panel", "scratch_sums", "scratch_scores", "score_bytes")
)
attention_norm_at, ffn_norm_at = field("attention_norm_at", LAYER), field("ffn_norm_at", LAYER)
EPS, OUTPUT = (PLAN.fields[name][1] for name in ("eps_bits", "output"))  # type: ignore[index]
WQ, WO, W1, W2, W3 = (LAYER.fields[name][1] for name in ("wq", "wo", "w1", "w2", "w3"))  # type: ignore[index]
LAYER_SIZE, MATRIX_SIZE = LAYER.itemsize, MATRIX.itemsize
matrix_at, rows_function, panel_function = (field(name, MATRIX) for name in ("at", "rows", "panel"))


# Norm and quantization of a vector.


@compiled
def norm_scale(x, n, eps):
    """1 / sqrt(mean(x²) + eps); x: f32 [n]."""
    squares = zeros()
    for i in range(0, 4 * n, 64):
        v = load(x + i)
        squares = fma(v, v, squares)
    return np.float32(1) / np.sqrt(total(squares) / np.float32(n) + eps)


@compiled
def normalize(x, weight, n, scale, y):
    """y = x · scale · weight, each f32 [n]."""
    keep_apart()
    s = fill(scale)
    for i in range(0, 4 * n, 64):
        store(y + i, mul(mul(load(x + i), s), load(weight + i)))


@compiled
def block_scale(first, second):
    """The scale da that maps 32 values to -127 … 127, and its inverse."""
    most = largest(maximum(absolute(first), absolute(second)))
    if most > np.float32(1e-30):
        return most / np.float32(127), np.float32(127) / most
    return np.float32(0), np.float32(0)


@compiled
def quantize_groups(x, n, record):
    """A vector f32 [n] to the groups that the product with one vector reads (`fast_blocks`)."""
    keep_apart()
    n_blocks = n // 32
    if n_blocks % GROUP:
        zero_bytes(record + n_blocks // GROUP * GROUP_BYTES, GROUP_BYTES)
    for block in range(n_blocks):
        group, i = record + block // GROUP * GROUP_BYTES, block % GROUP
        lane = group + 4 * (4 * (i % 4) + i // 4)
        first, second = load(x + 128 * block), load(x + 128 * block + 64)
        da, inverse = block_scale(first, second)
        a, c = round_to_int(mul(first, fill(inverse))), round_to_int(mul(second, fill(inverse)))
        store_codes(group + 16 * i, a, c)
        sum_a, sum_c = total_int(a), total_int(c)
        store_f32(lane + SCALE, da)
        store_i32(lane + SUM, sum_a + sum_c)
        store_i32(lane + SUM_FIRST, sum_a)
        store_i32(lane + SUM_SECOND, sum_c)
        store_f32(lane + OFFSET, da * np.float32(sum_a + sum_c))
        store_f32(lane + OFFSET_FIRST, da * np.float32(sum_a))
        store_f32(lane + OFFSET_SECOND, da * np.float32(sum_c))


@compiled
def lane_start(lane, n_blocks):
    """How many blocks lie before those of `lane` when blocks lane, lane+16, lane+32 … stand together."""
    return lane * (n_blocks // GROUP) + min(lane, n_blocks % GROUP)


@compiled
def lane_count(lane, n_blocks):
    """How many blocks are lane, lane+16, lane+32 …"""
    return (n_blocks - lane + GROUP - 1) // GROUP


TILE_PANELS, TOKENS = TILE.panels, TILE.tokens
SUMS_STRIDE = 64 * TOKENS


@compiled
def record_of(records, tile, block, n_blocks, n_tiles):
    """Where the tokens of a tile have their codes and numbers of one block: [lane][tile][block][token of the tile]."""
    lane = block % GROUP
    count = lane_count(lane, n_blocks)
    place = (lane_start(lane, n_blocks) * n_tiles + tile * count + block // GROUP) * TOKENS
    return records + place * TOKEN_BYTES


@compiled
def quantize_token(x, n, records, token, n_tiles):
    """The same codes to where the product with many vectors reads them."""
    keep_apart()
    n_blocks = n // 32
    tile, t = token // TOKENS, token % TOKENS
    for block in range(n_blocks):
        record = record_of(records, tile, block, n_blocks, n_tiles)
        codes, numbers = record + 32 * t, record + 32 * TOKENS + 4 * t
        first, second = load(x + 128 * block), load(x + 128 * block + 64)
        da, inverse = block_scale(first, second)
        a, c = round_to_int(mul(first, fill(inverse))), round_to_int(mul(second, fill(inverse)))
        store_biased_codes(codes, a, c)
        sum_a, sum_c = total_int(a), total_int(c)
        store_f32(numbers, da)
        store_f32(numbers + 4 * TOKENS, da * np.float32(sum_a + sum_c))
        store_f32(numbers + 8 * TOKENS, da * np.float32(sum_a))
        store_f32(numbers + 12 * TOKENS, da * np.float32(sum_c))


@compiled
def leave_out_token(n, records, token, n_tiles):
    """Zeros instead of a token, at the end of the last tile: what lies there otherwise may be floats that are slow."""
    keep_apart()
    for block in range(n // 32):
        numbers = record_of(records, token // TOKENS, block, n // 32, n_tiles) + 32 * TOKENS + 4 * (token % TOKENS)
        for i in range(4):
            store_f32(numbers + 4 * TOKENS * i, np.float32(0))


# Attention.


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
        s0, s1 = fma(load_values(k[0]), q, sums[0]), fma(load_values(k[1]), q, sums[1])
        s2, s3 = fma(load_values(k[2]), q, sums[2]), fma(load_values(k[3]), q, sums[3])
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
        s0, s1 = fma(load_values(v), w, sums[0]), fma(load_values(v + 16 * size), w, sums[1])
        s2, s3 = fma(load_values(v + 32 * size), w, sums[2]), fma(load_values(v + 48 * size), w, sums[3])
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
                total_ = fma(load_values(values + j * stride + size * i), fill(load_f32(weights + 4 * j)), total_)
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


remember_f16, attend_f16, attend_four_f16 = make_attention(load_f16, store_f16, 2)
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


@compiled
def silu_mul(gate, up, n):
    """gate = silu(gate) · up, f32 [n], n a multiple of sixteen; silu(x) = x / (1 + exp(-x))."""
    keep_apart()
    one = fill(np.float32(1))
    for i in range(0, 4 * n, 64):
        g = load(gate + i)
        store(gate + i, mul(div(g, add(one, exp(sub(zeros(), g)))), load(up + i)))


# A matrix of one kind times vectors.


@dataclass(frozen=True)
class Product:
    """The compiled functions of one kind of matrix.

    Attributes:
        rows: (base, cols, vector, record, scratch, first, last, y, accumulate): y[first:last] of one vector.
        panel: (base, cols, first, last, n_tokens, vectors, records, panel, sums, y, y_stride, accumulate): the same
            rows for all tokens.
    """

    rows: Any
    panel: Any


@compiled
def put(y, value, accumulate):
    store_f32(y, load_f32(y) + value if accumulate != 0 else value)


@compiled
def put_four(y, apart, values, accumulate):
    put(y, values[0], accumulate)
    put(y + apart, values[1], accumulate)
    put(y + 2 * apart, values[2], accumulate)
    put(y + 3 * apart, values[3], accumulate)


def make_quantized_product(layout: Layout) -> Product:
    group_dots = [make_group_dot(layout, quads) for quads in (1, 2, 3, 4)]
    one_quad, two_quads, three_quads, group_dot = group_dots
    size = layout.size
    group_size = GROUP * size

    @compiled
    def add_rest(acc, p, record, left, scratch):
        """The last blocks of a row, fewer than a group."""
        keep_apart()
        if left % 4:  # a model whose rows are no multiple of 128: read the rest from a copy with zeros behind it
            copy_bytes(scratch, p, left * size)
            return group_dot(acc, scratch, record)
        if left == 4:
            return one_quad(acc, p, record)
        if left == 8:
            return two_quads(acc, p, record)
        if left == 12:
            return three_quads(acc, p, record)
        return acc

    @compiled
    def row_dot(p, record, n_blocks, scratch):
        """One row, n_blocks blocks at p, times a quantized vector."""
        acc = zeros()
        for _ in range(n_blocks // GROUP):
            acc = group_dot(acc, p, record)
            p += group_size
            record += GROUP_BYTES
        return total(add_rest(acc, p, record, n_blocks % GROUP, scratch))

    @compiled
    def four_dots(p0, apart, record, n_blocks, scratch):
        """The same for four rows, `apart` bytes from one to the next."""
        p1, p2, p3 = p0 + apart, p0 + 2 * apart, p0 + 3 * apart
        a0, a1, a2, a3 = zeros(), zeros(), zeros(), zeros()
        for _ in range(n_blocks // GROUP):
            a0, a1 = group_dot(a0, p0, record), group_dot(a1, p1, record)
            a2, a3 = group_dot(a2, p2, record), group_dot(a3, p3, record)
            p0, p1, p2, p3 = p0 + group_size, p1 + group_size, p2 + group_size, p3 + group_size
            record += GROUP_BYTES
        left = n_blocks % GROUP
        a0, a1 = add_rest(a0, p0, record, left, scratch), add_rest(a1, p1, record, left, scratch)
        a2, a3 = add_rest(a2, p2, record, left, scratch), add_rest(a3, p3, record, left, scratch)
        return total(a0), total(a1), total(a2), total(a3)

    @compiled
    def rows(base, cols, vector, record, scratch, first, last, y, accumulate):
        keep_apart()
        n_blocks = cols // 32
        row_bytes, quarter = n_blocks * size, (last - first) // 4
        if n_blocks % 4:
            zero_bytes(scratch, group_size)
        for row in range(first, first + quarter):
            dots = four_dots(base + row * row_bytes, quarter * row_bytes, record, n_blocks, scratch)
            put_four(y + 4 * row, 4 * quarter, dots, accumulate)
        for row in range(first + 4 * quarter, last):
            put(y + 4 * row, row_dot(base + row * row_bytes, record, n_blocks, scratch), accumulate)
        return 0

    panel = make_panel_product(layout)
    return Product(rows, panel)


# Chain i is that of the blocks i, i+16, i+32 … of a row. Here they are in the order that `put_sums` needs, in which
# `simd.total` adds the lanes (lane 4L + j holds chain 4j + L), and how many levels of sums each of them completes.
CHAINS = tuple(4 * (lane % 4) + lane // 4 for lane in (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15))
COMPLETED = (0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0, 4)


@compiled
def put_rows(y, value, valid, accumulate):
    """Write (or add) the first `valid` lanes to y: f32."""
    if valid >= GROUP:
        store(y, add(load(y), value) if accumulate != 0 else value)
    else:
        for i in range(valid):
            put(y + 4 * i, lane_of(value, i), accumulate)


@op(number, f32x16, integer)
def lane_of(b: ir.IRBuilder, x: Any, i: Any) -> Any:
    return b.extract_element(x, i)


@op(nothing)
def end_tiles(b: ir.IRBuilder) -> None:
    if MACHINE.simd == "amx":
        release_tiles(b)


def make_panel_product(layout: Layout) -> Any:
    """Sixteen rows, or a few times sixteen, times all tokens."""
    pack_block, multiply_tile = make_pack_block(layout), make_tile(layout)
    size, record_size = layout.size, panel_bytes(layout)

    @op(nothing)
    def begin_tiles(b: ir.IRBuilder) -> None:
        if MACHINE.simd == "amx":
            use_tiles(b, MatrixTile(layout).shapes)

    @compiled
    def pack(base, row_bytes, first, last, n_blocks, table, panel):
        """Rows first … first+15 (those from `last` on repeat the one before) to a panel, by chains. table: i64 [16]."""
        keep_apart()
        for row in range(GROUP):
            store_i64(table + 8 * row, base + min(first + row, last - 1) * row_bytes)
        for block in range(n_blocks):
            place = lane_start(block % GROUP, n_blocks) + block // GROUP
            pack_block(table, block * size, panel + place * record_size)

    @compiled
    def panel_product(base, cols, first, last, n, vectors, records, panel, sums, y, y_stride, accumulate):
        keep_apart()
        n_blocks, n_tiles, n_panels = cols // 32, (n + TOKENS - 1) // TOKENS, (last - first + GROUP - 1) // GROUP
        row_bytes, panel_stride = n_blocks * size, n_blocks * record_size
        table = sums  # nothing is summed yet
        n_panels = (n_panels + TILE_PANELS - 1) // TILE_PANELS * TILE_PANELS
        for i in range(n_panels):
            pack(base, row_bytes, min(first + GROUP * i, last - 1), last, n_blocks, table, panel + i * panel_stride)
        begin_tiles()
        for tile in range(n_tiles):
            for step in range(GROUP):
                count, start = lane_count(CHAINS[step], n_blocks), lane_start(CHAINS[step], n_blocks)
                tokens = records + (start * n_tiles + tile * count) * TOKENS * TOKEN_BYTES
                for i in range(0, n_panels, TILE_PANELS):
                    rows = panel + i * panel_stride + start * record_size
                    multiply_tile(rows, panel_stride, tokens, count, sums + i * SUMS_STRIDE, COMPLETED[step])
            whole = sums + (LEVELS - 1) * PANELS * SUMS_STRIDE
            for t in range(tile * TOKENS, min(tile * TOKENS + TOKENS, n)):
                for row in range(first, last, GROUP):
                    value = load(whole + (row - first) // GROUP * SUMS_STRIDE + 64 * (t % TOKENS))
                    put_rows(y + t * y_stride + 4 * row, value, last - row, accumulate)
        end_tiles()
        return 0

    return panel_product


def make_float_product(load_values: Any, size: int) -> Product:
    """f16 and f32: four sums, of columns 0…15, 16…31, 32…47, 48…63 of every 64, are added at the end."""

    @op(nothing, address)
    def fetch_values(b: ir.IRBuilder, a: Any) -> None:
        fetch_ahead(b, a, 64 * size)

    @compiled
    def add_64(sums, p, x):
        """sums, f32 [4][16], += 64 columns at p times those of x, f32 [4][16]."""
        fetch_values(p)
        s0, s1 = fma(load_values(p), x[0], sums[0]), fma(load_values(p + 16 * size), x[1], sums[1])
        s2, s3 = fma(load_values(p + 32 * size), x[2], sums[2]), fma(load_values(p + 48 * size), x[3], sums[3])
        return s0, s1, s2, s3

    @compiled
    def sum_up(sums, p, x, left):
        """The sum of all, after the last columns: none or, as their number is a multiple of 32, half of 64."""
        s0, s1, s2, s3 = sums
        if left:
            s0, s1 = fma(load_values(p), load(x), s0), fma(load_values(p + 16 * size), load(x + 64), s1)
        return total(add(add(s0, s1), add(s2, s3)))

    @compiled
    def row_dot(p, x, cols):
        sums, left = (zeros(), zeros(), zeros(), zeros()), cols % 64
        for _ in range(cols // 64):
            sums = add_64(sums, p, (load(x), load(x + 64), load(x + 128), load(x + 192)))
            p, x = p + 64 * size, x + 256
        return sum_up(sums, p, x, left)

    @compiled
    def four_dots(p0, apart, x, cols):
        """The same for four rows, `apart` bytes from one to the next."""
        p1, p2, p3 = p0 + apart, p0 + 2 * apart, p0 + 3 * apart
        sums, left = (zeros(), zeros(), zeros(), zeros()), cols % 64
        s0, s1, s2, s3 = sums, sums, sums, sums
        for _ in range(cols // 64):
            v = load(x), load(x + 64), load(x + 128), load(x + 192)
            s0, s1, s2, s3 = add_64(s0, p0, v), add_64(s1, p1, v), add_64(s2, p2, v), add_64(s3, p3, v)
            p0, p1, p2, p3, x = p0 + 64 * size, p1 + 64 * size, p2 + 64 * size, p3 + 64 * size, x + 256
        return sum_up(s0, p0, x, left), sum_up(s1, p1, x, left), sum_up(s2, p2, x, left), sum_up(s3, p3, x, left)

    @compiled
    def rows(base, cols, vector, record, scratch, first, last, y, accumulate):
        keep_apart()
        row_bytes, quarter = cols * size, (last - first) // 4
        for row in range(first, first + quarter):
            dots = four_dots(base + row * row_bytes, quarter * row_bytes, vector, cols)
            put_four(y + 4 * row, 4 * quarter, dots, accumulate)
        for row in range(first + 4 * quarter, last):
            put(y + 4 * row, row_dot(base + row * row_bytes, vector, cols), accumulate)
        return 0

    @compiled
    def four_by_four(w, w_stride, x, x_stride, start, stop, sums):
        """sums f32 [4 rows][4 tokens][16] += the columns from `start` to `stop`, sixteen of every 64."""
        a00, a01, a02, a03 = load(sums), load(sums + 64), load(sums + 128), load(sums + 192)
        a10, a11, a12, a13 = load(sums + 256), load(sums + 320), load(sums + 384), load(sums + 448)
        a20, a21, a22, a23 = load(sums + 512), load(sums + 576), load(sums + 640), load(sums + 704)
        a30, a31, a32, a33 = load(sums + 768), load(sums + 832), load(sums + 896), load(sums + 960)
        w1, w2, w3 = w + w_stride, w + 2 * w_stride, w + 3 * w_stride
        x1, x2, x3 = x + x_stride, x + 2 * x_stride, x + 3 * x_stride
        for c in range(start, stop, 64):
            v0, v1, v2, v3 = load(x + 4 * c), load(x1 + 4 * c), load(x2 + 4 * c), load(x3 + 4 * c)
            u = load_values(w + size * c)
            a00, a01, a02, a03 = fma(u, v0, a00), fma(u, v1, a01), fma(u, v2, a02), fma(u, v3, a03)
            u = load_values(w1 + size * c)
            a10, a11, a12, a13 = fma(u, v0, a10), fma(u, v1, a11), fma(u, v2, a12), fma(u, v3, a13)
            u = load_values(w2 + size * c)
            a20, a21, a22, a23 = fma(u, v0, a20), fma(u, v1, a21), fma(u, v2, a22), fma(u, v3, a23)
            u = load_values(w3 + size * c)
            a30, a31, a32, a33 = fma(u, v0, a30), fma(u, v1, a31), fma(u, v2, a32), fma(u, v3, a33)
        store_sixteen(sums, a00, a01, a02, a03, a10, a11, a12, a13, a20, a21, a22, a23, a30, a31, a32, a33)

    @compiled
    def four_rows(w, w_stride, cols, tokens, x, sums, y, y_stride, accumulate):
        """Four rows times all tokens (a multiple of four), FLOAT_COLUMNS at a time, which fit the first-level cache."""
        x_stride = 4 * cols
        zero_bytes(sums, 1024 * tokens)
        for start in range(0, cols, FLOAT_COLUMNS):
            stop = min(start + FLOAT_COLUMNS, cols)
            for t in range(0, tokens, 4):
                for i in range(4):
                    place = sums + 1024 * (t + i)
                    four_by_four(w, w_stride, x + t * x_stride, x_stride, start + 16 * i, stop, place)
        for t in range(tokens):
            for row in range(4):
                s = sums + 1024 * (t - t % 4) + 64 * (4 * row + t % 4)
                low, high = add(load(s), load(s + 1024)), add(load(s + 2048), load(s + 3072))
                put(y + t * y_stride + 4 * row, total(add(low, high)), accumulate)

    @compiled
    def panel(base, cols, first, last, n, vectors, records, panel, sums, y, y_stride, accumulate):
        w_stride, x_stride = cols * size, 4 * cols
        whole_rows, whole_tokens = first + (last - first) // 4 * 4, n // 4 * 4
        for t in range(0, whole_tokens, FLOAT_TOKENS):
            tokens, x = min(FLOAT_TOKENS, whole_tokens - t), vectors + t * x_stride
            for row in range(first, whole_rows, 4):
                place = y + t * y_stride + 4 * row
                four_rows(base + row * w_stride, w_stride, cols, tokens, x, sums, place, y_stride, accumulate)
        for row in range(first, last):
            for t in range(whole_tokens if row < whole_rows else 0, n):
                value = row_dot(base + row * w_stride, vectors + t * x_stride, cols)
                put(y + t * y_stride + 4 * row, value, accumulate)
        return 0

    return Product(rows, panel)


@op(nothing, address, *[f32x16] * 16)
def store_sixteen(b: ir.IRBuilder, a: Any, *values: Any) -> None:
    for i, value in enumerate(values):
        store_as(b, at(b, a, 64 * i), value)


def make_product(kind: str) -> Product:
    if kind in FLOATS:
        return make_float_product(load_f16 if kind == "f16" else load, FLOATS[kind])
    return make_quantized_product(LAYOUTS[kind])


def call_by_address(signature: Any) -> Any:
    """The operation (address of a compiled function, arguments …): call it.

    Numba's convention: a place for the result and one for an exception come before the arguments.
    """
    place = I8.as_pointer()
    kind = ir.FunctionType(I32, [place, place, *[I64] * len(signature.args)])

    @op(nothing, address, *signature.args)
    def call_function(b: ir.IRBuilder, function: Any, *arguments: Any) -> None:
        nowhere = b.bitcast(cgutils.alloca_once(b, I64), place)
        b.call(b.inttoptr(function, kind.as_pointer()), [nowhere, nowhere, *arguments])

    return call_function


# The transformer.


@compiled
def units(n, size):
    return (n + size - 1) // size


@compiled
def groups_bytes(n):
    """Bytes of a vector of n values as `quantize_groups` writes it."""
    return units(n, 32 * GROUP) * GROUP_BYTES


def make_evaluators() -> tuple[Any, Any]:
    """The compiled functions token(plan, thread) and batch(plan, thread).

    Both take x from the plan (the embeddings) and leave the logits, keys and values where the plan says.
    """
    multiply, multiply_panel = call_by_address(ROWS_SIGNATURE), call_by_address(PANEL_SIGNATURE)
    barrier, take = make_barrier(), make_take()

    @compiled
    def meet(plan, work):
        """All threads have come this far; the counters of the next phase."""
        barrier(barrier_at(plan), n_threads(plan))
        return work + LINE * n_threads(plan)

    @compiled
    def prepare(plan, x, norm, n, scratch):
        """norm(x) in this thread's scratch, as f32 [n] and quantized; norm 0: x as it is."""
        y, record = scratch + scratch_vector(plan), scratch + scratch_record(plan)
        if norm != 0:
            normalize(x, norm, n, norm_scale(x, n, load_f32(plan + EPS)), y)
        else:
            copy_bytes(y, x, 4 * n)
        if any_quantized(plan) != 0:
            quantize_groups(y, n, record)

    @compiled
    def rows_of(plan, matrix, cols, first, last, scratch, y, accumulate):
        """y[first:last] = rows of a MATRIX times the prepared vector."""
        x, record = scratch + scratch_vector(plan), scratch + scratch_record(plan)
        spare, base = scratch + scratch_sums(plan), matrix_at(matrix)
        multiply(rows_function(matrix), base, cols, x, record, spare, first, last, y, accumulate)

    @compiled
    def logits_of(plan, thread, x, logits, scratch, work):
        """logits f32 [n_vocab] = output · norm(x)."""
        n, width = n_vocab(plan), n_embd(plan)
        prepare(plan, x, norm_at(plan), width, scratch)
        while True:
            unit = take(work, cancel_at(plan), thread, n_threads(plan), units(n, ROWS))
            if unit < 0:
                break
            rows_of(plan, plan + OUTPUT, width, unit * ROWS, min(unit * ROWS + ROWS, n), scratch, logits, 0)

    @compiled
    def token(plan, thread):
        """One token at position n_past."""
        width, hidden, team = n_embd(plan), n_ff(plan), n_threads(plan)
        x, attention, gate, up = x_at(plan), attention_at(plan), gate_at(plan), up_at(plan)
        scratch = scratch_at(plan) + thread * scratch_bytes(plan)
        work, cancel = counters_at(plan), cancel_at(plan)
        chunks = units(width, ROWS)
        for layer in range(n_layer(plan)):
            w = layers_at(plan) + layer * LAYER_SIZE
            prepare(plan, x, attention_norm_at(w), width, scratch)
            while True:
                unit = take(work, cancel, thread, team, 3 * chunks)
                if unit < 0:
                    break
                which, first = unit // chunks, unit % chunks * ROWS
                y = qkv_at(plan) + 4 * width * which
                rows_of(plan, w + WQ + MATRIX_SIZE * which, width, first, min(first + ROWS, width), scratch, y, 0)
            work = meet(plan, work)
            while True:
                head = take(work, cancel, thread, team, n_head(plan))
                if head < 0:
                    break
                attention_head(plan, layer, head, 1, scratch)
            work = meet(plan, work)
            prepare(plan, attention, 0, width, scratch)
            while True:
                unit = take(work, cancel, thread, team, chunks)
                if unit < 0:
                    break
                rows_of(plan, w + WO, width, unit * ROWS, min(unit * ROWS + ROWS, width), scratch, x, 1)
            work = meet(plan, work)
            prepare(plan, x, ffn_norm_at(w), width, scratch)
            while True:
                unit = take(work, cancel, thread, team, units(hidden, ROWS))
                if unit < 0:
                    break
                first, last = unit * ROWS, min(unit * ROWS + ROWS, hidden)
                rows_of(plan, w + W1, width, first, last, scratch, gate, 0)
                rows_of(plan, w + W3, width, first, last, scratch, up, 0)
                silu_mul(gate + 4 * first, up + 4 * first, last - first)
            work = meet(plan, work)
            prepare(plan, gate, 0, hidden, scratch)
            while True:
                unit = take(work, cancel, thread, team, chunks)
                if unit < 0:
                    break
                rows_of(plan, w + W2, hidden, unit * ROWS, min(unit * ROWS + ROWS, width), scratch, x, 1)
            work = meet(plan, work)
        logits_of(plan, thread, x, logits_at(plan), scratch, work)
        return 0

    @compiled
    def prepare_tokens(plan, thread, work, x, norm, n, first_token, tokens):
        """norm(x) of all tokens, quantized (and as f32 where a matrix is), a token a unit. x: f32 [tokens, n]."""
        n_tiles, spare = units(tokens, TOKENS), scratch_at(plan) + thread * scratch_bytes(plan) + scratch_vector(plan)
        while True:
            t = take(work, cancel_at(plan), thread, n_threads(plan), tokens)
            if t < 0:
                break
            source, y = x + 4 * n * (first_token + t), spare
            if any_float(plan) != 0:
                y = normed_at(plan) + 4 * n * t
            if norm != 0:
                normalize(source, norm, n, norm_scale(source, n, load_f32(plan + EPS)), y)
            else:
                copy_bytes(y, source, 4 * n)
            if any_quantized(plan) != 0:
                if tokens <= FEW_TOKENS:
                    quantize_groups(y, n, records_at(plan) + t * groups_bytes(n))
                else:
                    quantize_token(y, n, records_at(plan), t, n_tiles)
                    if t == tokens - 1:
                        for nobody in range(tokens, n_tiles * TOKENS):
                            leave_out_token(n, records_at(plan), nobody, n_tiles)
        return meet(plan, work)

    @compiled
    def panel_of(plan, matrix, cols, first, n_rows, tokens, scratch, y, y_width, accumulate):
        """y[:, first : first + PANEL_ROWS] = rows of a MATRIX times all prepared tokens. y: f32 [tokens, y_width].

        A few tokens, one after another, find the rows in the second-level cache; packing them would take longer.
        """
        room, sums = scratch + scratch_panel(plan), scratch + scratch_sums(plan)
        base, function, last = matrix_at(matrix), panel_function(matrix), min(first + PANEL_ROWS, n_rows)
        x, records = normed_at(plan), records_at(plan)
        if tokens <= FEW_TOKENS:
            for t in range(tokens):
                vector, record, place = x + 4 * cols * t, records + t * groups_bytes(cols), y + 4 * y_width * t
                multiply(rows_function(matrix), base, cols, vector, record, sums, first, last, place, accumulate)
            return
        multiply_panel(function, base, cols, first, last, tokens, x, records, room, sums, y, 4 * y_width, accumulate)

    @compiled
    def batch(plan, thread):
        """n_tokens tokens at positions n_past …"""
        tokens, width, hidden, team = n_tokens(plan), n_embd(plan), n_ff(plan), n_threads(plan)
        x, attention, gate, up = x_at(plan), attention_at(plan), gate_at(plan), up_at(plan)
        scratch = scratch_at(plan) + thread * scratch_bytes(plan)
        work, cancel = counters_at(plan), cancel_at(plan)
        panels = units(width, PANEL_ROWS)
        for layer in range(n_layer(plan)):
            w = layers_at(plan) + layer * LAYER_SIZE
            work = prepare_tokens(plan, thread, work, x, attention_norm_at(w), width, 0, tokens)
            while True:
                unit = take(work, cancel, thread, team, 3 * panels)
                if unit < 0:
                    break
                which, first = unit // panels, unit % panels * PANEL_ROWS
                y, matrix = qkv_at(plan) + 4 * width * which, w + WQ + MATRIX_SIZE * which
                panel_of(plan, matrix, width, first, width, tokens, scratch, y, 3 * width, 0)
            work = meet(plan, work)
            while True:
                head = take(work, cancel, thread, team, n_head(plan))
                if head < 0:
                    break
                attention_head(plan, layer, head, tokens, scratch)
            work = meet(plan, work)
            work = prepare_tokens(plan, thread, work, attention, 0, width, 0, tokens)
            while True:
                unit = take(work, cancel, thread, team, panels)
                if unit < 0:
                    break
                panel_of(plan, w + WO, width, unit * PANEL_ROWS, width, tokens, scratch, x, width, 1)
            work = meet(plan, work)
            work = prepare_tokens(plan, thread, work, x, ffn_norm_at(w), width, 0, tokens)
            while True:
                unit = take(work, cancel, thread, team, units(hidden, PANEL_ROWS))
                if unit < 0:
                    break
                first = unit * PANEL_ROWS
                panel_of(plan, w + W1, width, first, hidden, tokens, scratch, gate, hidden, 0)
                panel_of(plan, w + W3, width, first, hidden, tokens, scratch, up, hidden, 0)
                for t in range(tokens):
                    place = 4 * (t * hidden + first)
                    silu_mul(gate + place, up + place, min(PANEL_ROWS, hidden - first))
            work = meet(plan, work)
            work = prepare_tokens(plan, thread, work, gate, 0, hidden, 0, tokens)
            while True:
                unit = take(work, cancel, thread, team, panels)
                if unit < 0:
                    break
                panel_of(plan, w + W2, hidden, unit * PANEL_ROWS, width, tokens, scratch, x, width, 1)
            work = meet(plan, work)
        wanted = n_logits(plan)
        if wanted == 1:
            logits_of(plan, thread, x + 4 * width * (tokens - 1), logits_at(plan), scratch, work)
        elif wanted > 1:
            work = prepare_tokens(plan, thread, work, x, norm_at(plan), width, tokens - wanted, wanted)
            n, logits = n_vocab(plan), logits_at(plan)
            while True:
                unit = take(work, cancel, thread, team, units(n, PANEL_ROWS))
                if unit < 0:
                    break
                first = unit * PANEL_ROWS
                panel_of(plan, plan + OUTPUT, width, first, n, wanted, scratch, logits, n, 0)
        return 0

    return token, batch


@compiled
def read_memory(start, size):
    """Read `size` bytes and do next to nothing with them: how fast memory can be read by one thread.

    Eight streams side by side are faster than one, and need no requests in advance.
    """
    part = size // 8 // 64 * 64
    s0, s1, s2, s3 = zeros(), zeros(), zeros(), zeros()
    for p in range(start, start + part, 64):
        s0, s1 = maximum(load(p), s0), maximum(load(p + part), s1)
        s2, s3 = maximum(load(p + 2 * part), s2), maximum(load(p + 3 * part), s3)
        s0, s1 = maximum(load(p + 4 * part), s0), maximum(load(p + 5 * part), s1)
        s2, s3 = maximum(load(p + 6 * part), s2), maximum(load(p + 7 * part), s3)
    return np.int64(largest(maximum(maximum(s0, s1), maximum(s2, s3))) > np.float32(0))
