"""The transformer in compiled code: one call a thread evaluates a token, another a batch of tokens.

Both read like `llama_ref.arithmetic.transformer.forward`, with the work of each operation cut into units that the
threads take (see `threads`). Arrays are addresses; their shapes stand beside them.

A matrix brings the addresses of the functions that multiply it, so these two are compiled once for all models. For each
kind of matrix there is a product with one vector (straight from the blocks of the file, a row at a time: it is as fast
as the memory) and a product with many vectors (rows packed by sixteen, see `fast_blocks.make_tile`: as fast as the
arithmetic). Every sum is made of the same terms in the same order in both, so a batch gives the same floats as its
tokens one by one, and any number of threads the same as one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    absolute,
    add,
    copy_bytes,
    div,
    exp,
    fill,
    keep_apart,
    largest,
    load,
    load_f32,
    mad,
    maximum,
    mul,
    round_to_int,
    store,
    store_f32,
    store_i32,
    sub,
    total,
    total_int,
    zero_bytes,
    zeros,
)

from .attention import attention_head
from .blocks import store_biased_codes, store_codes
from .layouts import (
    FEW_TOKENS,
    GROUP,
    GROUP_BYTES,
    OFFSET,
    OFFSET_FIRST,
    OFFSET_SECOND,
    PANELS,
    SCALE,
    SUM,
    SUM_FIRST,
    SUM_SECOND,
    TOKEN_BYTES,
)
from .plan_fields import (
    EPS,
    LAYER_SIZE,
    MATRIX_SIZE,
    OUTPUT,
    W1,
    W2,
    W3,
    WO,
    WQ,
    any_float,
    any_quantized,
    attention_at,
    attention_norm_at,
    barrier_at,
    cancel_at,
    counters_at,
    ffn_norm_at,
    gate_at,
    layers_at,
    logits_at,
    matrix_at,
    n_embd,
    n_ff,
    n_head,
    n_layer,
    n_logits,
    n_threads,
    n_tokens,
    n_vocab,
    norm_at,
    normed_at,
    panel_function,
    qkv_at,
    records_at,
    rows_function,
    scratch_at,
    scratch_bytes,
    scratch_panel,
    scratch_record,
    scratch_sums,
    scratch_vector,
    up_at,
    x_at,
)
from .products import PANEL_SIGNATURE, ROWS_SIGNATURE, TOKENS, call_by_address, lane_count, lane_start
from .threads import LINE, make_barrier, make_take

__all__ = ["SIGNATURE", "make_evaluators", "read_memory"]

ROWS = 64  # of a matrix, in a unit of work of the product with one vector
PANEL_ROWS = GROUP * PANELS
SIGNATURE = types.int64(types.int64, types.int64)  # (address of a PLAN, number of the thread) -> 0


# Norm and quantization of a vector.


@compiled
def norm_scale(x, n, eps):
    """1 / sqrt(mean(x²) + eps); x: f32 [n]."""
    squares = zeros()
    for i in range(0, 4 * n, 64):
        v = load(x + i)
        squares = mad(v, v, squares)
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
def silu_mul(gate, up, n):
    """gate = silu(gate) · up, f32 [n], n a multiple of sixteen; silu(x) = x / (1 + exp(-x))."""
    keep_apart()
    one = fill(np.float32(1))
    for i in range(0, 4 * n, 64):
        g = load(gate + i)
        store(gate + i, mul(div(g, add(one, exp(sub(zeros(), g)))), load(up + i)))


# A matrix of one kind times vectors.


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
