"""How an output is compared, and the words for a difference: the place and what was found there, never the answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.foreign import visible

from . import arrays
from .project import Difference

__all__ = ["differing_arrays", "differing_bytes", "differing_lines", "shown"]

LONGEST = 60  # characters of a line that are shown


def shown(text: str) -> str:
    """A piece of a person's output, short and without control characters."""
    text = visible(text)
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def differing_lines(
    expected: bytes, found: bytes, same: Callable[[str, str], bool] = lambda a, b: a.split() == b.split()
) -> Difference | None:
    """Compare texts line by line; spaces between words do not count.

    Args:
        same: whether two lines say the same.
    """
    wanted, given = (data.decode("utf-8", "replace").rstrip().split("\n") for data in (expected, found))
    if not found.strip():
        return Difference("the output is empty")
    for index, (a, b) in enumerate(zip(wanted, given)):
        if not same(a, b):
            words, others = a.split(), b.split()
            word = next((i for i, (x, y) in enumerate(zip(words, others)) if x != y), min(len(words), len(others)))
            return Difference(f"line {index + 1} is not right, from word {word + 1} on; it says {shown(b)}")
    if len(wanted) != len(given):
        return Difference(f"there are {len(given):,} lines, not the right number; those that are there are right")
    return None


def differing_arrays(expected: bytes, found: bytes, tolerance: float = 1e-4) -> Difference | None:
    """Compare named arrays of numbers.

    Args:
        tolerance: how far a value may be from the right one, as a part of the largest value of its array.
    """
    wanted = arrays.parse(expected)
    try:
        given = arrays.parse(found)
    except ValueError as error:
        return Difference(f"the output is not a text of named arrays: {error}")
    for name, values in wanted.items():
        if name not in given:
            return Difference(f"there is no array {name!r}")
        if given[name].shape != values.shape:
            rows, columns = given[name].shape
            return Difference(f"the array {name!r} has {rows} rows and {columns} columns, not the right number")
        off = _off(values, given[name], tolerance)
        if off.any():
            row, column = np.argwhere(off)[0].tolist()
            counts = f"{int(off.sum()):,} of {off.size:,} values of {name!r} are not right"
            value = f"{given[name][row, column]:.6g}"
            return Difference(f"{counts}; the first is in row {row + 1}, column {column + 1}, which says {value}")
    return None


def _off(wanted: NDArray[np.float64], given: NDArray[np.float64], tolerance: float) -> NDArray[np.bool_]:
    allowed = tolerance * max(float(np.abs(wanted).max(initial=0)), 1e-6)
    close: NDArray[np.bool_] = np.abs(wanted - given) <= allowed
    return ~close


def differing_bytes(expected: bytes, found: bytes, size: int, what: str, parts: dict[str, slice]) -> Difference | None:
    """Compare records of ``size`` bytes each.

    Args:
        what: what a record is called.
        parts: the parts of a record by name.
    """
    if found == expected:
        return None
    if len(found) != len(expected) or len(found) % size:
        whole = len(found) / size
        return Difference(f"there are {len(found):,} bytes, that is {whole:g} {what}s; not the right number")
    a, b = (np.frombuffer(data, np.uint8).reshape(-1, size) for data in (expected, found))
    wrong = np.flatnonzero((a != b).any(axis=1))
    first = int(wrong[0])
    bad = [name for name, part in parts.items() if (a[first, part] != b[first, part]).any()]
    good = [name for name in parts if name not in bad]
    words = f"{len(wrong):,} of {len(a):,} {what}s are not right; the first is {what} {first} "
    words += f"(bytes {first * size:,} to {first * size + size - 1:,}): {' and '.join(bad)} differ"
    return Difference(words + (f", {' and '.join(good)} are right" if good else ""))
