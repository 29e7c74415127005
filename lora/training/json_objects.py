r"""JSON objects in text of any state: where each begins and ends, in time that grows with the length of the text.

A text is searched as UTF-8 bytes, in which ``{ } [ ] , "`` and ``\`` are nothing else. The end of an object is searched
for at most :data:`LARGEST_OBJECT` bytes. A search that fails has seen the braces behind its start as well, and what it
learned of them is kept, so that a reply that was cut off costs one search and not one for each of its braces. Text in
which searches still fail again and again, because it opens braces inside of strings, is given up.

An object that is larger than any record, such as ``{"data": [...]}`` around a whole file, is looked into.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CleanReport", "Finding", "objects_in", "short"]

LARGEST_OBJECT = 1 << 19  # bytes of one record
MOST_FINDINGS = 10_000  # kept in words; all are counted

Bytes = bytes | bytearray


@dataclass(frozen=True)
class Finding:
    """Something that was repaired or dropped: its kind (see :mod:`lora.training.instructions`), line, and the text."""

    kind: str
    line: int
    excerpt: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.kind}: {self.excerpt}"


@dataclass
class CleanReport:
    """What a cleaning found: every kind counted, the first ten thousand findings in words, and remarks on the file."""

    n_found: int = 0  # whole records
    n_kept: int = 0
    findings: list[Finding] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, line: int, excerpt: str, count: int = 1) -> None:
        self.totals[kind] += count
        if not self.is_full:
            self.findings += [Finding(kind, line, excerpt)] * count

    @property
    def is_full(self) -> bool:
        """Whether further findings are counted only."""
        return len(self.findings) >= MOST_FINDINGS

    @property
    def counts(self) -> dict[str, int]:
        """Kind of finding -> how often."""
        return dict(self.totals)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "found": self.n_found,
            "kept": self.n_kept,
            "counts": self.counts,
            "findings": [vars(finding) for finding in self.findings],
            "notes": self.notes,
        }

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        remarks = "".join(f"; {note}" for note in self.notes)
        return f"{self.n_kept} of {self.n_found} records kept; {counts or 'nothing to repair'}{remarks}"


def objects_in(text: Bytes, report: CleanReport) -> Iterator[tuple[Any, int]]:
    """Value and line of every object that can be read or repaired, outside any other; findings go to ``report``."""
    yield from _Search(text, report).objects()


def short(text: str | Bytes, limit: int = 60) -> str:
    """The beginning on one line."""
    if not isinstance(text, str):
        text = text[: 24 * limit].decode("utf-8", "ignore")
    flat = " ".join(text[: 8 * limit].split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


# A string is kept as it is; a comma in front of a closing bracket goes. The last string may lack its end.
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)'
_TOKEN = re.compile(_STRING + rb"|[{}]", re.DOTALL)
_TRAILING = re.compile(rb"(" + _STRING + rb")|,(?=\s*[}\]])", re.DOTALL)
_START = re.compile(rb"\{[\s{]*(?<=\{)")
_OPEN_COMMA = re.compile(rb",\s*\]")
_BLANK = re.compile(rb"(?:\s+|\xe3\x80\x80|\xc2\xa0|\xef\xbb\xbf)*")
_PUNCTUATION = re.compile(rb"(?:[\s,\[\]{}]+|\xe3\x80\x80|\xc2\xa0|\xef\xbb\xbf)*")


class _Search:
    def __init__(self, text: Bytes, report: CleanReport) -> None:
        self.text, self.report, self.line_of = text, report, _lines(text)
        self.ends: dict[int, int | None] = {}  # of braces that a failed search has seen
        self.budget = 4 * len(text) + 4 * LARGEST_OBJECT  # bytes that failed searches may look at
        self.n_arrays = 0
        self.quiet = 0  # up to here nothing is said about the text between objects
        self.wrappers: list[int] = []  # objects that are looked into and not closed yet

    def objects(self) -> Iterator[tuple[Any, int]]:
        gap, follows_object = 0, False
        at = self._next(0)
        while at >= 0:
            if gap < at or follows_object:
                self._look_between(gap, at, follows_object)
            value, end = self._read(at)
            if value is not None:
                yield value, self.line_of(at)
            follows_object = value is not None
            at = self._next(end)
            gap = end if end > self.quiet else at if at >= 0 else len(self.text)
        self._look_between(gap, len(self.text), False)
        for start in self.wrappers:
            self._tell_open(start)

    def _next(self, position: int) -> int:
        """Where the next object may begin: the last of several opening braces; -1 if there is none."""
        match = _START.search(self.text, position)
        return match.end() - 1 if match else -1

    def _read(self, start: int) -> tuple[Any, int]:
        """The object that begins at ``start`` and where to go on; None if it cannot be read."""
        end = self._end_of(start)
        if end is None:
            self.quiet = start + 1  # what stands between its brace and the next one says nothing about the form
            if start + LARGEST_OBJECT < len(self.text) and self.budget > 0 and len(self.wrappers) < MOST_FINDINGS:
                self.wrappers.append(start)
            else:
                self._tell_open(start)
            return None, start + 1 if self.budget > 0 else len(self.text)
        value = _decoded(self.text[start:end])
        if value is not None:
            return value, end
        repaired, n_commas = self._repair(start, end)
        value = _decoded(repaired) if n_commas else None
        if value is None:
            self._tell("unreadable", start, end)
        elif n_commas:
            self._tell("trailing comma", start, end, n_commas)
        return value, end

    def _repair(self, start: int, end: int) -> tuple[Bytes, int]:
        """The object without commas in front of closing brackets, and how many there were."""
        commas = 0

        def keep(match: re.Match[bytes]) -> bytes:
            nonlocal commas
            commas += match[1] is None
            return match[1] or b""

        return _TRAILING.sub(keep, self.text[start:end]), commas

    def _tell_open(self, start: int) -> None:
        kind = "cut off" if len(self.text) - start <= LARGEST_OBJECT else "unreadable"
        self._tell(kind, start, start + 480)

    def _tell(self, kind: str, start: int, end: int, count: int = 1) -> None:
        if self.report.is_full:
            self.report.add(kind, 0, "", count)
        else:
            self.report.add(kind, self.line_of(start), short(self.text[start:end]), count)

    def _end_of(self, start: int) -> int | None:
        """Behind the brace that closes the one at ``start``; None if it is never closed, or too far away."""
        if start in self.ends:
            return self.ends[start]
        stop = min(start + 2 * LARGEST_OBJECT, len(self.text))
        opened: list[int] = []
        closed: dict[int, int | None] = {}
        for match in _TOKEN.finditer(self.text, start, stop):
            byte = self.text[match.start()]
            if byte == _OPEN:
                opened.append(match.start())
            elif byte == _CLOSE:
                closed[opened.pop()] = match.end()
                if not opened:
                    return match.end()
        self.budget -= stop - start
        far = stop if stop == len(self.text) else start + LARGEST_OBJECT
        self.ends = {at: end for at, end in self.ends.items() if at > start}
        self.ends |= closed | {at: None for at in opened if at <= far}
        return None

    def _look_between(self, start: int, end: int, between_objects: bool) -> None:
        """Report what the text around objects says about its form."""
        text, report = self.text, self.report
        if self.wrappers:
            del self.wrappers[max(0, len(self.wrappers) - text.count(b"}", start, end)) :]
        kinds = ["trailing comma" for _ in _OPEN_COMMA.finditer(text, start, end)]
        brackets = text.count(b"[", start, end)
        self.n_arrays += brackets
        if self.n_arrays > 1 and brackets:
            kinds.append("several arrays")
        if not self.wrappers and not _fills(_PUNCTUATION, text, start, end):
            kinds.append("words around")
        if between_objects and end < len(text) and _fills(_BLANK, text, start, end):
            kinds.append("missing comma" if self.n_arrays else "json lines")
        for kind in kinds:
            line = 0 if report.is_full else self.line_of(start)
            report.add(kind, line, short(text[max(0, start - 20) : start + 40]))


_OPEN, _CLOSE = b"{}"
_DECODER = json.JSONDecoder(strict=False)  # new lines inside strings are common and harmless


def _decoded(data: Bytes) -> Any:
    try:
        return _DECODER.decode(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None


def _fills(pattern: re.Pattern[bytes], text: Bytes, start: int, end: int) -> bool:
    match = pattern.match(text, start, end)
    return match is not None and match.end() == end


def _lines(text: Bytes) -> Callable[[int], int]:
    """The number of the line that a position is in; counted from the last position that was asked for."""
    last, line = 0, 1

    def line_of(position: int) -> int:
        nonlocal last, line
        if position >= last:
            line += text.count(b"\n", last, position)
        else:
            line -= text.count(b"\n", position, last)
        last = position
        return line

    return line_of
