"""Writing an adapter as PEFT 0.2.0 saves it: ``adapter_model.bin``, ``adapter_config.json``, and the tokenizer's files.

This is the partner of :func:`lora.merging.adapter.open_adapter`: what it takes is what an open adapter has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import ShapeError
from ggmlpy.formats.tensor_names import rename
from llama_ref.checkpoint import LazyTensor, write_pth
from llama_ref.vocabulary.sentencepiece_model import SentencePieceModel, tokenizer_side_files

from .adapter_config import CONFIG
from .adapter_files import WEIGHTS

__all__ = ["write_adapter"]

# The modules of a layer that have pairs, in the order in which Chinese-LLaMA-Alpaca named them to PEFT.
MODULES = ("q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "up_proj")


def write_adapter(
    directory: str | os.PathLike[str],
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    replaced: Mapping[str, np.ndarray] | None = None,
    *,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    base_model: str = "",
    tokenizer: SentencePieceModel | None = None,
    pad_token: str | None = None,
) -> tuple[Path, ...]:
    """Write a LoRA adapter.

    Args:
        directory: made if it is missing.
        pairs: Meta name of a matrix -> ``A`` [r, columns] and ``B`` [rows, r], rows in Hugging Face's order.
        replaced: Meta name -> a tensor that takes the place of the base's, such as the embedding of a grown vocabulary.
        r: the rank of all pairs.
        alpha: ``B @ A`` is multiplied by ``alpha / r``.
        dropout: what the pairs were trained with; a merge does not use it.
        base_model: where the model that the adapter belongs to can be found.
        tokenizer: written beside it, if given.
        pad_token: the tokenizer's piece for padding, if it has one.

    Returns:
        The paths that were written. Arrays are stored in their own element type.

    Raises:
        ShapeError: a pair has another rank, or its halves do not fit together.
        OutputError: the disk refuses.
    """
    for name, (a, b) in pairs.items():
        if a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == r:
            raise ShapeError(
                f"A and B of {name} do not form a pair",
                field=name,
                expected=f"[{r}, columns] and [rows, {r}]",
                found=f"{list(a.shape)} and {list(b.shape)}",
            )
    folder, replaced = Path(directory), replaced or {}
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS[-1]
    write_pth(weights, [*_tensors(pairs, replaced)])
    config = _config(pairs, replaced, r=r, alpha=alpha, dropout=dropout, base_model=base_model)
    files = {CONFIG: json.dumps(config, indent=2, ensure_ascii=False).encode()}
    if tokenizer is not None:
        files |= {"tokenizer.model": tokenizer.to_bytes(), **tokenizer_side_files(pad_token)}
    for name, content in files.items():
        with atomic_write(folder / name, size=len(content)) as stream:
            stream.write(content)
    return (weights, *(folder / name for name in files))


def _tensors(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], replaced: Mapping[str, np.ndarray]
) -> Iterator[LazyTensor]:
    for name, sides in pairs.items():
        module = rename(name, "huggingface").removesuffix(".weight")
        for side, array in zip(("lora_A", "lora_B"), sides):
            yield LazyTensor.of_array(f"base_model.model.{module}.{side}.weight", array)
    for name, array in replaced.items():
        yield LazyTensor.of_array(f"base_model.model.{rename(name, 'huggingface')}", array)


def _config(
    pairs: Mapping[str, object],
    replaced: Mapping[str, object],
    *,
    r: int,
    alpha: float,
    dropout: float,
    base_model: str,
) -> dict[str, Any]:
    """``adapter_config.json`` as PEFT 0.2.0 writes it for Chinese-LLaMA-Alpaca."""
    modules = {rename(name, "huggingface").split(".")[-2] for name in pairs}
    known = [module for module in MODULES if module in modules or not pairs]
    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "enable_lora": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "merge_weights": False,
        "modules_to_save": [rename(name, "huggingface").split(".")[-2] for name in replaced] or None,
        "peft_type": "LORA",
        "r": r,
        "target_modules": [*known, *sorted(modules - set(MODULES))],
        "task_type": "CAUSAL_LM",
    }
