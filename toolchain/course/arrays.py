"""Numbers as text: for each array its name, rows and columns on a line, and then a line for each row.

n_head 1 1
2
x 2 3
0.5 -1 0.25
1.5 2 -0.125
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["number", "parse", "read", "text_of"]

Arrays = dict[str, NDArray[np.float64]]


def text_of(arrays: Mapping[str, ArrayLike]) -> bytes:
    """The text of numbers, vectors (one row) and matrices, with as many digits as a float32 needs; whole
    numbers have all of theirs.

    >>> print(text_of({"n": 2, "x": [[0.5, 1.0]]}).decode(), end="")
    n 1 1
    2
    x 1 2
    0.5 1
    """
    lines = []
    for name, values in arrays.items():
        rows = np.atleast_2d(np.asarray(values))
        lines.append(f"{name} {rows.shape[0]} {rows.shape[1]}")
        lines += [" ".join(map(_spelled, row)) for row in rows.tolist()]
    return ("\n".join(lines) + "\n").encode()


def _spelled(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.9g}"


def parse(data: bytes) -> Arrays:
    """The arrays of a text, float64 [rows, columns] each.

    Raises:
        ValueError: it is no such text; says which line.
    """
    lines = data.decode("utf-8", "replace").split("\n")
    found: Arrays = {}
    at = 0
    while at < len(lines):
        words = lines[at].split()
        if not words:
            at += 1
            continue
        if len(words) != 3 or not (words[1].isdecimal() and words[2].isdecimal()):
            raise ValueError(f"line {at + 1} is not a name, a number of rows and one of columns")
        name, n_rows, n_columns = words[0], int(words[1]), int(words[2])
        rows = [_row(lines, i, n_columns) for i in range(at + 1, min(at + 1 + n_rows, len(lines) + 1))]
        found[name] = np.array(rows, np.float64).reshape(n_rows, n_columns)
        at += 1 + n_rows
    return found


def _row(lines: list[str], index: int, n_columns: int) -> list[float]:
    words = lines[index].split() if index < len(lines) else []
    if len(words) != n_columns:
        raise ValueError(f"line {index + 1} has {len(words)} numbers, where the array has {n_columns} columns")
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ValueError(f"line {index + 1} has something that is not a number") from None


def read(path: Path) -> Arrays:
    """The arrays of a file."""
    return parse(path.read_bytes())


def number(arrays: Arrays, name: str) -> float:
    """The only number of an array."""
    return float(arrays[name][0, 0])
