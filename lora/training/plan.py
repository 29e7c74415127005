"""What a stage of a recipe takes at its real size: parameters, steps, memory of each card, days.

Bytes of one card, for P parameters, T of them trained, N cards (weights and gradients in half precision, masters and
AdamW's two means in float32):

=========================  ============================================================================================
DDP                        2P + 14T                  every card holds everything
ZeRO-2                     2P + 14T / N              gradients and optimizer are shared out
ZeRO-3, FSDP               (2P + 14T) / N            the weights, too
=========================  ============================================================================================

Beside these, each card holds buffers, one row's logits, the inputs of each layer (activation checkpointing computes the
rest anew), one layer's activations, and CUDA itself. A token costs 4P + 2T operations and 2P for computing forward
twice; attention comes on top.

Source: measured on users' reports (7B fails on 24 GB, 13B on 32 GB) and on 16 A100, which made 1517 tokens/s each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.model_params import ModelParams, model_named

from .memory import GIB, MOST_CARDS, Counts, count_parameters, fewest_cards, torch_bytes
from .recipe import StageNumbers

__all__ = ["CARDS", "MODES", "Card", "Plan", "find_card", "plan_stage"]

DAY = 86400
TIGHT = 0.8  # of a card: above it people ran out of memory (7B on 24 GB), for allocators leave gaps
EFFICIENCY = (0.2, 0.4)  # parts of a card's speed that training reaches


@dataclass(frozen=True)
class Card:
    """A GPU: its memory, its speed in half precision without sparsity, and whether that can be bfloat16."""

    name: str
    gib: float
    tflops: float
    bfloat16: bool = True


# fmt: off
CARDS = (
    #    name        GiB  TFLOPS
    Card("RTX-3090", 24,  71),
    Card("RTX-4090", 24,  165),
    Card("V100-32",  32,  125, bfloat16=False),
    Card("A100-40",  40,  312),
    Card("L40S",     48,  362),
    Card("A100-80",  80,  312),
    Card("H100",     80,  989),
    Card("H200",     141, 989),
)

# How the work is shared: which parts of weights, and of gradients and optimizer, a card of n holds.
MODES = {
    "DDP":    lambda n: (1.0,     1.0),
    "ZeRO-2": lambda n: (1.0,     1.0 / n),
    "ZeRO-3": lambda n: (1.0 / n, 1.0 / n),
    "FSDP":   lambda n: (1.0 / n, 1.0 / n),
}
# fmt: on


def find_card(name: str) -> Card:
    """A card by its name, in either case.

    Raises:
        UsageError: there is none of that name in the table.

    >>> find_card("a100-80").tflops
    312
    """
    for card in CARDS:
        if card.name.lower() == name.lower():
            return card
    raise UsageError(f"no card {name!r} in the table; there are {', '.join(card.name for card in CARDS)}")


@dataclass(frozen=True)
class Plan:
    """A stage of a recipe for one model on some cards."""

    model: str
    shape: ModelParams
    stage: StageNumbers
    n_cards: int
    card: Card
    counts: Counts

    @property
    def accumulation(self) -> int:
        """Micro-batches of each card for one update."""
        return -(-self.stage.batch // (self.stage.rows * self.n_cards))

    @property
    def n_tokens(self) -> int:
        """Tokens of all updates."""
        return self.stage.settings.n_steps * self.stage.batch * self.stage.length

    @property
    def flops_per_token(self) -> float:
        """Operations for one token, activation checkpointing and attention included."""
        attention = 4 * self.shape.n_layer * self.shape.n_embd * self.stage.length
        return 6 * self.counts.everything + 2 * self.counts.trained + 4 * attention

    def weight_bytes(self, mode: str, n_cards: int | None = None) -> float:
        """What weights, gradients and optimizer take of one card.

        >>> seven = plan_stage("7B", __import__("lora").training.recipe.load_recipe("original").stage("instruct"))
        >>> [round(seven.weight_bytes(mode, 8) / GIB, 1) for mode in MODES]
        [18.5, 13.6, 2.3, 2.3]
        """
        weights, optimizer = MODES[mode](n_cards or self.n_cards)
        return 2 * self.counts.everything * weights + 14 * self.counts.trained * optimizer

    @property
    def other_bytes(self) -> float:
        """What else a card holds: buffers, logits, inputs of the layers, one layer's activations, CUDA."""
        n, shape = self.stage.rows * self.stage.length, self.shape
        logits, inputs = 10 * n * shape.n_vocab, 2 * n * shape.n_layer * shape.n_embd
        layer = n * (34 * shape.n_embd + 12 * shape.n_ff + 5 * shape.n_head * self.stage.length)
        return 8e8 + logits + inputs + layer + 0.75 * GIB

    def card_bytes(self, mode: str, n_cards: int | None = None) -> float:
        """What one card must have."""
        return self.weight_bytes(mode, n_cards) + self.other_bytes

    def smallest(self, mode: str) -> int | None:
        """The fewest cards of this kind that do; None: no number does, since each card holds all weights."""
        return fewest_cards(partial(self.card_bytes, mode), self.card.gib * GIB)

    def engine_bytes(self, n_cards: int) -> float:
        """What each card needs for ``train --engine torch``, whose weights are float32."""
        return torch_bytes(self.shape, self.stage, n_cards)

    def days(self) -> tuple[float, float]:
        """At the higher and at the lower efficiency."""
        operations = self.n_tokens * self.flops_per_token
        low, high = (operations / (self.n_cards * self.card.tflops * 1e12 * part) / DAY for part in EFFICIENCY)
        return high, low

    def lines(self) -> Iterator[str]:
        """The plan in words."""
        stage, counts = self.stage, self.counts
        settings = stage.settings
        share = f"trainable%: {counts.percent:.4f}"
        yield f"trainable params: {counts.trained:,} || all params: {counts.everything:,} || {share}"
        yield f"LoRA pairs {counts.pairs:,}; whole: {', '.join(stage.modules_to_save) or 'none'}"
        yield (
            f"an update: {stage.batch} rows of {stage.length} tokens ="
            f" {_counted(self.n_cards, 'card')} x {_counted(stage.rows, 'row')} x accumulation {self.accumulation}"
        )
        yield f"{settings.n_steps:,} updates, {self.n_tokens / 1e9:.2f} billion tokens"
        yield (
            f"peak rate {settings.learning_rate:g}, warm-up {settings.warmup:g}, decay {settings.weight_decay:g},"
            f" optimizer {settings.optimizer}, loss: {settings.loss}"
        )
        yield f"GiB of each {self.card.name} (weights and optimizer alone), which has {self.card.gib}:"
        for mode in MODES:
            alone = f" ({self.weight_bytes(mode) / GIB:.1f})"
            yield f"  {mode:<7} " + self._memory(partial(self.card_bytes, mode), alone)
        yield "  --engine torch (FSDP, with weights in float32):" + self._memory(self.engine_bytes)
        fast, slow = self.days()
        cards = _counted(self.n_cards, "card")
        yield f"{fast:.1f} to {slow:.1f} days on {cards}, at 40 to 20 % of {self.card.tflops} TFLOPS each"
        if not self.card.bfloat16:
            yield f"{self.card.name} cannot multiply in bfloat16, as --engine torch does, which takes much longer there"

    def _memory(self, needed: Callable[[int], float], alone: str = "") -> str:
        """What each card needs, and how many of them do."""
        smallest, there = fewest_cards(needed, self.card.gib * GIB), self.card.gib * GIB
        verdict = "fits" if needed(self.n_cards) <= there else "does not fit"
        if TIGHT * there < needed(self.n_cards) <= there:
            verdict = "fits, with little room"
        if smallest is None:
            verdict += "; no number of these cards does"
            larger = [card for card in CARDS if needed(MOST_CARDS) <= card.gib * GIB]
            verdict += f", {larger[0].name} does" if larger else ""
        else:
            verdict += f"; smallest machine: {_counted(smallest, 'card')}"
        return f"{needed(self.n_cards) / GIB:6.1f}{alone}  {verdict}"

    def as_dict(self) -> dict[str, Any]:
        """The same for programs."""
        fast, slow = self.days()
        return {
            "model": self.model,
            "parameters": self.counts.everything,
            "trained": self.counts.trained,
            "percent": self.counts.percent,
            "batch": self.stage.batch,
            "rows": self.stage.rows,
            "accumulation": self.accumulation,
            "length": self.stage.length,
            "steps": self.stage.settings.n_steps,
            "tokens": self.n_tokens,
            "cards": self.n_cards,
            "card": self.card.name,
            "bytes": {mode: round(self.card_bytes(mode)) for mode in MODES},
            "weight_bytes": {mode: round(self.weight_bytes(mode)) for mode in MODES},
            "smallest": {mode: self.smallest(mode) for mode in MODES},
            "engine_bytes": round(self.engine_bytes(self.n_cards)),
            "engine_smallest": fewest_cards(self.engine_bytes, self.card.gib * GIB),
            "days": [fast, slow],
        }


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def plan_stage(model: str, stage: StageNumbers, n_cards: int | None = None, card: str = "A100-80") -> Plan:
    """Plan a stage for a published size.

    Args:
        model: "7B", "13B", "33B" or "65B".
        n_cards: None: as many as the recipe was run on.
        card: one of :data:`CARDS`.

    Raises:
        UsageError: an unknown size or card, or no card.
    """
    shape = model_named(model).changed(n_vocab=stage.n_vocab)
    n_cards = stage.cards if n_cards is None else n_cards
    if n_cards < 1 or stage.batch < 1 or stage.rows < 1:
        raise UsageError("there must be at least one card, and one row in a batch")
    rows = min(stage.rows, stage.batch)
    return Plan(shape.name, shape, replace(stage, rows=rows), n_cards, find_card(card), count_parameters(shape, stage))
