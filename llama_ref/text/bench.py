"""How fast a model runs here, and how fast it could: tokens per second beside what the memory can deliver.

Generating a token reads every matrix of the model once, and does so little with each byte that reading is all that
counts. So the yardstick is the machine's own read bandwidth, measured on the same bytes by the same number of threads,
in turns with the tokens: other programs on the machine then slow down both alike, and the share stays meaningful.
A prompt reads the matrices once for many tokens; there arithmetic counts, given in multiplications per second. Its
yardstick is what the vector units do when nothing else is asked of them.

Each type of matrix in the file is also measured by itself. No limit is lower than what was reached: then it is that.
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
    from llama_ref.arithmetic.fast.measuring import Measuring

    from .model import Model

__all__ = ["Measurement", "TypeMeasurement", "bench", "measure", "table", "table_of_types"]


@dataclass(frozen=True)
class TypeMeasurement:
    """The matrices of one type by themselves: medians over the rounds.

    Attributes:
        type: what the kernels call it: the layout of its blocks; ``sixteens`` is what later types are widened to.
        n_bytes: of these matrices in memory.
        read_ahead: how their rows are asked for meanwhile, as was found to be fastest here.
        bandwidth: bytes per second, times one vector.
        read_share: of what the machine can read.
        multiplications: per second, times as many vectors as the prompt has tokens; 0 without a prompt.
        multiply_limit: per second, by the same instruction in registers (vector units; AMX can do more than these).
        multiply_share: multiplications / multiply_limit.
    """

    type: str
    n_bytes: int
    read_ahead: str
    bandwidth: float
    read_share: float
    multiplications: float
    multiply_limit: float
    multiply_share: float


@dataclass(frozen=True)
class Measurement:
    """One row of the result: medians over the rounds.

    Attributes:
        threads: how many.
        generate: tokens per second, one at a time.
        bandwidth: bytes per second that generating reads.
        limit: bytes per second that the machine can read with as many threads; the fastest that was seen.
        share: bandwidth / limit, the median of the rounds' own ratios.
        prompt: tokens per second of a prompt given at once.
        multiplications: per second, of the prompt.
        n_prompt: tokens of that prompt.
        types: each type of matrix by itself.
    """

    threads: int
    generate: float
    bandwidth: float
    limit: float
    share: float
    prompt: float
    multiplications: float
    n_prompt: int
    types: tuple[TypeMeasurement, ...] = ()

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
        types = _measure_types(model, n_prompt, min(rounds, 3), statistics.median(reading) * size)
    generate, prompt = statistics.median(generating), statistics.median(prompts)
    limits = [max(pair) for pair in zip(reading, generating, strict=True)]
    return Measurement(
        threads=threads,
        generate=generate,
        bandwidth=generate * size,
        limit=statistics.median(limits) * size,
        share=statistics.median(made / limit for made, limit in zip(generating, limits, strict=True)),
        prompt=prompt,
        multiplications=prompt * n_weights,
        n_prompt=n_prompt,
        types=types,
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

    reading, generating, measuring = [], [], _measuring(model, 1)
    for _ in range(rounds):
        reading.append(1 / seconds(measuring.read))
        generating.append(len(tokens) / seconds(generate))
        progress()
    return reading, generating


def _measuring(model: Model, n_tokens: int) -> Measuring:
    from llama_ref.arithmetic.fast.measuring import Measuring

    return Measuring(_fast(model), model.weights, n_tokens)


def _measure_types(model: Model, n_prompt: int, rounds: int, limit: float) -> tuple[TypeMeasurement, ...]:
    """Each type of matrix by itself; `limit`: bytes per second that can be read."""
    measuring = _measuring(model, n_prompt)
    return tuple(_measure_type(measuring, kind, rounds, limit) for kind in _fast(model).kinds)


def _measure_type(measuring: Measuring, kind: str, rounds: int, limit: float) -> TypeMeasurement:
    found, n = measuring.of(kind), measuring.n_tokens
    n_bytes, n_weights = sum(m.blocks.nbytes for m in found), sum(m.rows * m.cols for m in found)

    def rate(work: Callable[[], object], amount: float) -> float:
        work()  # pages and caches
        return statistics.median(amount / seconds(work) for _ in range(rounds))

    bandwidth = rate(lambda: measuring.one_vector(kind), n_bytes)
    peak = rate(lambda: measuring.multiply(kind), measuring.multiply(kind)) if n else 0.0
    made = rate(lambda: measuring.many_vectors(kind), n_weights * n) if n else 0.0
    peak = max(peak, made)
    read_share = bandwidth / max(limit, bandwidth)
    ahead = str(measuring.read_ahead[kind])
    return TypeMeasurement(kind, n_bytes, ahead, bandwidth, read_share, made, peak, made / peak if n else 0.0)


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


def table_of_types(measurements: Iterable[Measurement]) -> str:
    """Each type of matrix by itself, for people.

    >>> row = TypeMeasurement("q4_K", 10**9, "2 KB ahead", 30e9, 0.95, 120e9, 240e9, 0.5)
    >>> print(table_of_types([Measurement(1, 5.1, 21e9, 21.5e9, 0.977, 24.0, 158e9, 128, (row,))]))
    threads  type            size   one token     of reading   asked for     prompt of 128   of the arithmetic
          1  q4_K         1000 MB   30.0 GB/s           95 %   2 KB ahead      120 G mul/s         50 % of 240
    """
    rows = list(measurements)
    prompt = f"prompt of {rows[0].n_prompt if rows else 0}"
    lines = [
        f"threads  type            size   one token     of reading   asked for     {prompt:13}   of the arithmetic"
    ]
    for m in rows:
        for t in m.types:
            reads = f"{t.bandwidth / 1e9:5.1f} GB/s  {100 * t.read_share:11.0f} %   {t.read_ahead:12}"
            limit = f"{100 * t.multiply_share:9.0f} % of {t.multiply_limit / 1e9:.0f}"
            made = f"{t.multiplications / 1e9:7.0f} G mul/s  {limit}"
            size = f"{t.n_bytes / 1e6:6.0f} MB"
            lines.append(f"{m.threads:7}  {t.type:12} {size}   {reads}  {made if m.n_prompt else '-':>15}")
    return "\n".join(lines)
