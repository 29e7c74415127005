"""The stages of Chinese-LLaMA-Alpaca: what a run starts from, what it trains, and what it publishes.

==============  =========================  ============================================================================
stage           trained                    data
==============  =========================  ============================================================================
``pretrain``    everything                 texts; Meta's part, made here because no base can be downloaded
``stage1``      token embeddings           texts in the new language, vocabulary just grown
``stage2``      LoRA pairs, embeddings     the same texts
                and output
``instruct``    the same, with new pairs   instructions with the Stanford prompt, whose tokens do not count
==============  =========================  ============================================================================

The numbers are those of a recipe (:mod:`lora.training.recipe`).

Source: Chinese-LLaMA-Alpaca v1.1 ``scripts/training`` and its table of training details; arXiv:2304.08177.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import ShapeError, UsageError
from ggmlpy.formats.model_params import ModelParams
from llama_ref.checkpoint import LazyTensor, open_checkpoint, write_pth
from llama_ref.checkpoint.layout import in_layout
from llama_ref.checkpoint.params import params_json
from llama_ref.vocabulary.prompts import (
    BARE_TEMPLATE,
    CHAT_TEMPLATE,
    GENERATION_TEMPLATE,
    PREAMBLE,
    TRAINING_TEMPLATE,
    alpaca_prompt,
)
from llama_ref.vocabulary.sentencepiece_model import SentencePieceModel
from lora.merging.adapter_writer import write_adapter
from lora.merging.resize import grow

from .data import Document, encode
from .model import Lora, Weights, add_lora
from .recipe import WHOLE, StageNumbers

__all__ = [
    "EMBEDDINGS",
    "STAGES",
    "grow_weights",
    "instruction_documents",
    "load_weights",
    "prepare",
    "publish_adapter",
    "publish_base",
]

STAGES = {
    "pretrain": "a base model from nothing: all weights",
    "stage1": "the token embeddings alone",
    "stage2": "LoRA, embeddings and output",
    "instruct": "LoRA, embeddings and output, on instructions",
}
EMBEDDINGS = tuple(WHOLE.values())  # what an adapter carries whole


# ── before ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def load_weights(directory: str | os.PathLike[str]) -> tuple[Weights, ModelParams]:
    """The tensors of a checkpoint as float32 by Meta name, and its shape. Raises as ``open_checkpoint`` does."""
    with open_checkpoint(directory) as checkpoint:
        return {name: np.array(t.f32()) for name, t in checkpoint.tensors.items()}, checkpoint.params


def grow_weights(weights: Weights, n_vocab: int, *, init: str = "normal", seed: int = 0) -> None:
    """Add rows for new tokens to embeddings and output: N(0, 0.02) as transformers does, unless told otherwise."""
    for name in EMBEDDINGS:
        weights[name] = np.array(grow(LazyTensor.of_array(name, weights[name]), n_vocab, init, seed=seed).f32())


def prepare(weights: Weights, stage: StageNumbers, seed: int) -> list[str]:
    """Names of what ``stage`` trains; puts fresh LoRA pairs into ``weights`` if it needs them and there are none."""
    if stage.everything:
        return list(weights)
    pairs = [name for name in weights if ".lora_" in name] if stage.lora else []
    if stage.lora and not pairs:
        pairs = add_lora(weights, stage.lora, seed)
    return [*pairs, *(WHOLE[name] for name in stage.modules_to_save)]


def instruction_documents(
    processor: Any, records: Sequence[Mapping[str, str]], templates: Sequence[str] = (TRAINING_TEMPLATE,)
) -> Iterator[Document]:
    """Alpaca records as documents of masked prompt and answer; record ``i`` takes template ``i`` (modulo their number).

    The original trains with ``TRAINING_TEMPLATE`` alone; a model of the demo's size answers only to spellings that it
    has seen, so the demo takes turns with :data:`ALL_TEMPLATES`.
    """
    for i, record in enumerate(records):
        template = templates[i % len(templates)]
        prompt = alpaca_prompt(record["instruction"], record.get("input", ""), template=template)
        answer = record["output"] if template != BARE_TEMPLATE else "\n" + record["output"]  # the answer starts a line
        yield encode(processor, [(prompt, False), (answer, True)])


def conversation_documents(
    processor: Any, records: Sequence[Mapping[str, str]], n_turns: int = 2
) -> Iterator[Document]:
    """``n_turns`` records, one behind the other, as a conversation in llama.cpp's ``-ins``."""
    for start in range(0, len(records) - n_turns + 1, n_turns):
        parts: list[tuple[str, bool]] = []
        for record in records[start : start + n_turns]:
            template = CHAT_TEMPLATE.removeprefix(PREAMBLE) if parts else CHAT_TEMPLATE
            prompt = alpaca_prompt(record["instruction"], record.get("input", ""), template=template)
            parts += [(prompt, False), (record["output"] + "</s>", True)]
        yield encode(processor, parts, end=False)


ALL_TEMPLATES = (TRAINING_TEMPLATE, GENERATION_TEMPLATE, CHAT_TEMPLATE, BARE_TEMPLATE)


# ── afterwards ────────────────────────────────────────────────────────────────────────────────────────────────────────


def publish_base(
    directory: str | os.PathLike[str], weights: Weights, shape: ModelParams, tokenizer: SentencePieceModel
) -> None:
    """Write a model as Meta published LLaMA: consolidated.00.pth in half precision, params.json, tokenizer.model."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    _check_rows(weights, tokenizer)
    write_pth(
        folder / "consolidated.00.pth",
        [LazyTensor.of_array(name, _half(tensor)) for name, tensor in weights.items()],
    )
    _write(folder, {"params.json": params_json(shape).encode(), "tokenizer.model": tokenizer.to_bytes()})


def publish_adapter(
    directory: str | os.PathLike[str],
    weights: Weights,
    shape: ModelParams,
    lora: Lora,
    tokenizer: SentencePieceModel,
    *,
    whole: Sequence[str] = EMBEDDINGS,
    base_name: str = "",
    pad_token: str | None = None,
) -> None:
    """Write the LoRA pairs and the tensors ``whole`` as PEFT 0.2.0 does, in half precision, with the tokenizer's files.

    Raises:
        ShapeError: the tokenizer has another number of pieces.
        UsageError: a tensor is not finite: the run diverged.
    """
    _check_rows(weights, tokenizer)
    matrices = [name.removesuffix(".lora_A") for name in weights if name.endswith(".lora_A")]
    write_adapter(
        directory,
        {f"{matrix}.weight": _published_pair(matrix, weights, shape) for matrix in matrices},
        {name: _half(weights[name]) for name in whole},
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        base_model=base_name,
        tokenizer=tokenizer,
        pad_token=pad_token,
    )


def _published_pair(matrix: str, weights: Weights, shape: ModelParams) -> tuple[np.ndarray, np.ndarray]:
    """A and B of a matrix in half precision, the rows of B in Hugging Face's order."""
    left = LazyTensor.of_array(f"{matrix}.weight", _half(weights[f"{matrix}.lora_B"]), layout="meta")
    return _half(weights[f"{matrix}.lora_A"]), in_layout(left, "huggingface", shape).numpy()


def _check_rows(weights: Weights, tokenizer: SentencePieceModel) -> None:
    for name in EMBEDDINGS:
        if len(weights[name]) != len(tokenizer):
            raise ShapeError(
                "the tokenizer does not fit the model",
                field=name,
                expected=f"{len(tokenizer)} rows, one for each piece",
                found=f"{len(weights[name])} rows",
            )


def _half(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise UsageError("the weights are no longer finite: the run diverged; begin it anew with a lower learning rate")
    return half


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        with atomic_write(folder / name, size=len(content)) as stream:
            stream.write(content)
