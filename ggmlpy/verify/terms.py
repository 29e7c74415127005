"""The two sets of terms on which things are compared: two equals, or an output against what it should be.

One comparison of tensors (:mod:`.tensors`), one of numbers (:mod:`.numbers`) and one of vocabularies
(:mod:`.vocabularies`) serve both. The two sets of terms disagree only on what counts as a difference and how it is
worded, which is the table below.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AGAINST", "BETWEEN", "DIFFERS", "OTHER_BEHAVIOR", "SAME", "Terms"]

OTHER_BEHAVIOR = "same tensors, other behavior"  # the verdict where numbers, keys or vocabulary change the results
SAME, DIFFERS = "same", "differs"  # the status of a tensor with no other peculiarity


@dataclass(frozen=True)
class Terms:
    """What counts as a difference, and the words for it.

    Attributes:
        sides: the names of ``a`` and ``b``.
        by_value: tensors are the same if they decode to the same values, whatever their bytes and types.
        max_sampled: distances kept for the median; None keeps all of them.
        missing, extra: the status of a tensor that only ``a`` or only ``b`` has.
        shape, layout: the status of tensors whose shapes or types differ; "" where types may differ.
        header: one number of the header.
        sizes, pieces, scores, types: the vocabulary.
        no_codes: what is printed of a block that has no codes; "" prints nothing.
        tolerance: absolute differences of values up to this count as equal (with ``by_value``).
    """

    sides: tuple[str, str]
    by_value: bool
    max_sampled: int | None
    missing: str
    extra: str
    shape: str
    layout: str
    header: str
    sizes: str
    pieces: str
    scores: str
    types: str
    no_codes: str
    tolerance: float = 0.0


BETWEEN = Terms(
    sides=("A", "B"),
    by_value=True,
    max_sampled=None,
    missing="only in A",
    extra="only in B",
    shape="has shape {a} in A and {b} in B",
    layout="",
    header="{key} {a} and {b}",
    sizes="vocabularies of {a} and {b} pieces",
    pieces="{count} pieces differ, the first is {first}: {a!r}, {b!r}",
    scores="{count} scores differ, the first is of piece {first}",
    types="{count} token types differ, the first is of piece {first}: {a}, {b}",
    no_codes="-",
)

AGAINST = Terms(
    sides=("expected", "found"),
    by_value=False,
    max_sampled=1 << 20,
    missing="missing",
    extra="not expected",
    shape="has shape {b} instead of {a}",
    layout="is {b} instead of {a}",
    header="header: {key} {b} instead of {a}",
    sizes="vocabulary of {b} pieces instead of {a}",
    pieces="vocabulary: {count} pieces differ, the first is {first}: {b!r} instead of {a!r}{cause}",
    scores="vocabulary: {count} scores differ{cause}",
    types="vocabulary: {count} token types differ, the first is of piece {first}: {b} instead of {a}",
    no_codes="",
)
