"""Lines of a dump: a field each, with its bytes, value and declaration; long runs fold to their ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggmlpy.formats.fields import Cursor, Record, Span, walk
from ggmlpy.formats.gguf_values import Value

__all__ = [
    "Line",
    "line_at",
    "matches",
    "record_lines",
    "record_lines_at",
    "run_lines",
    "said_text",
    "without_gaps",
]

ENDS = 3  # entries shown from each end of a folded run
SHOWN_BYTES = 16
MANY_BYTES = 64  # of a value that are listed
MANY_NUMBERS = 8


@dataclass(frozen=True)
class Line:
    """One field of a file.

    Attributes:
        offset, size: where it is; size 0 marks a folded run.
        data: its first bytes.
        path: its name with those of the records around it.
        value: what it holds, in words where it is long.
        doc: what the declaration says of it.
    """

    offset: int
    size: int
    data: bytes
    path: str
    value: str
    doc: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = {"offset": self.offset, "size": self.size, "hex": self.data.hex(), "field": self.path}
        return {**fields, "value": self.value, "doc": self.doc}


def matches(line: Line, name: str) -> bool:
    """Whether a field was meant by ``name``: its whole path, its last part, or one record's name.

    >>> matches(Line(8, 4, b"", "header.n_vocab", "400"), "n_vocab")
    True
    """
    return name in (line.path, line.path.rsplit(".", 1)[-1]) or line.path.startswith((name + ".", name + "["))


def run_lines(count: int, what: str, fold: bool, lines_of: Callable[[int], Iterator[Line]]) -> Iterator[Line]:
    """All of a run, or its ends with a note between."""
    hidden = count - 2 * ENDS if fold else 0
    for index in range(count):
        if hidden > 1 and index == ENDS:
            first = next(lines_of(index))
            yield Line(first.offset, 0, b"", "", f"… {hidden:,} more {what}")
        if hidden > 1 and ENDS <= index < count - ENDS:
            continue
        yield from lines_of(index)


def without_gaps(lines: Iterable[Line], cursor: Cursor, path: str, doc: str) -> Iterator[Line]:
    """The lines, and one for each stretch up to the end of the file that none of them covers."""
    for line in lines:
        if line.offset > cursor.offset:
            yield _gap(cursor, line.offset, path, doc)
        yield line
        cursor.offset = max(cursor.offset, line.offset + line.size)
    if cursor.left:
        yield _gap(cursor, cursor.size, path, doc)


def _gap(cursor: Cursor, end: int, path: str, doc: str) -> Line:
    between = bytes(cursor.buffer[cursor.offset : end])
    return line_at(cursor, cursor.offset, len(between), path, said_text(between), doc)


def record_lines_at(cursor: Cursor, offset: int, record: Record, prefix: str) -> Iterator[Line]:
    cursor.offset = offset
    yield from record_lines(cursor, record, prefix)


def record_lines(cursor: Cursor, record: Record, prefix: str) -> Iterator[Line]:
    for span in walk(cursor, record):
        if span.size:
            yield line_at(cursor, span.offset, span.size, f"{prefix}.{span.field.name}", _said(span), span.field.doc)


def line_at(cursor: Cursor, offset: int, size: int, path: str, value: str, doc: str) -> Line:
    data = bytes(cursor.buffer[offset : offset + min(size, SHOWN_BYTES)])
    return Line(offset, size, data, path, value, doc)


def _said(span: Span) -> str:
    """The value in words."""
    name, value = span.field.name, span.value
    if name == "magic":
        return f"0x{value:08x} {value.to_bytes(4, 'little').decode('ascii', 'replace')!r}"
    if name == "padding":
        return f"{span.size} zeros"
    if isinstance(value, bytes):
        return said_text(value)
    if isinstance(value, Value):
        return _said_metadata(value)
    if isinstance(value, tuple):
        few = ", ".join(map(str, value[:MANY_NUMBERS]))
        return f"[{few}{', …' * (len(value) > MANY_NUMBERS)}]"
    return str(value)


def said_text(value: bytes) -> str:
    """Text in quotes, other bytes in hexadecimal, the first of many.

    >>> said_text("北".encode()), said_text(b"\\x00\\xff")
    ("'北'", '00 ff')
    """
    if _is_text(value):
        return repr(value.decode())
    return value[:MANY_BYTES].hex(" ") + " …" * (len(value) > MANY_BYTES)


def _is_text(value: bytes) -> bool:
    try:
        return value.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _said_metadata(value: Value) -> str:
    if value.type == "string":
        return f"string {value.text()!r}"
    if value.type != "array":
        return f"{value.type} {value.value}"
    some = value.value[:4]
    texts = [str(item) if isinstance(some, np.ndarray) else repr(_short(item)) for item in some]
    return f"array of {len(value.value):,} {value.item}: {', '.join(texts)}{' …' * (len(value.value) > 4)}"


def _short(item: bytes | Value) -> str:
    return item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else item.type
