"""What a LLaMA model file must hold: the tensors' names and shapes, and how multi-part files split them.

This is bookkeeping of the file format (llama.cpp checks it when it loads), not the transformer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .containers import Hparams

__all__ = ["MODEL_SIZES", "expected_shapes", "model_size", "n_parts_of", "split_axis"]

BY_COLUMNS = ("tok_embeddings.weight", "attention.wo.weight", "feed_forward.w2.weight")


def split_axis(name: str, n_dims: int) -> int | None:
    """The axis (0 rows, 1 columns) along which multi-part files split a tensor; None if each part holds it whole.

    Source: llama_model_load at llama.cpp ed3c680bc.

    >>> split_axis("layers.0.attention.wo.weight", 2), split_axis("output.weight", 2), split_axis("norm.weight", 1)
    (1, 0, None)
    """
    if n_dims == 1:
        return None
    return 1 if name.endswith(BY_COLUMNS) else 0


def expected_shapes(hparams: Hparams) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape [rows, columns] of each tensor that the header implies, in the order of a Meta checkpoint."""
    n_vocab, n_embd, n_ff = hparams.n_vocab, hparams.n_embd, hparams.n_ff
    yield "tok_embeddings.weight", (n_vocab, n_embd)
    yield "norm.weight", (n_embd,)
    yield "output.weight", (n_vocab, n_embd)
    for layer in range(hparams.n_layer):
        prefix = f"layers.{layer}."
        for name in ("wq", "wk", "wv", "wo"):
            yield f"{prefix}attention.{name}.weight", (n_embd, n_embd)
        yield prefix + "feed_forward.w1.weight", (n_ff, n_embd)
        yield prefix + "feed_forward.w2.weight", (n_embd, n_ff)
        yield prefix + "feed_forward.w3.weight", (n_ff, n_embd)
        yield prefix + "attention_norm.weight", (n_embd,)
        yield prefix + "ffn_norm.weight", (n_embd,)


@dataclass(frozen=True)
class ModelSize:
    """One of the four published LLaMA models."""

    name: str
    n_embd: int
    n_layer: int
    n_head: int
    n_parts: int


# fmt: off
MODEL_SIZES = (
    ModelSize("7B",  4096, 32, 32, 1),
    ModelSize("13B", 5120, 40, 40, 2),
    ModelSize("33B", 6656, 60, 52, 4),
    ModelSize("65B", 8192, 80, 64, 8),
)
# fmt: on


def model_size(hparams: Hparams) -> str:
    """ "7B", "13B", "33B", "65B", or the shape in words.

    >>> model_size(Hparams(400, 64, 32, 4, 2, 16, 1))
    '64 wide, 2 layers, 4 heads'
    """
    for size in MODEL_SIZES:
        if (size.n_embd, size.n_layer, size.n_head) == (hparams.n_embd, hparams.n_layer, hparams.n_head):
            return size.name
    return f"{hparams.n_embd} wide, {hparams.n_layer} layers, {hparams.n_head} heads"


def n_parts_of(n_embd: int) -> int:
    """Over how many files the original tools spread a model of this width (LLAMA_N_PARTS; 1 for others)."""
    return next((size.n_parts for size in MODEL_SIZES if size.n_embd == n_embd), 1)
