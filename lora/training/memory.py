"""What a run needs in memory: parameters, and bytes of either engine.

The numpy engine computes in float32 and keeps everything: weights 4P, gradients and their sum 8T, AdamW's two means 8T
bytes (P parameters, T of them trained), and of each row what the backward pass needs of the forward pass. The torch
engine shares weights 4P, gradients 4T and means 8T out over the cards, and gathers a layer at a time in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ggmlpy.files.errors import UsageError
from ggmlpy.files.mapping import physical_memory
from ggmlpy.formats.model_params import LLAMA_ROPE_THETA, ModelParams
from ggmlpy.formats.tensor_names import TABLE

from .recipe import WHOLE, StageNumbers

__all__ = [
    "GIB",
    "MOST_CARDS",
    "Counts",
    "count_parameters",
    "fewest_cards",
    "numpy_bytes",
    "require_memory",
    "require_plain",
    "torch_bytes",
]

GIB = 1 << 30
MOST_CARDS = 1024


@dataclass(frozen=True)
class Counts:
    """Parameters of a model in training; tensors count once, however often they are used."""

    everything: int
    trained: int
    pairs: int

    @property
    def percent(self) -> float:
        """What share of the parameters is trained, as PEFT prints it."""
        return 100 * self.trained / self.everything


def count_parameters(shape: ModelParams, stage: StageNumbers) -> Counts:
    """All parameters of the model with its LoRA pairs, and those that ``stage`` trains.

    >>> from ggmlpy.formats.model_params import model_named
    >>> from lora.training.recipe import load_recipe
    >>> seven = model_named("7B").changed(n_vocab=49953)
    >>> counts = count_parameters(seven, load_recipe("original").stage("stage2"))
    >>> counts.trained, counts.everything, f"{counts.percent:.4f}"
    (417603584, 6893875200, '6.0576')
    """
    base = pairs = whole = 0
    saved = {WHOLE[name] for name in stage.modules_to_save}
    for row in TABLE:
        sides = [getattr(shape, side) for side in row.shape]
        times = shape.n_layer if row.per_layer else 1
        base += times * math.prod(sides)
        whole += math.prod(sides) if row.meta in saved else 0
        if stage.lora and row.meta.split(".")[-2] in stage.lora.targets:
            pairs += times * stage.lora.r * sum(sides)
    return Counts(base + pairs, base if stage.everything else whole + pairs, pairs)


def numpy_bytes(shape: ModelParams, stage: StageNumbers) -> int:
    """About what the numpy engine holds at its peak."""
    counts = count_parameters(shape, stage)
    n = stage.rows * stage.length
    layer = 18 * shape.n_embd + 6 * shape.n_ff + shape.n_head * stage.length
    return 4 * (counts.everything + 4 * counts.trained + n * (shape.n_layer * layer + 3 * shape.n_vocab))


def torch_bytes(shape: ModelParams, stage: StageNumbers, n: int) -> float:
    """About what the torch engine takes of each of ``n`` cards: float32 weights, gradients and moments, shared out."""
    counts = count_parameters(shape, stage)
    shared = 4 * counts.everything + 12 * counts.trained
    tokens = stage.rows * stage.length
    gathered = 2 * 2 * shape.n_vocab * shape.n_embd + 2 * counts.everything / shape.n_layer
    inner = tokens * (10 * shape.n_vocab + 2 * shape.n_layer * shape.n_embd + 40 * shape.n_embd + 12 * shape.n_ff)
    return shared / n + gathered + inner + GIB


def fewest_cards(needed: Callable[[int], float], there: float) -> int | None:
    """The fewest cards, a power of two, of which each needs at most what is there; None: no number does.

    >>> fewest_cards(lambda n: 100 / n, 30), fewest_cards(lambda n: 40, 30)
    (4, None)
    """
    return next((n for n in (1 << i for i in range(MOST_CARDS.bit_length())) if needed(n) <= there), None)


def require_plain(shape: ModelParams, what: str) -> None:
    """Refuse models that the numpy engine would compute wrongly: it knows LLaMA 1's transformer.

    Raises:
        UsageError: with what the model has.
    """
    own = {
        "grouped heads of keys and values": shape.n_head_kv != shape.n_head,
        "heads of another width": shape.head_dim * shape.n_head != shape.n_embd,
        f"rotary base {shape.rope_freq_base:g}": shape.rope_freq_base != LLAMA_ROPE_THETA,
        "scaled rotary frequencies": shape.rope_scaling is not None,
        "biases": shape.attention_bias or shape.mlp_bias,
        "norms of heads": shape.qk_norm,
        "one matrix for embeddings and output": shape.tied_embeddings,
        "a sliding window": bool(shape.sliding_window),
    }
    if found := [name for name, there in own.items() if there]:
        raise UsageError(f"{what} has {', '.join(found)}, which the numpy engine does not compute")


def require_memory(shape: ModelParams, stage: StageNumbers, what: str) -> None:
    """Refuse, before anything is read, what this machine cannot hold.

    Raises:
        UsageError: with both numbers.
    """
    needed, there = numpy_bytes(shape, stage), physical_memory()
    if there and needed > there:
        raise UsageError(
            f"training {what} in numpy needs about {needed / 1e9:.1f} GB of memory, and this machine has"
            f" {there / 1e9:.1f} GB; `train stage2 --plan 7B` shows what larger machines do, --engine torch uses them"
        )
