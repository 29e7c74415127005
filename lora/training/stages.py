"""The stages of Chinese-LLaMA-Alpaca: what each trains, with which numbers, and what it publishes.

==============  ========================  =============  ============================================================
stage           trained                   learning rate  data
==============  ========================  =============  ============================================================
``pretrain``    everything                (Meta's part)  texts; made here because no base can be downloaded
``stage1``      token embeddings          2e-4           texts in the new language, vocabulary just grown
``stage2``      LoRA (r 8, alpha 32,      1e-4           the same texts
                dropout 0.05 on q k v o
                gate down up), embeddings
                and lm_head
``instruct``    the same, a new LoRA      1e-4           instructions with the Stanford prompt, whose tokens do not
                                                         count
==============  ========================  =============  ============================================================

Source: Chinese-LLaMA-Alpaca v1.1 ``scripts/training`` and its table of training details; arXiv:2304.08177.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from .loop import Settings
from .model import Lora, Weights, add_lora

__all__ = [
    "STAGES",
    "Stage",
    "grow_weights",
    "instruction_documents",
    "load_weights",
    "prepare",
    "publish_adapter",
    "publish_base",
]

WHOLE = ("tok_embeddings.weight", "output.weight")  # what an adapter carries whole


@dataclass(frozen=True)
class Stage:
    """One stage with the original's numbers.

    Attributes:
        trains: "all", "embeddings" or "lora".
        settings: how; ``n_steps`` is for the caller to choose.
        length: positions per row, 512 in the original.
        published: what the run ends with, "base" or "adapter".
    """

    name: str
    trains: str
    settings: Settings
    length: int
    published: str
    summary: str


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "pretrain",
            "all",
            Settings(1e-3, 1000, warmup=0.03, weight_decay=0.1, betas=(0.9, 0.95)),
            512,
            "base",
            "a base model from nothing: all weights",
        ),
        Stage(
            "stage1",
            "embeddings",
            Settings(2e-4, 3000, warmup=0.05, weight_decay=0.01),
            512,
            "adapter",
            "the token embeddings alone",
        ),
        Stage(
            "stage2",
            "lora",
            Settings(1e-4, 6000, warmup=0.05, weight_decay=0.01),
            512,
            "adapter",
            "LoRA, embeddings and output",
        ),
        Stage(
            "instruct",
            "lora",
            Settings(1e-4, 6000, warmup=0.03),
            512,
            "adapter",
            "LoRA, embeddings and output, on instructions",
        ),
    )
}


# ── before ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def load_weights(directory: str | os.PathLike[str]) -> tuple[Weights, ModelParams]:
    """The tensors of a checkpoint as float32 by Meta name, and its shape. Raises as ``open_checkpoint`` does."""
    with open_checkpoint(directory) as checkpoint:
        return {name: np.array(t.f32()) for name, t in checkpoint.tensors.items()}, checkpoint.params


def grow_weights(weights: Weights, n_vocab: int, *, init: str = "normal", seed: int = 0) -> None:
    """Add rows for new tokens to embeddings and output: N(0, 0.02) as transformers does, unless told otherwise."""
    for name in WHOLE:
        weights[name] = np.array(grow(LazyTensor.of_array(name, weights[name]), n_vocab, init, seed=seed).f32())


def prepare(weights: Weights, stage: Stage, lora: Lora, seed: int) -> list[str]:
    """Names of what ``stage`` trains; puts fresh LoRA pairs into ``weights`` if it needs them.

    Raises:
        UsageError: the stage trains something unknown.
    """
    if stage.trains == "all":
        return list(weights)
    if stage.trains == "embeddings":
        return ["tok_embeddings.weight"]
    if stage.trains == "lora":
        return [*add_lora(weights, lora, seed), *WHOLE]
    raise UsageError(f"stage {stage.name} trains {stage.trains!r}; choose all, embeddings or lora")


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
    base_name: str = "",
    pad_token: str | None = None,
) -> None:
    """Write the LoRA pairs, embeddings and output as PEFT 0.2.0 does, in half precision, with the tokenizer's files."""
    _check_rows(weights, tokenizer)
    matrices = [name.removesuffix(".lora_A") for name in weights if name.endswith(".lora_A")]
    write_adapter(
        directory,
        {f"{matrix}.weight": _published_pair(matrix, weights, shape) for matrix in matrices},
        {name: _half(weights[name]) for name in WHOLE},
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
    for name in WHOLE:
        if len(weights[name]) != len(tokenizer):
            raise ShapeError(
                "the tokenizer does not fit the model",
                field=name,
                expected=f"{len(tokenizer)} rows, one for each piece",
                found=f"{len(weights[name])} rows",
            )


def _half(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        with atomic_write(folder / name, size=len(content)) as stream:
            stream.write(content)
