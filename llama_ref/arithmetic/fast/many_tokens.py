"""Many tokens at a time: `batch` reads like `llama_ref.arithmetic.transformer.forward`.

Each operation is a phase. Its units of work are *panels*, rows of a matrix, which are packed by sixteen and then meet
all tokens (see `blocks.make_tile`), as fast as the arithmetic. Or they are heads; or, between matrices, tokens to
quantize.

Every sum is made of the same terms in the same order as for one token, so a batch gives the same floats as its tokens
one by one, and any number of threads the same as one.
"""

from __future__ import annotations

from ggmlpy.machine.kernels import compiled

from .activations import (
    groups_bytes,
    leave_out_token,
    normalize_or_copy,
    put_in_tile,
    quantize_groups,
    quantize_token,
    quantize_token_superblocks,
    silu_mul,
)
from .attention import attention_head, remember_head
from .layouts import AS_FLOATS, FEW_TOKENS, GROUP, IN_BLOCKS, PANELS
from .matrix_functions import PANEL_SIGNATURE, call_by_address
from .one_token import NO_BIAS, NO_NORM, begin_rows, bias_of_qkv, logits, part_of_qkv, prepare
from .panel_products import TOKENS
from .plan_fields import (
    MATRIX_SIZE,
    OUTPUT,
    W1,
    W2,
    W3,
    WO,
    WQ,
    any_blocks,
    any_floats,
    any_superblocks,
    attention_at,
    attention_norm_at,
    bias_w1,
    bias_w2,
    bias_w3,
    bias_wo,
    counters_at,
    few_function,
    ffn_norm_at,
    form_of,
    gate_at,
    layer_at,
    logits_at,
    matrix_at,
    n_embd,
    n_ff,
    n_head,
    n_head_kv,
    n_kv,
    n_layer,
    n_logits,
    n_q,
    n_tokens,
    n_vocab,
    norm_at,
    normed_at,
    panel_function,
    qkv_at,
    qkv_width,
    records_at,
    scratch_panel,
    scratch_sums,
    scratch_vector,
    superblocks_at,
    up_at,
    x_at,
)
from .work import phase, scratch_of, units

__all__ = ["batch"]

PANEL_ROWS = GROUP * PANELS  # in a unit of work

multiply_panel = call_by_address(PANEL_SIGNATURE)


@compiled
def prepare_token(plan, x, norm, n, t, tokens, scratch):
    """norm(x) of token t of `tokens`, in all forms that matrices meet: what `panel_of` multiplies.

    x: f32 [tokens, n].
    """
    source, y = x + 4 * n * t, scratch + scratch_vector(plan)
    normalize_or_copy(plan, source, norm, n, y)
    if any_floats(plan) != 0:
        put_in_tile(y, n, normed_at(plan), t, tokens)
    if any_superblocks(plan) != 0:
        quantize_token_superblocks(y, n, superblocks_at(plan), t, tokens)
    if any_blocks(plan) == 0:
        return
    if tokens <= FEW_TOKENS:
        quantize_groups(y, n, records_at(plan) + t * groups_bytes(n))
        return
    n_tiles = units(tokens, TOKENS)
    quantize_token(y, n, records_at(plan), t, n_tiles)
    if t == tokens - 1:
        for nobody in range(tokens, n_tiles * TOKENS):
            leave_out_token(n, records_at(plan), nobody, n_tiles)


@compiled
def prepared(plan, form):
    """All prepared tokens in one form."""
    if form == AS_FLOATS:
        return normed_at(plan)
    return records_at(plan) if form == IN_BLOCKS else superblocks_at(plan)


@compiled
def panel_of(plan, matrix, bias, cols, first, n_rows, tokens, scratch, y, y_width, accumulate):
    """y[:, first : first + PANEL_ROWS] = (or +=) rows of a MATRIX times all prepared tokens, and their bias.

    y: f32 [tokens, y_width].

    For a few tokens rows are not packed: that would take longer than it saves.
    """
    room, sums = scratch + scratch_panel(plan), scratch + scratch_sums(plan)
    base, last, more = matrix_at(matrix), min(first + PANEL_ROWS, n_rows), accumulate
    x, function = prepared(plan, form_of(matrix)), panel_function(matrix)
    for t in range(tokens if bias != 0 else 0):
        more = begin_rows(bias, first, last, y + 4 * y_width * t, accumulate)
    if tokens <= FEW_TOKENS:
        function = few_function(matrix)
    multiply_panel(function, base, cols, first, last, tokens, x, room, sums, y, 4 * y_width, more)


# The operations of a layer: how many units there are, and what a unit is. Between matrices it is a token.


@compiled
def token_for_attention(plan, layer, t, scratch):
    norm = attention_norm_at(layer_at(plan, layer))
    prepare_token(plan, x_at(plan), norm, n_embd(plan), t, n_tokens(plan), scratch)


@compiled
def token_for_output(plan, layer, t, scratch):
    prepare_token(plan, attention_at(plan), NO_NORM, n_q(plan), t, n_tokens(plan), scratch)


@compiled
def token_for_gate(plan, layer, t, scratch):
    norm = ffn_norm_at(layer_at(plan, layer))
    prepare_token(plan, x_at(plan), norm, n_embd(plan), t, n_tokens(plan), scratch)


@compiled
def token_for_down(plan, layer, t, scratch):
    prepare_token(plan, gate_at(plan), NO_NORM, n_ff(plan), t, n_tokens(plan), scratch)


@compiled
def token_for_logits(plan, layer, t, scratch):
    """Of the last n_logits tokens."""
    width, wanted = n_embd(plan), n_logits(plan)
    x = x_at(plan) + 4 * width * (n_tokens(plan) - wanted)
    prepare_token(plan, x, norm_at(plan), width, t, wanted, scratch)


@compiled
def n_width(plan):
    return units(n_embd(plan), PANEL_ROWS)


@compiled
def n_hidden(plan):
    return units(n_ff(plan), PANEL_ROWS)


@compiled
def n_qkv(plan):
    return units(n_q(plan), PANEL_ROWS) + 2 * units(n_kv(plan), PANEL_ROWS)


@compiled
def n_pieces(plan):
    return units(n_vocab(plan), PANEL_ROWS)


@compiled
def qkv_panel(plan, layer, unit, scratch):
    """Queries, then keys, then values."""
    w, tokens = layer_at(plan, layer), n_tokens(plan)
    which, begin, rows, place = part_of_qkv(plan, unit, PANEL_ROWS)
    matrix, y, bias = w + WQ + MATRIX_SIZE * which, qkv_at(plan) + 4 * place, bias_of_qkv(w, which)
    first = (unit - begin) * PANEL_ROWS
    panel_of(plan, matrix, bias, n_embd(plan), first, rows, tokens, scratch, y, qkv_width(plan), 0)


@compiled
def output_panel(plan, layer, unit, scratch):
    """What attention gives, added to the residual stream."""
    width, w, first = n_embd(plan), layer_at(plan, layer), unit * PANEL_ROWS
    panel_of(plan, w + WO, bias_wo(w), n_q(plan), first, width, n_tokens(plan), scratch, x_at(plan), width, 1)


@compiled
def gate_and_up_panel(plan, layer, unit, scratch):
    """silu(w1 · x) · (w3 · x)."""
    width, hidden, first, tokens = n_embd(plan), n_ff(plan), unit * PANEL_ROWS, n_tokens(plan)
    w, gate, up = layer_at(plan, layer), gate_at(plan), up_at(plan)
    panel_of(plan, w + W1, bias_w1(w), width, first, hidden, tokens, scratch, gate, hidden, 0)
    panel_of(plan, w + W3, bias_w3(w), width, first, hidden, tokens, scratch, up, hidden, 0)
    for t in range(tokens):
        place = 4 * (t * hidden + first)
        silu_mul(gate + place, up + place, min(PANEL_ROWS, hidden - first))


@compiled
def down_panel(plan, layer, unit, scratch):
    """What the feed-forward layer gives, added to the residual stream."""
    width, w, first = n_embd(plan), layer_at(plan, layer), unit * PANEL_ROWS
    panel_of(plan, w + W2, bias_w2(w), n_ff(plan), first, width, n_tokens(plan), scratch, x_at(plan), width, 1)


@compiled
def logit_panel(plan, layer, unit, scratch):
    first, n = unit * PANEL_ROWS, n_vocab(plan)
    panel_of(plan, plan + OUTPUT, NO_BIAS, n_embd(plan), first, n, n_logits(plan), scratch, logits_at(plan), n, 0)


prepare_attention = phase(n_tokens, token_for_attention)
project_qkv = phase(n_qkv, qkv_panel)
remember = phase(n_head_kv, remember_head)
attend = phase(n_head, attention_head)
prepare_output = phase(n_tokens, token_for_output)
project_output = phase(n_width, output_panel)
prepare_gate = phase(n_tokens, token_for_gate)
gate_and_up = phase(n_hidden, gate_and_up_panel)
prepare_down = phase(n_tokens, token_for_down)
down = phase(n_width, down_panel)
prepare_logits = phase(n_logits, token_for_logits)
all_logits = phase(n_pieces, logit_panel)


@compiled
def batch(plan, thread):
    """n_tokens tokens at their places: from x in the plan (their embeddings) to logits, keys and values."""
    work = counters_at(plan)
    for layer in range(n_layer(plan)):
        work = prepare_attention(plan, thread, work, layer)
        work = project_qkv(plan, thread, work, layer)
        work = remember(plan, thread, work, layer)
        work = attend(plan, thread, work, layer)
        work = prepare_output(plan, thread, work, layer)
        work = project_output(plan, thread, work, layer)
        work = prepare_gate(plan, thread, work, layer)
        work = gate_and_up(plan, thread, work, layer)
        work = prepare_down(plan, thread, work, layer)
        work = down(plan, thread, work, layer)
    if n_logits(plan) == 1:
        last = x_at(plan) + 4 * n_embd(plan) * (n_tokens(plan) - 1)
        prepare(plan, last, norm_at(plan), n_embd(plan), scratch_of(plan, thread))
        logits(plan, thread, work, 0)
    elif n_logits(plan) > 1:
        work = prepare_logits(plan, thread, work, 0)
        all_logits(plan, thread, work, 0)
    return 0
