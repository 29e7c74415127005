"""What a LLaMA model file must hold: the tensors' names and shapes, and how multi-part files split them.

This is bookkeeping of the file format (llama.cpp checks it when it loads), not the transformer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .containers import Attributes, Hparams

__all__ = [
    "GGUF_NAMES",
    "MODEL_SIZES",
    "expected_shapes",
    "gguf_name",
    "meta_name",
    "model_size",
    "n_parts_of",
    "split_axis",
]

# Meta's name of a tensor and GGUF's; those of a layer get "layers.N." and "blk.N." in front, all ".weight" behind.
GGUF_NAMES: dict[str, str] = {
    "tok_embeddings": "token_embd",
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "norm": "output_norm",
    "output": "output",
}
_META_NAMES = {gguf: meta for meta, gguf in GGUF_NAMES.items()}

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


def expected_shapes(hparams: Hparams, attributes: Attributes | None = None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape [rows, columns] of each tensor that the header implies, in the order of a Meta checkpoint."""
    n_vocab, n_embd, n_ff = hparams.n_vocab, hparams.n_embd, attributes.n_ff if attributes else hparams.n_ff
    n_kv = n_embd // hparams.n_head * attributes.n_head_kv if attributes and hparams.n_head else n_embd
    yield "tok_embeddings.weight", (n_vocab, n_embd)
    yield "norm.weight", (n_embd,)
    yield "output.weight", (n_vocab, n_embd)
    for layer in range(hparams.n_layer):
        prefix = f"layers.{layer}."
        for name, rows in (("wq", n_embd), ("wk", n_kv), ("wv", n_kv), ("wo", n_embd)):
            yield f"{prefix}attention.{name}.weight", (rows, n_embd)
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


def gguf_name(meta: str) -> str:
    """GGUF's spelling of a Meta name; a name that is not LLaMA's stays as it is.

    >>> gguf_name("layers.3.attention.wq.weight")
    'blk.3.attn_q.weight'
    """
    return _respelt(meta, r"layers\.(\d+)\.(.+)\.weight", "blk", GGUF_NAMES)


def meta_name(gguf: str) -> str:
    """Meta's spelling of a GGUF name; the inverse of :func:`gguf_name`.

    >>> meta_name("token_embd.weight"), meta_name("rope_freqs.weight")
    ('tok_embeddings.weight', 'rope_freqs.weight')
    """
    return _respelt(gguf, r"blk\.(\d+)\.(.+)\.weight", "layers", _META_NAMES)


def _respelt(name: str, layered: str, prefix: str, stems: dict[str, str]) -> str:
    match = re.fullmatch(layered, name)
    stem = match[2] if match else name.removesuffix(".weight")
    if stem not in stems:
        return name
    return f"{prefix}.{match[1]}.{stems[stem]}.weight" if match else f"{stems[stem]}.weight"
