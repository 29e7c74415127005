"""Samplers of several texts at a time: one call of compiled code chooses the next token of each.

Each token is the one that :class:`llama_ref.text.sampling.Sampler` chooses for the same logits, options and random
state. What its numpy takes a tenth of a millisecond for takes some microseconds here, once the code is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ggmlpy.formats.eras import APRIL_30, AUGUST_21, MARCH_30, MARCH_31, MAY_19, Era
from llama_ref.arithmetic.exact import choosing

from .sampling import Mt19937, Sampler, SamplingOptions

__all__ = ["Samplers"]

MOST = 1 << 32  # tokens: more than there are of anything
RULES = {
    MARCH_30: choosing.MARCH,
    MARCH_31: choosing.MARCH,
    APRIL_30: choosing.CHAIN,
    MAY_19: choosing.CHAIN,
    AUGUST_21: choosing.CHAIN_CROSSING,
}


class Samplers:
    """Chooses tokens as llama.cpp of ``era`` does, for ``n_texts`` texts.

    Args:
        n_ctx: the last tokens that are known of each text; 0 where there are none yet.

    >>> samplers = Samplers(2, n_vocab=3, n_ctx=8, era=MARCH_31)
    >>> samplers.begin(1, SamplingOptions(temp=0), [2])
    >>> samplers.choose([1], [np.array([0.0, 3.0, 1.0], np.float32)])
    [1]
    """

    def __init__(self, n_texts: int, *, n_vocab: int, n_ctx: int, era: Era) -> None:
        self.era = era
        self._options = [SamplingOptions()] * n_texts
        self._how = np.zeros(n_texts, choosing.OPTIONS)
        self._recent = np.zeros((n_texts, n_ctx), np.int32)
        self._said = np.zeros(n_texts, np.int64)
        self._twisters = np.zeros((n_texts, choosing.MT_WORDS + 1), np.uint32)
        self._logits = np.zeros((n_texts, n_vocab), np.float32)
        self._room = np.zeros(n_vocab, np.float32), np.zeros(n_vocab, np.int64), np.zeros(n_vocab)
        self._chosen = np.zeros(n_texts, np.int64)
        self.choose([], [])  # compiles, on a machine's first day: nobody should wait for it in the middle of a text

    def begin(self, text: int, options: SamplingOptions, tokens: Sequence[int]) -> None:
        """Forget a text, and begin it anew with ``tokens``."""
        last = tokens[-self._recent.shape[1] :]
        self._recent[text] = 0
        self._recent[text, : len(last)] = last
        self._said[text] = len(last)
        self._options[text] = options
        self._how[text] = _how(options, self.era, self._logits.shape[1])
        choosing.seed_twister(self._twisters[text], options.seed)

    def choose(self, texts: Sequence[int], logits: Sequence[np.ndarray]) -> list[int]:
        """The next token of each of some texts; it counts as said.

        Args:
            logits: float32 [n_vocab] of each.
        """
        for place, row in enumerate(logits):
            self._logits[place] = row
        states = self._how, self._recent, self._said, self._twisters
        choosing.choose_each(np.array(texts, np.int64), self._logits, *states, *self._room, self._chosen)
        tokens: list[int] = self._chosen[: len(texts)].tolist()
        return [
            self._by_numpy(text, row) if token < 0 else token
            for text, row, token in zip(texts, logits, tokens, strict=True)
        ]

    def _by_numpy(self, text: int, logits: np.ndarray) -> int:
        rng = Mt19937(0)
        rng.state = self._twisters[text]
        n_ctx, said = self._recent.shape[1], int(self._said[text])
        recent = np.roll(self._recent[text], -said).tolist()
        token = Sampler(self._options[text], self.era, rng).choose(logits, recent).token
        self._twisters[text] = rng.state
        self._recent[text, said % n_ctx] = token
        self._said[text] += 1
        return token


def _how(options: SamplingOptions, era: Era, n_vocab: int) -> tuple[float, ...]:
    """A record of ``choosing.OPTIONS``."""
    rule = choosing.GREEDY if options.temp == 0 else RULES.get(era, choosing.BY_NUMPY)
    if rule == choosing.MARCH and options.top_k == 0:  # which is undefined there; numpy knows what comes of it
        rule = choosing.BY_NUMPY
    temp = np.float32(options.temp)
    with np.errstate(all="ignore"):
        scale = np.float32(1) / temp if rule == choosing.MARCH else np.float32(1)
        return (
            rule,
            min(options.top_k or n_vocab, n_vocab),
            min(options.repeat_last_n, MOST),
            float(np.float32(options.top_p)),
            scale,
            temp,
            np.float32(options.repeat_penalty),
        )
