"""Drafts: tokens that the text itself suggests, which the model checks several at a time.

A model reads all its weights for a token, and hardly longer for a few. So where a text repeats something (it quotes,
edits, sums up), what followed there is evaluated together with the token at hand. Each of its tokens counts only if the
sampler then chooses it, from the logits that it would have had anyway: the fast arithmetic gives the same bits however
tokens are batched, so the text, the probabilities and the random numbers are those of a text without drafts. (This is
prompt lookup decoding, Saxena 2023, without its approximation.)

Where the text suggests nothing, a smaller model with the same vocabulary may (:class:`DraftModel`): it continues the
text by itself for a few tokens, as long as it is sure enough (speculative decoding, Leviathan and others 2022).

A draft that is wrong costs the time of a few tokens. :class:`Drafter` keeps the account, and rests for a while when it
has lost some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ggmlpy.files.errors import UsageError

if TYPE_CHECKING:
    from llama_ref.arithmetic.evaluator import Evaluator

__all__ = ["DraftModel", "Drafter", "check_vocabulary", "continuation"]

LONGEST, SHORTEST = 4, 2  # last tokens that must have stood in the text before
CAREFUL = 3  # tokens of a draft, unless the one before was all right
SHORT_REST, LONG_REST = 16, 512  # tokens without drafts
SURE = 0.4  # probability below which a draft model stops
RESERVE = 10.0  # gains beyond as many tokens are not counted


@dataclass
class Drafter:
    """Proposes drafts of up to ``most`` tokens, and learns from the time they save or lose.

    Attributes:
        single: seconds that one token takes.
        model: asked where the text itself suggests nothing.
        lost: seconds that drafts have lost so far; negative: won.
    """

    most: int
    model: DraftModel | None = None
    single: float = 0.0
    lost: float = 0.0

    def __post_init__(self) -> None:
        self._length = min(self.most, CAREFUL)
        self._pause, self._rest = 0, SHORT_REST

    def propose(self, tokens: Sequence[int], room: int, n_known: int = 0) -> list[int]:
        """What may follow a text, at most ``room`` tokens; often nothing.

        Args:
            n_known: how many of the last tokens a draft model reads.
        """
        if self._pause:
            self._pause -= 1
            return []
        most = min(self._length, room)
        if not self.single or most < 1:
            return []
        drafted = continuation(tokens, most)
        return drafted if drafted or self.model is None else self.model.continuation(tokens[-n_known:], most)

    def took_one(self, seconds: float) -> None:
        """A token was evaluated alone."""
        self.single = 0.9 * self.single + 0.1 * seconds if self.single else seconds

    def took(self, seconds: float) -> None:
        """A token was evaluated with a draft."""
        self.lost += seconds - self.single

    def was_right(self) -> None:
        """A token of a draft was chosen, and needs no evaluation."""
        self.lost = max(self.lost - self.single, -RESERVE * self.single)

    def ended(self, right: int, length: int) -> None:
        """That many tokens of a draft of this length were chosen."""
        self._length = self.most if right == length else min(self.most, CAREFUL)
        if self.lost > self.single:
            self._pause, self._rest, self.lost = self._rest, min(2 * self._rest, LONG_REST), 0.0
        elif self.lost < 0:
            self._rest = SHORT_REST


@dataclass
class DraftModel:
    """A smaller model that continues a text with its most likely tokens.

    Attributes:
        model: one whose context is as long as that of the model it drafts for.
        seen: the tokens that are in its cache.
    """

    model: Evaluator
    seen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cache = self.model.new_cache()

    def continuation(self, tokens: Sequence[int], most: int) -> list[int]:
        """At least one token that may follow, and at most ``most``, as long as the model is SURE."""
        text, drafted = list(tokens), list[int]()
        same = next((i for i, (a, b) in enumerate(zip(self.seen, text)) if a != b), min(len(self.seen), len(text)))
        same = min(same, len(text) - 1)
        while len(drafted) < most:
            logits = self.model.evaluate(text[same:], same, last_only=True, cache=self.cache)
            same, token = len(text), int(logits.argmax())
            sure = 1 / float(np.exp(logits - logits[token], dtype=np.float64).sum())
            if drafted and sure < SURE:
                break
            drafted.append(token)
            text.append(token)
        self.seen = text[:same]
        return drafted


def check_vocabulary(model: Evaluator, draft: Evaluator) -> None:
    """A draft model must number the same pieces in the same way.

    Raises:
        UsageError: it doesn't, or its context is shorter.
    """
    own, others = list(model.vocab), list(draft.vocab)
    if own != others:
        first = next((i for i, (a, b) in enumerate(zip(own, others)) if a != b), min(len(own), len(others)))
        raise UsageError(
            f"the draft model has another vocabulary: {len(others)} pieces instead of {len(own)}, different from "
            f"piece {first} on; take a smaller model of the same family"
        )
    if draft.n_ctx < model.n_ctx:
        raise UsageError(f"the draft model has a context of {draft.n_ctx} tokens, fewer than the model's {model.n_ctx}")


def continuation(tokens: Sequence[int], most: int) -> list[int]:
    """What followed the last tokens of a text where they stood before, the more of them the better.

    >>> continuation([7, 1, 2, 3, 4, 5, 9, 1, 2], 3)
    [3, 4, 5]
    """
    text = np.asarray(tokens)
    for n in range(LONGEST, SHORTEST - 1, -1):
        if len(text) <= n or most < 1:
            continue
        starts = n + np.flatnonzero((sliding_window_view(text[:-1], n) == text[-n:]).all(axis=1))
        if len(starts):
            whole = starts[starts + most <= len(text)]
            start = whole[-1] if len(whole) else starts[0]
            return [int(token) for token in text[start : start + most]]
    return []
