"""The one comparison of vocabularies, in the words of the caller's :class:`~ggmlpy.verify.terms.Terms`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .numbers import Difference
from .terms import Terms

__all__ = ["type_differences", "vocabulary_differences"]

# A known cause is one line: the words, and a test of every differing piece (expected, found) or of all scores found.
PIECE_CAUSES: tuple[tuple[str, Callable[[bytes, bytes], bool]], ...] = (
    (": ▁ was not replaced by a space", lambda a, b: b.replace("▁".encode(), b" ") == a),
)
SCORE_CAUSES: tuple[tuple[str, Callable[[NDArray[np.float32]], bool]], ...] = (
    (", all of them zero", lambda scores: not scores.any()),
)


_MARKED = re.compile(rb"\[[^\]]*\]|<[^>]*>", re.DOTALL)


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


def type_differences(
    pieces: Sequence[bytes], a: NDArray[np.int32], b: NDArray[np.int32], terms: Terms
) -> Iterator[Difference]:
    """How GGUF's token types differ; of tokens that a converter added (``[PAD]``, ``<|im_end|>``) habits vary."""
    if len(a) != len(b):
        return  # said of the pieces
    changed = np.flatnonzero(a != b)
    if len(changed):
        added = all(_MARKED.fullmatch(pieces[int(index)]) for index in changed)
        first = int(changed[0])
        words = terms.types.format(count=len(changed), first=first, a=a[first], b=b[first])
        yield Difference(words, not added)
