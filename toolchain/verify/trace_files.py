"""Intermediate values that another program wrote: a folder of ``.npy`` files, or what ``llama-eval-callback`` prints.

llama.cpp's tool prints, for each operation, a line with its name and shape (columns first) and the first and last three
values along each dimension, with four digits after the point::

    common_debug_cb_eval:              attn_norm-0 = (f32)        MUL(norm-0{64, 3, 1, 1}, …}) = {64, 3, 1, 1}
        [
            [
                [      0.7354,      -0.1412,       0.0083,    ...,      -1.2209,       0.4108,       0.9411  ],
    …
        sum = -3.141593

Where a name comes twice, the last one counts. Source: common/debug.cpp of llama.cpp (2026), and its older form of 2024.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import FormatError
from ggmlpy.files.npy import parse_npy
from ggmlpy.files.texts import read_bounded

__all__ = ["Values", "read_trace"]

LARGEST = 1 << 30  # bytes of a file
HALF_A_DIGIT = 5e-5  # of what is printed with four digits
MOST_VALUES = 1 << 40

_HEADING = re.compile(
    rb"^\w+: +(?P<name>\S[^=\n]*?) = \((?P<type>\w+)\) +\w[^\n]*= \{(?P<shape>\d+, \d+, \d+, \d+)\} *$", re.MULTILINE
)
_SUM = re.compile(rb"sum = \S+")  # after each of the outermost dimension
_PART = re.compile(rb"\[|\]|\.\.\.|-?\d+\.\d+(?:e[+-]?\d+)?|-?nan|-?inf")


@dataclass(frozen=True)
class Values:
    """What a file says of one result.

    Attributes:
        shape: rows first, without leading ones.
        places: which values are known, counted row by row: int64 [n].
        values: float64 [n].
        step: by how much a value may be off, as it was printed; 0: the very bits of a float32.
    """

    shape: tuple[int, ...]
    places: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    step: float


def read_trace(path: str | os.PathLike[str]) -> Mapping[str, Values]:
    """The results in a folder of ``.npy`` files or in a printed trace, by their names.

    Raises:
        FormatError: there are none, or one is damaged.
    """
    path = Path(path)
    found = dict(_arrays(path) if path.is_dir() else _printed(path))
    if not found:
        raise FormatError(
            "no intermediate values are here", path=path, expected="NAME.npy files, or what llama-eval-callback prints",
            cause="another file or folder", next_step="`logits -m MODEL --tokens IDS --trace DIR` writes such a folder",
        )  # fmt: skip
    return found


def _arrays(folder: Path) -> Iterator[tuple[str, Values]]:
    for path in sorted(folder.glob("*.npy")):
        array = parse_npy(_read(path), path)
        if array.dtype.kind != "f":
            raise FormatError("these are not floats", path=path, field="dtype", found=str(array.dtype))
        values = array.astype(np.float64).reshape(-1)
        yield path.stem, Values(_shape(array.shape), np.arange(values.size), values, 0.0)


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, LARGEST)
    except OSError as error:
        raise FormatError(f"the trace cannot be read: {error.strerror}", path=path) from error


def _printed(path: Path) -> Iterator[tuple[str, Values]]:
    text = _read(path)
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends):
        name = heading["name"].decode("utf-8", "backslashreplace")
        shape = tuple(int(n) for n in reversed(heading["shape"].split(b", ")))
        if math.prod(shape) > MOST_VALUES:
            raise FormatError("no result has this shape", path=path, offset=heading.start(), field=name, found=shape)
        body = _SUM.sub(b"", text[heading.end() : end].rpartition(b"sum =")[0] or text[heading.end() : end])
        try:
            pairs = list(_places(_nested(body), shape))
        except (IndexError, TypeError, ValueError) as error:
            words = "the values of a result are damaged"
            raise FormatError(words, path=path, offset=heading.start(), field=name, expected=f"{shape}") from error
        if pairs:
            places, values = zip(*pairs)
            yield name, Values(_shape(shape), np.array(places, np.int64), np.array(values), HALF_A_DIGIT)


def _nested(text: bytes) -> list[Any]:
    """Lists of lists of numbers; an ellipsis stands for what was left out.

    Raises:
        IndexError: more brackets are closed than were opened.
    """
    top: list[Any] = []
    stack = [top]
    for part in _PART.findall(text):
        if part == b"[":
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif part == b"]":
            del stack[-1]
        else:
            stack[-1].append(... if part == b"..." else float(part))
    return top


def _places(node: Any, shape: Sequence[int]) -> Iterator[tuple[int, float]]:
    """The number of each value in its result, row by row, and the value.

    Raises:
        TypeError, ValueError: the lists are not nested as the shape says.
    """
    if not shape:
        yield 0, float(node)
        return
    left_out = node.index(...) if ... in node else len(node)
    tail = node[left_out + 1 :]
    if left_out + len(tail) > shape[0] or ... in tail:
        raise ValueError("more values than the shape has")
    size = math.prod(shape[1:])
    for numbered in (enumerate(node[:left_out]), enumerate(tail, shape[0] - len(tail))):
        for index, child in numbered:
            yield from ((index * size + place, value) for place, value in _places(child, shape[1:]))


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape)
