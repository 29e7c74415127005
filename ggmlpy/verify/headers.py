"""The one comparison of headers and vocabularies, in the words of the caller's :class:`~ggmlpy.verify.terms.Terms`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.model_params import ModelParams

from .terms import Terms

__all__ = ["header_differences", "vocabulary_differences"]

# A known cause is one line: the words, and a test of every differing piece (expected, found) or of all scores found.
PIECE_CAUSES: tuple[tuple[str, Callable[[bytes, bytes], bool]], ...] = (
    (": ▁ was not replaced by a space", lambda a, b: b.replace("▁".encode(), b" ") == a),
)
SCORE_CAUSES: tuple[tuple[str, Callable[[NDArray[np.float32]], bool]], ...] = (
    (", all of them zero", lambda scores: not scores.any()),
)


def header_differences(a: ModelParams, b: ModelParams, terms: Terms) -> Iterator[str]:
    """One phrase for each number of the header that differs."""
    ours, theirs = a.header(), b.header()
    yield from (terms.header.format(key=k, a=ours[k], b=theirs[k]) for k in ours if ours[k] != theirs[k])


def vocabulary_differences(
    a: Sequence[bytes], b: Sequence[bytes], scores: tuple[NDArray[np.float32], Any] | None, terms: Terms
) -> Iterator[str]:
    """How two vocabularies differ, with the cause where it is known.

    Args:
        a, b: the pieces.
        scores: float32 [pieces] of both; None where one of the containers has none.
    """
    if len(a) != len(b):
        yield terms.sizes.format(a=len(a), b=len(b))
        return
    pairs = list(zip(a, b, strict=True))
    differ = [index for index, (ours, theirs) in enumerate(pairs) if ours != theirs]
    if differ:
        tests = (words for words, holds in PIECE_CAUSES if all(holds(*pairs[index]) for index in differ))
        ours, theirs = pairs[differ[0]]
        yield terms.pieces.format(count=len(differ), first=differ[0], a=ours, b=theirs, cause="".join(tests))
    if scores is not None:
        changed = np.flatnonzero(scores[0].view(np.uint32) != scores[1].view(np.uint32))
        if len(changed):
            causes = (words for words, holds in SCORE_CAUSES if holds(scores[1]))
            yield terms.scores.format(count=len(changed), first=changed[0], cause="".join(causes))
