"""Model files with random weights, of any shape, for the tests of the backends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggmlpy import TENSOR_TYPES, Hparams, OutTensor, write_model
from ggmlpy.eras import era_of


@dataclass(frozen=True)
class Shape:
    """n_embd = n_head * head_dim; n_mult decides the width of the feed-forward layer."""

    n_head: int = 2
    head_dim: int = 32
    n_layer: int = 1
    n_vocab: int = 61
    n_mult: int = 32

    @property
    def n_embd(self) -> int:
        return self.n_head * self.head_dim


def write_random_model(path: Path, shape: Shape, kind: str = "f32", era: str = "2023-03-31", seed: int = 0) -> Path:
    """Write a model whose matrices are of type `kind` as `era` knew it, and return its path."""
    from ggmlpy.quantizers import quantize

    record = era_of(era)
    rng, target = np.random.default_rng(seed), record.type(kind)
    hparams = Hparams(shape.n_vocab, shape.n_embd, shape.n_mult, shape.n_head, shape.n_layer, shape.head_dim, 0)

    def matrix(name: str, rows: int, cols: int, gain: float = 1.0) -> OutTensor:
        x = (rng.standard_normal((rows, cols)) * gain / np.sqrt(cols)).astype(np.float32)
        data = quantize(x, kind, era) if target.quantized else x.astype(target.block)
        return OutTensor(name, target, (rows, cols), lambda: [data])

    def norm(name: str) -> OutTensor:
        x = rng.uniform(0.5, 1.5, shape.n_embd).astype(np.float32)
        return OutTensor(name, TENSOR_TYPES["f32"], x.shape, lambda: [x])

    n, n_ff = shape.n_embd, hparams.n_ff
    tensors = [matrix("tok_embeddings.weight", shape.n_vocab, n, np.sqrt(n)), norm("norm.weight")]
    tensors.append(matrix("output.weight", shape.n_vocab, n, 3.0))
    for i in range(shape.n_layer):
        at = f"layers.{i}"
        tensors += [matrix(f"{at}.attention.{w}.weight", n, n) for w in ("wq", "wk", "wv", "wo")]
        tensors += [matrix(f"{at}.feed_forward.{w}.weight", n_ff, n) for w in ("w1", "w3")]
        tensors += [matrix(f"{at}.feed_forward.w2.weight", n, n_ff)]
        tensors += [norm(f"{at}.attention_norm.weight"), norm(f"{at}.ffn_norm.weight")]
    vocab = [
        (b" \xe2\x81\x87 ", 0.0),
        (b"", 0.0),
        (b"", 0.0),
        *((b"w%d" % i, -float(i)) for i in range(3, shape.n_vocab)),
    ]
    write_model(path, record.container, record.version, hparams, vocab, tensors)
    return path
