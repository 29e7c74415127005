r"""Instruction data in Chinese-LLaMA-Alpaca's form, and the repair of what language models return instead.

The form is that of Stanford Alpaca: an array of ``{"instruction": …, "input": …, "output": …}``. A model that is asked
for twenty of them returns arrays one behind the other, commas before a closing bracket, words around the JSON, and an
end that is cut off in the middle of a string. Whatever holds a whole record is kept, whatever is wrong is counted:

===================  ==================================================================================================
``several arrays``   ``[…][…]``: taken as one
``words around``     text or ``` fences outside the JSON: left out
``json lines``       one object a line, no array: taken
``missing comma``    two records without a comma between them: taken
``trailing comma``   before ``]`` or ``}``: left out
``cut off``          the text ends inside a record: that record is dropped
``unreadable``       no repair helps: that record is dropped
``half a character`` a lone surrogate, as ``"\ud83d"`` without its other half: becomes U+FFFD
``not a record``     no instruction or no output: dropped
``duplicate``        the same instruction and input again: dropped
===================  ==================================================================================================

Source: Chinese-LLaMA-Alpaca ``scripts/crawl_prompt.py`` asks for such arrays; Stanford Alpaca ``alpaca_data.json``.
"""

from __future__ import annotations

import bisect
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, MissingFileError

__all__ = ["CleanReport", "Finding", "Record", "clean", "parse_instructions", "read_instructions", "write_instructions"]

Record = dict[str, str]
FIELDS = ("instruction", "input", "output")
LARGEST_RECORD = 1 << 18  # characters; bounds the search for the end of a damaged record
LARGEST_FILE = 1 << 30


@dataclass(frozen=True)
class Finding:
    """Something that was repaired or dropped: its kind (see the module's head), the line, and the text there."""

    kind: str
    line: int
    excerpt: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.kind}: {self.excerpt}"


@dataclass
class CleanReport:
    """What a cleaning found."""

    n_found: int = 0  # whole records
    n_kept: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Kind of finding -> how often."""
        return dict(Counter(finding.kind for finding in self.findings))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "found": self.n_found,
            "kept": self.n_kept,
            "counts": self.counts,
            "findings": [vars(finding) for finding in self.findings],
        }

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        return f"{self.n_kept} of {self.n_found} records kept" + (f"; {counts}" if counts else "; nothing to repair")


def read_instructions(path: str | os.PathLike[str]) -> tuple[list[Record], CleanReport]:
    """Read, repair and clean a file of instruction data.

    Raises:
        MissingFileError: it cannot be read.
        FormatError: it is not UTF-8 text, or holds no record.
    """
    try:
        if Path(path).stat().st_size > LARGEST_FILE:
            raise FormatError("too large for instruction data", path=path, expected=f"at most {LARGEST_FILE:,} bytes")
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MissingFileError(
            f"cannot read the instructions: {error.strerror}", path=path, next_step="check the name"
        ) from error
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8 text", path=path, offset=error.start, next_step="convert it to UTF-8") from error
    records, report = clean(text)
    if not records:
        raise FormatError(
            "no instruction record in this file",
            path=path,
            expected='JSON objects with "instruction" and "output"',
            found=str(report),
        )
    return records, report


def write_instructions(path: str | os.PathLike[str], records: Sequence[Record]) -> None:
    """Write records as Chinese-LLaMA-Alpaca does: one JSON array, readable Chinese.

    Raises:
        OutputError: the disk refuses.
    """
    with atomic_write(path) as stream:
        stream.write((json.dumps(list(records), ensure_ascii=False, indent=2) + "\n").encode())


def clean(text: str) -> tuple[list[Record], CleanReport]:
    """Records of a text in any state, each once, with a report of what was wrong.

    >>> records, report = clean('[{"instruction": "你好", "output": "你好！",},] Here are more: [{"instruction": "Ad')
    >>> records
    [{'instruction': '你好', 'input': '', 'output': '你好！'}]
    >>> print(report)
    1 of 1 records kept; 2 trailing comma, 1 cut off, 1 several arrays, 1 words around
    """
    report = CleanReport()
    kept: dict[tuple[str, str], Record] = {}
    for record, line in parse_instructions(text, report):
        report.n_found += 1
        problem = _problem(record)
        key = (str(record.get("instruction")).strip(), str(record.get("input") or "").strip())
        if problem or key in kept:
            report.findings.append(Finding(problem or "duplicate", line, _short(str(record.get("instruction")))))
            continue
        texts = {name: str(record.get(name) or "").strip() for name in FIELDS}
        kept[key] = {name: _HALF.sub("\ufffd", text) for name, text in texts.items()}
        if kept[key] != texts:
            report.findings.append(Finding("half a character", line, _short(kept[key]["instruction"])))
    report.n_kept = len(kept)
    report.findings.sort(key=lambda finding: finding.line)
    return list(kept.values()), report


def parse_instructions(text: str, report: CleanReport) -> Iterator[tuple[dict[str, Any], int]]:
    """Every JSON object of a text that can be read or repaired, and its line; findings go to ``report``."""
    lines = _Lines(text)
    objects = list(_objects(text, lines, report))
    _look_between(text, objects, lines, report)
    for start, _, value in objects:
        for record in _records_in(value) if value is not None else ():
            yield record, lines.of(start)


def _problem(record: dict[str, Any]) -> str | None:
    given = [record.get(name) for name in FIELDS]
    if not all(isinstance(value, str | int | float | None) for value in given):
        return "not a record"
    return None if all(str(record.get(name) or "").strip() for name in ("instruction", "output")) else "not a record"


def _records_in(value: Any) -> Iterator[dict[str, Any]]:
    """The object itself, or those inside a wrapper such as ``{"data": [...]}``."""
    inner = [v for v in value.values() if isinstance(v, list)] if isinstance(value, dict) else []
    nested = [item for items in inner for item in items if isinstance(item, dict)]
    if "instruction" in value or not nested:
        yield value
    else:
        yield from nested


# ── finding objects ───────────────────────────────────────────────────────────────────────────────────────────────────

_HALF = re.compile("[\ud800-\udfff]")
_DECODER = json.JSONDecoder(strict=False)  # new lines inside strings are common and harmless


def _objects(text: str, lines: _Lines, report: CleanReport) -> Iterator[tuple[int, int, Any]]:
    """Start, end and value of each object outside any other; the value of a damaged one is None."""
    at = text.find("{")
    while at >= 0:
        value, end = _read_object(text, at, lines, report)
        following = text.find("{", end)
        yield at, end if value is not None or end > at + 1 else (following if following >= 0 else len(text)), value
        at = following


def _read_object(text: str, start: int, lines: _Lines, report: CleanReport) -> tuple[Any, int]:
    """The object that begins at ``start`` and where it ends; None if it cannot be read."""
    try:
        if _OPENING.match(text, start):  # else it is none: a refusal costs the decoder a count of all lines before
            return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    end = _end_of_object(text, start, lines)
    if end is None:
        kind = "cut off" if len(text) - start <= LARGEST_RECORD else "unreadable"
        report.findings.append(Finding(kind, lines.of(start), _short(text[start : start + 480])))
        return None, start + 1
    repaired = _TRAILING.sub(lambda match: match[1] or "", text[start:end])
    n_commas = sum(match[1] is None for match in _TRAILING.finditer(text, start, end))
    try:
        value = _DECODER.decode(repaired)
    except (ValueError, RecursionError):
        report.findings.append(Finding("unreadable", lines.of(start), _short(text[start:end])))
        return None, end
    report.findings += [Finding("trailing comma", lines.of(start), _short(text[start:end]))] * n_commas
    return value, end


# A string is kept as it is; a comma in front of a closing bracket goes.
_TRAILING = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
_OPENING = re.compile(r'\{\s*["}]')
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL)


def _end_of_object(text: str, start: int, lines: _Lines) -> int | None:
    """Behind the brace that closes the one at ``start``; None if it is never closed."""
    depth, stop = 0, start + min(LARGEST_RECORD, lines.budget)
    for match in _TOKEN.finditer(text, start, stop):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            lines.budget -= match.end() - start
            return match.end()
    lines.budget -= min(stop, len(text)) - start
    return None


# ── what is between the objects ───────────────────────────────────────────────────────────────────────────────────────


def _look_between(text: str, objects: Sequence[tuple[int, int, Any]], lines: _Lines, report: CleanReport) -> None:
    """Report what the text around the objects says about its form; behind a damaged one it says nothing."""
    gaps = list(_gaps(text, objects))
    n_arrays = 0
    for i, (start, gap) in enumerate(gaps):
        kinds = ["trailing comma"] * len(re.findall(r",\s*\]", gap))
        n_arrays += gap.count("[")
        if n_arrays > 1 and "[" in gap:
            kinds.append("several arrays")
        if re.sub(r"[\s,\[\]{}]+", "", gap):
            kinds.append("words around")
        if 0 < i < len(gaps) - 1 and not gap.strip() and objects[i - 1][2] is not None:
            kinds.append("missing comma" if n_arrays else "json lines")
        excerpt = _short(text[max(0, start - 20) : start + 40])
        report.findings += [Finding(kind, lines.of(start), excerpt) for kind in kinds]


def _gaps(text: str, objects: Sequence[tuple[int, int, Any]]) -> Iterator[tuple[int, str]]:
    at = 0
    for start, end, _ in objects:
        yield at, text[at:start]
        at = end
    yield at, text[at:]


class _Lines:
    """Line numbers of positions in a text, and how many characters may still be searched for ends of damaged records.

    Without a bound the braces of a text that opens thousands and closes none would be searched from each to its end.
    """

    def __init__(self, text: str) -> None:
        self.budget = 8 * len(text) + 2 * LARGEST_RECORD
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def of(self, position: int) -> int:
        return bisect.bisect_right(self.starts, position)


def _short(text: str, limit: int = 60) -> str:
    flat = " ".join(text[: 8 * limit].split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def merge_records(groups: Iterable[Sequence[Record]]) -> list[Record]:
    """Records of several files, each instruction and input once, the first one counting."""
    seen: dict[tuple[str, str], Record] = {}
    for group in groups:
        for record in group:
            seen.setdefault((record["instruction"], record["input"]), record)
    return list(seen.values())
