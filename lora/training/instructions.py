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
``placeholder``      ``<noinput>``, ``<无输入>``: becomes an empty input
===================  ==================================================================================================

Other layouts of data are read as well (:mod:`lora.training.record_layouts`), and each record that was turned into this
form is counted. A file may be UTF-8, with or without a byte order mark, UTF-16 or GB18030. Memory holds the text of one
file and a number for each record, not the records.

Source: Chinese-LLaMA-Alpaca ``scripts/crawl_prompt.py`` asks for such arrays; Stanford Alpaca ``alpaca_data.json``.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, MissingFileError

from .json_objects import CleanReport, Finding, objects_in, short
from .record_layouts import FIELDS, as_alpaca, layout_of, records_in

__all__ = [
    "CleanReport",
    "Finding",
    "Record",
    "clean",
    "dump_instructions",
    "iterate_instructions",
    "peek_layouts",
    "read_instructions",
    "sample_records",
    "write_instructions",
]

Record = dict[str, str]
LARGEST_FILE = 1 << 30
CHUNK = 1 << 20
PEEKED = 1 << 18
WORDS_BEFORE = 1000  # characters that a language model's reply may begin with, in front of its first record
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def sample_records(records: Iterable[Record], size: int, seed: int = 0) -> list[Record]:
    """``size`` of the records (all, if there are fewer), each as likely as any other, in their order.

    Memory holds the sample, not the records (Vitter's algorithm R).

    >>> [record["output"] for record in sample_records(({"output": str(i)} for i in range(9)), 3)]
    ['1', '5', '6']
    """
    kept, random = [], Random(seed)  # type: tuple[list[tuple[int, Record]], Random]
    for i, record in enumerate(records):
        if i < size:
            kept.append((i, record))
        elif (at := random.randrange(i + 1)) < size:
            kept[at] = (i, record)
    return [record for _, record in sorted(kept, key=lambda pair: pair[0])]


def read_instructions(path: str | os.PathLike[str]) -> tuple[list[Record], CleanReport]:
    """Read, repair and clean a file of instruction data; see :func:`iterate_instructions`."""
    report = CleanReport()
    return list(iterate_instructions(path, report)), report


def iterate_instructions(
    path: str | os.PathLike[str], report: CleanReport, seen: set[bytes] | None = None
) -> Iterator[Record]:
    """The records of a file one after the other; findings go to ``report``.

    Args:
        seen: what tells the records of earlier files, so that each comes once among all of them.

    Raises:
        MissingFileError: it cannot be read.
        FormatError: it is not text, or holds no record.
    """
    text = _read_text(path, report)
    yield from _clean(text, report, set() if seen is None else seen)
    if not report.n_kept and not report.counts.get("duplicate"):
        raise FormatError(
            "no instruction record in this file",
            path=path,
            expected='JSON objects with "instruction" and "output", or records of ShareGPT, pCLUE or translation2019zh',
            found=str(report),
        )


def peek_layouts(path: str | os.PathLike[str]) -> Counter[str]:
    """How many records of each layout are at the beginning of a file; nothing if it is no instruction data.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(PEEKED)
    text = _beginning(head).lstrip()
    if text[:1] not in ("[", "{") and '"instruction"' not in text[:WORDS_BEFORE]:
        return Counter()
    objects = (each for value, _ in objects_in(text.encode(), CleanReport()) for each in records_in(value))
    layouts = [layout_of(each) for each in islice(objects, 100) if isinstance(each, dict)]
    return Counter(filter(None, layouts))


def _beginning(head: bytes) -> str:
    """The first bytes of a file as text, in the encoding that they are in; a character that is cut off is left out."""
    if head.startswith(UTF16):
        return head.decode("utf-16", "ignore")
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeError:
        return head.decode("gb18030", "ignore")


def _read_text(path: str | os.PathLike[str], report: CleanReport) -> bytearray:
    """The text as UTF-8, whatever it is stored in."""
    try:
        if Path(path).stat().st_size > LARGEST_FILE:
            raise FormatError("too large for instruction data", path=path, expected=f"at most {LARGEST_FILE:,} bytes")
        with open(path, "rb") as file:
            start = file.read(4)
            if start.startswith(UTF16):
                return _decoded(path, file, "utf-16", report)
            try:
                return _decoded(path, file, "utf-8-sig", report)
            except FormatError as error:
                if b"\0" in start:
                    raise
                try:
                    return _decoded(path, file, "gb18030", report)
                except FormatError:
                    raise error from None
    except OSError as error:
        raise MissingFileError(
            f"cannot read the instructions: {error.strerror}", path=path, next_step="check the name"
        ) from error


NAMES = {"utf-16": "UTF-16", "utf-8-sig": "UTF-8", "gb18030": "GB18030 (GBK)"}


def _decoded(path: str | os.PathLike[str], file: BinaryIO, encoding: str, report: CleanReport) -> bytearray:
    """The whole file in pieces of a megabyte, so that it is in memory once."""
    text, decoder, offset = bytearray(), codecs.getincrementaldecoder(encoding)(), 0
    file.seek(0)
    try:
        while chunk := file.read(CHUNK):
            text += decoder.decode(chunk).encode()
            offset += len(chunk)
        text += decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise FormatError(
            f"not {NAMES[encoding]} text", path=path, offset=offset, next_step="convert it to UTF-8"
        ) from error
    if encoding != "utf-8-sig":
        report.notes.append(f"read as {NAMES[encoding]}")
    return text


def write_instructions(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Write records as Chinese-LLaMA-Alpaca does: one JSON array, readable Chinese. Returns their number.

    Raises:
        OutputError: the disk refuses.
    """
    with atomic_write(path) as stream:
        return dump_instructions(stream, records)


def dump_instructions(stream: BinaryIO, records: Iterable[Record]) -> int:
    """The same into an open file, record by record."""
    count = 0
    for count, record in enumerate(records, 1):
        text = json.dumps(record, ensure_ascii=False, indent=2).replace("\n", "\n  ")
        stream.write((("[" if count == 1 else ",") + "\n  " + text).encode())
    stream.write(b"\n]\n" if count else b"[]\n")
    return count


def clean(text: str) -> tuple[list[Record], CleanReport]:
    """Records of a text in any state, each once, with a report of what was wrong.

    >>> records, report = clean('[{"instruction": "你好", "output": "你好！",},] Here are more: [{"instruction": "Ad')
    >>> records
    [{'instruction': '你好', 'input': '', 'output': '你好！'}]
    >>> print(report)
    1 of 1 records kept; 2 trailing comma, 1 several arrays, 1 words around, 1 cut off
    """
    report = CleanReport()
    records = list(_clean(text.encode("utf-8", "surrogatepass"), report, set()))
    report.findings.sort(key=lambda finding: finding.line)
    return records, report


_HALF = re.compile("[\ud800-\udfff]")


def _clean(text: bytes | bytearray, report: CleanReport, seen: set[bytes]) -> Iterator[Record]:
    for value, line in objects_in(text, report):
        for found in records_in(value):
            record = _judged(found, line, report, seen)
            if record is not None:
                report.n_kept += 1
                yield record


def _judged(found: dict[str, Any], line: int, report: CleanReport, seen: set[bytes]) -> Record | None:
    """The record of an object, unless it is none or was there before."""
    report.n_found += 1
    texts, done = as_alpaca(found)
    excerpt = short(str(found.get("instruction"))) if texts is None else short(texts["instruction"])
    if texts is None:
        report.add("not a record", line, excerpt)
        return None
    record = {name: _HALF.sub("\ufffd", texts[name]) for name in FIELDS}
    mark = hashlib.blake2b(repr((record["instruction"], record["input"])).encode(), digest_size=12).digest()
    if mark in seen:
        report.add("duplicate", line, excerpt)
        return None
    seen.add(mark)
    for kind in [*done, *["half a character"] * (record != texts)]:
        report.add(kind, line, short(record["instruction"]))
    return record


def merge_records(groups: Iterable[Sequence[Record]]) -> list[Record]:
    """Records of several files, each instruction and input once, the first one counting."""
    seen: dict[tuple[str, str], Record] = {}
    for group in groups:
        for record in group:
            seen.setdefault((record["instruction"], record["input"]), record)
    return list(seen.values())
