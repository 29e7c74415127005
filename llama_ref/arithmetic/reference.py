"""The transformer's operations in plain numpy, as the papers write them: the backend to read.

Nothing here imitates llama.cpp's roundings; activations stay float32 and weights are dequantized to float32. The cache
is float16 unless asked otherwise, because that choice is the model's and not the arithmetic's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .rotation import rotation_of
from .transformer import Backend

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile, Tensor

    from .transformer import LayerCache

__all__ = ["ReferenceBackend"]

F32 = npt.NDArray[np.float32]

CACHE_BYTES = 2 << 30  # dequantized matrices kept in memory; a 7B model needs 27 GB, a demo model a few MB
CHUNK_ROWS = 1024  # rows dequantized at a time when a matrix isn't kept


class Matrix:
    """A matrix of the file, dequantized when it is used."""

    def __init__(self, tensor: Tensor, keep: bool) -> None:
        self.tensor = tensor
        self.keep = keep
        self.kept: F32 | None = None

    def times(self, x: F32) -> F32:
        """x · selfᵀ: [n_tokens, cols] -> [n_tokens, rows]."""
        if self.keep:
            self.kept = self.tensor.numpy() if self.kept is None else self.kept
            return x @ self.kept.T
        rows = self.tensor.shape[0]
        starts = range(0, rows, CHUNK_ROWS)
        return np.concatenate([x @ self.tensor.rows(r, min(r + CHUNK_ROWS, rows)).T for r in starts], axis=1)


class ReferenceBackend(Backend):
    """Plain numpy. See `Backend` for the shapes of every operation."""

    name = "reference"

    def __init__(self, file: ModelFile) -> None:
        self.rotation = rotation_of(file)
        self.room = CACHE_BYTES

    def matrix(self, tensor: Tensor) -> Matrix:
        size = 4 * tensor.shape[0] * tensor.shape[1]
        keep = size <= self.room
        self.room -= size if keep else 0
        return Matrix(tensor, keep)

    def embed(self, w: Matrix, tokens: npt.NDArray[np.int64]) -> F32:
        return w.tensor.rows_at(tokens.tolist())

    def rms_norm(self, x: F32, weight: F32) -> F32:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)  # [n_tokens, 1]
        return x / np.sqrt(mean_square + np.float32(self.norm_eps)) * weight

    def matmul(self, w: Matrix, x: F32) -> F32:
        return w.times(x)

    def rope(self, x: F32, n_past: int) -> F32:
        turns = self.rotation.table(n_past, n_past + len(x))  # [n_tokens, head_dim/2, 2]
        cos, sin = turns[:, None, :, 0], turns[:, None, :, 1]
        first, second = self.rotation.pairs(x)  # [n_tokens, n_head, head_dim/2]
        out = np.empty_like(x)
        out_first, out_second = self.rotation.pairs(out)
        out_first[...], out_second[...] = first * cos - second * sin, first * sin + second * cos
        return out

    def remember(self, cache: LayerCache, k: F32, v: F32, n_past: int) -> None:
        here = slice(n_past, n_past + len(k))
        cache.k[here] = self.seen("Kcur", self.rope(k, n_past))
        cache.v[here] = v

    def attention(self, q: F32, cache: LayerCache, n_past: int) -> F32:
        n, n_head, head_dim = q.shape
        seen, n_head_kv = n_past + n, cache.k.shape[1]
        k = cache.k[:seen].astype(np.float32).transpose(1, 2, 0)[:, None]  # [n_head_kv, 1, head_dim, seen]
        v = cache.v[:seen].astype(np.float32).transpose(1, 0, 2)[:, None]  # [n_head_kv, 1, seen, head_dim]
        q = q.transpose(1, 0, 2).reshape(n_head_kv, n_head // n_head_kv, n, head_dim)  # queries that share a head
        scores = q @ k  # [n_head_kv, group, n_tokens, seen]
        self.seen("kq", scores.reshape(n_head, n, seen))
        future = np.arange(seen) > n_past + np.arange(n)[:, None]  # [n_tokens, seen]
        scores = scores / np.float32(np.sqrt(head_dim))
        probabilities = softmax(np.where(future, np.float32(-np.inf), scores))
        self.seen("kq_soft_max", probabilities.reshape(n_head, n, seen))
        out = self.seen("kqv", (probabilities @ v).reshape(n_head, n, head_dim))
        return out.transpose(1, 0, 2).reshape(n, -1)

    def silu_mul(self, gate: F32, up: F32) -> F32:
        with np.errstate(over="ignore"):  # exp(-x) may overflow to inf, and x / inf is the right 0
            return gate / (1 + np.exp(-gate)) * up


def softmax(x: F32) -> F32:
    """exp(x) / sum(exp(x)) along the last axis, without overflow."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
