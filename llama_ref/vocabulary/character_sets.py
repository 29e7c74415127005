"""Sets of code points, and the alphabet that a list of such sets divides Unicode into.

A set is a sorted array of the code points at which membership changes: ``[48, 58]`` is 0 to 9. General categories come
from ``unicode_categories.txt``, in the two versions of Unicode that matter here: 15.1, which llama.cpp has tables of,
and 16.0, which the regular expressions of Hugging Face's ``tokenizers`` know. They do not depend on Python's version.

>>> digits = category("Nd", "15.1")
>>> "٣" in alphabet_of([digits])[1][0], contains(digits, ord("٣"))
(False, True)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import UnsupportedError

__all__ = [
    "CODE_POINTS",
    "HAN",
    "WHITE_SPACE",
    "Alphabet",
    "CharacterSet",
    "alphabet_of",
    "category",
    "contains",
    "intersection",
    "inverted",
    "one_of",
    "span",
    "union",
]

CODE_POINTS = 0x110000
LARGEST_ALPHABET = 256  # so that a text becomes one byte per character

CharacterSet = NDArray[np.int64]
Alphabet = tuple[NDArray[np.uint8], list[list[str]]]


def span(first: int, last: int) -> CharacterSet:
    """The code points from ``first`` to ``last``, both included."""
    return np.array([first, last + 1], np.int64)


def one_of(characters: str) -> CharacterSet:
    """The characters of a string."""
    return union(*(span(ord(each), ord(each)) for each in characters))


def contains(members: CharacterSet, code_point: int) -> bool:
    return bool(np.searchsorted(members, code_point, "right") & 1)


def union(*sets: CharacterSet) -> CharacterSet:
    return _combined(sets, lambda members: np.any(members, axis=0))


def intersection(*sets: CharacterSet) -> CharacterSet:
    return _combined(sets, lambda members: np.all(members, axis=0))


def inverted(members: CharacterSet) -> CharacterSet:
    """All other code points."""
    return _combined([members], lambda rows: ~rows[0])


def _membership(sets: Sequence[CharacterSet]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where any of the sets changes, and which of them contain the stretch that begins there: [n_sets, n_stretches]."""
    starts = np.unique(np.concatenate([np.zeros(1, np.int64), *sets]))
    starts = starts[starts < CODE_POINTS]
    return starts, np.array([np.searchsorted(each, starts, "right") & 1 == 1 for each in sets])


def _combined(sets: Sequence[CharacterSet], rule: Callable[[NDArray[Any]], Any]) -> CharacterSet:
    if not sets:
        return np.zeros(0, np.int64)
    starts, members = _membership(sets)
    inside: NDArray[np.bool_] = rule(members)
    changes = starts[np.flatnonzero(np.diff(inside, prepend=False))]
    return np.append(changes, CODE_POINTS) if len(changes) & 1 else changes


def alphabet_of(sets: Sequence[CharacterSet]) -> Alphabet:
    """The letter of each code point, uint8 [0x110000], and the letters that make up each set.

    Code points that no set tells apart share a letter, so a regular expression over sets becomes one over letters.

    Raises:
        UnsupportedError: there are more than 256 letters.
    """
    starts, members = _membership(sets)
    columns, letter = np.unique(members, axis=1, return_inverse=True)
    if columns.shape[1] > LARGEST_ALPHABET:
        raise UnsupportedError(
            "an expression tells too many characters apart", expected=LARGEST_ALPHABET, found=columns.shape[1]
        )
    table = np.repeat(letter.reshape(-1).astype(np.uint8), np.diff(starts, append=CODE_POINTS))
    return table, [[chr(each) for each in np.flatnonzero(row)] for row in columns]


# ── Unicode ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache
def _file() -> tuple[list[str], list[str]]:
    """The two lists of ``unicode_categories.txt``: categories, and where Han begins and ends."""
    text = files("llama_ref.vocabulary").joinpath("unicode_categories.txt").read_text("ascii")
    words = [word for line in text.splitlines() if not line.startswith("#") for word in line.split()]
    at = words.index("Han")
    return words[:at], words[at + 1 :]


@lru_cache
def _runs(version: str) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    pairs = [word.partition(":") for word in _file()[0]]
    names = [name.partition("/") for _, _, name in pairs]
    starts = np.array([int(start, 16) for start, _, _ in pairs], np.int64)
    return starts, np.array([later if later and version == "16.0" else name for name, _, later in names])


@lru_cache(maxsize=128)
def category(name: str, version: str) -> CharacterSet:
    """The code points of a general category (``Lu``), or of all that begin with a letter (``L``); "Any" is all.

    Raises:
        KeyError: there is no such category.
    """
    starts, names = _runs(version)
    inside = np.char.startswith(names, name) if name != "Any" else np.ones(len(names), bool)
    if not inside.any():
        raise KeyError(name)
    changes = starts[np.flatnonzero(np.diff(inside, prepend=False))]
    return np.append(changes, CODE_POINTS) if len(changes) & 1 else changes


WHITE_SPACE = union(  # Unicode's White_Space
    span(9, 13), one_of(" \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"), span(0x2000, 0x200A)
)
HAN = "Han"


@lru_cache
def script_han() -> CharacterSet:
    return np.array([int(word, 16) for word in _file()[1]], np.int64)
