"""One token at a time: `token` reads like `llama_ref.arithmetic.transformer.forward`.

Each operation is a phase whose units of work are rows of a matrix, or heads. Rows are multiplied with the one vector
straight from the blocks of the file, as fast as the memory delivers them: in four streams side by side, which run on
through all the units of a thread's share (`streams`), for processors read ahead where reading goes on. Every thread
normalizes and quantizes that vector for itself, which takes less time than to wait for another that does.

A matrix brings the addresses of the functions that multiply it, so this is compiled once for all models.
"""

from __future__ import annotations

from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import load_f32, store_f32

from .activations import normalize_or_copy, quantize_groups, quantize_superblocks, silu_mul
from .attention import attention_group
from .layouts import A_BYTES, AS_FLOATS, IN_SUPERBLOCKS, LONG_STREAMS, ROWS, SIDE_BY_SIDE
from .matrix_functions import PANEL_SIGNATURE, ROWS_SIGNATURE, call_by_address
from .plan_fields import (
    MATRIX_SIZE,
    OUTPUT,
    W1,
    W2,
    W3,
    WO,
    WQ,
    any_blocks,
    any_superblocks,
    attention_at,
    attention_norm_at,
    bias_w1,
    bias_w2,
    bias_w3,
    bias_wk,
    bias_wo,
    bias_wq,
    bias_wv,
    counters_at,
    far_ahead,
    few_function,
    ffn_norm_at,
    form_of,
    gate_at,
    layer_at,
    logits_at,
    matrix_at,
    n_embd,
    n_ff,
    n_head_kv,
    n_kv,
    n_layer,
    n_q,
    n_threads,
    n_vocab,
    near_ahead,
    norm_at,
    qkv_at,
    rows_function,
    scratch_record,
    scratch_sums,
    scratch_superblocks,
    scratch_vector,
    shape_of,
    up_at,
    x_at,
)
from .work import phase, scratch_of, units

__all__ = ["NO_BIAS", "NO_NORM", "begin_rows", "bias_of_qkv", "logits", "multiply", "part_of_qkv", "prepare", "token"]

NO_NORM = NO_BIAS = 0

multiply, multiply_few = call_by_address(ROWS_SIGNATURE), call_by_address(PANEL_SIGNATURE)


@compiled
def prepare(plan, x, norm, n, scratch):
    """norm(x), f32 [n], in this thread's scratch, in all forms that matrices meet: what `rows_of` multiplies."""
    y = scratch + scratch_vector(plan)
    normalize_or_copy(plan, x, norm, n, y)
    if any_blocks(plan) != 0:
        quantize_groups(y, n, scratch + scratch_record(plan))
    if any_superblocks(plan) != 0:
        quantize_superblocks(y, n, scratch + scratch_superblocks(plan), A_BYTES)


@compiled
def streams(plan, matrix, unit, n_units, begin, rows):
    """Which rows of a matrix a unit is: first, quarter, apart and last as `Product.rows` takes them.

    The units of a matrix [rows] are begin, begin + 1 … of the n_units of a phase. Those of a thread's share that have
    ROWS rows take the rows of this share together: each the next few of its first, second, third and fourth quarter.
    (Where that is not the shape of a MATRIX, each unit takes the rows that follow those of the unit before.)
    """
    team = n_threads(plan)
    owner = ((unit + 1) * team - 1) // n_units
    share_begin = max(owner * n_units // team, begin)
    share_end = min((owner + 1) * n_units // team, begin + rows // ROWS)
    if unit >= share_end:  # the last rows, fewer than ROWS
        first = (unit - begin) * ROWS
        return first, (rows - first) // 4, (rows - first) // 4, rows
    if shape_of(matrix) != LONG_STREAMS:
        return (unit - begin) * ROWS, ROWS // 4, ROWS // 4, 0
    first = (share_begin - begin) * ROWS + (unit - share_begin) * (ROWS // 4)
    return first, ROWS // 4, (share_end - share_begin) * (ROWS // 4), 0


@compiled
def begin_rows(bias, first, last, y, accumulate):
    """Put a bias, f32, into y[first : last] before the product is added; whether that is to be added."""
    if bias == 0:
        return accumulate
    for i in range(4 * first, 4 * last, 4):
        store_f32(y + i, load_f32(bias + i) + load_f32(y + i) if accumulate != 0 else load_f32(bias + i))
    return 1


@compiled
def rows_of(plan, matrix, bias, cols, place, scratch, y, accumulate):
    """y = (or +=) the rows at `place` (see `streams`) of a MATRIX times the prepared vector, and their bias."""
    form, (first, quarter, apart, last), more = form_of(matrix), place, accumulate
    x = scratch_vector(plan) if form == AS_FLOATS else scratch_record(plan)
    x = scratch + (scratch_superblocks(plan) if form == IN_SUPERBLOCKS else x)
    for i in range(4):
        more = begin_rows(bias, first + i * apart, first + i * apart + quarter, y, accumulate)
    begin_rows(bias, first + 4 * quarter, last, y, accumulate)
    base, spare, function = matrix_at(matrix), scratch + scratch_sums(plan), rows_function(matrix)
    if shape_of(matrix) == SIDE_BY_SIDE:
        end = last if last != 0 else first + ROWS
        multiply_few(few_function(matrix), base, cols, first, end, 1, x, 0, spare, y, 0, more)
        return
    far, near = far_ahead(matrix), near_ahead(matrix)
    multiply(function, base, cols, x, spare, first, quarter, apart, last, y, more, far, near)


@compiled
def bias_of_qkv(w, which):
    """The bias of queries, keys or values."""
    return bias_wq(w) if which == 0 else bias_wk(w) if which == 1 else bias_wv(w)


@compiled
def part_of_qkv(plan, unit, size):
    """Of a unit of queries, keys and values: which of them, its first unit, how many rows it has, where they go."""
    of_q, of_kv = units(n_q(plan), size), units(n_kv(plan), size)
    if unit < of_q:
        return 0, 0, n_q(plan), 0
    which = (unit - of_q) // of_kv
    return 1 + which, of_q + of_kv * which, n_kv(plan), n_q(plan) + n_kv(plan) * which


# The operations of a layer: how many units there are, and what a unit is.


@compiled
def n_width(plan):
    return units(n_embd(plan), ROWS)


@compiled
def n_hidden(plan):
    return units(n_ff(plan), ROWS)


@compiled
def n_qkv(plan):
    return units(n_q(plan), ROWS) + 2 * units(n_kv(plan), ROWS)


@compiled
def n_pieces(plan):
    return units(n_vocab(plan), ROWS)


@compiled
def qkv_rows(plan, layer, unit, scratch):
    """Queries, then keys, then values."""
    w = layer_at(plan, layer)
    which, begin, rows, offset = part_of_qkv(plan, unit, ROWS)
    matrix, y = w + WQ + MATRIX_SIZE * which, qkv_at(plan) + 4 * offset
    place = streams(plan, matrix, unit, n_qkv(plan), begin, rows)
    rows_of(plan, matrix, bias_of_qkv(w, which), n_embd(plan), place, scratch, y, 0)


@compiled
def output_rows(plan, layer, unit, scratch):
    """What attention gives, added to the residual stream."""
    w = layer_at(plan, layer)
    place = streams(plan, w + WO, unit, n_width(plan), 0, n_embd(plan))
    rows_of(plan, w + WO, bias_wo(w), n_q(plan), place, scratch, x_at(plan), 1)


@compiled
def gate_and_up_rows(plan, layer, unit, scratch):
    """silu(w1 · x) · (w3 · x)."""
    w, width, gate, up = layer_at(plan, layer), n_embd(plan), gate_at(plan), up_at(plan)
    first, quarter, apart, last = place = streams(plan, w + W1, unit, n_hidden(plan), 0, n_ff(plan))
    rows_of(plan, w + W1, bias_w1(w), width, place, scratch, gate, 0)
    rows_of(plan, w + W3, bias_w3(w), width, place, scratch, up, 0)
    if last != 0:
        silu_mul(gate + 4 * first, up + 4 * first, last - first)
    for i in range(0 if last != 0 else 4):
        silu_mul(gate + 4 * (first + i * apart), up + 4 * (first + i * apart), quarter)


@compiled
def down_rows(plan, layer, unit, scratch):
    """What the feed-forward layer gives, added to the residual stream."""
    w = layer_at(plan, layer)
    place = streams(plan, w + W2, unit, n_width(plan), 0, n_embd(plan))
    rows_of(plan, w + W2, bias_w2(w), n_ff(plan), place, scratch, x_at(plan), 1)


@compiled
def logit_rows(plan, layer, unit, scratch):
    place = streams(plan, plan + OUTPUT, unit, n_pieces(plan), 0, n_vocab(plan))
    rows_of(plan, plan + OUTPUT, NO_BIAS, n_embd(plan), place, scratch, logits_at(plan), 0)


project_qkv = phase(n_qkv, qkv_rows)
attend = phase(n_head_kv, attention_group)
project_output = phase(n_width, output_rows)
gate_and_up = phase(n_hidden, gate_and_up_rows)
down = phase(n_width, down_rows)
logits = phase(n_pieces, logit_rows)


@compiled
def token(plan, thread):
    """One token at its place: from x in the plan (its embedding) to the logits, the keys and the values."""
    work, scratch = counters_at(plan), scratch_of(plan, thread)
    x, width, hidden = x_at(plan), n_embd(plan), n_ff(plan)
    for layer in range(n_layer(plan)):
        w = layer_at(plan, layer)
        prepare(plan, x, attention_norm_at(w), width, scratch)
        work = project_qkv(plan, thread, work, layer)
        work = attend(plan, thread, work, layer)
        prepare(plan, attention_at(plan), NO_NORM, n_q(plan), scratch)
        work = project_output(plan, thread, work, layer)
        prepare(plan, x, ffn_norm_at(w), width, scratch)
        work = gate_and_up(plan, thread, work, layer)
        prepare(plan, gate_at(plan), NO_NORM, hidden, scratch)
        work = down(plan, thread, work, layer)
    prepare(plan, x, norm_at(plan), width, scratch)
    logits(plan, thread, work, 0)
    return 0
