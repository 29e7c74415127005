"""Drafts: tokens that the text itself suggests, which the model checks several at a time.

A model reads all its weights for a token, and hardly longer for a few. So where a text repeats something (it quotes,
edits, sums up), what followed there is evaluated together with the token at hand. Each of its tokens counts only if the
sampler then chooses it, from the logits that it would have had anyway: the fast arithmetic gives the same bits however
tokens are batched, so the text, the probabilities and the random numbers are those of a text without drafts. (This is
prompt lookup decoding, Saxena 2023, without its approximation.)

A draft that is wrong costs the time of a few tokens. :class:`Drafter` keeps the account, and rests for a while when it
has lost some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

__all__ = ["Drafter", "continuation"]

LONGEST, SHORTEST = 4, 2  # last tokens that must have stood in the text before
CAREFUL = 3  # tokens of a draft, unless the one before was all right
SHORT_REST, LONG_REST = 16, 512  # tokens without drafts
RESERVE = 10.0  # gains beyond as many tokens are not counted


@dataclass
class Drafter:
    """Proposes drafts of up to ``most`` tokens, and learns from the time they save or lose.

    Attributes:
        single: seconds that one token takes.
        lost: seconds that drafts have lost so far; negative: won.
    """

    most: int
    single: float = 0.0
    lost: float = 0.0

    def __post_init__(self) -> None:
        self._length = min(self.most, CAREFUL)
        self._pause, self._rest = 0, SHORT_REST

    def propose(self, tokens: Sequence[int], room: int) -> list[int]:
        """What may follow a text, at most ``room`` tokens; often nothing."""
        if self._pause:
            self._pause -= 1
            return []
        return continuation(tokens, min(self._length, room)) if self.single else []

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
