"""Whose text is this? What another program wrote against what ``main`` would have written, era by era, build by build.

A generated text depends on every bit of the logits and on every rule of the sampler, so a single different rounding
shows sooner or later. :func:`verify_text` runs the loop of ``main`` (:mod:`llama_ref.text.main_loop`) in each *way*
that the model can be run, and compares while it writes: it stops where the text parts, and says at which token, what
the candidates were and what the file has instead.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ggmlpy.files.errors import UsageError
from ggmlpy.verify.verdict import Table, Verdict
from llama_ref.text.conversation import Conversation
from llama_ref.text.main_inputs import era_defaults
from llama_ref.text.main_loop import MainLoop, MainOptions
from llama_ref.text.model import Model
from llama_ref.text.sampling import Sample, SamplingOptions
from toolchain.terminal.console import TerminalConsole, lines_of

from .ways import Way, ways_of

__all__ = ["Candidate", "TextOutcome", "TextReport", "TextRequest", "verify_text"]

SHOWN_CANDIDATES = 5


@dataclass(frozen=True)
class TextRequest:
    """What the other program was asked to do.

    Attributes:
        options, sampling: as for ``main``; a repeat penalty of None is the era's own.
        stdin: what a person typed.
        color: ANSI colors were on.
        n_ctx, n_batch, ignore_eos: as for ``main``.
        memory_f32: None: the era's own (f32 at 2023-03-19) and the other one.
    """

    options: MainOptions
    sampling: SamplingOptions
    repeat_penalty: float | None = None
    stdin: bytes = b""
    color: bool = False
    n_ctx: int = 512
    n_batch: int = 8
    ignore_eos: bool = False
    memory_f32: bool | None = None


@dataclass(frozen=True)
class Candidate:
    """A token that could have been chosen."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class TextOutcome:
    """How one way of running ``main`` compares with the text.

    Attributes:
        status: "identical", "prefix" (the text stops early), "longer" (it goes on), or "parts".
        matching: bytes from the beginning that agree.
        n_tokens: tokens generated until there.
        written, found: what this way writes from there on, and what the file has.
        candidates: of the token that was chosen where they part, most likely first.
        draw: the random number that chose.
        found_rank: which of the candidates continues as the file does, counted from 1; None if none does.
    """

    way: Way
    status: str
    matching: int
    n_tokens: int
    written: bytes = b""
    found: bytes = b""
    candidates: tuple[Candidate, ...] = ()
    draw: float | None = None
    found_rank: int | None = None

    def __str__(self) -> str:
        return str(self.way)

    def words(self) -> str:
        """Where and how they part."""
        if self.status == "identical":
            return "identical"
        if self.status == "prefix":
            return f"the text stops after {self.n_tokens} generated tokens; main goes on with {_shown(self.written)!r}"
        if self.status == "longer":
            return f"the text goes on after main's end ({self.n_tokens} generated tokens) with {_shown(self.found)!r}"
        where = f"generated token {self.n_tokens}" if self.n_tokens else "the prompt"
        words = (
            f"parts at byte {self.matching}, {where}: {_shown(self.written)!r} expected, {_shown(self.found)!r} found"
        )
        if self.found_rank:
            words += f", which is candidate {self.found_rank}"
        return words


@dataclass(repr=False)
class TextReport(Verdict):
    """What was found.

    Attributes:
        outcomes: one a way, those that follow the text farthest first.
    """

    path: str
    model: str
    size: int
    outcomes: list[TextOutcome] = field(default_factory=list)

    @property
    def identical(self) -> list[TextOutcome]:
        return [outcome for outcome in self.outcomes if outcome.status == "identical"]

    @property
    def exit_code(self) -> int:
        """0 if some way writes exactly this text; 1 if none does."""
        return 0 if self.identical else 1

    def sentence(self) -> str:
        """The verdict in words."""
        if self.identical:
            return "identical to what main writes: " + "; ".join(map(str, self.identical))
        best = self.outcomes[0]
        ties = [outcome for outcome in self.outcomes if outcome.matching == best.matching]
        return f"differs; {'; '.join(map(str, ties))} follow{'s' if len(ties) == 1 else ''} it farthest: {best.words()}"

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """The candidates where the nearest way parts, and where the other ways do."""
        best = self.outcomes[0]
        if best.status == "parts" and best.candidates:
            drawn = f", drawn by {best.draw:.6f}" if best.draw is not None else ""
            yield f"candidates at generated token {best.n_tokens}{drawn}:"
            yield from (f"  {c.id:6}  {c.probability:.6f}  {c.text!r}" for c in best.candidates)
        if not self.identical:
            yield from (f"{outcome}: {outcome.words()}" for outcome in self.outcomes[1:])

    def closing(self) -> str:
        """The verdict on this text."""
        return f"text: {self.sentence()}"

    def suite(self) -> str:
        """The model that it was generated with."""
        return f"text of {self.model}"

    def cases(self) -> dict[str, str]:
        """One test case: the file."""
        return {self.path: self.problem()}

    def table(self) -> Table:
        """Each way of running ``main``, and how it compares."""
        return ["way", "verdict"], [[str(outcome), outcome.words()] for outcome in self.outcomes]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "output": self.path,
            "model": self.model,
            "size": self.size,
            "verdict": "identical" if self.identical else "differs",
            "sentence": self.sentence(),
            "ways": [
                {
                    **asdict(outcome),
                    "way": str(outcome.way),
                    "words": outcome.words(),
                    "written": _shown(outcome.written),
                    "found": _shown(outcome.found),
                }
                for outcome in self.outcomes
            ],
        }


def verify_text(
    path: str | os.PathLike[str],
    model: str | os.PathLike[str],
    request: TextRequest,
    *,
    era: str | None = None,
    build: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> TextReport:
    """Find out which era's and build's ``main`` writes the text in a file, or where the text leaves each of them.

    Args:
        path: what stood on stdout, byte for byte, the echoed prompt included.
        model: the GGML file.
        era, build: try only these; by default every one that can run the model.
        progress: called with the ways computed so far and their number.

    Raises:
        FormatError: a file can't be read.
        UsageError: no era and build can run this model, or options that cannot be.
    """
    import ggmlpy
    from llama_ref.text.perplexity import read_text

    text = read_text(os.fspath(path))
    with ggmlpy.open_model(model) as file:
        found = ways_of(file, request.n_ctx, era=era, build=build, memory_f32=request.memory_f32, batch=request.n_batch)
        ways = [way for way in found if way.threads in (None, 1)]
    report = TextReport(os.fspath(path), os.fspath(model), len(text))
    for done, way in enumerate(ways, 1):
        report.outcomes.append(_outcome(text, model, replace(way, batch=request.n_batch), request))
        if progress:
            progress(done, len(ways))
    report.outcomes.sort(key=lambda outcome: (outcome.status != "identical", -outcome.matching))
    return report


class _PartedError(Exception):
    """What is written leaves the text."""


class _Comparing(io.RawIOBase):
    """A stdout that is compared with a text instead of being shown."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.written = b""

    def write(self, data: Any) -> int:
        self.written += bytes(data)
        if not self.text.startswith(self.written):
            raise _PartedError
        return len(data)

    @property
    def matching(self) -> int:
        pairs = zip(self.text, self.written)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self.text), len(self.written)))


def _outcome(text: bytes, path: str | os.PathLike[str], way: Way, request: TextRequest) -> TextOutcome:
    sampling = request.sampling
    usual = era_defaults(way.era).repeat_penalty
    penalty = usual if request.repeat_penalty is None else request.repeat_penalty
    out, trace = _Comparing(text), _Trace()
    how: dict[str, Any] = {"era": way.era, "build": way.build, "memory_f32": way.memory_f32, "norm_eps": way.norm_eps}
    with Model.from_file(path, numerics="exact", n_ctx=request.n_ctx, **how) as model:
        conversation = Conversation(
            model,
            replace(sampling, repeat_penalty=penalty),
            way.era,
            n_batch=request.n_batch,
            ignore_eos=request.ignore_eos,
            on_sample=trace,
        )
        stdin = io.BytesIO(request.stdin)
        console = TerminalConsole(out, lines_of(stdin, out), use_color=request.color)  # type: ignore[arg-type]
        try:
            MainLoop(conversation, request.options, console).run()
        except _PartedError:
            return _parted(text, out, way, trace, model.vocab)
        except UsageError:
            return TextOutcome(way, "parts", 0, 0, found=text[:40])  # main refuses to start: it writes nothing
    status = "identical" if len(out.written) == len(text) else "longer"
    return TextOutcome(way, status, len(out.written), trace.count, found=text[len(out.written) :][:40])


class _Trace:
    """Counts samples and keeps the last."""

    def __init__(self) -> None:
        self.count = 0
        self.sample: Sample | None = None

    def __call__(self, sample: Sample, logits: np.ndarray) -> None:
        self.count += 1
        self.sample = sample


def _parted(text: bytes, out: _Comparing, way: Way, trace: _Trace, vocab: Sequence[bytes]) -> TextOutcome:
    matching, sample = out.matching, trace.sample
    written, found = out.written[matching:], text[matching:][:40]
    status = "parts" if found else "prefix"
    if sample is None:
        return TextOutcome(way, status, matching, trace.count, written, found)
    pairs = list(zip(sample.candidates.tolist(), sample.probabilities.tolist()))
    shown = tuple(Candidate(i, _shown(vocab[i]), p) for i, p in pairs[:SHOWN_CANDIDATES])
    begun = vocab[sample.token]
    before = matching - max(0, len(begun) - len(written))  # where the token that parts begins in the text
    fits = [rank for rank, (i, _) in enumerate(pairs, 1) if vocab[i] and text[before:].startswith(vocab[i])]
    rank = max(fits, key=lambda rank: len(vocab[pairs[rank - 1][0]]), default=None)
    return TextOutcome(way, status, matching, trace.count, written, found, shown, sample.draw, rank)


def _shown(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
