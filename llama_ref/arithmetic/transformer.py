"""The transformer of the LLaMA paper, written once, and the operations that it asks of an arithmetic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.model_file import Tensor
from ggmlpy.formats.model_params import LLAMA_EPS, ModelParams

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayerWeights:
    """The tensors of one layer, as the backend prepared them (matrices opaque, norms float32 [n_embd]).

    ``n_q`` is n_head * head_dim: n_embd, unless the heads have a width of their own. ``n_kv`` is n_head_kv * head_dim:
    as much, unless several queries share a head of keys and values (grouped-query attention, Ainslie et al. 2023).
    """

    attention_norm: F32
    wq: Any  # [n_q, n_embd]
    wk: Any  # [n_kv, n_embd]
    wv: Any  # [n_kv, n_embd]
    wo: Any  # [n_embd, n_q]
    ffn_norm: F32
    w1: Any  # [n_ff, n_embd]  gate
    w2: Any  # [n_embd, n_ff]  down
    w3: Any  # [n_ff, n_embd]  up
    biases: Mapping[str, F32] = field(default_factory=dict)  # by the name of the matrix, where there is one
    head_norms: Mapping[str, F32] = field(default_factory=dict)  # [head_dim] of wq and wk, in Qwen 3


@dataclass(frozen=True)
class Weights:
    """Every tensor of a model, as the backend prepared it."""

    tok_embeddings: Any  # [n_vocab, n_embd]
    layers: tuple[LayerWeights, ...]
    norm: F32  # [n_embd]
    output: Any  # [n_vocab, n_embd]


@dataclass(frozen=True)
class LayerCache:
    """One layer's view of the cache; writing into it writes into the cache."""

    k: npt.NDArray[Any]  # [n_ctx, n_head_kv, head_dim], roped
    v: npt.NDArray[Any]  # [n_ctx, n_head_kv, head_dim]


class KVCache:
    """Keys and values of every position evaluated so far, in float16 (llama.cpp's default) or float32.

    ``length`` counts the positions that hold something; evaluating at a smaller ``n_past`` overwrites what follows.
    """

    def __init__(self, n_layer: int, n_ctx: int, n_head_kv: int, head_dim: int, memory_f32: bool = False) -> None:
        dtype = np.float32 if memory_f32 else np.float16
        self.k = np.zeros((n_layer, n_ctx, n_head_kv, head_dim), dtype)
        self.v = np.zeros((n_layer, n_ctx, n_head_kv, head_dim), dtype)
        self.length = 0

    def layer(self, i: int) -> LayerCache:
        """Return layer `i` as writable views of shape [n_ctx, n_head_kv, head_dim]."""
        return LayerCache(self.k[i], self.v[i])

    def save(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of the filled part, [n_layer, length, n_head_kv, head_dim] each, to be stored or restored."""
        return {"k": self.k[:, : self.length].copy(), "v": self.v[:, : self.length].copy()}

    def restore(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Put back what `save` returned.

        Raises:
            UsageError: if the state belongs to a cache of another shape or precision, or does not fit n_ctx.
        """
        for name, mine in (("k", self.k), ("v", self.v)):
            theirs = state[name]
            fits = theirs.dtype == mine.dtype and theirs.shape[2:] == mine.shape[2:]
            if not fits or theirs.shape[0] != mine.shape[0] or theirs.shape[1] > mine.shape[1]:
                raise UsageError(
                    f"saved cache {name} is {theirs.dtype} {list(theirs.shape)}, which does not fit this model's "
                    f"{mine.dtype} {list(mine.shape)}; use the same model, n_ctx and memory_f32 as when it was saved"
                )
            mine[:, : theirs.shape[1]] = theirs
        self.length = int(state["k"].shape[1])


def forward(
    op: Backend, weights: Weights, cache: KVCache, tokens: npt.NDArray[np.int64], n_past: int, last_only: bool = False
) -> F32:
    """Evaluate one batch and return its logits, [n_tokens, n_vocab], or [1, n_vocab] if `last_only`.

    `tokens` is [n_tokens]; its keys and values go into `cache` at positions n_past … n_past + n_tokens - 1.
    """
    x = op.seen("inp_embd", op.embed(weights.tok_embeddings, tokens))  # [n_tokens, n_embd]
    for i, w in enumerate(weights.layers):
        op.layer = i
        x = layer(op, w, cache.layer(i), x, n_past)
        if op.progress:
            op.progress((i + 1) / len(weights.layers))
    op.layer = None
    x = op.seen("result_norm", op.rms_norm(x[-1:] if last_only else x, weights.norm))
    return op.seen("result_output", op.matmul(weights.output, x))


def layer(op: Backend, w: LayerWeights, cache: LayerCache, x: F32, n_past: int) -> F32:
    """One transformer block: x + attention(norm(x)), then that + feed_forward(norm(that)). x: [n_tokens, n_embd]."""
    h = op.seen("attn_norm", op.rms_norm(x, w.attention_norm))
    q, k, v = (heads(op, w, name, h, cache) for name in ("wq", "wk", "wv"))  # [n_tokens, n_head(_kv), head_dim]
    op.remember(cache, k, v, n_past)
    h = op.seen("kqv_out", op.attention(op.seen("Qcur", op.rope(q, n_past)), cache, n_past))  # [n_tokens, n_q]
    x = op.seen("ffn_inp", op.add(linear(op, w, "wo", h), x))
    h = op.seen("ffn_norm", op.rms_norm(x, w.ffn_norm))
    gate, up = linear(op, w, "w1", h), linear(op, w, "w3", h)  # [n_tokens, n_ff]
    h = op.seen("ffn_swiglu", op.silu_mul(gate, up))
    return op.seen("l_out", op.add(linear(op, w, "w2", h), x))


#: what llama.cpp calls the product with each matrix; queries and keys are called so again when they are roped
PRODUCTS = {
    "wq": "Qcur", "wk": "Kcur", "wv": "Vcur", "wo": "attn_out", "w1": "ffn_gate", "w3": "ffn_up", "w2": "ffn_out"
}  # fmt: skip


def linear(op: Backend, w: LayerWeights, name: str, x: F32) -> F32:
    """x · wᵀ with the matrix of that name, and its bias where it has one."""
    y, bias = op.matmul(getattr(w, name), x), w.biases.get(name)
    return op.seen(PRODUCTS[name], y if bias is None else op.add(y, bias))


def heads(op: Backend, w: LayerWeights, name: str, x: F32, cache: LayerCache) -> F32:
    """The product with that matrix seen as [n_tokens, heads, head_dim], each head normed where the model does so."""
    y, norm = linear(op, w, name, x).reshape(len(x), -1, cache.k.shape[-1]), w.head_norms.get(name)
    return y if norm is None else op.seen(f"{PRODUCTS[name]}_normed", op.rms_norm(y, norm))


class Backend(ABC):
    """The operations that the transformer is made of. Activations are C-contiguous float32 arrays."""

    name: str
    #: added to the mean square in `rms_norm`: LLaMA's 1e-6. llama.cpp had it fixed until mid-2023; at 2023-08-21 it was
    #: the option --rms-norm-eps, which started at 5e-6 for the sake of LLaMA 2
    norm_eps: float = LLAMA_EPS
    #: called while a batch is evaluated, with the part of it that is done, 0 to 1
    progress: Callable[[float], object] | None = None
    #: called with what each operation gave and its name in llama.cpp ("ffn_inp-0"), where operations are not fused
    watch: Callable[[str, F32], object] | None = None
    #: the layer that is evaluated; None before the first and after the last
    layer: int | None = None

    def seen(self, name: str, x: F32) -> F32:
        """The same values, shown to who watches."""
        if self.watch is not None:
            self.watch(name if self.layer is None else f"{name}-{self.layer}", x)
        return x

    # Weights: what a matrix becomes is the backend's own business.

    @abstractmethod
    def matrix(self, tensor: Tensor) -> Any:
        """Prepare a two-dimensional tensor [rows, cols] for `embed` and `matmul`."""

    def vector(self, tensor: Tensor) -> F32:
        """Prepare a one-dimensional tensor: float32 [n]."""
        return np.ascontiguousarray(tensor.numpy(), dtype=np.float32)

    def new_cache(self, hparams: ModelParams, n_ctx: int, memory_f32: bool) -> KVCache:
        """Return an empty key/value cache for `n_ctx` positions."""
        return KVCache(hparams.n_layer, n_ctx, hparams.n_head_kv, hparams.head_dim, memory_f32)

    def prepare(self, weights: Weights, n_ctx: int) -> None:
        """Do now what the first evaluation with these weights and a cache of n_ctx positions would begin with."""
        return None

    # Operations.

    @abstractmethod
    def embed(self, w: Any, tokens: npt.NDArray[np.int64]) -> F32:
        """Rows of the embedding matrix: [n_tokens] -> [n_tokens, n_embd]."""

    @abstractmethod
    def rms_norm(self, x: F32, weight: F32) -> F32:
        """x / sqrt(mean(x²) + eps) * weight, row by row: [n_tokens, n_embd], or [n_tokens, heads, head_dim]."""

    @abstractmethod
    def matmul(self, w: Any, x: F32) -> F32:
        """x · wᵀ: [n_tokens, cols] -> [n_tokens, rows]."""

    @abstractmethod
    def rope(self, x: F32, n_past: int) -> F32:
        """Rotate the pairs of every head by its position: [n_tokens, n_head, head_dim]; see `rotation` for pairs."""

    @abstractmethod
    def remember(self, cache: LayerCache, k: F32, v: F32, n_past: int) -> None:
        """Rope the keys and put keys and values [n_tokens, n_head_kv, head_dim] at n_past… (when: see history)."""

    @abstractmethod
    def attention(self, q: F32, cache: LayerCache, n_past: int) -> F32:
        """Causal attention of roped queries over the cache: [n_tokens, n_head, head_dim] -> [n_tokens, n_q].

        Query head h meets the keys and values of head h // (n_head / n_head_kv).
        """

    @abstractmethod
    def silu_mul(self, gate: F32, up: F32) -> F32:
        """silu(gate) * up, element by element; silu(x) = x / (1 + exp(-x))."""

    def add(self, x: F32, y: F32) -> F32:
        """x + y: the residual connection, or a bias."""
        return x + y

    def forward(
        self, weights: Weights, cache: KVCache, tokens: npt.NDArray[np.int64], n_past: int, last_only: bool = False
    ) -> F32:
        """Evaluate one batch: logits [n_tokens, n_vocab], or [1, n_vocab] if `last_only`. Override to fuse."""

        return forward(self, weights, cache, tokens, n_past, last_only)

    def forward_each(
        self, weights: Weights, caches: Sequence[KVCache], tokens: npt.NDArray[np.int64], positions: Sequence[int]
    ) -> F32:
        """Evaluate a token of each of several texts: logits [n_texts, n_vocab]. Override to read weights once."""
        each = zip(caches, tokens, positions, strict=True)
        return np.concatenate(
            [self.forward(weights, cache, np.array([token]), position, True) for cache, token, position in each]
        )

    def close(self) -> None:
        """Release threads and maps, if the backend holds any."""
        return None

    def in_forked_child(self) -> None:
        """Forget threads: they live in the parent."""
        return None
