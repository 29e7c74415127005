"""Whose the wrong rows of an embedding or output matrix are: a grown vocabulary goes wrong by rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.tensor_names import find
from ggmlpy.verify.tensors import Found, TensorDifference, decoded
from lora.merging.merge import MergePlan

from .merge_mistakes import ROUNDINGS, starting_point
from .scaled import meta_name

__all__ = ["VocabularyRows"]

Rows = NDArray[np.float32]  # [rows, columns]
PAD = b"[PAD]"
NEAR = 5e-3  # relative: a mean depends on the order of its sum, and is rounded


@dataclass(frozen=True)
class VocabularyRows:
    """The explainer of vocabulary matrices of which some rows are not the merge's.

    Rows are looked at in three groups: those that the base has (old), those that adapters brought (added), and the one
    of [PAD]. Of each group, what stands in its wrong rows must be one thing.
    """

    plan: MergePlan

    def explain(self, found: Found, difference: TensorDifference) -> str | None:
        """What the wrong rows are, if that is known of each group."""
        name = meta_name(found.name)
        start_at, pairs = starting_point(self.plan, name)
        if start_at is None or pairs or found.type.quantized or find(name)[0].shape[0] != "n_vocab":
            return None
        if start_at.shape != found.shape:
            return None
        view = _View(
            self._narrowed(name, start_at.f32()),
            decoded(found.row_of(0, found.shape[0]), found.type),
            self.plan.base.tensors[name].f32(),
            {a.path.name: a.replaced[name].f32() for a in self.plan.adapters if name in a.replaced},
        )
        return _said(view, list(self._groups(view)))

    def _narrowed(self, name: str, values: Rows) -> Rows:
        with np.errstate(over="ignore"):
            return ROUNDINGS[self.plan.model.dtype_of(name)](values).astype(np.float32)

    def _groups(self, view: _View) -> Iterator[_Group]:
        """Each group that has wrong rows."""
        n_old, n_rows = len(view.base), len(view.there)
        has_pad = n_rows > n_old and [text for text, _ in self.plan.chain.tokenizer][-1] == PAD
        ends = [(0, n_old, "old rows"), (n_old, n_rows - has_pad, "added rows"), (n_rows - has_pad, n_rows, PAD_ROW)]
        for first, last, words in ends:
            rows = view.wrong[(view.wrong >= first) & (view.wrong < last)]
            if len(rows):
                yield _Group(words, rows, np.arange(first, last))


@dataclass(frozen=True)
class _Group:
    """Rows that go wrong together: what they are called, the wrong ones among them, all of them."""

    words: str
    wrong: NDArray[np.intp]
    rows: NDArray[np.intp]


PAD_ROW = "the row of [PAD]"


@dataclass(frozen=True)
class _View:
    """The values of a matrix: as they should be, as they are, in the base, and in the adapters that bring it."""

    expected: Rows
    there: Rows
    base: Rows
    adapters: dict[str, Rows]

    @cached_property
    def wrong(self) -> NDArray[np.intp]:
        """The numbers of the rows that differ."""
        same = (self.there == self.expected) | (np.isnan(self.there) & np.isnan(self.expected))
        return np.flatnonzero(~same.all(axis=1))

    def sources(self) -> Iterator[tuple[str, Callable[[NDArray[np.intp]], bool]]]:
        """What rows may be, in words, and whether they are."""
        yield "zero", lambda rows: not self.there[rows].any()
        yield "the base's", lambda rows: self._are(self.base, rows)
        for name, brought in self.adapters.items():
            yield f"those of {name}", lambda rows, brought=brought: self._are(brought, rows)  # type: ignore[misc]
        yield "the rows one before", lambda rows: self._are(self.expected, rows, rows - 1)
        yield "the rows one after", lambda rows: self._are(self.expected, rows, rows + 1)
        yield "the mean of the base's rows", lambda rows: self._are_mean(self.base, rows)
        yield "the mean of the old rows", lambda rows: self._are_mean(self.expected[: len(self.base)], rows)
        yield "the mean of the other rows", lambda rows: self._are_mean(np.delete(self.expected, rows, axis=0), rows)
        yield "all alike", lambda rows: len(rows) > 1 and bool((self.there[rows] == self.there[rows[0]]).all())

    def _are(self, source: Rows, rows: NDArray[np.intp], numbers: NDArray[np.intp] | None = None) -> bool:
        numbers = rows if numbers is None else numbers
        inside = bool((numbers >= 0).all() and (numbers < len(source)).all())
        return inside and bool(np.array_equal(self.there[rows], source[numbers]))

    def _are_mean(self, source: Rows, rows: NDArray[np.intp]) -> bool:
        if not len(source):
            return False
        mean, largest = source.mean(axis=0, dtype=np.float64), np.abs(source).max(axis=0)
        return bool((np.abs(self.there[rows] - mean) <= NEAR * (np.abs(mean) + largest / len(source))).all())


def _said(view: _View, groups: list[_Group]) -> str | None:
    """What each group's wrong rows are; rows that are nobody's are told only beside old rows that are the base's."""
    known: dict[str, str] = {}
    for group in groups:
        source, fits = next(((source, fits) for source, fits in view.sources() if fits(group.wrong)), ("", _never))
        some = source and 2 * len(group.wrong) < len(group.rows) and not fits(group.rows)
        known[_some(group) if some else group.words] = source
    if known.get("old rows") == "the base's" and "" in known.values():
        n_old = len(view.base)
        return f"the matrix was resized: its first {n_old} rows are the base's, the others are not the adapter's"
    if not known or "" in known.values():
        return None
    return "vocabulary: " + "; ".join(_sentence(words, source) for words, source in known.items())


def _never(rows: NDArray[np.intp]) -> bool:
    return False


def _some(group: _Group) -> str:
    """
    >>> _some(_Group("added rows", np.array([7]), np.arange(5, 9)))
    '1 of the 4 added rows (from row 7 on)'
    """
    return f"{len(group.wrong):,} of the {len(group.rows):,} {group.words} (from row {group.wrong[0]:,} on)"


def _sentence(rows: str, source: str) -> str:
    """
    >>> _sentence("added rows", "zero"), _sentence("the row of [PAD]", "those of b")
    ('the added rows are zero', 'the row of [PAD] is that of b')
    >>> _sentence("1 of the 4 added rows (from row 7 on)", "zero")
    '1 of the 4 added rows (from row 7 on): zero'
    """
    if rows[0].isdigit():
        return f"{rows}: {source}"
    if rows == PAD_ROW:
        return f"{rows} is {source.replace('those of', 'that of').replace('the rows', 'the row')}"
    return f"the {rows} are {source}"
