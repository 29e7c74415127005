"""Project 9: one layer of the transformer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llama_ref.arithmetic.transformer import F32, KVCache, LayerWeights, layer

from .. import arrays
from ..arrays import Arrays, number
from ..backend import ArrayBackend
from ..differences import differing_arrays
from ..project import Difference, Mistake, Project

KINDS = ("one token", "a text", "wide", "large numbers")
MATRICES = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """A row for each token, and the weights of a layer."""
    n_head, size = int(rng.randint(1, 4)), 8 if kind == "wide" else 4
    width, rows = n_head * size, 1 if kind == "one token" else int(rng.randint(3, 7))
    hidden = width + int(rng.randint(1, 9))
    shapes = dict.fromkeys(("wq", "wk", "wv", "wo"), (width, width))
    shapes |= {"w1": (hidden, width), "w2": (width, hidden), "w3": (hidden, width)}
    weights = {name: (rng.randn(*shapes[name]) / np.sqrt(shapes[name][1])).astype(np.float32) for name in MATRICES}
    norms = {name: (1 + 0.3 * rng.randn(width)).astype(np.float32) for name in ("attention_norm", "ffn_norm")}
    x = rng.randn(rows, width).astype(np.float32) * (20 if kind == "large numbers" else 1)
    path = folder / "layer.txt"
    path.write_bytes(arrays.text_of({"n_head": n_head, "x": x, **norms, **weights}))
    return path


def _through(
    given: Arrays, backend: type[ArrayBackend] = ArrayBackend, changed: Mapping[str, F32] | None = None
) -> F32:
    """The rows behind the layer."""
    weights = {name: values.astype(np.float32) for name, values in given.items()} | dict(changed or {})
    x, n_head = weights["x"], int(number(given, "n_head"))
    size = x.shape[1] // n_head
    norms = {name: weights[name].reshape(-1) for name in ("attention_norm", "ffn_norm")}
    matrices: dict[str, Any] = {name: weights[name] for name in MATRICES}
    w = LayerWeights(attention_norm=norms["attention_norm"], ffn_norm=norms["ffn_norm"], **matrices)
    return layer(backend(size), w, KVCache(1, len(x), n_head, size, memory_f32=True).layer(0), x, 0)


def answer(path: Path) -> bytes:
    return arrays.text_of({"x": _through(arrays.read(path))})


class _WithoutResidual(ArrayBackend):
    def add(self, x: F32, y: F32) -> F32:
        return x


class _WithoutRope(ArrayBackend):
    def rope(self, x: F32, n_past: int) -> F32:
        return x


class _WithoutSilu(ArrayBackend):
    def silu_mul(self, gate: F32, up: F32) -> F32:
        return gate * up


class _Centered(ArrayBackend):
    def rms_norm(self, x: F32, weight: F32) -> F32:
        return super().rms_norm(x - x.mean(axis=-1, keepdims=True), weight)


class _WithoutNorm(ArrayBackend):
    def rms_norm(self, x: F32, weight: F32) -> F32:
        return x


class _WithoutOneNorm(ArrayBackend):
    skipped = 0

    def rms_norm(self, x: F32, weight: F32) -> F32:
        self.norms = getattr(self, "norms", 0) + 1
        return x if self.norms == self.skipped else super().rms_norm(x, weight)


class _WithoutFirstNorm(_WithoutOneNorm):
    skipped = 1


class _WithoutSecondNorm(_WithoutOneNorm):
    skipped = 2


class _Relu(ArrayBackend):
    def silu_mul(self, gate: F32, up: F32) -> F32:
        return np.maximum(gate, 0) * up


def _by(backend: type[ArrayBackend]) -> Mistake:
    hints = {
        _WithoutResidual: "what attention and feed-forward give is added to what they got",
        _WithoutRope: "queries and keys are turned by their position, which is their row, from 0 on",
        _WithoutSilu: "the gate goes through silu(x) = x / (1 + exp(-x))",
        _Centered: "this norm takes no mean away: x / sqrt(mean(x * x) + 1e-6) * weight",
        _WithoutNorm: "attention and feed-forward each get normed rows, with a norm of their own",
        _WithoutFirstNorm: "attention gets normed rows",
        _WithoutSecondNorm: "feed-forward gets normed rows: x with what attention gave, through ffn_norm",
        _Relu: "the gate goes through silu, and not through relu",
    }
    return Mistake(hints[backend], lambda path: arrays.text_of({"x": _through(arrays.read(path), backend)}))


def _exchanged(path: Path, one: str, other: str) -> bytes:
    given = {name: values.astype(np.float32) for name, values in arrays.read(path).items()}
    if given[one].shape != given[other].shape:
        raise ValueError("of other shapes")
    return arrays.text_of({"x": _through(arrays.read(path), changed={one: given[other], other: given[one]})})


def _transposed(path: Path, names: tuple[str, ...]) -> bytes:
    given = arrays.read(path)
    turned = {name: given[name].T.astype(np.float32) for name in names}
    return arrays.text_of({"x": _through(given, changed=turned)})


MISTAKES = (
    *map(_by, (_WithoutResidual, _WithoutRope, _WithoutSilu, _Centered, _WithoutNorm, _WithoutFirstNorm,
               _WithoutSecondNorm, _Relu)),
    Mistake("the gate is w1, and w3 is what it lets through", lambda path: _exchanged(path, "w1", "w3")),
    Mistake("attention has the norm attention_norm, the feed-forward ffn_norm",
            lambda path: _exchanged(path, "attention_norm", "ffn_norm")),
    *(Mistake("a matrix has a row for each output: y = x times its transpose", partial(_transposed, names=names))
      for names in (("wq", "wk", "wv", "wo"), ("wq", "wk", "wv"), ("wo",))),
)  # fmt: skip


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    return differing_arrays(expected, found, 1e-3)


PROJECT = Project(9, "layer", "One layer", "一层", KINDS, make, "out.txt", answer, differ, MISTAKES)
