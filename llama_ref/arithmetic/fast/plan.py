"""What compiled code knows about a model: one record of 64-bit integers.

The record is the only argument of the kernels besides the number of the thread. Here are its fields, for both sides:
`FastBackend` fills them in, and kernels read each by a function of the same name (see `plan_fields`). Names that end in
`_at` are addresses.
"""

from __future__ import annotations

import numpy as np

__all__ = ["LAYER", "MATRICES", "MATRIX", "PLACE_BYTES", "PLAN", "TOKENS_A_CALL"]

TOKENS_A_CALL = 128  # a longer batch is evaluated in pieces: their activations fit the second-level cache
PLACE_BYTES = 24  # of a token in `places_at`

# fmt: off
MATRIX_FIELDS = {
    "at":                "its blocks",
    "rows":              "the function `Product.rows` of its kind",
    "panel":             "the function `Product.panel` of its kind",
    "few":               "the function `Product.few` of its kind",
    "form":              "of the vectors that it meets: 0 f32, 1 blocks of 32 codes, 2 blocks of 256",
    "far":               "with one vector: how far ahead it is asked for, in bytes (see `read_ahead`)",
    "near":              "the same, into the nearest cache",
    "shape":             "the same: which rows are read together (OWN_STREAMS … of `layouts`)",
}
MATRICES = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")  # of a layer
PLAN_FIELDS = {
    # the model's shape
    "n_vocab":           "pieces of the vocabulary, rows of the output matrix",
    "n_embd":            "width of the residual stream",
    "n_ff":              "width of the feed-forward layer",
    "n_head":            "heads of queries",
    "n_head_kv":         "heads of keys and values",
    "n_group":           "n_head / n_head_kv: heads of queries that share one of keys and values",
    "n_layer":           "layers",
    "head_dim":          "width of a head",
    "n_q":               "n_head * head_dim: width of all queries",
    "n_kv":              "n_head_kv * head_dim: width of all keys, and of all values",
    "head_pad":          "head_dim rounded up to a multiple of 16",
    # the model's weights
    "layers_at":         "LAYER [n_layer]",
    "norm_at":           "f32 [n_embd], the norm before the output",
    "output":            "MATRIX [n_vocab, n_embd]",
    "rope_at":           "f32 [n_ctx][head_dim/2][cos, sin]",
    "pair_step":         "bytes from one rotated pair of a head to the next",
    "pair_apart":        "bytes from the first number of a pair to the second",
    "eps_bits":          "added to the mean square of a norm: the 32 bits of an f32",
    "any_floats":        "1 if there are matrices that meet f32 vectors",
    "any_blocks":        "1 if there are matrices that meet vectors in blocks of 32 codes",
    "any_superblocks":   "1 if there are matrices that meet vectors in blocks of 256 codes (k-quants)",
    # keys and values: [n_layer][n_head_kv][n_ctx][head_pad]
    "memory_f32":        "1 if they are f32, 0 if f16",
    "layer_bytes":       "from one layer to the next",
    "head_bytes":        "from one head to the next",
    "position_bytes":    "from one position to the next",
    # this call
    "n_tokens":          "tokens to evaluate, at most TOKENS_A_CALL",
    "places_at":         "i64 [n_tokens][3]: the position of each, where the keys of its text begin, and its values",
    "one_text":          "1 if they follow each other in one text, 0 if each has a text of its own",
    "n_logits":          "how many of the last tokens to give logits for",
    # activations, f32, and their quantized form
    "x_at":              "[n_tokens, n_embd], the residual stream; the caller fills in the embeddings",
    "qkv_at":            "[n_tokens, n_q + 2 * n_kv], queries, keys and values before rope",
    "attention_at":      "[n_tokens, n_q], what attention gives",
    "gate_at":           "[n_tokens, n_ff], w1 · x, then silu of it times up",
    "up_at":             "[n_tokens, n_ff], w3 · x",
    "normed_at":         "[n_tokens, max(n_embd, n_ff, n_q)], what the next matrix multiplies, for f32 matrices",
    "records_at":        "the same in blocks of 32, of all tokens: see `activations`",
    "superblocks_at":    "the same in blocks of 256",
    "logits_at":         "[n_logits, n_vocab]",
    # threads
    "n_threads":         "threads that evaluate together",
    "barrier_at":        "BARRIER_BYTES, where they meet",
    "counters_at":       "i64 [phases][n_threads], a cache line each: the units of work that are taken",
    "cancel_at":         "i64, not 0 once the evaluation is to end",
    # memory of one thread
    "scratch_at":        "[n_threads], scratch_bytes each",
    "scratch_bytes":     "bytes of a thread",
    "scratch_vector":    "offset of f32 [max(n_embd, n_ff, n_q)], or of a head's queries and results",
    "scratch_record":    "offset of the same vector in blocks of 32",
    "scratch_superblocks": "offset of the same vector in blocks of 256",
    "scratch_panel":     "offset of the rows that are packed for many tokens",
    "scratch_sums":      "offset of sums that do not fit the registers",
    "scratch_scores":    "offset of the scores of four queries",
    "score_bytes":       "from one query's scores to the next's",
}
LAYER_FIELDS = {
    "attention_norm_at": "f32 [n_embd]",
    "ffn_norm_at":       "f32 [n_embd]",
    "wq":                "MATRIX [n_q, n_embd]",
    "wk":                "MATRIX [n_kv, n_embd]",
    "wv":                "MATRIX [n_kv, n_embd]",
    "wo":                "MATRIX [n_embd, n_q]",
    "w1":                "MATRIX [n_ff, n_embd], gate",
    "w2":                "MATRIX [n_embd, n_ff], down",
    "w3":                "MATRIX [n_ff, n_embd], up",
    "head_norm_wq":      "f32 [head_dim], the norm of each head of queries; 0: none",
    "head_norm_wk":      "the same of keys",
    **{f"bias_{name}": f"f32, what is added to the product with {name}; 0: nothing" for name in MATRICES},
}
# fmt: on


def record_of(fields: dict[str, str]) -> np.dtype:
    return np.dtype([(name, MATRIX if meaning.startswith("MATRIX") else "<i8") for name, meaning in fields.items()])


MATRIX = np.dtype([(name, "<i8") for name in MATRIX_FIELDS])
PLAN, LAYER = record_of(PLAN_FIELDS), record_of(LAYER_FIELDS)
