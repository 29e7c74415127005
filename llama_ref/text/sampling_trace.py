"""A trace of sampling: one JSON line per token with the candidates, their probabilities and the random draw."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from typing import Any

import numpy as np

from ggmlpy.files.errors import OutputError

from .sampling import Sample

__all__ = ["trace_sampling"]


@contextmanager
def trace_sampling(path: str | None, pieces: Sequence[bytes]) -> Iterator[Callable[..., None] | None]:
    """A callback that writes one JSON line per token: candidates, their probabilities, and the draw that decided.

    Args:
        path: the file; None: nothing is traced, and None is yielded.
        pieces: the vocabulary.
    """
    if path is None:
        yield None
        return
    try:
        file = open(path, "wb", buffering=0)  # noqa: SIM115
    except OSError as error:
        words, step = f"the trace cannot be written: {error.strerror}", "name a file in a directory that exists"
        raise OutputError(words, path=path, next_step=step) from error
    with file:
        yield _tracer(file, pieces)


def _tracer(file: FileIO, pieces: Sequence[bytes]) -> Callable[[Sample, np.ndarray], None]:
    count = 0

    def trace(sample: Sample, logits: np.ndarray) -> None:
        nonlocal count
        record: dict[str, Any] = {
            "n": count,
            "token": sample.token,
            "text": _shown(pieces[sample.token]),
            "draw": sample.draw,
            "candidates": [
                {"id": int(token), "text": _shown(pieces[int(token)]), "logit": _number(logits[token]),
                 "p": _number(p)}
                for token, p in zip(sample.candidates, sample.probabilities)
            ],
        }  # fmt: skip
        line = memoryview(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        try:
            while line:
                line = line[file.write(line) :]
        except OSError as error:
            raise OutputError(f"the trace cannot be written: {error.strerror}", path=str(file.name)) from error
        count += 1

    return trace


def _shown(piece: bytes) -> str:
    return piece.decode("utf-8", "backslashreplace")


def _number(value: Any) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if np.isfinite(value) else None
