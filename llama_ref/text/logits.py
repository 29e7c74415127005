"""The logits of a sequence of tokens: what one compares when two builds, files or backends are said to agree."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import UsageError

from .model import Model

__all__ = ["logits", "parse_tokens", "write_logits"]


def parse_tokens(text: str) -> list[int]:
    """Token ids separated by commas or white space.

    Raises:
        UsageError: something in between is not a number, or there is nothing.

    >>> parse_tokens("1, 15043,3186")
    [1, 15043, 3186]
    """
    words = text.replace(",", " ").split()
    try:
        tokens = [int(word) for word in words]
    except ValueError:
        wrong = next(word for word in words if not word.lstrip("-").isdigit())
        raise UsageError(f"--tokens takes numbers separated by commas, not {wrong!r}") from None
    if not tokens:
        raise UsageError("--tokens is empty; give at least one token id, such as 1")
    return tokens


def logits(
    model: Model,
    tokens: Sequence[int],
    *,
    batch: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> npt.NDArray[np.float32]:
    """Evaluate `tokens` from position 0 and return every token's logits.

    Args:
        model: its cache is overwritten.
        tokens: at most ``model.n_ctx`` token ids.
        batch: tokens evaluated at a time; None means all at once. The exact arithmetic of SIMD builds depends on it.
        progress: called with the number of tokens done; within a batch it is a fraction of the batch.

    Returns:
        float32 [n_tokens, n_vocab].

    Raises:
        UsageError: no tokens, a token outside the vocabulary, more of them than n_ctx, or a batch below 1.

    Example:
        >>> with Model.from_file("model.bin", numerics="exact") as model:  # doctest: +SKIP
        ...     logits(model, [1, 15043, 3186], batch=1).shape
        (3, 32000)
    """
    step = len(tokens) if batch is None else batch
    if step < 1:
        raise UsageError("nothing to evaluate" if batch is None else f"--batch must be at least 1, not {batch}")
    rows = []
    for start in range(0, len(tokens), step):
        now = tokens[start : start + step]
        if progress:
            model.backend.progress = partial(_within, progress, start, len(now))
        rows.append(model.evaluate(now, start))
    if progress:
        model.backend.progress = None
    return np.concatenate(rows)


def _within(progress: Callable[[float], object], start: int, n: int, part: float) -> None:
    progress(start + part * n)


def write_logits(path: str | os.PathLike[str], values: npt.NDArray[np.float32]) -> None:
    """Write `values` as a ``.npy`` file of little-endian float32, complete or not at all.

    Raises:
        OutputError: the file could not be written.
    """
    array = np.ascontiguousarray(values, dtype="<f4")
    with atomic_write(path) as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        stream.write(array.data)  # numpy's own tofile says nothing when the disk is full
