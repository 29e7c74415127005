"""Project 7: rotary positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llama_ref.arithmetic.rotation import Rotation

from .. import arrays
from ..arrays import Arrays, number
from ..differences import differing_arrays
from ..project import Difference, Mistake, Project

KINDS = ("one head in pairs", "several heads in pairs", "halves", "another base")


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """Rows of heads, and the position of each."""
    n_head = 1 if kind == "one head in pairs" else int(rng.randint(2, 5))
    size, rows = 2 * int(rng.randint(2, 6)), int(rng.randint(4, 8))
    path = folder / "input.txt"
    path.write_bytes(
        arrays.text_of(
            {
                "n_head": n_head,
                "base": 500000 if kind == "another base" else 10000,
                "halves": int(kind == "halves"),
                "position": np.sort(rng.choice(np.arange(1, 200), rows, replace=False)),
                "x": rng.randn(rows, n_head * size).astype(np.float32),
            }
        )
    )
    return path


def _turned(
    given: Arrays,
    exponent: float = 2.0,
    shift: int = 0,
    backwards: bool = False,
    swap: bool = False,
    whole: bool = False,
) -> bytes:
    """Every pair turned by its angle; the arguments are what people get wrong."""
    x = given["x"]
    n_head = 1 if whole else int(number(given, "n_head"))
    heads: Any = x.reshape(len(x), n_head, -1)  # [rows, n_head, size]
    size = heads.shape[-1]
    frequencies = number(given, "base") ** (-exponent * np.arange(size // 2) / size)
    apart = size // 2 if bool(number(given, "halves")) != swap else 1
    first, second = Rotation(frequencies, apart=apart).pairs(heads)
    angle = ((given["position"][0] + shift)[:, None] * frequencies * (-1 if backwards else 1))[:, None]
    out: Any = np.empty_like(heads)
    turned = Rotation(frequencies, apart=apart).pairs(out)
    turned[0][...] = first * np.cos(angle) - second * np.sin(angle)
    turned[1][...] = first * np.sin(angle) + second * np.cos(angle)
    return arrays.text_of({"x": out.reshape(x.shape)})


def answer(path: Path) -> bytes:
    return _turned(arrays.read(path))


MISTAKES = (
    Mistake("look at halves: 0 turns dimensions 2i and 2i + 1, 1 turns i and i + size / 2",
            lambda path: _turned(arrays.read(path), swap=True)),
    Mistake("the angle has a sign: the first of a pair is x cos - y sin",
            lambda p: _turned(arrays.read(p), backwards=True)),
    Mistake("pair i turns by base ** (-2 i / size): a 2 is missing", lambda p: _turned(arrays.read(p), exponent=1.0)),
    Mistake("positions are given, one too many was added", lambda p: _turned(arrays.read(p), shift=1)),
    Mistake("positions are given, one too many was taken away", lambda p: _turned(arrays.read(p), shift=-1)),
    Mistake("each head is turned by itself, with the same angles", lambda p: _turned(arrays.read(p), whole=True)),
)  # fmt: skip


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    return differing_arrays(expected, found)


PROJECT = Project(7, "rope", "Turn by the position", "旋转位置编码", KINDS, make, "out.txt", answer, differ, MISTAKES)
