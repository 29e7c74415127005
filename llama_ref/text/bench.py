"""How fast a model runs here, and how fast it could: tokens per second beside what the memory can deliver.

Generating a token reads every matrix of the model once, and does so little with each byte that reading is all that
counts. So the yardstick is the machine's own read bandwidth, measured on the same bytes by the same number of threads,
in turns with the tokens: other programs on the machine then slow down both alike, and the share stays meaningful.
A prompt reads the matrices once for many tokens; there arithmetic counts, given in multiplications per second.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ggmlpy.files.errors import UsageError

if TYPE_CHECKING:
    from llama_ref.arithmetic.fast.backend import FastBackend

    from .model import Model

__all__ = ["Measurement", "bench", "measure", "table"]


@dataclass(frozen=True)
class Measurement:
    """One row of the result: medians over the rounds.

    Attributes:
        threads: how many.
        generate: tokens per second, one at a time.
        bandwidth: bytes per second that generating reads.
        limit: bytes per second that the machine can read with as many threads.
        share: bandwidth / limit, the median of the rounds' own ratios.
        prompt: tokens per second of a prompt given at once.
        multiplications: per second, of the prompt.
        n_prompt: tokens of that prompt.
    """

    threads: int
    generate: float
    bandwidth: float
    limit: float
    share: float
    prompt: float
    multiplications: float
    n_prompt: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    path: str | os.PathLike[str],
    threads: Iterable[int],
    n_prompt: int = 128,
    rounds: int = 5,
    n_tokens: int = 4,
    progress: Callable[[], object] = lambda: None,
) -> list[Measurement]:
    """Measure a model file with each number of threads.

    Args:
        n_prompt: tokens of the prompt (0: don't measure one).
        rounds: how often to repeat; the medians count.
        n_tokens: tokens generated per round.
        progress: called after each round, and after each prompt, of which there are at most three.

    Raises:
        UsageError: the numbers are not positive.
        FormatError: the file is bad or missing.
    """
    if min(rounds, n_tokens) < 1 or n_prompt < 0:
        raise UsageError("rounds and tokens must be positive")
    return [measure(path, n, n_prompt, rounds, n_tokens, progress) for n in threads]


def measure(
    path: str | os.PathLike[str],
    threads: int,
    n_prompt: int,
    rounds: int,
    n_tokens: int,
    progress: Callable[[], object] = lambda: None,
) -> Measurement:
    """Measure with one number of threads; see :func:`bench`."""
    from .model import Model

    n_ctx = max(n_prompt, 1 + (rounds + 1) * n_tokens)
    with Model.from_file(path, numerics="fast", n_threads=threads, n_ctx=n_ctx) as model:
        size, n_weights = _matrices_of(model)
        tokens = np.random.default_rng(0).integers(0, model.n_vocab, n_ctx).tolist()
        model.evaluate(tokens[:1], 0)  # touch the pages of the file first, so that reading them is not measured
        reading, generating = _measure_generation(model, tokens[:n_tokens], rounds, progress)
        prompts = _measure_prompt(model, tokens[:n_prompt], min(rounds, 3), progress) if n_prompt else [0.0]
    generate, prompt = statistics.median(generating), statistics.median(prompts)
    return Measurement(
        threads=threads,
        generate=generate,
        bandwidth=generate * size,
        limit=statistics.median(reading) * size,
        share=statistics.median(made / read for made, read in zip(generating, reading, strict=True)),
        prompt=prompt,
        multiplications=prompt * n_weights,
        n_prompt=n_prompt,
    )


def _matrices_of(model: Model) -> tuple[int, int]:
    """Bytes and weights of all matrices: what generating one token reads and multiplies."""
    matrices = _fast(model).matrices(model.weights)
    return sum(m.blocks.nbytes for m in matrices), sum(m.rows * m.cols for m in matrices)


def _fast(model: Model) -> FastBackend:
    from llama_ref.arithmetic.fast.backend import FastBackend

    assert isinstance(model.backend, FastBackend)
    return model.backend


def _measure_generation(
    model: Model, tokens: Sequence[int], rounds: int, progress: Callable[[], object]
) -> tuple[list[float], list[float]]:
    """How often per second all matrices can be read, and how many tokens are generated, in turns."""

    def generate() -> None:
        for token in tokens:
            model.evaluate([token], model.cache.length, last_only=True)

    reading, generating = [], []
    for _ in range(rounds):
        reading.append(1 / seconds(lambda: _fast(model).read(model.weights)))
        generating.append(len(tokens) / seconds(generate))
        progress()
    return reading, generating


def _measure_prompt(model: Model, tokens: Sequence[int], rounds: int, progress: Callable[[], object]) -> list[float]:
    """Tokens per second of a prompt that is given at once."""
    rates = []
    for _ in range(rounds):
        rates.append(len(tokens) / seconds(lambda: model.evaluate(tokens, 0, last_only=True)))
        progress()
    return rates


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def table(measurements: Iterable[Measurement]) -> str:
    """The result for people.

    >>> print(table([Measurement(1, 5.1, 21e9, 21.5e9, 0.977, 24.0, 158e9, 128)]))
    threads  generation          reads    of the limit   prompt of 128
          1   5.10 tok/s   21.0 GB/s    98 % of 21.5    24.0 tok/s, 158 G mul/s
    """
    rows = list(measurements)
    lines = [f"threads  generation          reads    of the limit   prompt of {rows[0].n_prompt if rows else 0}"]
    for m in rows:
        reads = f"{m.bandwidth / 1e9:5.1f} GB/s  {100 * m.share:4.0f} % of {m.limit / 1e9:4.1f}"
        prompt = f"{m.prompt:7.1f} tok/s, {m.multiplications / 1e9:.0f} G mul/s" if m.n_prompt else "      -"
        lines.append(f"{m.threads:7}  {m.generate:5.2f} tok/s  {reads}  {prompt}")
    return "\n".join(lines)
