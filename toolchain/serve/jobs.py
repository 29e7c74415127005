"""What a client asks of the engine, and what it is told while that is done. Knows neither HTTP nor threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from llama_ref.text.sampling import SamplingOptions, largest

__all__ = [
    "Event",
    "Failed",
    "Finished",
    "Job",
    "Piece",
    "PromptScored",
    "Scored",
    "adjusted",
    "best_tokens",
]


class Scored(NamedTuple):
    """A token with its log-probability and the most likely tokens at its place, the best first.

    Attributes:
        logprob: not a number where none was asked for.
    """

    id: int
    logprob: float = math.nan
    best: tuple[tuple[int, float], ...] = ()


class Piece(NamedTuple):
    """A token that was generated, and the text that became whole with it (often none, sometimes several characters)."""

    text: str
    token: Scored


@dataclass(frozen=True)
class PromptScored:
    """The tokens of the prompt; the first has nothing before it, and no probability."""

    tokens: tuple[Scored | None, ...]


@dataclass(frozen=True)
class Finished:
    """The end of a job.

    Attributes:
        reason: ``stop`` (the model's end of text, or a stop word), ``length``, or ``cancelled``.
        text: what was held back as the possible beginning of a stop word.
        reused_tokens: tokens of the prompt that a key/value cache still held.
        seconds: since the job got its place.
    """

    reason: str
    prompt_tokens: int
    completion_tokens: int
    text: str = ""
    reused_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Failed:
    """The job cannot be done.

    Attributes:
        message: for whoever runs the server.
        for_clients: the same without the places of files.
    """

    message: str
    for_clients: str


Event = Piece | PromptScored | Finished | Failed


@dataclass
class Job:
    """One continuation of one prompt.

    Attributes:
        prompt: token ids.
        tell: takes each event; called in the engine's thread.
        max_tokens: how many tokens to generate at most; 0 scores the prompt alone.
        stop: texts at which to end; they are not part of the answer.
        bias: token id -> what is added to its logit.
        frequency_penalty: taken off a token's logit for each time that it was generated.
        presence_penalty: taken off once, if it was generated at all.
        logprobs: how many of the most likely tokens to name at each place; None: no log-probabilities are wanted.
        echo: score the prompt too.
        cancelled: set when nobody waits for the answer any longer.
    """

    prompt: tuple[int, ...]
    tell: Callable[[Event], None]
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int = 128
    stop: tuple[str, ...] = ()
    bias: Mapping[int, float] = field(default_factory=dict)
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None
    echo: bool = False
    cancelled: bool = False

    def cancel(self) -> None:
        """Nobody waits any longer; the engine drops the job before its next step."""
        self.cancelled = True


def adjusted(logits: np.ndarray, job: Job, counts: Mapping[int, int]) -> np.ndarray:
    """The logits with a job's bias and penalties (OpenAI's API reference, "Frequency and presence penalties").

    Args:
        logits: float32 [n_vocab].
        counts: token id -> how often it was generated.
    """
    if not job.bias and not (counts and (job.frequency_penalty or job.presence_penalty)):
        return logits
    logits = logits.copy()
    for token, bias in job.bias.items():
        logits[token] += bias
    if job.frequency_penalty or job.presence_penalty:
        for token, count in counts.items():
            logits[token] -= job.frequency_penalty * count + job.presence_penalty
    return logits


def best_tokens(logits: np.ndarray, token: int, n: int) -> Scored:
    """A token's log-probability under logits, beside the ``n`` most likely ones; equal ones in the order of their ids.

    Args:
        logits: float32 [n_vocab], before temperature and penalties.
    """
    wide = np.asarray(logits, np.float64)
    top = float(wide.max())
    with np.errstate(all="ignore"):
        total = top + math.log(float(np.exp(wide - top).sum())) if math.isfinite(top) else math.nan
    best: tuple[tuple[int, float], ...] = ()
    if n:
        few = largest(wide, min(n, len(wide))).tolist()
        order = sorted(few, key=lambda each: (-wide[each], each))[:n]
        best = tuple((each, float(wide[each]) - total) for each in order)
    return Scored(token, float(wide[token]) - total, best)
