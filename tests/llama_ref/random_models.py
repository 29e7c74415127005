"""Model files with random weights, of any shape, for the tests of the backends.

The same arguments give the same bytes on every machine, so that golden logits of the real llama.cpp can be kept as
hashes: the numbers come from integers of a generator whose stream numpy has frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ggmlpy
from ggmlpy import TENSOR_TYPES, ModelParams, OutTensor, write_model
from ggmlpy.formats.eras import era_of

# fmt: off
FTYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q4_2": 5, "q8_0": 7, "q5_0": 8, "q5_1": 9,
    "q2_K": 10, "q3_K": 12, "q4_K": 14, "q5_K": 16, "q6_K": 18,
}
# fmt: on


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
    record = era_of(era)
    rng, target, n = np.random.RandomState(seed), record.type(kind), shape.n_embd
    hparams = ModelParams.from_header(
        shape.n_vocab, n, shape.n_mult, shape.n_head, shape.n_layer, shape.head_dim, FTYPES[kind]
    )

    def random(*size: int) -> np.ndarray:
        return rng.randint(-1000, 1001, size) / 577.0  # standard deviation 1

    def matrix(name: str, rows: int, cols: int, gain: float = 1.0) -> OutTensor:
        x = (random(rows, cols) * (gain / np.sqrt(cols))).astype(np.float32)
        data = ggmlpy.quantize(x, kind, era) if target.quantized else x.astype(target.block)
        return OutTensor(name, target, (rows, cols), lambda: [data])

    def norm(name: str) -> OutTensor:
        x = (1 + 0.2 * random(n)).astype(np.float32)
        return OutTensor(name, TENSOR_TYPES["f32"], x.shape, lambda: [x])

    tensors = [matrix("tok_embeddings.weight", shape.n_vocab, n, np.sqrt(n)), norm("norm.weight")]
    tensors.append(matrix("output.weight", shape.n_vocab, n, 3.0))
    for i in range(shape.n_layer):
        at = f"layers.{i}"
        tensors += [matrix(f"{at}.attention.{w}.weight", n, n) for w in ("wq", "wk", "wv", "wo")]
        tensors += [matrix(f"{at}.feed_forward.{w}.weight", hparams.n_ff, n) for w in ("w1", "w3")]
        tensors += [matrix(f"{at}.feed_forward.w2.weight", n, hparams.n_ff)]
        tensors += [norm(f"{at}.attention_norm.weight"), norm(f"{at}.ffn_norm.weight")]
    words = [b" \xe2\x81\x87 ", b"", b"", *(b"w%d" % i for i in range(3, shape.n_vocab))]
    vocab = [(word, -float(i)) for i, word in enumerate(words[: shape.n_vocab])]
    write_model(path, record.container, record.version, hparams, vocab, tensors)
    return path
