"""An adapter file of llama.cpp as a PEFT directory: the way back."""

from __future__ import annotations

import os
from pathlib import Path

from ggmlpy.files.errors import UnsupportedError
from llama_ref.checkpoint import LazyTensor, in_layout
from llama_ref.checkpoint.layout import HasHeads
from lora.merging.adapter_writer import write_adapter

from .reading import LoraFile

__all__ = ["write_peft"]

EMBEDDING = "tok_embeddings.weight"


def write_peft(
    adapter: LoraFile, heads: HasHeads | None, directory: str | os.PathLike[str], base_model: str = ""
) -> tuple[Path, ...]:
    """Write ``adapter_config.json`` and ``adapter_model.bin``; the paths of the two.

    Args:
        heads: of the base model, its parameters or the two numbers: they say how the rows of wq and wk return to
            Hugging Face's order; a ggla adapter needs none.
        base_model: where that model can be found.

    Raises:
        UnsupportedError: pairs of several ranks, a change of the embedding, or a base that is needed and missing.
    """
    ranks = sorted({pair.a.shape[0] for pair in adapter.pairs.values()})
    if len(ranks) > 1 or EMBEDDING in adapter.pairs:
        found = EMBEDDING if EMBEDDING in adapter.pairs else f"ranks {ranks}"
        raise UnsupportedError("this adapter can't be written for PEFT", path=adapter.path, found=found)
    turned = adapter.kind == "gguf" and adapter.architecture == "llama"
    if turned and heads is None:
        raise UnsupportedError(
            "the heads of the base model are needed", path=adapter.path, next_step="name its folder: --base DIR"
        )
    pairs = {}
    for name, pair in adapter.pairs.items():
        b = LazyTensor.of_array(name, pair.b, layout="meta" if turned else "huggingface")
        if turned and heads is not None:
            b = in_layout(b, "huggingface", heads)
        pairs[name] = (pair.a, b.numpy())
    alpha = adapter.alpha or float(ranks[0])  # no alpha: the change is added as it is
    return write_adapter(directory, pairs, r=ranks[0], alpha=alpha, base_model=base_model)
