"""What compiled code is told about a model: one record of 64-bit integers, and how large its working memory is.

The record is the only argument of the kernels besides the number of the thread. Here are its fields, for both sides.
Names that end in `_at` are addresses.
"""

from __future__ import annotations

import numpy as np

__all__ = ["LAYER", "MATRIX", "PLAN", "TOKENS_A_CALL"]

TOKENS_A_CALL = 128  # a longer batch is evaluated in pieces: their activations fit the second-level cache

# fmt: off
MATRIX = np.dtype([("at", "<i8"), ("rows", "<i8"), ("panel", "<i8")])  # its blocks, and what multiplies them
PLAN = np.dtype([(name, MATRIX if name == "output" else "<i8") for name in (
    # shapes
    "n_threads", "n_vocab", "n_embd", "n_ff", "n_head", "n_layer", "head_dim",
    "head_pad",      # head_dim rounded up to a multiple of 16
    # this call
    "n_tokens",      # tokens to evaluate, at most TOKENS_A_CALL
    "n_past",        # position of the first
    "n_logits",      # how many of the last tokens to give logits for
    # whether there are matrices that meet quantized vectors, or f32 ones
    "any_quantized", "any_float",
    # constants, as the 32 bits of a float
    "eps_bits",
    # the model
    "layers_at",     # LAYER [n_layer]
    "norm_at",       # f32 [n_embd]
    "output",        # MATRIX [n_vocab, n_embd]
    "rope_at",       # f32 [n_ctx][head_dim/2][cos, sin]
    # keys and values: f16 or f32 [n_layer][n_head][n_ctx][head_pad]
    "keys_at", "values_at", "memory_f32", "layer_bytes", "head_bytes", "position_bytes",
    # activations, f32
    "x_at",          # [n_tokens, n_embd] the residual stream; filled with the embeddings by the caller
    "qkv_at",        # [n_tokens, 3 * n_embd]
    "attention_at",  # [n_tokens, n_embd]
    "gate_at",       # [n_tokens, n_ff]
    "up_at",         # [n_tokens, n_ff]
    "normed_at",     # [n_tokens, max(n_embd, n_ff)]
    "logits_at",     # [n_logits, n_vocab]
    "records_at",    # the quantized vectors of all tokens
    # threads
    "barrier_at",    # BARRIER_BYTES
    "counters_at",   # i64 [phases][n_threads], a cache line each
    "cancel_at",     # i64
    "scratch_at",    # scratch_bytes for each thread: see `fast_kernels`
    "scratch_bytes",
    "scratch_vector",  # offsets in it
    "scratch_record",
    "scratch_panel",
    "scratch_sums",
    "scratch_scores",
    "score_bytes",   # from one query's scores to the next's
)])
LAYER = np.dtype([
    ("attention_norm_at", "<i8"), ("ffn_norm_at", "<i8"),
    ("wq", MATRIX), ("wk", MATRIX), ("wv", MATRIX), ("wo", MATRIX),
    ("w1", MATRIX), ("w2", MATRIX), ("w3", MATRIX),
])
# fmt: on
