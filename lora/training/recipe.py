"""The recipes: every number of every stage, read from one file each (``recipes/*.json``), and nothing else.

============  =========================================================================================================
``original``  Chinese-LLaMA-Alpaca as its scripts trained: transformers 4.28.1's AdamW, and an update that is the mean
              of its micro-batches' means, so that rows with few targets count more
``today``     the same numbers as today's Trainer computes them: torch's AdamW, the mean over the update's targets
``alpaca-2``  Chinese-LLaMA-Alpaca-2: rank 64, other lengths, vocabulary and prompt
``demo``      the demo model's, and the only one with a stage ``pretrain``
============  =========================================================================================================

A file may name another one with ``based_on`` and then says only what differs; ``null`` takes a stage away.

``optimizer``        ``adamw_hf`` or ``adamw_torch`` (:class:`~lora.training.optim.AdamW`)
``loss``             ``mean of means`` or ``targets of the update``
``first_step``       what the schedule is asked for at the first update: 0 gives it the rate 0
``warmup_rounding``  ``ceil`` or ``round``: steps of the warm-up
``epoch_end``        ``carried over``: batches that are left at the end of an epoch are completed to an update by the
                     next epoch's; ``smaller update``: they make one by themselves. An epoch's last batch has the rows
                     that are left
``lines_per_cut``    so many lines are joined and cut into blocks; what is left of them is dropped. ``null``: texts are
                     separated by empty lines and packed whole into rows, where none sees another
``end_of_line``      whether ``</s>`` follows each line
``prompt``           what surrounds an instruction, a key of :data:`~lora.training.tokens.PROMPTS`
``rows``             of a micro-batch
``batch``            rows of an update, over all cards
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.tensor_names import TABLE

from .loop import Settings
from .model import Lora

__all__ = ["MODULES", "RECIPES", "WHOLE", "Recipe", "StageNumbers", "changed_lora", "load_recipe", "split_modules"]

RECIPES = ("original", "today", "alpaca-2", "demo")
FOLDER = Path(__file__).with_name("recipes")

_ROWS = {row.huggingface.split(".")[-2]: row for row in TABLE if len(row.shape) == 2}
MODULES = tuple(name for name, row in _ROWS.items() if row.per_layer)  # that can have LoRA pairs
WHOLE = {name: row.meta for name, row in _ROWS.items() if not row.per_layer}  # that can be trained whole


@dataclass(frozen=True)
class StageNumbers:
    """One stage of a recipe.

    Attributes:
        settings: of a run.
        lora: rank, scale, dropout, and the matrices that get pairs; None: no pairs.
        modules_to_save: trained whole, by their names in Hugging Face's models.
        batch: rows of an update.
        rows: of a micro-batch.
        length: tokens of a row.
        n_vocab: rows of embeddings and output in the published model.
        cards: that the published model was trained on.
    """

    settings: Settings
    lora: Lora | None
    modules_to_save: tuple[str, ...]
    batch: int
    rows: int
    length: int
    n_vocab: int
    cards: int

    def __post_init__(self) -> None:
        unknown = [name for name in self.modules_to_save if name not in WHOLE]
        if unknown:
            raise UsageError(f"no tensor {unknown[0]!r} can be trained whole; {' and '.join(WHOLE)} can")
        small = [name for name in ("batch", "rows", "length") if getattr(self, name) < 1]
        if small:
            raise UsageError(f"{small[0]} must be at least 1, not {getattr(self, small[0])}")
        if self.lora and not (self.lora.r > 0 and 0 <= self.lora.dropout < 1):
            raise UsageError("the rank must be at least 1, and the dropout at least 0 and less than 1")
        if self.lora and self.lora.alpha <= 0:
            raise UsageError("alpha must be above 0, or the pairs count for nothing")

    @property
    def everything(self) -> bool:
        """Whether all tensors are trained, as they are where a base is made from nothing."""
        return self.lora is None and not self.modules_to_save


@dataclass(frozen=True)
class Recipe:
    """One of :data:`RECIPES`."""

    name: str
    about: str
    lines_per_cut: int | None
    end_of_line: bool
    prompt: str
    stages: Mapping[str, StageNumbers]

    @property
    def cutting(self) -> tuple[int | None, bool, str]:
        """What decides how data is prepared: recipes that agree in it share prepared data."""
        return self.lines_per_cut, self.end_of_line, self.prompt

    def stage(self, name: str) -> StageNumbers:
        """The numbers of a stage.

        Raises:
            UsageError: the recipe has no such stage.
        """
        if name not in self.stages:
            raise UsageError(f"the recipe {self.name} has no stage {name}; it has {', '.join(self.stages)}")
        return self.stages[name]


@cache
def load_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        UsageError: there is none of that name.

    >>> load_recipe("original").stage("stage2").lora
    Lora(r=8, alpha=32, dropout=0.05, targets=('wq', 'wk', 'wv', 'wo'))
    """
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    said = _said(name)
    stages = {key: _stage(said, numbers) for key, numbers in said["stages"].items() if numbers}
    return Recipe(name, said["about"], said["lines_per_cut"], said["end_of_line"], said["prompt"], stages)


def _said(name: str) -> dict[str, Any]:
    """What a recipe's file says, on top of what the one says that it is based on."""
    own = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    below = _said(own.pop("based_on")) if "based_on" in own else {"stages": {}}
    stages = dict(below["stages"])
    for stage, numbers in own.get("stages", {}).items():
        stages[stage] = numbers and {**(stages.get(stage) or {}), **numbers}
    return {**below, **own, "stages": stages}


def _stage(said: Mapping[str, Any], own: Mapping[str, Any]) -> StageNumbers:
    merged = {**said, **own}
    settings = Settings(
        learning_rate=merged["learning_rate"],
        n_steps=merged["n_steps"],
        warmup=merged["warmup"],
        weight_decay=merged["weight_decay"],
        betas=tuple(merged["betas"]),
        eps=merged["eps"],
        clip=merged["clip"],
        optimizer=merged["optimizer"],
        loss=merged["loss"],
        first_step=merged["first_step"],
        warmup_rounding=merged["warmup_rounding"],
        epoch_end=merged["epoch_end"],
    )
    targets, saved = tuple(merged["targets"]), tuple(merged["modules_to_save"])
    lora = Lora(**merged["lora"], targets=split_modules(targets)) if targets else None
    sizes = {key: merged[key] for key in ("batch", "rows", "length", "n_vocab", "cards")}
    return StageNumbers(settings, lora, saved, **sizes)


def changed_lora(usual: Lora | None, changes: Mapping[str, Any]) -> Lora | None:
    """A recipe's LoRA with other numbers, or with other matrices by Hugging Face's names; None without a matrix.

    >>> changed_lora(Lora(), {"r": 64, "targets": ("q_proj", "v_proj")})
    Lora(r=64, alpha=32.0, dropout=0.05, targets=('wq', 'wv'))
    """
    changes = dict(changes)
    if "targets" in changes:
        changes["targets"] = split_modules(changes["targets"])
    changed = replace(usual or Lora(targets=()), **changes)
    return changed if changed.targets else None


def split_modules(names: tuple[str, ...]) -> tuple[str, ...]:
    """Meta's names of matrices with LoRA pairs, from those of Hugging Face's models, in the order of the layer.

    Raises:
        UsageError: a name that is none of :data:`MODULES`.

    >>> split_modules(("v_proj", "q_proj"))
    ('wq', 'wv')
    """
    unknown = [name for name in names if name not in MODULES]
    if unknown:
        raise UsageError(f"no matrix of a layer is called {unknown[0]!r}; they are {', '.join(MODULES)}")
    return tuple(_ROWS[name].meta.split(".")[-2] for name in MODULES if name in names)
