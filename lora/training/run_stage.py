"""One stage on one's own data: what ``train pretrain|stage1|stage2|instruct`` runs.

The stages hand on to each other through what they publish::

    pretrain  texts, tokenizer                       ->  a base in Meta's layout
    stage1    base, texts, grown tokenizer           ->  an adapter with embeddings and output, no pairs
    stage2    base, that adapter, texts, tokenizer   ->  an adapter with pairs, embeddings and output
    merge     base + that adapter                    ->  a new base
    instruct  new base, instructions, tokenizer      ->  the second adapter
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.model_params import ModelParams
from llama_ref.vocabulary.sentencepiece_model import read_sentencepiece
from llama_ref.vocabulary.tokenizer_file import load_processor
from lora.merging.adapter import open_adapter

from .data import Document, Packing, read_documents, text_document
from .instructions import read_instructions
from .loop import Progress, Run, Settings
from .model import Lora, Weights, initial_weights
from .stages import STAGES, grow_weights, instruction_documents, load_weights, prepare, publish_adapter, publish_base

__all__ = ["StageInput", "train"]


@dataclass(frozen=True)
class StageInput:
    """What a stage starts from.

    Attributes:
        data: files: texts separated by empty lines, or instruction data for "instruct".
        tokenizer: a tokenizer.model.
        base: directory of a checkpoint; not for "pretrain".
        adapter: a directory whose embeddings and output replace the base's: what stage one published.
        shape: of the new model, for "pretrain".
        rows, length: of a batch.
    """

    data: Sequence[str]
    tokenizer: str
    base: str | None = None
    adapter: str | None = None
    shape: ModelParams | None = None
    rows: int = 8
    length: int = 512


def train(
    name: str,
    given: StageInput,
    output: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    lora: Lora | None = None,
    resume: bool = False,
    report: Callable[[Progress], object] | None = None,
) -> Run:
    """Train a stage and publish what it made.

    Args:
        name: one of :data:`lora.training.stages.STAGES`: "pretrain", "stage1", "stage2" or "instruct".
        given: what the stage starts from.
        output: a directory for the base or adapter; checkpoint and log go into ``work`` inside it.
        settings: learning rate, number of steps and so on; None: those of Chinese-LLaMA-Alpaca.
        lora: rank, scale and dropout; None: those of Chinese-LLaMA-Alpaca.
        resume: continue an interrupted run.
        report: called after each step.

    Returns:
        The finished run, with its weights.

    Raises:
        UsageError: an unknown stage, no base, an adapter that has to be merged first.
        FormatError: a file is bad or missing.
    """
    if name not in STAGES:
        raise UsageError(f"unknown stage {name!r}; choose one of {', '.join(STAGES)}")
    stage, lora = STAGES[name], lora or Lora()
    settings = settings or stage.settings
    tokenizer = read_sentencepiece(given.tokenizer)
    documents = _documents(name, given.data, load_processor(tokenizer.to_bytes(), given.tokenizer))
    weights, shape = _start(name, given, len(tokenizer), settings.seed)
    trained = prepare(weights, stage, lora, settings.seed)
    packing = Packing(documents, rows=given.rows, length=given.length, seed=settings.seed)
    active = lora if stage.trains == "lora" else None
    run = Run(weights, trained, shape, packing, settings, lora=active, folder=Path(output) / "work")
    if resume:
        run.resume()
    run.train(report=report)
    if stage.published == "base":
        publish_base(output, weights, shape, tokenizer)
    else:
        pad = "[PAD]" if b"[PAD]" in tokenizer.ids else None
        publish_adapter(output, weights, shape, lora, tokenizer, base_name=given.base or "", pad_token=pad)
    return run


def _documents(name: str, paths: Sequence[str], processor: Any) -> list[Document]:
    if name == "instruct":
        records = [record for path in paths for record in read_instructions(path)[0]]
        return list(instruction_documents(processor, records))
    return [text_document(processor, text) for path in paths for text in read_documents(path)]


def _start(name: str, given: StageInput, n_vocab: int, seed: int) -> tuple[Weights, ModelParams]:
    """The weights that training begins with, one row of embeddings and output a piece."""
    if name == "pretrain":
        shape = given.shape or ModelParams(n_embd=128, n_mult=32, n_head=4, n_layer=4)
        return initial_weights(shape, n_vocab, seed), shape
    if given.base is None:
        raise UsageError(f"{name} starts from a model: name its directory with --base")
    weights, shape = load_weights(given.base)
    if given.adapter:
        _take_whole_tensors(weights, given.adapter)
    grow_weights(weights, n_vocab, seed=seed)
    return weights, shape


def _take_whole_tensors(weights: Weights, path: str) -> None:
    with open_adapter(path) as adapter:
        if adapter.pairs:
            raise UsageError(f"{path} has LoRA pairs; merge it into the base first (`merge`) and start from the result")
        for name, tensor in adapter.replaced.items():
            weights[name] = np.array(tensor.f32())
