"""The operations of the transformer in the order of one token: formula, line of the sources, name in llama.cpp.

A line is named by a piece of its text, and found in the source when the page is made: if the source changes so that it
is not there exactly once, the page can't be made, and a test says so.

``shape`` is what an operation gives for one token, ``reads`` the tensor that it takes numbers from (of its layer, where
there is {}), and ``place`` how a number's index leads to these:

==========  =======================================================================================
``place``   number ``i`` of the operation comes from
==========  =======================================================================================
``token``   column ``i`` of the row of the token
``row``     row ``i`` of the matrix, and all numbers of the operation that ``from`` names
``column``  column ``i`` of the vector
``pair``    the two numbers of the pair that ``i`` belongs to, in the operation that ``from`` names
``scores``  the query of the head, and the key of the position that it meets
``same``    number ``i`` of the operations that ``from`` names
``heads``   the head's weights, and the values of all positions
==========  =======================================================================================

Source of the names: ggml's functions, and the nodes of the graph in src/models/llama.cpp and src/llama-graph.cpp of
llama.cpp c392e5094; ``logits --trace`` writes values under the same names.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

__all__ = ["OPERATIONS", "Operation", "operations", "sources"]

TRANSFORMER, REFERENCE = "transformer.py", "reference.py"


@dataclass(frozen=True)
class Operation:
    """One operation; see the module.

    Attributes:
        key: its name in the page's code, where it is the name of the result too.
        formula: in the letters of the paper.
        line: a piece of its line in ``source``.
        llama_cpp: functions of ggml and the name of the node.
        origin: the operations whose numbers it takes.
    """

    key: str
    formula: str
    line: str
    llama_cpp: str
    shape: str
    place: str
    reads: str = ""
    origin: tuple[str, ...] = ()
    source: str = TRANSFORMER


_HEADS = "q, k, v = (heads(op, w, name, h, cache)"
_OUT = 'op.add(linear(op, w, "wo", h), x)'
_GATE = 'gate, up = linear(op, w, "w1", h)'
_DOWN = 'op.add(linear(op, w, "w2", h), x)'
_ATTENTION, _FEED = "layers.{}.attention.", "layers.{}.feed_forward."

# fmt: off
OPERATIONS = (
    Operation("embedding", "x = E[token]", "op.embed(weights.tok_embeddings, tokens)",
              "ggml_get_rows → inp_embd", "n_embd", "token", "tok_embeddings.weight"),
    Operation("attention_norm", "h = x / √(mean(x²) + ε) · g", "op.rms_norm(x, w.attention_norm)",
              "ggml_rms_norm, ggml_mul → attn_norm", "n_embd", "column", "layers.{}.attention_norm.weight",
              ("stream",)),
    Operation("q", "q = W_q h", _HEADS, "ggml_mul_mat → Qcur", "n_q", "row", _ATTENTION + "wq.weight",
              ("attention_norm",)),
    Operation("k", "k = W_k h", _HEADS, "ggml_mul_mat → Kcur", "n_kv", "row", _ATTENTION + "wk.weight",
              ("attention_norm",)),
    Operation("v", "v = W_v h", _HEADS, "ggml_mul_mat → Vcur", "n_kv", "row", _ATTENTION + "wv.weight",
              ("attention_norm",)),
    Operation("q_turned", "(a, b) → (a cos φ − b sin φ, a sin φ + b cos φ), φ = p θᵢ",
              "out_first[...], out_second[...] = first * cos", "ggml_rope_ext → Qcur", "n_q", "pair", "", ("q",),
              REFERENCE),
    Operation("k_turned", "(a, b) → (a cos φ − b sin φ, a sin φ + b cos φ), φ = p θᵢ",
              "op.remember(cache, k, v, n_past)", "ggml_rope_ext → Kcur, and into the cache", "n_kv", "pair", "",
              ("k",)),
    Operation("scores", "s = q · k / √d", "scores = q @ k",
              "ggml_mul_mat → kq, scaled in ggml_soft_max_ext", "n_head seen", "scores", "",
              ("q_turned", "k_turned"), REFERENCE),
    Operation("attention", "a = exp(s) / Σ exp(s)", "probabilities = softmax(np.where(future",
              "ggml_soft_max_ext → kq_soft_max", "n_head seen", "same", "", ("scores",), REFERENCE),
    Operation("mixed", "m = Σ a v", "(probabilities @ v).reshape(n_head, n, head_dim)",
              "ggml_mul_mat → kqv, merged into kqv_out", "n_q", "heads", "", ("attention", "v"), REFERENCE),
    Operation("wo", "o = W_o m", _OUT, "ggml_mul_mat → attn_out", "n_embd", "row", _ATTENTION + "wo.weight",
              ("mixed",)),
    Operation("middle", "x + o", _OUT, "ggml_add → ffn_inp", "n_embd", "same", "", ("wo", "stream")),
    Operation("ffn_norm", "h = x / √(mean(x²) + ε) · g", "op.rms_norm(x, w.ffn_norm)",
              "ggml_rms_norm, ggml_mul → ffn_norm", "n_embd", "column", "layers.{}.ffn_norm.weight", ("middle",)),
    Operation("gate", "g = W₁ h", _GATE, "ggml_mul_mat → ffn_gate", "n_ff", "row", _FEED + "w1.weight",
              ("ffn_norm",)),
    Operation("up", "u = W₃ h", _GATE, "ggml_mul_mat → ffn_up", "n_ff", "row", _FEED + "w3.weight",
              ("ffn_norm",)),
    Operation("gated", "g / (1 + exp(−g)) · u", "op.silu_mul(gate, up)", "ggml_swiglu_split → ffn_swiglu", "n_ff",
              "same", "", ("gate", "up")),
    Operation("down", "d = W₂ (…)", _DOWN, "ggml_mul_mat → ffn_out", "n_embd", "row", _FEED + "w2.weight",
              ("gated",)),
    Operation("result", "x + d", _DOWN, "ggml_add → l_out", "n_embd", "same", "", ("down", "middle")),
    Operation("norm", "x / √(mean(x²) + ε) · g", "op.rms_norm(x[-1:] if last_only else x, weights.norm)",
              "ggml_rms_norm, ggml_mul → result_norm", "n_embd", "column", "norm.weight", ("result",)),
    Operation("logits", "l = W_out x", "op.matmul(weights.output, x)", "ggml_mul_mat → result_output",
              "n_vocab", "row", "output.weight", ("norm",)),
)
# fmt: on


def sources() -> dict[str, str]:
    """The two files that the lines are in."""
    folder = files("llama_ref.arithmetic")
    return {name: folder.joinpath(name).read_text("utf-8") for name in (TRANSFORMER, REFERENCE)}


def operations() -> list[dict[str, Any]]:
    """The table with the number of each line, from 1 on."""
    texts = sources()
    return [{**asdict(each), "line": line_of(texts[each.source], each.line)} for each in OPERATIONS]


def line_of(text: str, piece: str) -> int:
    """The number of the only line that holds ``piece``.

    >>> line_of("a = 1\\nb = 2", "b =")
    2
    """
    found = [number for number, line in enumerate(text.splitlines(), 1) if piece in line]
    if len(found) != 1:
        raise LookupError(f"{piece!r} is on {len(found)} lines of the source, not on one: name another piece of it")
    return found[0]
