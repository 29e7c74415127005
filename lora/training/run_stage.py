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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ggmlpy.files.errors import UsageError
from ggmlpy.files.paths import refuse_directory
from ggmlpy.formats.model_params import ModelParams
from llama_ref.checkpoint import LazyTensor, open_checkpoint
from llama_ref.vocabulary.sentencepiece_model import SentencePieceModel, read_sentencepiece
from llama_ref.vocabulary.tokenizer_file import load_processor
from lora.merging.adapter import open_adapter

from .data import Packing, read_documents, text_document
from .instructions import read_instructions
from .loop import Progress, Run
from .memory import require_memory, require_plain
from .model import Lora, Weights, initial_weights
from .prepare import Preparation, prepare_data
from .prepared import Blocks, is_prepared, open_prepared
from .recipe import RECIPES, WHOLE, StageNumbers, load_recipe
from .stages import (
    EMBEDDINGS,
    STAGES,
    grow_weights,
    instruction_documents,
    load_weights,
    prepare,
    publish_adapter,
    publish_base,
)

__all__ = [
    "StageInput",
    "prepare_input",
    "prepared_blocks",
    "publish",
    "small_batches",
    "train",
    "usual_recipe",
    "whole_tensors",
]

PREPARED = "data.safetensors"


@dataclass(frozen=True)
class StageInput:
    """What a stage starts from.

    Attributes:
        data: files of texts, or of instruction data for "instruct"; or one file of prepared data.
        tokenizer: a tokenizer.model.
        base: directory of a checkpoint; not for "pretrain".
        adapter: a directory whose embeddings and output replace the base's: what stage one published.
        shape: of the new model, for "pretrain".
    """

    data: Sequence[str]
    tokenizer: str
    base: str | None = None
    adapter: str | None = None
    shape: ModelParams | None = None


def train(
    name: str,
    given: StageInput,
    output: str | os.PathLike[str],
    numbers: StageNumbers | None = None,
    *,
    recipe: str | None = None,
    resume: bool = False,
    report: Callable[[Progress], object] | None = None,
) -> Run:
    """Train a stage in numpy and publish what it made.

    Args:
        name: one of :data:`lora.training.stages.STAGES`: "pretrain", "stage1", "stage2" or "instruct".
        given: what the stage starts from.
        output: a directory for the base or adapter; checkpoint and log go into ``work`` inside it.
        numbers: learning rate, number of steps and so on; None: those of the recipe.
        recipe: one of :data:`lora.training.recipe.RECIPES`; None: "original", for "pretrain" the only one that has it.
        resume: continue an interrupted run.
        report: called after each step.

    Returns:
        The finished run, with its weights.

    Raises:
        UsageError: an unknown stage, no base, an adapter that has to be merged first, too little memory.
        FormatError: a file is bad or missing.
    """
    refuse_directory(output, [given.base, given.adapter])
    if name not in STAGES:
        raise UsageError(f"unknown stage {name!r}; choose one of {', '.join(STAGES)}")
    recipe = recipe or usual_recipe(name)
    stage = numbers or load_recipe(recipe).stage(name)
    tokenizer, seed, work = read_sentencepiece(given.tokenizer), stage.settings.seed, Path(output) / "work"
    weights, shape, n_before = _start(name, given, len(tokenizer), stage)
    trained = prepare(weights, stage, seed)
    batches = _batches(name, given, recipe, stage, work)
    run = Run(weights, trained, shape, batches, stage.settings, lora=stage.lora, folder=work)
    if resume:
        run.resume()
    run.train(report=report)
    publish(output, given, stage, shape, tokenizer, weights, n_before)
    return run


def publish(
    output: str | os.PathLike[str],
    given: StageInput,
    stage: StageNumbers,
    shape: ModelParams,
    tokenizer: SentencePieceModel,
    weights: Weights,
    n_before: int,
) -> None:
    """Write what a stage made: a base; or an adapter, with whole tensors that were trained or have become larger."""
    if stage.everything:
        return publish_base(output, weights, shape, tokenizer)
    grown, pad = len(tokenizer) != n_before, "[PAD]" if b"[PAD]" in tokenizer.ids else None
    saved = {WHOLE[name] for name in stage.modules_to_save}
    whole = [each for each in EMBEDDINGS if each in saved or grown or given.adapter]
    lora, base = stage.lora or Lora(), given.base or ""
    publish_adapter(output, weights, shape, lora, tokenizer, whole=whole, base_name=base, pad_token=pad)


def usual_recipe(name: str) -> str:
    """The recipe that holds where none is named.

    >>> usual_recipe("stage2"), usual_recipe("pretrain")
    ('original', 'demo')
    """
    return "demo" if name == "pretrain" else "original"


def small_batches(
    usual: StageNumbers, rows: int | None = None, batch: int | None = None, accumulation: int | None = None
) -> StageNumbers:
    """The stage with batches for the numpy engine: 8 rows at a time, one batch an update, unless told otherwise.

    >>> stage = small_batches(load_recipe("original").stage("stage1"))
    >>> stage.batch, stage.rows, stage.settings.accumulation
    (8, 8, 1)
    """
    rows = rows or min(8, batch or 8)
    accumulation = accumulation or max(1, (batch or rows) // rows)
    if batch and rows * accumulation != batch:
        raise UsageError(f"an update of {batch} rows does not consist of {accumulation} batches of {rows}")
    settings = replace(usual.settings, accumulation=accumulation)
    return replace(usual, settings=settings, batch=rows * accumulation, rows=rows)


def prepare_input(name: str, given: StageInput, recipe: str, stage: StageNumbers, folder: Path) -> None:
    """Prepare the data in ``folder``, unless they are prepared already."""
    if not _prepared_already(given):
        kind = "records" if name == "instruct" else "texts"
        how = Preparation(kind, recipe, stage.length, validation=0, seed=stage.settings.seed)
        folder.mkdir(parents=True, exist_ok=True)
        prepare_data(given.data, given.tokenizer, folder / PREPARED, how)


def prepared_blocks(name: str, given: StageInput, recipe: str, stage: StageNumbers, folder: Path) -> Blocks:
    """Batches of the data that were given prepared, or that :func:`prepare_input` has prepared in ``folder``.

    Raises:
        UsageError: they were prepared for another kind of stage, for a recipe that cuts otherwise, or in longer rows.
        FormatError: the file is damaged, or of another tokenizer.
    """
    path = given.data[0] if _prepared_already(given) else folder / PREPARED
    data = open_prepared(path, len(read_sentencepiece(given.tokenizer)))
    try:
        _require_fitting(path, data.metadata, name, recipe)
    except UsageError:
        data.close()
        raise
    if data.longest > stage.length:
        data.close()
        raise UsageError(
            f"{path} was prepared with rows of {data.longest} tokens, and a row has {stage.length} here;"
            f" give --length {data.longest}, or prepare the data again"
        )
    return Blocks(data, rows=stage.rows, seed=stage.settings.seed, epoch_end=stage.settings.epoch_end)


def _require_fitting(path: str | os.PathLike[str], made: Mapping[str, str], name: str, recipe: str) -> None:
    """Refuse rows that were cut for something else; what a file does not say is not held against it."""
    what, wanted = made.get("what"), "records" if name == "instruct" else "texts"
    if what not in (None, wanted):
        raise UsageError(f"{path} was prepared from {what}, and {name} trains on {wanted}; prepare it again")
    theirs = made.get("recipe", recipe)
    if theirs in RECIPES and load_recipe(theirs).cutting != load_recipe(recipe).cutting:
        raise UsageError(
            f"{path} was prepared for the recipe {theirs}, and {recipe} cuts texts and writes prompts otherwise;"
            f" give --recipe {theirs}, or prepare the data again with --recipe {recipe}"
        )


def _prepared_already(given: StageInput) -> bool:
    return len(given.data) == 1 and is_prepared(given.data[0])


def _batches(name: str, given: StageInput, recipe: str, stage: StageNumbers, work: Path) -> Blocks | Packing:
    if load_recipe(recipe).lines_per_cut is not None:
        prepare_input(name, given, recipe, stage, work)
        return prepared_blocks(name, given, recipe, stage, work)
    processor = load_processor(read_sentencepiece(given.tokenizer).to_bytes(), given.tokenizer)
    if name == "instruct":
        records = [record for path in given.data for record in read_instructions(path)[0]]
        documents = list(instruction_documents(processor, records))
    else:
        documents = [text_document(processor, text) for path in given.data for text in read_documents(path)]
    return Packing(documents, rows=stage.rows, length=stage.length, seed=stage.settings.seed)


def _start(name: str, given: StageInput, n_vocab: int, stage: StageNumbers) -> tuple[Weights, ModelParams, int]:
    """The weights that training begins with, one row of embeddings and output a piece; and the base's rows."""
    seed = stage.settings.seed
    if name == "pretrain":
        shape = given.shape or ModelParams(n_embd=128, n_mult=32, n_head=4, n_layer=4)
        require_memory(shape.changed(n_vocab=n_vocab), stage, "this shape")
        return initial_weights(shape, n_vocab, seed), shape, n_vocab
    if given.base is None:
        raise UsageError(f"{name} starts from a model: name its directory with --base")
    with open_checkpoint(given.base) as checkpoint:
        require_plain(checkpoint.params, given.base)
        require_memory(checkpoint.params.changed(n_vocab=n_vocab), stage, given.base)
    weights, shape = load_weights(given.base)
    n_before = len(weights[EMBEDDINGS[0]])
    if given.adapter:
        weights |= {name: np.array(tensor.f32()) for name, tensor in whole_tensors(given.adapter).items()}
    grow_weights(weights, n_vocab, seed=seed)
    return weights, shape, n_before


def whole_tensors(path: str) -> dict[str, LazyTensor]:
    """The embeddings and output of an adapter without pairs, by Meta name.

    Raises:
        UsageError: it has pairs.
    """
    with open_adapter(path) as adapter:
        if adapter.pairs:
            raise UsageError(f"{path} has LoRA pairs; merge it into the base first (`merge`) and start from the result")
        arrays = {name: np.array(tensor.f32()) for name, tensor in adapter.replaced.items()}
    return {name: LazyTensor.of_array(name, array, layout="meta") for name, array in arrays.items()}
