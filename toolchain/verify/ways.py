"""Every way in which llama.cpp may have computed with a model: era, build, cache, batches, epsilon, threads.

llama.cpp has no one result: it depends on the commit, on the instruction set, on the precision of the key/value cache
and on how many tokens are evaluated together (``docs/numerics.md``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.eras import AUGUST_21, ERAS, MARCH_19, era_of
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.model_params import LLAMA_EPS
from llama_ref.arithmetic.exact.offered import SUPPORTED, check_exact

__all__ = ["Way", "ways_of"]

MAIN_BATCH = 8  # tokens that main evaluates together unless told otherwise
THREADS_OF_MARCH_19 = (1, 2, 4, 8)
EPS_OF_AUGUST = 5e-6  # --rms-norm-eps of 2023-08-21 unless told otherwise


@dataclass(frozen=True)
class Way:
    """One way in which llama.cpp may have computed.

    Attributes:
        era, build: see :mod:`llama_ref.arithmetic.exact.offered`.
        memory_f32: keys and values in f32, not in f16.
        batch: tokens evaluated together; None: all of them. No scalar build depends on it.
        norm_eps: what is added in every norm.
        threads: of 2023-03-19, whose sums depended on it.
    """

    era: str
    build: str
    memory_f32: bool = False
    batch: int | None = None
    norm_eps: float = LLAMA_EPS
    threads: int | None = None

    def __str__(self) -> str:
        words = [f"{self.era} {self.build}", "f32 cache" if self.memory_f32 else "f16 cache"]
        if self.build == "scalar":
            words.append("any batches")
        else:
            words.append("all tokens at once" if self.batch is None else f"batches of {self.batch}")
        words += [f"{self.threads} threads"] if self.threads else []
        words += [f"norm eps {self.norm_eps:g}"] if self.norm_eps != LLAMA_EPS else []
        return ", ".join(words)


def ways_of(
    file: ModelFile,
    n_tokens: int,
    *,
    era: str | None = None,
    build: str | None = None,
    memory_f32: bool | None = None,
    batch: int | None = None,
) -> Iterator[Way]:
    """Every way to compute with a model, the most natural first; narrowed by what is given.

    Raises:
        UsageError: there is none.
    """
    natural = era_of_file(file).date
    dates = [era_of(era).date] if era else sorted(ERAS, key=lambda date: (date != natural, date))
    layouts = {tensor.type.layout for tensor in file.tensors.values()}
    able = [date for date in dates if all(ERAS[date].reads(tensor.type) for tensor in file.tensors.values())]
    pairs = [(date, name) for date in able for name in SUPPORTED[date] if build in (None, name)]
    pairs = [pair for pair in pairs if _computes(file, *pair)]
    if not pairs:
        asked = " of ".join(word for word in (build, era) if word)
        raise UsageError(f"no exact arithmetic{' ' + asked if asked else ''} runs {file.path} ({', '.join(layouts)})")
    caches = (False, True) if memory_f32 is None else (memory_f32,)
    sizes: tuple[int | None, ...] = (None, 1, MAIN_BATCH) if batch is None else (batch,)
    known = file.hparams.norm_eps
    for date, name in pairs:
        batches = [None] if name == "scalar" else list(dict.fromkeys(_shortened(size, n_tokens) for size in sizes))
        epsilons = [known or LLAMA_EPS, *([EPS_OF_AUGUST] if ERAS[date] >= AUGUST_21 and not known else [])]
        threads = THREADS_OF_MARCH_19 if ERAS[date] == MARCH_19 else (None,)
        for cache in caches:
            for size in batches:
                for eps in epsilons:
                    yield from (Way(date, name, cache, size, eps, number) for number in threads)


def _computes(file: ModelFile, date: str, build: str) -> bool:
    """Whether the exact arithmetic of an era has everything that the model says."""
    try:
        check_exact(file, date, build)
    except UsageError:
        return False
    return True


def _shortened(size: int | None, n_tokens: int) -> int | None:
    return None if size is None or size >= n_tokens else size
