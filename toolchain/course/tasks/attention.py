"""Project 8: attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llama_ref.arithmetic.reference import softmax
from llama_ref.arithmetic.transformer import LayerCache

from .. import arrays
from ..arrays import Arrays, number
from ..backend import ArrayBackend
from ..differences import differing_arrays
from ..project import Difference, Mistake, Project

KINDS = ("one head", "several heads", "shared heads", "a long text")


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """Queries, keys and values, roped already."""
    n_kv = 1 if kind == "one head" else int(rng.randint(2, 4))
    n_head = n_kv * (int(rng.randint(2, 4)) if kind == "shared heads" else 1)
    size, rows = int(rng.randint(2, 6)) * 2, 24 if kind == "a long text" else int(rng.randint(4, 8))
    q, k, v = (rng.randn(rows, heads * size).astype(np.float32) * 1.5 for heads in (n_head, n_kv, n_kv))
    path = folder / "input.txt"
    path.write_bytes(arrays.text_of({"n_head": n_head, "n_head_kv": n_kv, "q": q, "k": k, "v": v}))
    return path


def _heads(given: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k and v as [rows, heads, size]."""
    n_head, n_kv = int(number(given, "n_head")), int(number(given, "n_head_kv"))
    q, k, v = (given[name].astype(np.float32) for name in "qkv")
    return tuple(a.reshape(len(a), n, -1) for a, n in ((q, n_head), (k, n_kv), (v, n_kv)))  # type: ignore[return-value]


def answer(path: Path) -> bytes:
    q, k, v = _heads(arrays.read(path))
    return arrays.text_of({"out": ArrayBackend(q.shape[-1]).attention(q, LayerCache(k, v), 0)})


def _attended(
    path: Path,
    scale: float | None = None,
    masked: bool = True,
    strict: bool = False,
    interleaved: bool = False,
    across: bool = False,
) -> bytes:
    """Attention with what people get wrong: the scale, the mask, whose keys a query meets, the axis of the softmax."""
    q, k, v = _heads(arrays.read(path))
    n, n_head, size = q.shape
    whose = np.arange(n_head) % k.shape[1] if interleaved else np.arange(n_head) // (n_head // k.shape[1])
    scores = np.einsum("ihd,jhd->hij", q, k[:, whose]) / np.float32(np.sqrt(size) if scale is None else scale)
    future = np.arange(n) >= np.arange(n)[:, None] + (0 if strict else 1)
    scores = np.where(future, np.float32(-1e30), scores) if masked else scores
    probabilities = softmax(scores.transpose(0, 2, 1)).transpose(0, 2, 1) if across else softmax(scores)
    return arrays.text_of({"out": np.einsum("hij,jhd->ihd", probabilities, v[:, whose]).reshape(n, -1)})


def _width(path: Path) -> float:
    return float(np.sqrt(arrays.read(path)["q"].shape[1]))


MISTAKES = (
    Mistake("divide the scores by the root of the size of a head", lambda path: _attended(path, scale=1.0)),
    Mistake("the size is that of one head, and not of the whole row", lambda path: _attended(path, scale=_width(path))),
    Mistake("a token does not see those behind it: mask them before the softmax", lambda p: _attended(p, masked=False)),
    Mistake("a token sees itself, too", lambda path: _attended(path, strict=True)),
    Mistake("query head h meets head h / (n_head / n_head_kv) of keys and values",
            lambda path: _attended(path, interleaved=True)),
    Mistake("the softmax is over the keys of one query, so that each row adds up to 1",
            lambda path: _attended(path, across=True)),
)  # fmt: skip


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    return differing_arrays(expected, found, 1e-3)


PROJECT = Project(8, "attention", "Attend", "注意力", KINDS, make, "out.txt", answer, differ, MISTAKES)
