"""The fields of a plan as kernels read them."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import I64, address, at, integer, load_as, load_i64, op

from .plan import LAYER, MATRICES, MATRIX, PLACE_BYTES, PLAN


def field(name: str, record: np.dtype = PLAN) -> Any:
    """The operation (address of a record) -> the value of one of its fields."""
    fields = record.fields
    assert fields is not None
    offset = fields[name][1]

    @op(integer, address)
    def read(b: ir.IRBuilder, a: Any) -> Any:
        return load_as(b, at(b, a, offset), I64)

    return read


n_threads, n_vocab, n_embd, n_ff, n_layer, head_dim, head_pad = map(
    field, ("n_threads", "n_vocab", "n_embd", "n_ff", "n_layer", "head_dim", "head_pad")
)
n_head, n_head_kv, n_group, n_q, n_kv = map(field, ("n_head", "n_head_kv", "n_group", "n_q", "n_kv"))
any_floats, any_blocks, any_superblocks = map(field, ("any_floats", "any_blocks", "any_superblocks"))
n_tokens, n_logits, places_at, one_text = map(field, ("n_tokens", "n_logits", "places_at", "one_text"))
layers_at, norm_at = map(field, ("layers_at", "norm_at"))
rope_at, pair_step, pair_apart = map(field, ("rope_at", "pair_step", "pair_apart"))
memory_f32, layer_bytes, head_bytes, position_bytes = map(
    field, ("memory_f32", "layer_bytes", "head_bytes", "position_bytes")
)
x_at, qkv_at, attention_at, gate_at, up_at, logits_at = map(
    field, ("x_at", "qkv_at", "attention_at", "gate_at", "up_at", "logits_at")
)
normed_at, records_at, superblocks_at = map(field, ("normed_at", "records_at", "superblocks_at"))
barrier_at, counters_at, cancel_at, scratch_at, scratch_bytes = map(
    field, ("barrier_at", "counters_at", "cancel_at", "scratch_at", "scratch_bytes")
)
scratch_vector, scratch_record, scratch_superblocks = map(
    field, ("scratch_vector", "scratch_record", "scratch_superblocks")
)
scratch_panel, scratch_sums, scratch_scores, score_bytes = map(
    field, ("scratch_panel", "scratch_sums", "scratch_scores", "score_bytes")
)
attention_norm_at, ffn_norm_at = field("attention_norm_at", LAYER), field("ffn_norm_at", LAYER)
head_norm_wq, head_norm_wk = field("head_norm_wq", LAYER), field("head_norm_wk", LAYER)
EPS, OUTPUT = (PLAN.fields[name][1] for name in ("eps_bits", "output"))  # type: ignore[index]
WQ, WO, W1, W2, W3 = (LAYER.fields[name][1] for name in ("wq", "wo", "w1", "w2", "w3"))  # type: ignore[index]
LAYER_SIZE, MATRIX_SIZE = LAYER.itemsize, MATRIX.itemsize
bias_wq, bias_wk, bias_wv, bias_wo, bias_w1, bias_w2, bias_w3 = (field(f"bias_{name}", LAYER) for name in MATRICES)
matrix_at, rows_function, panel_function, few_function, form_of, far_ahead, near_ahead, shape_of = (
    field(name, MATRIX) for name in MATRIX.names or ()
)


@compiled
def position_of(plan, t):
    """Of a token in its text."""
    return load_i64(places_at(plan) + PLACE_BYTES * t)


@compiled
def qkv_width(plan):
    """Queries, keys and values of a token, side by side."""
    return n_q(plan) + 2 * n_kv(plan)


@compiled
def layer_at(plan, layer):
    """The address of a LAYER."""
    return layers_at(plan) + layer * LAYER_SIZE
