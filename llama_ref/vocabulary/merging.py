"""Merging neighbors: how every tokenizer of this family makes tokens of characters.

Both kinds of byte-pair encoding do the same with another measure. SentencePiece's ranks a pair by the score of what it
becomes, GPT-2's by the place of the pair in a list of merges. Of all neighbors the best pair merges, of equals the
leftmost, until none is left that may.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import AnyStr

__all__ = ["PairMerger", "merged_neighbors"]

REMEMBERED_WORDS = 200_000
REMEMBERED_LENGTH = 64  # characters


def merged_neighbors(symbols: list[AnyStr], rank_of: Callable[[AnyStr, AnyStr], float | None]) -> list[AnyStr]:
    """What is left of ``symbols`` (which is used up) when no two neighbors merge.

    Args:
        rank_of: for two neighbors, when they merge: the lowest comes first; None for never.

    A queue holds the pairs, so the time grows as n·log n with the number of symbols.
    """
    if len(symbols) < 2:
        return symbols
    n: int = len(symbols)
    nothing = symbols[0][:0]
    before, after = list(range(-1, n - 1)), [*range(1, n), -1]
    queue: list[tuple[float, int, int, int]] = []  # rank, left, right, length of both

    def offer(left: int, right: int) -> None:
        if left >= 0 and right >= 0:
            rank = rank_of(symbols[left], symbols[right])
            if rank is not None:
                heapq.heappush(queue, (rank, left, right, len(symbols[left]) + len(symbols[right])))

    for i in range(1, n):
        offer(i - 1, i)
    while queue:
        _, left, right, size = heapq.heappop(queue)
        if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != size:
            continue  # one of the two has been merged since
        symbols[left] += symbols[right]
        symbols[right] = nothing
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        offer(before[left], left)
        offer(left, after[left])
    return [symbol for symbol in symbols if symbol]


class PairMerger:
    """Words to tokens by a list of merges; the words that it has seen are remembered.

    Args:
        ids: the id of each token's text.
        ranks: of each pair that may merge, its place in the list.
        whole_words: a word that is a token is taken as it is (``ignore_merges``).
        spell: how a word is written in the vocabulary.
        characters: a spelled word's symbols before the first merge; they may be more than its characters.
        leftover: the ids of a symbol that is no token.

    >>> merger = PairMerger({"a": 0, "b": 1, "ab": 2}, {("a", "b"): 0})
    >>> merger.tokens_of("abba")
    (2, 1, 0)
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        ranks: Mapping[tuple[str, str], int],
        *,
        whole_words: bool = False,
        spell: Callable[[str], str] = str,
        characters: Callable[[str], Iterable[str]] = list,
        leftover: Callable[[str], Iterable[int]] = lambda symbol: (),
    ) -> None:
        self._ids, self._ranks, self._whole_words = ids, ranks, whole_words
        self._spell, self._characters, self._leftover = spell, characters, leftover
        self._known: dict[str, tuple[int, ...]] = {}

    def tokens_of(self, word: str) -> tuple[int, ...]:
        """The ids of a word."""
        known = self._known.get(word)
        if known is None:
            known = tuple(self._merge(word))
            if len(self._known) < REMEMBERED_WORDS and len(word) <= REMEMBERED_LENGTH:
                self._known[word] = known
        return known

    def _merge(self, word: str) -> Iterable[int]:
        spelled, ranks = self._spell(word), self._ranks
        if self._whole_words and spelled in self._ids:
            return [self._ids[spelled]]
        left = merged_neighbors(list(self._characters(spelled)), lambda left, right: ranks.get((left, right)))
        return [token for symbol in left for token in self._of(symbol)]

    def _of(self, symbol: str) -> Iterable[int]:
        token = self._ids.get(symbol)
        return (token,) if token is not None else self._leftover(symbol)
