"""Where does another program's arithmetic part? Its intermediate values against those of ours, operation by operation.

:func:`verify_trace` evaluates the same tokens and compares each result as it comes. Two programs are never equal bit
for bit, and differences grow from layer to layer; so an operation is said to part where its result is off by more than
:data:`LIMIT` and by more than :data:`JUMP` times what any result before it was off. Differences are root mean squares,
in standard deviations of the result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import FormatError
from ggmlpy.verify.verdict import Table, Verdict
from llama_ref.text.model import Model
from llama_ref.text.trace import watched

from .trace_files import Values, read_trace

__all__ = ["Result", "TraceReport", "verify_trace"]

F32 = npt.NDArray[np.float32]
LIMIT, JUMP = 0.02, 10.0
ALIASES = {"inp_embd": ("embd",)}  # as llama.cpp called it at other times


@dataclass(frozen=True)
class Result:
    """How one operation's result compares.

    Attributes:
        rms: the difference, in standard deviations; infinite where shapes differ or numbers are not finite.
        place: where it is largest; empty where shapes differ.
        ours, theirs: the values there.
        words: what is wrong beyond numbers.
    """

    name: str
    rms: float
    identical: bool
    place: tuple[int, ...] = ()
    ours: float = 0.0
    theirs: float = 0.0
    words: str = ""

    def __str__(self) -> str:
        if self.words:
            return f"{self.name}: {self.words}"
        where = "".join(f"[{i}]" for i in self.place)
        return f"{self.name}{where}: {self.ours:.6g} expected, {self.theirs:.6g} found"


@dataclass(repr=False)
class TraceReport(Verdict):
    """What was found.

    Attributes:
        path, model: the trace, and the file that was computed with.
        numerics: our arithmetic.
        results: in the order of the operations.
        parted: the first that parts, and the largest difference before it.
        unknown: names of the trace that this arithmetic does not have.
    """

    path: str
    model: str
    numerics: str
    results: list[Result] = field(default_factory=list)
    parted: tuple[Result, float] | None = None
    unknown: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return 1 if self.parted else 0

    def sentence(self) -> str:
        """The verdict in words."""
        if self.parted:
            result, before = self.parted
            off = "" if result.words else f" ({result.rms:.2g} standard deviations off; {before:.2g} at most before it)"
            return f"the first operation that parts is {result}{off}"
        same = sum(result.identical for result in self.results)
        if same == len(self.results):
            return f"identical: {same} results of the {self.numerics} arithmetic"
        worst = max(self.results, key=lambda result: result.rms)
        first = next(result for result in self.results if not result.identical)
        return (
            f"within rounding: {len(self.results)} results of the {self.numerics} arithmetic, {same} identical; the "
            f"first that is not is {first}; {worst.name} is farthest off, by {worst.rms:.2g} standard deviations"
        )

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """Each result, if all are asked for; and what was not compared."""
        if verbose:
            yield from (f"{result.rms:9.2g}  {result}" for result in self.results)
        if verbose and self.unknown:
            yield f"not compared: {', '.join(self.unknown)}"

    def closing(self) -> str:
        """The verdict on this trace."""
        return f"trace: {self.sentence()}"

    def table(self) -> Table:
        """Each result."""
        return ["result", "off by", "largest"], [[r.name, f"{r.rms:.2g}", str(r)] for r in self.results]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        results = [
            {"name": r.name, "rms": r.rms if np.isfinite(r.rms) else None, "identical": r.identical, "words": str(r)}
            for r in self.results
        ]
        parted = self.parted[0].name if self.parted else None
        facts = {"path": self.path, "model": self.model, "numerics": self.numerics, "parted": parted}
        return {"sentence": self.sentence(), **facts, "results": results, "not_compared": self.unknown}


def verify_trace(
    path: str | os.PathLike[str],
    model: Model,
    tokens: Sequence[int],
    *,
    progress: Callable[[int], object] | None = None,
) -> TraceReport:
    """Evaluate tokens, and find the first operation whose result is not that of a trace.

    Args:
        path: a folder of ``.npy`` files, or what ``llama-eval-callback`` printed.
        model: of the reference or the exact arithmetic; its cache is overwritten.
        tokens: what was evaluated, all at once, from position 0.
        progress: called with 1 for each result.

    Raises:
        FormatError: the trace is damaged, or has no result that this arithmetic has.
        UsageError: the fast arithmetic, or a token that the model does not have.
    """
    theirs = read_trace(path)
    last: dict[str, Result] = {}

    def compare(name: str, x: F32) -> None:
        given = next((theirs[each] for each in (name, *ALIASES.get(name, ())) if each in theirs), None)
        if given is not None:
            last.pop(name, None)
            last[name] = _compared(name, x, given)
            if progress:
                progress(1)

    with watched(model, compare):
        model.evaluate(tokens, 0)
    report = TraceReport(os.fspath(path), str(model.file.path), model.backend.name, list(last.values()))
    known = {each for name in last for each in (name, *ALIASES.get(name, ()))}
    report.unknown = [name for name in theirs if name not in known]
    if not report.results:
        raise FormatError(
            "the trace has no result that this arithmetic has", path=path, expected="attn_norm-0, Qcur-0, l_out-0 …",
            found=", ".join(list(theirs)[:5]), next_step="`logits -m MODEL --tokens IDS --trace DIR` shows the names",
        )  # fmt: skip
    report.parted = _first(report.results)
    return report


def _first(results: Sequence[Result]) -> tuple[Result, float] | None:
    """The first result that parts, and the largest difference before it."""
    most = 0.0
    for result in results:
        if result.rms > max(LIMIT, JUMP * most):
            return result, most
        most = max(most, result.rms)
    return None


def _compared(name: str, x: F32, given: Values) -> Result:
    ours, places = _aligned(x, given)
    if ours is None:
        words = f"shape {list(x.shape)} expected, {list(given.shape)} found"
        return Result(name, float("inf"), False, words=words)
    values = given.values[places]
    with np.errstate(all="ignore"):
        off = np.maximum(np.abs(ours.astype(np.float64) - values) - given.step, 0)
        off[~np.isfinite(off)] = np.inf
        spread = max(float(ours.astype(np.float64).std()), 1e-30)
        rms = float(np.sqrt(np.mean(off * off)) / spread)
    worst = int(off.argmax())
    where = np.unravel_index(int(given.places[places][worst]), given.shape)
    identical = not given.step and bool((ours.view(np.uint32) == values.astype(np.float32).view(np.uint32)).all())
    place = tuple(int(i) for i in where)
    return Result(name, rms, identical, place, float(ours[worst]), float(values[worst]))


def _aligned(x: F32, given: Values) -> tuple[F32 | None, npt.NDArray[np.bool_] | slice]:
    """Our values where theirs are known, and which of theirs those are; None where shapes do not go together.

    llama.cpp evaluates the last layer for the last token only, and its scores have more columns than there are tokens.
    """
    size = int(np.prod(given.shape))
    if size == x.size:
        return x.reshape(-1)[given.places], slice(None)
    if size < x.size and size % (x.size // len(x)) == 0:
        return x.reshape(-1)[x.size - size :][given.places], slice(None)
    if len(given.shape) == x.ndim == 3 and given.shape[:2] == x.shape[:2]:
        head, row, column = np.unravel_index(given.places, given.shape)
        seen = column < x.shape[2]
        return x[head[seen], row[seen], column[seen]], seen
    return None, slice(None)
