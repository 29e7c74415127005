"""Logits computed anew in each way, and with one operation exchanged for that of another arithmetic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.verify.tensors import ulp_distance
from llama_ref.arithmetic.choosing import create_backend
from llama_ref.arithmetic.exact.offered import SUPPORTED
from llama_ref.arithmetic.reference import ReferenceBackend
from llama_ref.arithmetic.rotation import rotation_of
from llama_ref.arithmetic.transformer import Backend
from llama_ref.text.model import Model

from .logits_report import Distance, TokenDistance
from .ways import Way

__all__ = ["OPERATIONS", "Recomputed", "Swapped", "rms_of"]

F32 = npt.NDArray[np.float32]
OPERATIONS: dict[str, tuple[str, ...]] = {  # words for a report: methods of a backend
    "embedding": ("embed",),
    "norm": ("rms_norm",),
    "rotary embedding": ("rope", "remember"),
    "attention": ("attention",),
    "silu": ("silu_mul",),
    "matrix products": ("matmul",),
}


class Recomputed:
    """A model, tokens, and the logits to find."""

    def __init__(self, file: ModelFile, tokens: Sequence[int], theirs: F32, known: dict[Way, F32]) -> None:
        self.file = file
        self.tokens = tokens
        self.theirs = theirs
        self.known = known

    def logits(self, way: Way) -> F32:
        """What a way gives, computed once: float32, as many of the last rows as there are of theirs."""
        if way not in self.known:
            self.known[way] = self._evaluated(self._exact(way), way)
        return self.known[way][-len(self.theirs) :]

    def distance(self, way: Way) -> Distance:
        """How far theirs are from a way."""
        return _distance(way, self.logits(way), self.theirs)

    def changed(self, way: Way, operation: str, other: Backend, words: str) -> Distance:
        """How far they are from a way with one operation as ``other`` does it."""
        swapped = Swapped(self._exact(way), other, OPERATIONS[operation])
        ours = self._evaluated(swapped, way)[-len(self.theirs) :]
        return replace(_distance(way, ours, self.theirs), changed=words)

    def reference(self) -> F32:
        """In plain float32 arithmetic."""
        return self._plain(self._of_reference())

    def truths(self) -> dict[str, F32]:
        """In plain float32 arithmetic what a model means to each program, the usual one first."""
        backend = self._of_reference()
        as_said = rotation_of(self.file, as_said=True)
        same = as_said.magnitude == backend.rotation.magnitude
        found = {"llama.cpp": self.reference()}
        if not same or not np.array_equal(as_said.frequencies, backend.rotation.frequencies):
            backend.rotation = as_said
            found["transformers"] = self._plain(backend)
        return found

    def _of_reference(self) -> ReferenceBackend:
        backend = create_backend("reference", self.file)
        assert isinstance(backend, ReferenceBackend)  # for the type checker: it goes by the name
        return backend

    def _plain(self, backend: Backend) -> F32:
        way = Way("", "", memory_f32=True, norm_eps=self.file.hparams.eps)
        return self._evaluated(backend, way)[-len(self.theirs) :]

    def others(self, way: Way) -> Iterator[tuple[str, Backend]]:
        """Other arithmetics with a way's settings, in words: plain, this era's other builds, other eras' same build."""
        yield "in plain float32 arithmetic", self._prepared(create_backend("reference", self.file), way)
        for date, builds in SUPPORTED.items():
            for build in builds:
                if (date == way.era) == (build == way.build):
                    continue  # the same one, or one that differs in both
                with contextlib.suppress(UsageError):  # that era did not know the file's types
                    yield (
                        f"as {date} {build} does",
                        self._prepared(self._exact(replace(way, era=date, build=build)), way),
                    )

    def _exact(self, way: Way) -> Backend:
        return create_backend("exact", self.file, era=way.era, build=way.build, n_threads=way.threads)

    def _prepared(self, backend: Backend, way: Way) -> Backend:
        backend.norm_eps = way.norm_eps
        return backend

    def _evaluated(self, backend: Backend, way: Way) -> F32:
        self._prepared(backend, way)
        model = Model(self.file, backend, n_ctx=len(self.tokens), memory_f32=way.memory_f32)
        step = way.batch or len(self.tokens)
        try:
            starts = range(0, len(self.tokens), step)
            return np.concatenate([model.evaluate(self.tokens[i : i + step], i) for i in starts])
        finally:
            backend.close()


class Swapped(Backend):
    """One arithmetic with some operations of another."""

    name = "swapped"

    def __init__(self, main: Backend, other: Backend, methods: Iterable[str]) -> None:
        self.main, self.other, self.methods = main, other, frozenset(methods)

    def _of(self, method: str) -> tuple[Any, int]:
        index = int(method in self.methods)
        self.main.norm_eps = self.norm_eps
        return getattr((self.main, self.other)[index], method), index

    def matrix(self, tensor: Any) -> Any:
        return self.main.matrix(tensor), self.other.matrix(tensor)

    def embed(self, w: Any, tokens: npt.NDArray[np.int64]) -> F32:
        run, index = self._of("embed")
        return run(w[index], tokens)

    def matmul(self, w: Any, x: F32) -> F32:
        run, index = self._of("matmul")
        return np.ascontiguousarray(run(w[index], np.ascontiguousarray(x)), np.float32)

    def rms_norm(self, x: F32, weight: F32) -> F32:
        return np.ascontiguousarray(self._of("rms_norm")[0](x, weight), np.float32)

    def rope(self, x: F32, n_past: int) -> F32:
        return np.ascontiguousarray(self._of("rope")[0](x, n_past), np.float32)

    def remember(self, cache: Any, k: F32, v: F32, n_past: int) -> None:
        self._of("remember")[0](cache, k, v, n_past)

    def attention(self, q: F32, cache: Any, n_past: int) -> F32:
        return np.ascontiguousarray(self._of("attention")[0](q, cache, n_past), np.float32)

    def silu_mul(self, gate: F32, up: F32) -> F32:
        return np.ascontiguousarray(self._of("silu_mul")[0](gate, up), np.float32)

    def close(self) -> None:
        self.main.close()


def _distance(way: Way, ours: F32, theirs: F32) -> Distance:
    different = ours.view(np.uint32) != theirs.view(np.uint32)  # [n_rows, n_vocab]
    if not different.any():
        return Distance(way, 0, 0.0, 0, 0.0, tuple(TokenDistance(0, 0.0, 0) for _ in ours))
    ulp = ulp_distance(ours, theirs)
    rows = [
        TokenDistance(int(changed.sum()), float(np.median(far)), int(far.max())) for changed, far in zip(different, ulp)
    ]
    count, median, most = int(different.sum()), float(np.median(ulp)), int(ulp.max())
    return Distance(way, count, median, most, rms_of(theirs, ours), tuple(rows))


def rms_of(x: F32, y: F32) -> float:
    """Root of the mean squared difference, in standard deviations of ``y``; infinite where numbers are not finite.

    >>> rms_of(np.float32([0, 2]), np.float32([0, 4]))
    0.7071067811865476
    """
    with np.errstate(all="ignore"):
        difference = x.astype(np.float64) - y
        result = float(np.sqrt(np.mean(difference * difference)) / max(float(y.astype(np.float64).std()), 1e-300))
    return result if np.isfinite(result) else float("inf")
