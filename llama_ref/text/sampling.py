"""Which token comes next: llama.cpp's sampling, era by era, to the last bit.

===========  ==============================================================================================
era          what is particular (function, commit)
===========  ==============================================================================================
2023-03-19   everything in double (llama_sample_top_p_top_k of utils.cpp, da5303c1e)
2023-03-30   logits, temperature and penalty in float, sums in double (llama.cpp, ed3c680bc, 352589927)
2023-04-30   a chain: penalty, top-k, top-p, then temperature; sums in float; the token that crosses
2023-05-19   top_p is left out (3e5aa8a1c, 6986c7835)
2023-08-21   the same chain; the token that crosses top_p is kept (dadbed99e)
===========  ==============================================================================================

All of them end in ``std::discrete_distribution`` over ``std::mt19937``: two draws of 32 bits make one number in
[0, 1); a single candidate needs no draw. Equal logits are in the order of ``std::partial_sort`` or ``std::sort``, see
:mod:`llama_ref.arithmetic.exact.std_sort`.

One thing is ours: temperature 0 is greedy (the early eras divide by it and get nonsense).
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.eras import (
    APRIL_30,
    AUGUST_21,
    DEFAULT_ERA,
    MARCH_19,
    MARCH_30,
    MARCH_31,
    MAY_19,
    Era,
    era_of,
)
from llama_ref.arithmetic.exact.expf import expf

__all__ = ["Mt19937", "Sample", "Sampler", "SamplingOptions", "largest", "log_softmax_of"]

TWO_64 = 2.0**64
MT_WORDS = 624
STRIPS = 16  # for each of the largest scores that are looked for; few of them then share a strip


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to choose; the defaults are those of llama.cpp's ``main`` of 2023-03-31.

    Attributes:
        top_k: keep this many of the most likely tokens; 0 keeps one (eras from 2023-04-30 on: all).
        top_p: of those, keep the smallest set with this much probability; 1 keeps all.
        temp: divides the logits; 0 takes the most likely token always.
        repeat_penalty: makes the last tokens less likely; 1 is none.
        repeat_last_n: how many last tokens that concerns.
        seed: of the random numbers, 32 bits.
    """

    top_k: int = 40
    top_p: float = 0.95
    temp: float = 0.80
    repeat_penalty: float = 1.10
    repeat_last_n: int = 64
    seed: int = 42

    def __post_init__(self) -> None:
        if self.top_k < 0:
            raise UsageError(f"top_k must be 0 or more, not {self.top_k}")
        if self.repeat_last_n < 0:
            raise UsageError(f"repeat_last_n must be 0 or more, not {self.repeat_last_n}")
        for name in ("top_p", "temp", "repeat_penalty"):
            if not _is_number(getattr(self, name)):
                raise UsageError(f"{name} must be a finite number")


def _is_number(value: float) -> bool:
    """Not NaN and not infinite; nor an integer beyond what any float holds, as a damaged file may have."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


class Mt19937:
    """``std::mt19937``: the Mersenne Twister, 32 bits a draw; Python's own generator, seeded as the C++ standard says.

    >>> rng = Mt19937(5489)
    >>> rng.draw()
    3499211612
    """

    def __init__(self, seed: int) -> None:
        words = [seed & 0xFFFFFFFF]
        for i in range(1, MT_WORDS):
            words.append((1812433253 * (words[-1] ^ words[-1] >> 30) + i) & 0xFFFFFFFF)
        self._bits = random.Random()
        self._bits.setstate((3, (*words, MT_WORDS), None))

    def draw(self) -> int:
        """The next 32 bits."""
        return self._bits.getrandbits(32)

    def canonical(self) -> float:
        """``std::generate_canonical<double, 53>``: two draws, the low half first."""
        low = self.draw()
        value = float(low + (self.draw() << 32)) / TWO_64
        return value if value < 1.0 else math.nextafter(1.0, 0.0)

    @property
    def state(self) -> np.ndarray:
        """All there is to know, uint32 [625]: 624 words and the position."""
        return np.array(self._bits.getstate()[1], np.uint32)

    @state.setter
    def state(self, words: np.ndarray) -> None:
        if words.shape != (MT_WORDS + 1,):
            raise FormatError("a Mersenne Twister has 625 words of state", expected=MT_WORDS + 1, found=words.shape)
        state = tuple(words.astype(np.uint32).tolist())
        if state[-1] > MT_WORDS:
            raise FormatError("a Mersenne Twister's position", expected=f"at most {MT_WORDS}", found=state[-1])
        self._bits.setstate((3, state, None))


@dataclass(frozen=True)
class Sample:
    """One choice and how it came about.

    Attributes:
        token: the id that was chosen.
        candidates: the ids that were left to choose from, most likely first.
        probabilities: of the candidates; they add up to about 1.
        draw: the number in [0, 1) that decided, None where nothing was drawn.
    """

    token: int
    candidates: np.ndarray  # int64 [n_candidates]
    probabilities: np.ndarray  # float32 (2023-03-19: float64) [n_candidates]
    draw: float | None


@dataclass
class Sampler:
    """Chooses tokens as llama.cpp of ``era`` does; keeps the random state.

    Args:
        options: what a person can set.
        era: whose arithmetic.
        rng: by default one seeded with ``options.seed``.

    >>> logits = np.array([0.0, 3.0, 1.0], np.float32)
    >>> Sampler(SamplingOptions(temp=0)).choose(logits, recent=[]).token
    1
    """

    options: SamplingOptions
    era: str | Era = DEFAULT_ERA
    rng: Mt19937 = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.era = era_of(self.era)
        self._rule = _RULES[self.era]
        if self.rng is None:
            self.rng = Mt19937(self.options.seed)

    def choose(self, logits: np.ndarray, recent: Sequence[int]) -> Sample:
        """The next token.

        Args:
            logits: float32 [n_vocab], of the last position.
            recent: all tokens so far, the newest last; only the last ``repeat_last_n`` count.
        """
        logits = np.asarray(logits, np.float32)
        window = list(recent[-self.options.repeat_last_n :]) if self.options.repeat_last_n else []
        n_vocab = len(logits)
        seen = np.array(sorted(token for token in set(window) if 0 <= token < n_vocab), np.int64)
        with np.errstate(all="ignore"):
            if self.options.temp == 0:
                return _greedy(logits, seen, self.options)
            candidates, probabilities = self._rule(logits, seen, self.options)
        return self._pick(candidates, probabilities)

    def _pick(self, candidates: np.ndarray, probabilities: np.ndarray) -> Sample:
        """``std::discrete_distribution``."""
        if len(candidates) < 2:
            return Sample(int(candidates[0]), candidates, probabilities, None)
        with np.errstate(all="ignore"):
            weights = probabilities.astype(np.float64)
            cumulative = np.cumsum(weights / _sum(weights)).tolist()
        cumulative[-1] = 1.0
        draw = self.rng.canonical()
        index = bisect_left(cumulative, draw)
        return Sample(int(candidates[index]), candidates, probabilities, draw)


def log_softmax_of(logits: np.ndarray, token: int) -> float:
    """Natural logarithm of the probability that the model itself gives a token (before temperature and penalty).

    >>> round(log_softmax_of(np.array([1.0, 1.0], np.float32), 0), 4)
    -0.6931
    """
    values = np.asarray(logits, np.float64)  # [n_vocab]
    top = float(values.max())
    if not math.isfinite(top):
        return math.nan
    return float(values[token] - top) - math.log(float(np.exp(values - top).sum()))


# ── the rules ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _greedy(logits: np.ndarray, seen: np.ndarray, options: SamplingOptions) -> Sample:
    """The most likely token after the repetition penalty; of equals the smallest id."""
    scores = _penalized(logits, seen, np.float32(1), np.float32(options.repeat_penalty))
    token = int(np.argmax(np.where(np.isnan(scores), -np.inf, scores)))
    return Sample(token, np.array([token]), np.ones(1, np.float32), None)


def _penalized(logits: np.ndarray, seen: np.ndarray, scale: Any, penalty: Any) -> np.ndarray:
    """Logits × scale, and then × or / penalty for tokens seen lately, each operation rounded."""
    scores = logits * scale  # [n_vocab]
    known = scores[seen]
    scores[seen] = np.where(logits[seen] < 0, known * penalty, known / penalty)
    return scores


def _march_19(logits: np.ndarray, seen: np.ndarray, options: SamplingOptions) -> tuple[np.ndarray, np.ndarray]:
    """da5303c1e: all in double; the options are floats that were widened."""
    scale, penalty = 1.0 / _widened(options.temp), _widened(options.repeat_penalty)
    scores = _penalized(logits.astype(np.float64), seen, scale, penalty)
    candidates = _top_k(scores, options.top_k)
    top = scores[candidates]
    exps = np.array([_exp(value) for value in (top - _max(top)).tolist()])
    probabilities = exps / _sum(exps)
    return _march_top_p(candidates, probabilities, _widened(options.top_p))


def _march_31(logits: np.ndarray, seen: np.ndarray, options: SamplingOptions) -> tuple[np.ndarray, np.ndarray]:
    """ed3c680bc and 352589927: float logits and probabilities, double sums."""
    scale = np.float32(1) / np.float32(options.temp)
    scores = _penalized(logits, seen, scale, np.float32(options.repeat_penalty))
    candidates = _top_k(scores, options.top_k)
    top = scores[candidates]
    exps = expf(top - _max(top))
    probabilities = (exps.astype(np.float64) / _sum(exps.astype(np.float64))).astype(np.float32)
    return _march_top_p(candidates, probabilities, _widened(options.top_p))


def _march_top_p(candidates: np.ndarray, probabilities: np.ndarray, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """Keep candidates until their probability reaches ``top_p``, and make the kept ones add up to 1 again."""
    if not top_p < 1.0 or len(candidates) == 0:
        return candidates, probabilities
    cumulative = np.cumsum(probabilities.astype(np.float64))
    reached = np.flatnonzero(cumulative >= top_p)
    kept = int(reached[0]) + 1 if len(reached) else len(candidates)
    normalize = 1.0 / cumulative[kept - 1]
    scaled = (probabilities[:kept].astype(np.float64) * normalize).astype(probabilities.dtype)
    return candidates[:kept], scaled


def _chain(keep_crossing: bool) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """From April 2023 on: penalty → top-k → top-p → temperature, all in float."""

    def rule(logits: np.ndarray, seen: np.ndarray, options: SamplingOptions) -> tuple[np.ndarray, np.ndarray]:
        scores = logits.copy()  # [n_vocab]
        penalty = np.float32(options.repeat_penalty)
        known = scores[seen]
        scores[seen] = np.where(known <= 0, known * penalty, known / penalty)
        candidates = _top_k(scores, options.top_k or len(scores), sorts_all=True)
        candidates = _chain_top_p(scores, candidates, np.float32(options.top_p), keep_crossing)
        top = scores[candidates] / np.float32(options.temp)
        return candidates, _float_softmax(top)

    return rule


def _chain_top_p(scores: np.ndarray, candidates: np.ndarray, top_p: Any, keep_crossing: bool) -> np.ndarray:
    if top_p >= 1:
        return candidates
    cumulative = np.cumsum(_float_softmax(scores[candidates]), dtype=np.float32)
    if keep_crossing:
        reached = np.flatnonzero(cumulative >= top_p)
        return candidates[: int(reached[0]) + 1] if len(reached) else candidates
    reached = np.flatnonzero(cumulative > top_p)
    reached = reached[reached >= 1]  # at least one stays
    return candidates[: int(reached[0])] if len(reached) else candidates


def _float_softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax of scores in falling order, summed one after another in float."""
    exps = expf(scores - scores[0])
    return exps / np.cumsum(exps, dtype=np.float32)[-1]


_RULES: dict[Era, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    MARCH_19: _march_19,
    MARCH_30: _march_31,
    MARCH_31: _march_31,
    APRIL_30: _chain(keep_crossing=False),
    MAY_19: _chain(keep_crossing=False),
    AUGUST_21: _chain(keep_crossing=True),
}


# ── arithmetic ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _widened(value: float) -> float:
    """What a C++ ``float`` option is once it takes part in double arithmetic."""
    return float(np.float32(value))


def _sum(values: np.ndarray) -> Any:
    """One after another, as a C++ loop adds (numpy's own sum adds pairwise)."""
    return np.cumsum(values)[-1] if len(values) else values.dtype.type(0)


def _max(values: np.ndarray) -> Any:
    """The largest value that compares, -inf if there is none."""
    return np.fmax.reduce(values, initial=-np.inf) if len(values) else -np.inf


def _exp(value: float) -> float:
    """glibc's ``exp`` where Python uses it; without Python's exceptions."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


# ── order ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _top_k(scores: np.ndarray, k: int, *, sorts_all: bool = False) -> np.ndarray:
    """The ids of the ``k`` largest scores, in the order of ``std::partial_sort``, or all in that of ``std::sort``."""
    if k == 0:
        # partial_sort of an empty range leaves the first largest element in front, and the C++ goes on to read it
        return _first_largest(scores)
    k = min(k, len(scores))
    order = _order_without_ties(scores, k)
    if order is not None:
        return order
    from llama_ref.arithmetic.exact.std_sort import partial_sort, sort

    return sort(scores) if sorts_all and k == len(scores) else partial_sort(scores, k)


def _first_largest(scores: np.ndarray) -> np.ndarray:
    best = 0
    for index in np.flatnonzero(scores > scores[0]):
        if scores[index] > scores[best]:
            best = int(index)
    return np.array([best])


def _order_without_ties(scores: np.ndarray, k: int) -> np.ndarray | None:
    """The answer where it is the same for every sorting algorithm; None if equal scores or NaN are involved."""
    if np.isnan(scores).any():
        return None
    candidates = largest(scores, k)
    if len(candidates) != k:
        return None
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    top = scores[candidates]
    return None if (top[1:] == top[:-1]).any() else candidates


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Where the ``k`` largest scores are, and those that equal the smallest of them; in the order of their places.

    A large vocabulary is looked through in strips first: the k-th largest of their maxima is no more than the k-th
    largest score, so what lies below it needs no sorting.

    >>> largest(np.array([1, 5, 2, 5, 3], np.float32), 3).tolist()
    [1, 3, 4]
    """
    width = STRIPS * k
    if len(scores) >= 4 * width:
        maxima = scores[: len(scores) // width * width].reshape(-1, width).max(axis=0)  # [width]
        places = np.flatnonzero(scores >= _kth(maxima, k))
        return places[scores[places] >= _kth(scores[places], k)]
    return np.flatnonzero(scores >= _kth(scores, k))


def _kth(scores: np.ndarray, k: int) -> Any:
    """The k-th largest."""
    return np.partition(scores, len(scores) - k)[len(scores) - k]
