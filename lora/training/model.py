"""The transformer, forwards and backwards.

Every operation is beside its derivative: ``f`` returns its result and what ``f_backward`` needs of it, and
``f_backward`` takes the gradient of the loss by the result and returns those by the arguments. Weights go by their Meta
names, rows of wq and wk in Meta's order (rotary pairs ``2i, 2i + 1``). A weight ``X.weight`` with LoRA beside it has
``X.lora_A`` [r, columns] and ``X.lora_B`` [rows, r]::

    y = x W^T + (alpha / r) * dropout(x) A^T B^T

The arithmetic is float32 (float64 where gradients are checked against finite differences).

Sources: Touvron et al. 2023, arXiv:2302.13971; Hu et al. 2021, arXiv:2106.09685; Su et al. 2021, arXiv:2104.09864.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.model_params import ModelParams

from .data import Batch

__all__ = ["LORA_TARGETS", "Array", "Dropout", "Lora", "Weights", "add_lora", "initial_weights", "loss_and_gradients"]

Array = np.ndarray
Weights = dict[str, Array]

LORA_TARGETS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")  # q, k, v, o, gate, down, up
INITIAL_DEVIATION = 0.02
MASKED = -1e9  # a score that no softmax lets through, finite so that a masked row stays a number


@dataclass(frozen=True)
class Lora:
    """Rank, scale and dropout of the low-rank paths, and the matrices of a layer that have one."""

    r: int = 8
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = LORA_TARGETS

    @property
    def scale(self) -> float:
        return self.alpha / self.r


class Dropout:
    """Masks for the inputs of LoRA paths, from a seed; ``Dropout(0)`` keeps everything."""

    def __init__(self, p: float, *seed: int) -> None:
        self.p, self.rng = p, np.random.default_rng(seed)

    def mask(self, x: Array) -> Array | None:
        """What ``x`` is multiplied with: 0 with probability p, else 1 / (1 - p)."""
        if not self.p:
            return None
        kept = self.rng.random(x.shape, np.float32) >= self.p
        return kept.astype(x.dtype) * x.dtype.type(1 / (1 - self.p))


# ── weights ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def initial_weights(shape: ModelParams, n_vocab: int, seed: int, dtype: type = np.float32) -> Weights:
    """N(0, 0.02) for matrices, narrower for those that write into the residual stream; 1 for norms."""
    rng = np.random.default_rng(seed)
    n_embd, n_ff = shape.n_embd, shape.n_ff
    into_stream = INITIAL_DEVIATION / np.sqrt(2 * shape.n_layer)

    def normal(rows: int, columns: int, deviation: float = INITIAL_DEVIATION) -> Array:
        return (rng.standard_normal((rows, columns)) * deviation).astype(dtype)

    weights = {"tok_embeddings.weight": normal(n_vocab, n_embd)}
    for layer in range(shape.n_layer):
        at = f"layers.{layer}."
        weights |= {f"{at}attention.{name}.weight": normal(n_embd, n_embd) for name in ("wq", "wk", "wv")}
        weights[f"{at}attention.wo.weight"] = normal(n_embd, n_embd, into_stream)
        weights[f"{at}feed_forward.w1.weight"] = normal(n_ff, n_embd)
        weights[f"{at}feed_forward.w2.weight"] = normal(n_embd, n_ff, into_stream)
        weights[f"{at}feed_forward.w3.weight"] = normal(n_ff, n_embd)
        weights |= {f"{at}{name}.weight": np.ones(n_embd, dtype) for name in ("attention_norm", "ffn_norm")}
    return {**weights, "norm.weight": np.ones(n_embd, dtype), "output.weight": normal(n_vocab, n_embd)}


def fresh_pairs(shapes: Mapping[str, tuple[int, ...]], lora: Lora, seed: int, dtype: type = np.float32) -> Weights:
    """Pairs for the matrices that ``lora`` names, of each layer: A uniform as PEFT's (Kaiming), B zero."""
    rng = np.random.default_rng(seed)
    pairs = {}
    for name in [name for name in shapes if name.split(".")[-2] in lora.targets]:
        rows, columns = shapes[name]
        a, b = name.replace(".weight", ".lora_A"), name.replace(".weight", ".lora_B")
        pairs[a] = rng.uniform(-1, 1, (lora.r, columns)).astype(dtype) / np.float32(np.sqrt(columns))
        pairs[b] = np.zeros((rows, lora.r), dtype)
    return pairs


def add_lora(weights: Weights, lora: Lora, seed: int) -> list[str]:
    """Put fresh pairs beside the matrices that ``lora`` names; returns the names of the new tensors."""
    dtype = next(iter(weights.values())).dtype.type
    pairs = fresh_pairs({name: tensor.shape for name, tensor in weights.items()}, lora, seed, dtype)
    weights.update(pairs)
    return list(pairs)


# ── operations and their derivatives ──────────────────────────────────────────────────────────────────────────────────


def rms_norm(x: Array, gain: Array, eps: float) -> tuple[Array, tuple[Array, Array]]:
    """``gain * x / sqrt(mean(x^2) + eps)``, x [n, n_embd]."""
    inverse = 1 / np.sqrt(np.einsum("nd,nd->n", x, x) / x.dtype.type(x.shape[1]) + x.dtype.type(eps))
    normed = x * inverse[:, None]
    return normed * gain, (normed, inverse)


def rms_norm_backward(dy: Array, gain: Array, saved: tuple[Array, Array]) -> tuple[Array, Array]:
    """Gradients by x [n, n_embd] and gain [n_embd]."""
    normed, inverse = saved
    d_normed = dy * gain
    along = np.einsum("nd,nd->n", d_normed, normed) / dy.dtype.type(dy.shape[1])
    return inverse[:, None] * (d_normed - normed * along[:, None]), np.einsum("nd,nd->d", dy, normed)


def silu_gate(gate: Array, up: Array) -> tuple[Array, tuple[Array, ...]]:
    """``gate * sigmoid(gate) * up``, all [n, n_ff]."""
    with np.errstate(over="ignore"):  # exp(-gate) is infinite where the sigmoid is 0
        sigmoid = 1 / (1 + np.exp(-gate))
    silu = gate * sigmoid
    return silu * up, (up, sigmoid, silu)


def silu_gate_backward(dy: Array, saved: tuple[Array, ...]) -> tuple[Array, Array]:
    """Gradients by gate and up."""
    up, sigmoid, silu = saved
    return dy * up * (sigmoid + silu * (1 - sigmoid)), dy * silu


def rope_rotations(positions: Array, n_rot: int, dtype: np.dtype) -> Array:
    """Unit complex numbers [n, 1, n_rot / 2]: pair i of a head turns by position / 10000^(2i / n_rot)."""
    angles = positions[:, None, None] * 10000.0 ** (-np.arange(0, n_rot, 2) / n_rot)
    return np.exp(1j * angles).astype(np.result_type(dtype, np.complex64))


def rope(x: Array, rotations: Array) -> Array:
    """Turn pairs (2i, 2i + 1) of x [n, n_head, n_rot]; its derivative turns by the conjugate."""
    return (x.view(rotations.dtype) * rotations).view(x.dtype)


def softmax(x: Array) -> Array:
    """Over the last axis, in place."""
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def attention(q: Array, k: Array, v: Array, mask: Array) -> tuple[Array, Array]:
    """Scaled dot products over q, k, v [rows, n_head, n, n_rot]; ``mask`` [rows, 1, n, n] is added to the scores."""
    scores = (q * q.dtype.type(q.shape[-1] ** -0.5)) @ k.swapaxes(-1, -2)  # [rows, n_head, n, n]
    scores += mask
    weights = softmax(scores)
    return weights @ v, weights


def attention_backward(dy: Array, q: Array, k: Array, v: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Gradients by q, k and v."""
    d_scores = dy @ v.swapaxes(-1, -2)
    d_scores -= np.einsum("bhqk,bhqk->bhq", d_scores, weights)[..., None]
    d_scores *= weights
    d_scores *= q.dtype.type(q.shape[-1] ** -0.5)
    return d_scores @ k, d_scores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dy


def cross_entropy(logits: Array, targets: Array, weights: Array) -> tuple[float, Array]:
    """The weighted sum of ``-log softmax(logits)[target]`` and its gradient by the logits [n, n_vocab] (in place)."""
    rows = np.arange(len(targets))
    probabilities = softmax(logits)
    chosen = np.maximum(probabilities[rows, targets], np.finfo(logits.dtype).tiny)
    loss = -float(np.dot(np.log(chosen).astype(np.float64), weights))
    probabilities[rows, targets] -= 1
    probabilities *= weights[:, None].astype(logits.dtype)
    return loss, probabilities


def embedding_backward(dx: Array, tokens: Array, n_vocab: int) -> Array:
    """Sum the rows of dx [n, n_embd] by token, in the order of positions, so that the sums have the same bits."""
    order = np.argsort(tokens, kind="stable")
    ids, starts = np.unique(tokens[order], return_index=True)
    gradient = np.zeros((n_vocab, dx.shape[1]), dx.dtype)
    gradient[ids] = np.add.reduceat(dx[order], starts, axis=0)
    return gradient


# ── the model ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Pass:
    """One forward and backward pass: what all layers share, and the gradients as they come."""

    weights: Mapping[str, Array]
    shape: ModelParams
    lora: Lora
    dropout: Dropout
    rotations: Array
    mask: Array  # [rows, 1, length, length]
    wanted: frozenset[str]
    gradients: Weights

    def linear(self, x: Array, name: str) -> tuple[Array, tuple[Any, ...]]:
        """``x W^T`` and the low-rank path, x [n, columns]."""
        y = x @ self.weights[name].T
        a = self.weights.get(name.replace(".weight", ".lora_A"))
        if a is None:
            return y, (x,)
        mask = self.dropout.mask(x)
        dropped = x if mask is None else x * mask
        low = dropped @ a.T  # [n, r]
        y += low @ (self.weights[name.replace(".weight", ".lora_B")].T * x.dtype.type(self.lora.scale))
        return y, (x, dropped, low, mask)

    def linear_backward(self, dy: Array, name: str, saved: tuple[Any, ...]) -> Array:
        """The gradient by x; those by the weights are kept if they are wanted."""
        x, *low_rank = saved
        dx = dy @ self.weights[name]
        if name in self.wanted:
            self.gradients[name] = dy.T @ x
        if low_rank:
            dropped, low, mask = low_rank
            a, b = name.replace(".weight", ".lora_A"), name.replace(".weight", ".lora_B")
            scale = dy.dtype.type(self.lora.scale)
            d_low = dy @ (self.weights[b] * scale)  # [n, r]
            if b in self.wanted:
                self.gradients[a] = d_low.T @ dropped
                self.gradients[b] = (dy.T @ low) * scale
            through = d_low @ self.weights[a]
            dx += through if mask is None else through * mask
        return dx

    def norm(self, x: Array, name: str) -> tuple[Array, Any]:
        return rms_norm(x, self.weights[name], self.shape.eps)

    def norm_backward(self, dy: Array, name: str, saved: Any) -> Array:
        dx, d_gain = rms_norm_backward(dy, self.weights[name], saved)
        if name in self.wanted:
            self.gradients[name] = d_gain
        return dx

    def heads(self, x: Array) -> Array:
        """[n, n_embd] to [rows, n_head, length, n_rot]."""
        rows, _, length, _ = self.mask.shape
        return np.ascontiguousarray(x.reshape(rows, length, self.shape.n_head, -1).swapaxes(1, 2))

    def joined(self, x: Array) -> Array:
        """The other way round."""
        return np.ascontiguousarray(x.swapaxes(1, 2)).reshape(-1, self.shape.n_embd)

    def turned(self, x: Array, rotations: Array) -> Array:
        return rope(x.reshape(len(x), self.shape.n_head, -1), rotations).reshape(x.shape)

    def attend(self, x: Array, at: str) -> tuple[Array, tuple[Any, ...]]:
        """The attention block of the layer whose names begin with ``at``."""
        h, from_norm = self.norm(x, f"{at}attention_norm.weight")
        (q, from_q), (k, from_k), (v, from_v) = (self.linear(h, f"{at}attention.w{c}.weight") for c in "qkv")
        q, k, v = (self.heads(each) for each in (self.turned(q, self.rotations), self.turned(k, self.rotations), v))
        y, scores = attention(q, k, v, self.mask)
        y, from_o = self.linear(self.joined(y), f"{at}attention.wo.weight")
        return x + y, (from_norm, from_q, from_k, from_v, (q, k, v), scores, from_o)

    def attend_backward(self, dy: Array, at: str, saved: tuple[Any, ...]) -> Array:
        from_norm, from_q, from_k, from_v, (q, k, v), scores, from_o = saved
        d_heads = self.heads(self.linear_backward(dy, f"{at}attention.wo.weight", from_o))
        dq, dk, dv = (self.joined(each) for each in attention_backward(d_heads, q, k, v, scores))
        back = self.rotations.conj()
        dh = self.linear_backward(self.turned(dq, back), f"{at}attention.wq.weight", from_q)
        dh += self.linear_backward(self.turned(dk, back), f"{at}attention.wk.weight", from_k)
        dh += self.linear_backward(dv, f"{at}attention.wv.weight", from_v)
        return dy + self.norm_backward(dh, f"{at}attention_norm.weight", from_norm)

    def feed_forward(self, x: Array, at: str) -> tuple[Array, tuple[Any, ...]]:
        """The feed-forward block: w2(silu(w1 h) * w3 h)."""
        h, from_norm = self.norm(x, f"{at}ffn_norm.weight")
        gate, from_gate = self.linear(h, f"{at}feed_forward.w1.weight")
        up, from_up = self.linear(h, f"{at}feed_forward.w3.weight")
        y, gated = silu_gate(gate, up)
        y, from_down = self.linear(y, f"{at}feed_forward.w2.weight")
        return x + y, (from_norm, from_gate, from_up, gated, from_down)

    def feed_forward_backward(self, dy: Array, at: str, saved: tuple[Any, ...]) -> Array:
        from_norm, from_gate, from_up, gated, from_down = saved
        d_gate, d_up = silu_gate_backward(self.linear_backward(dy, f"{at}feed_forward.w2.weight", from_down), gated)
        dh = self.linear_backward(d_gate, f"{at}feed_forward.w1.weight", from_gate)
        dh += self.linear_backward(d_up, f"{at}feed_forward.w3.weight", from_up)
        return dy + self.norm_backward(dh, f"{at}ffn_norm.weight", from_norm)

    def output_loss(self, x: Array, batch: Batch, n_targets: float) -> tuple[float, Array]:
        """Mean loss over the positions that count, and its gradient by x; other positions cost no logits."""
        counted = np.flatnonzero(batch.weights)
        h, from_norm = self.norm(x[counted], "norm.weight")
        logits, from_output = self.linear(h, "output.weight")
        loss, d_logits = cross_entropy(logits, batch.targets.ravel()[counted], batch.weights.ravel()[counted])
        d_logits *= d_logits.dtype.type(1 / n_targets)
        dx = np.zeros_like(x)
        if self.wanted:
            dx[counted] = self.norm_backward(
                self.linear_backward(d_logits, "output.weight", from_output), "norm.weight", from_norm
            )
        return loss / n_targets, dx


def loss_and_gradients(
    weights: Mapping[str, Array],
    shape: ModelParams,
    batch: Batch,
    trained: frozenset[str] = frozenset(),
    *,
    lora: Lora | None = None,
    dropout: Dropout | None = None,
    n_targets: float | None = None,
) -> tuple[float, Weights]:
    """The mean loss (nats a target) of a batch, and its gradients by the tensors named in ``trained``.

    Args:
        weights: see the module's head; all of one dtype.
        batch: tokens, targets, their weights, and which positions see each other.
        lora: scale of the low-rank paths, if ``weights`` has any.
        dropout: masks for the low-rank paths; None keeps everything, as in use.
        n_targets: what the sum of losses is divided by: the number of targets of all batches that are accumulated.

    Raises:
        UsageError: a name that is not a tensor's, or nothing in the batch counts.
    """
    unknown = sorted(set(trained) - set(weights))
    if unknown:
        raise UsageError(f"there is no tensor {unknown[0]!r} to train")
    total = float(batch.weights.sum()) if n_targets is None else n_targets
    if not total:
        raise UsageError("no position of the batch counts towards the loss")
    tokens = batch.tokens.ravel()
    embeddings = weights["tok_embeddings.weight"]
    rotations = rope_rotations(batch.positions.ravel(), shape.n_rot, embeddings.dtype)
    mask = np.where(batch.visible(), 0, MASKED).astype(embeddings.dtype)[:, None]
    one = Pass(weights, shape, lora or Lora(), dropout or Dropout(0), rotations, mask, trained, {})
    x = embeddings[tokens]  # [rows * length, n_embd]
    saved = []
    for layer in range(shape.n_layer):
        x, from_attention = one.attend(x, f"layers.{layer}.")
        x, from_feed_forward = one.feed_forward(x, f"layers.{layer}.")
        saved.append((from_attention, from_feed_forward))
    loss, dx = one.output_loss(x, batch, total)
    for layer in reversed(range(shape.n_layer) if trained else ()):
        from_attention, from_feed_forward = saved.pop()
        dx = one.feed_forward_backward(dx, f"layers.{layer}.", from_feed_forward)
        dx = one.attend_backward(dx, f"layers.{layer}.", from_attention)
    if "tok_embeddings.weight" in trained:
        one.gradients["tok_embeddings.weight"] = embedding_backward(dx, tokens, len(embeddings))
    return loss, one.gradients
