"""Whose logits are these? Another program's numbers against every arithmetic that can run the model.

llama.cpp has no one result: it depends on the commit, on the instruction set, on the precision of the key/value cache
and on how many tokens are evaluated together (``docs/numerics.md``). :func:`verify_logits` recomputes the logits in
each such *way* and names all that are identical bit for bit. Where none is, it names the closest, says from which token
on the two part, and then tries one operation after the other as another arithmetic does it.

A file of logits is a ``.npy`` of float32 [n_tokens, n_vocab], or the same numbers raw, little-endian; a file with one
row holds the last token's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.files.npy import MAGIC, parse_npy
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.eras import AUGUST_21, ERAS, MARCH_19, era_of
from ggmlpy.formats.model_params import LLAMA_EPS
from ggmlpy.verify.tensors import ulp_distance
from ggmlpy.verify.verdict import Table, Verdict
from llama_ref.arithmetic.choosing import create_backend
from llama_ref.arithmetic.exact.backend import SUPPORTED
from llama_ref.arithmetic.transformer import Backend
from llama_ref.text.model import Model

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile

__all__ = ["Distance", "LogitsReport", "Way", "read_logits", "verify_logits", "ways_of"]

F32 = npt.NDArray[np.float32]
MAIN_BATCH = 8  # tokens that main evaluates together unless told otherwise
OTHER_BATCHES = (2, 4, 16, 32, 64, 128, 256, 512)
THREADS_OF_MARCH_19 = (1, 2, 4, 8)
SHOWN_TOKENS = 12  # in the text of a report
EPS_OF_AUGUST = 5e-6  # --rms-norm-eps of 2023-08-21 unless told otherwise
OPERATIONS: dict[str, tuple[str, ...]] = {  # words for a report: methods of a backend
    "embedding": ("embed",),
    "norm": ("rms_norm",),
    "rotary embedding": ("rope", "remember"),
    "attention": ("attention",),
    "silu": ("silu_mul",),
    "matrix products": ("matmul",),
}


@dataclass(frozen=True)
class Way:
    """One way in which llama.cpp may have computed.

    Attributes:
        era, build: see :mod:`llama_ref.arithmetic.exact.backend`.
        memory_f32: keys and values in f32, not in f16.
        batch: tokens evaluated together; None: all of them. No scalar build depends on it.
        norm_eps: what is added in every norm.
        threads: of 2023-03-19, whose sums depended on it.
    """

    era: str
    build: str
    memory_f32: bool = False
    batch: int | None = None
    norm_eps: float = LLAMA_EPS
    threads: int | None = None

    def __str__(self) -> str:
        words = [f"{self.era} {self.build}", "f32 cache" if self.memory_f32 else "f16 cache"]
        if self.build == "scalar":
            words.append("any batches")
        else:
            words.append("all tokens at once" if self.batch is None else f"batches of {self.batch}")
        words += [f"{self.threads} threads"] if self.threads else []
        words += [f"norm eps {self.norm_eps:g}"] if self.norm_eps != LLAMA_EPS else []
        return ", ".join(words)


@dataclass(frozen=True)
class TokenDistance:
    """One token's logits: how many differ, and their distance in ulp (over all of them)."""

    different: int
    median_ulp: float
    max_ulp: int


@dataclass(frozen=True)
class Distance:
    """How far the logits are from one way of computing them.

    Attributes:
        changed: in words, which operation was done otherwise, if one was.
        different: values whose bits differ.
        rms: root of the mean squared difference, in standard deviations of the logits.
        tokens: one entry a row that was compared.
    """

    way: Way
    different: int
    median_ulp: float
    max_ulp: int
    rms: float
    tokens: tuple[TokenDistance, ...]
    changed: str = ""

    @property
    def identical(self) -> bool:
        return self.different == 0

    @property
    def same_tokens(self) -> int:
        return sum(token.different == 0 for token in self.tokens)

    @property
    def first_token(self) -> int | None:
        """The first row that differs."""
        return next((i for i, token in enumerate(self.tokens) if token.different), None)

    def __str__(self) -> str:
        return f"{self.way}" + (f", but {self.changed}" if self.changed else "")


@dataclass(repr=False)
class LogitsReport(Verdict):
    """What was found.

    Attributes:
        shape: of the logits in the file.
        identical: all ways that give exactly these bits.
        closest: the nearest way, where none does.
        causes: what was found by trying, the most telling first.
        reference_rms: distance from plain float32 arithmetic, in standard deviations of the logits.
        usual_rms: the largest such distance that llama.cpp's own ways have.
        tried: how many ways were computed.
    """

    path: str
    model: str
    shape: tuple[int, int]
    identical: list[Distance] = field(default_factory=list)
    closest: Distance | None = None
    causes: list[str] = field(default_factory=list)
    reference_rms: float = 0.0
    usual_rms: float = 0.0
    tried: int = 0

    @property
    def exit_code(self) -> int:
        """0 if some way gives these bits; 1 if none does."""
        return 0 if self.identical else 1

    @property
    def plausible(self) -> bool:
        """Whether they are as near to plain arithmetic as llama.cpp's own results are (twice as far at most)."""
        return bool(self.reference_rms <= 2 * self.usual_rms)

    def sentence(self) -> str:
        """The verdict in words."""
        if self.identical:
            return "identical bit for bit to " + "; ".join(map(str, self.identical))
        near = self.closest
        if near is None:
            return "no era and build that can run this model"
        figures = (
            f"{near.different:,} of {self.shape[0] * self.shape[1]:,} values differ, median {near.median_ulp:g} ulp"
        )
        return f"differs; the closest is {near}: {figures}, at most {near.max_ulp:,} ulp"

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """The causes, and how far each token's logits are from the closest way."""
        yield from (f"likely cause: {cause}" for cause in self.causes)
        if self.closest is not None:
            yield "token  different  median ulp       max ulp"
            rows = [(i, token) for i, token in enumerate(self.closest.tokens) if token.different]
            for index, token in rows[:SHOWN_TOKENS]:
                yield f"{index:5}  {token.different:9,}  {token.median_ulp:10g}  {token.max_ulp:12,}"
            if len(rows) > SHOWN_TOKENS:
                yield f"… and {len(rows) - SHOWN_TOKENS} more tokens"
            yield (
                f"{self.reference_rms:.2g} standard deviations from plain float32 arithmetic; "
                f"llama.cpp's own results for this model are up to {self.usual_rms:.2g} away"
            )

    def closing(self) -> str:
        """The verdict on these logits."""
        return f"logits: {self.sentence()}"

    def suite(self) -> str:
        """The model that they were computed with."""
        return f"logits of {self.model}"

    def cases(self) -> dict[str, str]:
        """One test case: the file."""
        return {self.path: self.problem()}

    def table(self) -> Table:
        """The tokens whose logits differ from the closest way's."""
        tokens = [] if self.closest is None else [(i, t) for i, t in enumerate(self.closest.tokens) if t.different]
        rows = [[str(i), f"{t.different:,}", f"{t.median_ulp:g}", f"{t.max_ulp:,}"] for i, t in tokens]
        return ["token", "different", "median ulp", "max ulp"], rows

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ways = [{"words": str(found), **asdict(found.way)} for found in self.identical]
        closest = None
        if self.closest is not None:
            closest = {"words": str(self.closest), "first_token": self.closest.first_token, **asdict(self.closest)}
        return {
            "output": self.path,
            "model": self.model,
            "shape": list(self.shape),
            "verdict": "identical" if self.identical else "differs",
            "sentence": self.sentence(),
            "identical": ways,
            "closest": closest,
            "causes": self.causes,
            "reference_rms": self.reference_rms,
            "usual_rms": self.usual_rms,
            "plausible": self.plausible,
            "tried": self.tried,
        }


def verify_logits(
    path: str | os.PathLike[str],
    model: str | os.PathLike[str],
    tokens: Sequence[int],
    *,
    era: str | None = None,
    build: str | None = None,
    memory_f32: bool | None = None,
    batch: int | None = None,
    explain: bool = True,
    known: dict[Way, F32] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> LogitsReport:
    """Find out whose arithmetic gives the logits in a file.

    Arguments:
        path: a .npy or raw file, float32 [n_tokens, n_vocab] or [n_vocab] of the last token.
        model: the GGML file that they were computed with.
        tokens: what was evaluated, from position 0.
        era, build, memory_f32, batch: look only at these; by default at all.
        explain: look for the cause where nothing is identical.
        known: results to reuse, and to add to, when several files come from one model and the same tokens.
        progress: called with the ways computed so far and their number.

    Raises:
        FormatError: a file can't be read, or the numbers are not this many.
        UsageError: no era and build can run this model, or a token is outside the vocabulary.
    """
    import ggmlpy

    with ggmlpy.open_model(model) as file:
        theirs = read_logits(path, len(tokens), file.hparams.n_vocab)
        n_rows = len(theirs)
        ways = list(ways_of(file, len(tokens), era=era, build=build, memory_f32=memory_f32, batch=batch))
        bench = _Bench(file, tokens, theirs, {} if known is None else known)
        report = LogitsReport(os.fspath(path), os.fspath(model), (n_rows, file.hparams.n_vocab))
        found = []
        for done, way in enumerate(ways, 1):
            found.append(bench.distance(way))
            if progress:
                progress(done, len(ways))
        report.tried = len(found)
        report.identical = [distance for distance in found if distance.identical]
        if not report.identical:
            report.closest = min(found, key=_nearness)
            if explain:
                _explain(report, bench, report.closest, free_batch=batch is None)
            reference = bench.reference()
            report.reference_rms = rms_of(theirs, reference)
            report.usual_rms = max(rms_of(bench.logits(way), reference) for way in ways)
    return report


def read_logits(path: str | os.PathLike[str], n_tokens: int, n_vocab: int) -> F32:
    """The logits in a .npy or raw file, whatever its name: float32 [n_tokens, n_vocab], or [1, n_vocab], the last.

    Raises:
        FormatError: missing, not float32, or another number of values.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if data.startswith(MAGIC):
            values = parse_npy(data, path)
        else:
            values = np.frombuffer(data, "<f4" if len(data) % 4 == 0 else np.uint8)
    except (OSError, FormatError) as error:
        raise FormatError("the logits cannot be read", path=path, cause=str(error)) from error
    if values.dtype.kind != "f" or values.dtype.itemsize != 4:
        raise FormatError("these are not float32 numbers", path=path, field="dtype", found=str(values.dtype))
    if values.size not in (n_tokens * n_vocab, n_vocab):
        raise FormatError(
            "another number of logits than model and tokens have",
            path=path,
            field="shape",
            expected=f"[{n_tokens}, {n_vocab}] or [{n_vocab}]",
            found=list(values.shape),
            cause="other tokens (with or without the leading 1?), or another model's vocabulary",
        )
    return np.ascontiguousarray(values, np.float32).reshape(-1, n_vocab)


def ways_of(
    file: ModelFile,
    n_tokens: int,
    *,
    era: str | None = None,
    build: str | None = None,
    memory_f32: bool | None = None,
    batch: int | None = None,
) -> Iterator[Way]:
    """Every way to compute with a model, the most natural first; narrowed by what is given.

    Raises:
        UsageError: there is none.
    """
    natural = era_of_file(file).date
    dates = [era_of(era).date] if era else sorted(ERAS, key=lambda date: (date != natural, date))
    layouts = {tensor.type.layout for tensor in file.tensors.values()}
    able = [date for date in dates if all(ERAS[date].reads(tensor.type) for tensor in file.tensors.values())]
    pairs = [(date, name) for date in able for name in SUPPORTED[date] if build in (None, name)]
    if not pairs:
        asked = " of ".join(word for word in (build, era) if word)
        raise UsageError(f"no exact arithmetic{' ' + asked if asked else ''} runs {file.path} ({', '.join(layouts)})")
    caches = (False, True) if memory_f32 is None else (memory_f32,)
    sizes: tuple[int | None, ...] = (None, 1, MAIN_BATCH) if batch is None else (batch,)
    known = file.hparams.norm_eps
    for date, name in pairs:
        batches = [None] if name == "scalar" else list(dict.fromkeys(_shortened(size, n_tokens) for size in sizes))
        epsilons = [known or LLAMA_EPS, *([EPS_OF_AUGUST] if ERAS[date] >= AUGUST_21 and not known else [])]
        threads = THREADS_OF_MARCH_19 if ERAS[date] == MARCH_19 else (None,)
        for cache in caches:
            for size in batches:
                for eps in epsilons:
                    yield from (Way(date, name, cache, size, eps, number) for number in threads)


def _shortened(size: int | None, n_tokens: int) -> int | None:
    return None if size is None or size >= n_tokens else size


# ---- computing


class _Bench:
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
        swapped = _Swapped(self._exact(way), other, OPERATIONS[operation])
        ours = self._evaluated(swapped, way)[-len(self.theirs) :]
        return replace(_distance(way, ours, self.theirs), changed=words)

    def reference(self) -> F32:
        """In plain float32 arithmetic."""
        plain = Way("", "", memory_f32=True, norm_eps=self.file.hparams.norm_eps or LLAMA_EPS)
        return self._evaluated(create_backend("reference", self.file), plain)[-len(self.theirs) :]

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
        backend.rope_freq_base = self.file.hparams.rope_freq_base
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


class _Swapped(Backend):
    """One arithmetic with some operations of another."""

    name = "swapped"

    def __init__(self, main: Backend, other: Backend, methods: Iterable[str]) -> None:
        self.main, self.other, self.methods = main, other, frozenset(methods)

    def _of(self, method: str) -> tuple[Any, int]:
        index = int(method in self.methods)
        self.main.norm_eps, self.main.rope_freq_base = self.norm_eps, self.rope_freq_base
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


def _nearness(distance: Distance) -> tuple[int, float, float]:
    """Smaller is nearer: tokens that are identical count first."""
    return -distance.same_tokens, distance.rms, distance.median_ulp


# ---- causes


def _explain(report: LogitsReport, bench: _Bench, closest: Distance, free_batch: bool) -> None:
    """Try what else may have been done, and say what it was."""
    if closest.way.build != "scalar" and free_batch:
        sizes = [size for size in OTHER_BATCHES if size < len(bench.tokens)]
        others = [bench.distance(replace(closest.way, batch=size)) for size in sizes]
        report.tried += len(others)
        exact = [distance for distance in others if distance.identical]
        if exact:
            report.identical, report.closest = exact, None
            report.causes.append(f"tokens were evaluated {exact[0].way.batch} at a time")
            return
        closest = report.closest = min([closest, *others], key=_nearness)
    report.causes.append(_where(closest, bench.tokens))
    report.causes += _operations(bench, closest)


def _where(closest: Distance, tokens: Sequence[int]) -> str:
    """In words, which tokens differ."""
    first, rows = closest.first_token or 0, len(closest.tokens)
    number = len(tokens) - rows + first
    if rows == 1:
        return "only the last token is there, and it differs"
    last = max(i for i, token in enumerate(closest.tokens) if token.different)
    if first == last:
        return f"only token {number} (id {tokens[number]}) differs"
    if first == 0:
        return (
            "it differs from the first token on, which sees only itself at position 0: not the rotary embedding alone"
        )
    before = f"tokens 0 to {number - 1} are" if number > 1 else "token 0 is"
    return f"{before} identical; it differs from token {number} (id {tokens[number]}) on"


def _operations(bench: _Bench, closest: Distance) -> list[str]:
    """Operations which, done otherwise, give these bits; or else the one that brings them nearest."""
    found = []
    for words, backend in bench.others(closest.way):
        found += [bench.changed(closest.way, name, backend, f"{name} {words}") for name in OPERATIONS]
        backend.close()
    exact = [distance for distance in found if distance.identical]
    if exact:
        return [f"{distance.changed}: identical then" for distance in exact]
    nearest = min(found, key=lambda distance: distance.rms)
    if nearest.rms < closest.rms / 2:
        return [f"{nearest.changed}: {closest.rms / nearest.rms:.1f} times nearer then"]
    return ["no single operation of another era, build or of plain arithmetic explains it"]
