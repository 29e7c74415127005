"""Drafts: tokens that the text itself suggests, which the model checks several at a time.

A model reads all its weights for a token, and hardly longer for a few. So where a text repeats something (it quotes,
edits, sums up), what followed there is evaluated together with the token at hand. Each of its tokens counts only if the
sampler then chooses it, from the logits that it would have had anyway: the fast arithmetic gives the same bits however
tokens are batched, so the text, the probabilities and the random numbers are those of a text without drafts. (This is
prompt lookup decoding, Saxena 2023, without its approximation.)

Where the text suggests nothing, a smaller model with the same vocabulary may (:class:`DraftModel`): it continues the
text by itself for a few tokens, as long as it is sure enough (speculative decoding, Leviathan and others 2022).

A draft that is wrong costs the time of a few tokens. :class:`Drafter` measures what is won and lost, chooses the length
of drafts by it, and evaluates none where they do not pay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ggmlpy.files.errors import UsageError

if TYPE_CHECKING:
    from llama_ref.arithmetic.evaluator import Evaluator

__all__ = ["DraftModel", "Drafter", "check_vocabulary", "continuation"]

SHORTEST, LONGEST = 2, 24  # last tokens that must have stood in the text before; more than that are not counted
KINDS = (2, 3, 4, 6, 9, 16)  # as many tokens stood there, or more: the more, the likelier the next one does, too
EXPECTED = (0.3, 0.45, 0.6, 0.75, 0.85, 0.92)  # how likely, before anything is known of this text
CERTAINTY, FORGETTING = 4.0, 0.98  # tokens that this assumption counts for, and what a count is worth a token later
RECOVERY = 0.01  # how much of bad luck is forgiven with every token without a draft
STEP = 0.25  # time of each further token of a pass, in that of one, before it was measured
SURE = 0.4  # probability below which a draft model stops
RESERVE = 10.0  # gains beyond as many tokens are not counted
MARGIN = 1.05  # gain below which a draft is not worth it
STAKE, SHARE = 0.5, 0.01  # tokens' time that drafts may lose at first, and with every token


@dataclass
class Drafter:
    """Proposes drafts of up to ``most`` tokens, as long as what they save is more than what they cost.

    Both are measured: what further tokens of a pass cost, and how often what followed in the text before followed
    again. The second is known without drafts, too: every proposal is compared with the text, whether it was evaluated
    or not. So drafts stop where they do not pay, and begin again where the text begins to repeat itself.

    Attributes:
        most: tokens.
        model: asked where the text itself suggests nothing.
        single: seconds that one token takes.
        step: seconds that each further token of a pass takes.
        lost: seconds that drafts have lost so far; negative: won.
    """

    most: int
    model: DraftModel | None = None
    single: float = 0.0
    step: float = 0.0
    lost: float = 0.0

    def __post_init__(self) -> None:
        self._right = [CERTAINTY * expected for expected in EXPECTED] + [CERTAINTY * SURE]
        self._asked = [CERTAINTY] * len(self._right)
        self._watched: list[int] = []  # what would follow if the text went on as before
        self._length = 0  # how many tokens before it are as they were; 0: a draft model proposed it
        self._drafted = 0

    def propose(self, tokens: Sequence[int], room: int, n_known: int = 0) -> list[int]:
        """What may follow a text, at most ``room`` tokens; often nothing.

        Args:
            n_known: how many of the last tokens a draft model reads.
        """
        most = min(self.most, room)
        self._watched, self._length = continuation(tokens, max(most, 1))
        if not self.single or most < 1 or self.lost > 0:
            return []
        if not self._watched and self.model is not None and self._worth(0, most):
            self._watched = self.model.continuation(tokens[-n_known:], most)
        drafted = self._watched[: self._worth(self._length, min(most, len(self._watched)))]
        self._drafted = len(drafted)
        return drafted

    def _worth(self, length: int, most: int) -> int:
        """The number of tokens that promises the most per second, at most ``most``; 0 if a token alone does."""
        best, gain, likely, expected = 0, MARGIN, 1.0, 1.0
        for n in range(1, most + 1):
            kind = self._kind(length, n - 1)
            likely *= self._right[kind] / self._asked[kind]
            expected += likely
            found = expected * self.single / (self.single + n * self.step)
            if found > gain:
                best, gain = n, found
        return best

    def _kind(self, length: int, further: int) -> int:
        """Which of the counts a token belongs to."""
        return bisect_right(KINDS, length + further) - 1 if length else len(KINDS)

    def came(self, token: int) -> None:
        """The next token of the text is there: was it the one that was proposed?"""
        self.lost = max(self.lost - SHARE * self.single, -RESERVE * self.single)
        if not self._watched:
            self._right[-1] += RECOVERY * (SURE * self._asked[-1] - self._right[-1])
            return
        kind, right = self._kind(self._length, 0), token == self._watched[0]
        self._right[kind] = FORGETTING * self._right[kind] + right
        self._asked[kind] = FORGETTING * self._asked[kind] + 1
        self._watched = self._watched[1:] if right else []
        self._length += 1 if self._length else 0

    def took_one(self, seconds: float) -> None:
        """A token was evaluated alone."""
        if not self.single:
            self.single, self.step, self.lost = seconds, STEP * seconds, -STAKE * seconds
        self.single = 0.9 * self.single + 0.1 * seconds
        self.step += RECOVERY * (STEP * self.single - self.step)  # it may have been measured in a bad moment

    def took(self, seconds: float) -> None:
        """A token was evaluated with a draft."""
        self.lost += seconds - self.single
        self.step = 0.8 * self.step + 0.2 * min(max(0.0, seconds - self.single) / self._drafted, self.single)

    def was_right(self) -> None:
        """A token of a draft was chosen, and needs no evaluation."""
        self.lost = max(self.lost - self.single, -RESERVE * self.single)


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


def continuation(tokens: Sequence[int], most: int) -> tuple[list[int], int]:
    """What followed the last tokens of a text where they stood before, and how many of them stood there.

    Of several places the one with the most tokens before it counts, of equals one that ``most`` tokens follow, of these
    the last.

    >>> continuation([7, 1, 2, 3, 4, 5, 9, 1, 2], 3)
    ([3, 4, 5], 2)
    """
    text = np.asarray(tokens)
    if len(text) <= SHORTEST or most < 1:
        return [], 0
    starts = SHORTEST + np.flatnonzero((sliding_window_view(text[:-1], SHORTEST) == text[-SHORTEST:]).all(axis=1))
    best, chosen = (0, False), 0
    for start in starts.tolist():
        found = _same_before(text, start), start + most <= len(text)
        if found >= best:
            best, chosen = found, start
    return text[chosen : chosen + most].tolist() if best[0] else [], best[0]


def _same_before(text: NDArray[Any], place: int) -> int:
    """How many tokens before a place are those at the end of a text, at most LONGEST."""
    n = min(LONGEST, place)
    different = np.flatnonzero(text[place - n : place] != text[len(text) - n :])
    return n - 1 - int(different[-1]) if len(different) else n
