"""Project 10: sampling, with the same luck as in 2023."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_ref.text.sampling import Sample, Sampler, SamplingOptions

from .. import arrays
from ..arrays import Arrays, number
from ..differences import differing_lines
from ..project import Difference, Mistake, Project

KINDS = ("temperature alone", "top-k", "top-p", "everything", "a long memory")
CLOSE = 1e-5  # what float and double may differ by: nearer draws are not asked for
N_VOCAB, N_DRAWS = 40, 24
NAMES = ("seed", "temp", "top_k", "top_p", "repeat_penalty", "repeat_last_n")


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """Logits for each draw, and how to choose; made again until no draw is a matter of the last bit."""
    path = folder / "input.txt"
    while True:
        asked = {
            "seed": int(rng.randint(1, 2**31)),
            "temp": round(float(rng.uniform(0.5, 1.5)), 2),
            "top_k": int(rng.randint(5, 20)) if kind in ("top-k", "everything") else N_VOCAB,
            "top_p": round(float(rng.uniform(0.6, 0.95)), 2) if kind in ("top-p", "everything") else 1.0,
            "repeat_penalty": 1.3 if kind in ("everything", "a long memory") else 1.0,
            "repeat_last_n": 16 if kind == "a long memory" else 4,
        }
        logits = (rng.randn(N_DRAWS, N_VOCAB) * 2.5).astype(np.float32)
        path.write_bytes(arrays.text_of({**asked, "logits": logits}))
        if all(map(_is_clear, _drawn(arrays.read(path)))):
            return path


def options(given: Arrays) -> SamplingOptions:
    return SamplingOptions(
        seed=int(number(given, "seed")),
        top_k=int(number(given, "top_k")),
        repeat_last_n=int(number(given, "repeat_last_n")),
        **{name: number(given, name) for name in ("temp", "top_p", "repeat_penalty")},
    )


def _drawn(given: Arrays) -> list[Sample]:
    """Each draw; what was drawn is penalized in those that follow."""
    sampler, recent, drawn = Sampler(options(given)), [0] * int(number(given, "repeat_last_n")), []
    for logits in given["logits"].astype(np.float32):
        drawn.append(sampler.choose(logits, recent))
        recent.append(drawn[-1].token)
    return drawn


def _is_clear(sample: Sample) -> bool:
    """Whether arithmetic in more digits would choose the same."""
    bounds = np.cumsum(sample.probabilities.astype(np.float64))
    gaps = -np.diff(sample.probabilities.astype(np.float64))
    near = sample.draw is not None and bool(np.abs(bounds / bounds[-1] - sample.draw).min() < CLOSE)
    return not near and bool((gaps > 1e-9).all())


def answer(path: Path) -> bytes:
    return _lines([sample.token for sample in _drawn(arrays.read(path))])


def _lines(tokens: Sequence[int]) -> bytes:
    return "".join(f"{token}\n" for token in tokens).encode()


Uniform = Callable[[random.Random], float]


def two_words(bits: random.Random) -> float:
    """What libstdc++ makes of two numbers of 32 bits: the first counts least."""
    low, high = bits.getrandbits(32), bits.getrandbits(32)
    return (low + high * 2.0**32) / 2.0**64


def mersenne(seed: int) -> random.Random:
    """Python's generator, in the state that ``std::mt19937(seed)`` begins in."""
    state = [seed & 0xFFFFFFFF]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ state[-1] >> 30) + i) & 0xFFFFFFFF)
    bits = random.Random()
    bits.setstate((3, (*state, 624), None))
    return bits


def _high_first(bits: random.Random) -> float:
    high, low = bits.getrandbits(32), bits.getrandbits(32)
    return (low + high * 2.0**32) / 2.0**64


def _chosen(
    path: Path,
    uniform: Uniform = two_words,
    start: Callable[[int], random.Random] = mersenne,
    divides: bool = False,
    forgets: bool = False,
    narrow: bool = False,
    sorts: bool = True,
    always: bool = False,
) -> bytes:
    """Sampling with what people get wrong."""
    given = arrays.read(path)
    o, bits, tokens = options(given), start(int(number(given, "seed"))), []
    recent = [0] * o.repeat_last_n
    for logits in given["logits"]:
        scores = logits / o.temp
        for token in set(() if forgets else recent[len(recent) - o.repeat_last_n :]):
            scores[token] *= o.repeat_penalty if logits[token] < 0 and not divides else 1 / o.repeat_penalty
        order = np.argsort(-scores, kind="stable")[: o.top_k]
        bounds = _bounds(scores, order if sorts else np.sort(order), o.top_p, narrow)
        place = np.searchsorted(bounds, uniform(bits)) if always or len(bounds) > 1 else 0
        tokens.append(int((order if sorts else np.sort(order))[place]))
        recent.append(tokens[-1])
    return _lines(tokens)


def _bounds(scores: NDArray[np.float64], order: NDArray[np.intp], top_p: float, narrow: bool) -> NDArray[np.float64]:
    """Cumulative probabilities of the candidates that top_p leaves."""
    chances = np.exp(scores[order] - scores[order].max())
    cumulative = np.cumsum(chances / chances.sum())
    kept = int(np.searchsorted(cumulative, top_p)) + (0 if narrow else 1)
    kept = max(1, min(kept, len(order)))
    bounds: NDArray[np.float64] = cumulative[:kept] / cumulative[kept - 1]
    return bounds


MISTAKES = (
    Mistake("the first of the two numbers of 32 bits counts least", lambda path: _chosen(path, _high_first)),
    Mistake("a draw takes two numbers of 32 bits, and not one",
            lambda path: _chosen(path, lambda bits: bits.getrandbits(32) / 2.0**32)),
    Mistake("that is how Python makes a number of two: 27 and 26 bits; libstdc++ takes all 64",
            lambda path: _chosen(path, lambda bits: bits.random())),
    Mistake("random.seed and init_by_array stir the seed; std::mt19937 begins with the seed itself",
            lambda path: _chosen(path, start=random.Random)),
    Mistake("a negative logit is multiplied by the penalty, so that it gets smaller",
            lambda p: _chosen(p, divides=True)),
    Mistake("what was drawn is penalized in the draws that follow", lambda path: _chosen(path, forgets=True)),
    Mistake("the candidate that reaches top_p is kept", lambda path: _chosen(path, narrow=True)),
    Mistake("where one candidate is left nothing is drawn", lambda path: _chosen(path, always=True)),
    Mistake("candidates stand in the order of their chances, the best first", lambda path: _chosen(path, sorts=False)),
)  # fmt: skip


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    return differing_lines(expected, found)


PROJECT = Project(
    10, "sampling", "Sample with the same seed as 2023", "与 2023 年同种子的采样",
    KINDS, make, "tokens.txt", answer, differ, MISTAKES,
)  # fmt: skip
