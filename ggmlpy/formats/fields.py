"""Declared fields: from one description of a record come its reader, its writer, its annotated dump and its docs.

A record is a tuple of fields. :func:`walk` reads one record at a cursor and yields a :class:`Span` for each field,
with its offset and size, which is what a hexdump needs; :func:`read` keeps only the values; :func:`write` is the
inverse. Nothing is read past the end of the file: every length is compared with what is left before it is used.

>>> pair = (U32("length", "bytes of the text"), Text("text", "the piece", "length"))
>>> write(pair, {"text": b"ab"})
b'\\x02\\x00\\x00\\x00ab'
>>> read(Cursor(b"\\x02\\x00\\x00\\x00ab"), pair)
{'length': 2, 'text': b'ab'}
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ggmlpy.files.errors import TruncatedError

__all__ = [
    "F32",
    "I32",
    "U32",
    "U64",
    "Align",
    "Array",
    "Cursor",
    "Field",
    "Number",
    "Numbers",
    "Record",
    "Span",
    "Text",
    "read",
    "walk",
    "write",
]


@dataclass(frozen=True)
class Field:
    """A named part of a record; ``doc`` is what the documentation's table says of it."""

    name: str
    doc: str = ""

    def read(self, cursor: Cursor, values: Mapping[str, Any]) -> Any:
        """The value at the cursor; ``values`` holds the record's earlier fields."""
        raise TypeError(f"{type(self).__name__} cannot be read")

    def write(self, values: Mapping[str, Any], offset: int) -> bytes:
        """The bytes of its value at ``offset`` of the file."""
        raise TypeError(f"{type(self).__name__} cannot be written")


@dataclass(frozen=True)
class Number(Field):
    """One number, ``code`` in the notation of :mod:`struct` with its byte order ("<i")."""

    code: str = "<i"

    @property
    def size(self) -> int:
        return struct.calcsize(self.code)

    def read(self, cursor: Cursor, values: Mapping[str, Any]) -> Any:
        return struct.unpack(cursor.order + self.code[1:], cursor.take(self.size, self.name))[0]

    def write(self, values: Mapping[str, Any], offset: int) -> bytes:
        return struct.pack(self.code, values[self.name])


@dataclass(frozen=True)
class Array(Field):
    """As many numbers as an earlier field of the record says."""

    item: str = "<i"
    count: str = ""

    def read(self, cursor: Cursor, values: Mapping[str, Any]) -> tuple[Any, ...]:
        count = values[self.count]
        data = cursor.take(count * struct.calcsize(self.item), self.name)
        return struct.unpack(f"{cursor.order}{count}{self.item[1:]}", data)

    def write(self, values: Mapping[str, Any], offset: int) -> bytes:
        return struct.pack(f"<{len(values[self.name])}{self.item[1:]}", *values[self.name])


@dataclass(frozen=True)
class Text(Field):
    """As many bytes as an earlier field of the record says."""

    length: str = ""

    def read(self, cursor: Cursor, values: Mapping[str, Any]) -> bytes:
        return bytes(cursor.take(values[self.length], self.name))

    def write(self, values: Mapping[str, Any], offset: int) -> bytes:
        return bytes(values[self.name])


@dataclass(frozen=True)
class Align(Field):
    """Zero bytes up to the next multiple of ``multiple``, counted from the start of the file."""

    multiple: int = 32

    def read(self, cursor: Cursor, values: Mapping[str, Any]) -> bytes:
        return bytes(cursor.take(-cursor.offset % self.multiple, self.name))

    def write(self, values: Mapping[str, Any], offset: int) -> bytes:
        return b"\0" * (-offset % self.multiple)


Record = tuple[Field, ...]


def U32(name: str, doc: str = "") -> Number:
    """An unsigned 32-bit little-endian integer."""
    return Number(name, doc, "<I")


def I32(name: str, doc: str = "") -> Number:
    """A signed 32-bit little-endian integer."""
    return Number(name, doc, "<i")


def U64(name: str, doc: str = "") -> Number:
    """An unsigned 64-bit little-endian integer."""
    return Number(name, doc, "<Q")


def F32(name: str, doc: str = "") -> Number:
    """A 32-bit little-endian IEEE 754 number."""
    return Number(name, doc, "<f")


class Span(NamedTuple):
    """A field where it was found."""

    offset: int
    size: int
    field: Field
    value: Any


class Cursor:
    """A position in a buffer that can't be moved past its end.

    Attributes:
        buffer: the whole file.
        offset: where the next read begins.
        size: bytes in the file.
        order: "<" little-endian (all files but big-endian GGUF), ">" big-endian.
    """

    def __init__(self, buffer: bytes | memoryview | mmap.mmap, path: str | None = None, offset: int = 0) -> None:
        self.buffer = memoryview(buffer)
        self.path = path
        self.offset = offset
        self.size = len(self.buffer)
        self.order = "<"

    @property
    def left(self) -> int:
        """Bytes between here and the end of the file."""
        return self.size - self.offset

    def take(self, size: int, field: str) -> memoryview:
        """The next ``size`` bytes.

        Raises:
            TruncatedError: fewer are left, or ``size`` is negative.
        """
        if not 0 <= size <= self.left:
            raise TruncatedError(
                "the file ends inside a field" if size >= 0 else "a length is negative",
                path=self.path,
                offset=self.offset,
                field=field,
                expected=f"{size:,} more bytes" if size >= 0 else "a length of at least 0",
                found=f"{self.left:,}" if size >= 0 else f"{size:,}",
                cause="the download or copy was cut off, or the header is corrupt",
                next_step="compare the file's size and SHA256 with its source, then fetch it again",
            )
        start = self.offset
        self.offset += size
        return self.buffer[start : self.offset]


def walk(cursor: Cursor, record: Record) -> Iterator[Span]:
    """Read one record, a field at a time.

    Raises:
        TruncatedError: the record does not fit into what is left of the file.
    """
    values: dict[str, Any] = {}
    for field in record:
        offset = cursor.offset
        values[field.name] = value = field.read(cursor, values)
        yield Span(offset, cursor.offset - offset, field, value)


def read(cursor: Cursor, record: Record, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The values of one record by field name (padding left out), after those that are ``known`` already.

    Raises:
        TruncatedError: the record does not fit into what is left of the file.
    """
    values: dict[str, Any] = dict(known or {})
    for field in record:
        value = field.read(cursor, values)
        if not isinstance(field, Align):
            values[field.name] = value
    return values


class Numbers:
    """Numbers of a little-endian record that stand side by side, read at once: there are hundreds of tensors.

    >>> Numbers((U32("length"), F32("score"))).read(Cursor(bytes(8)))
    {'length': 0, 'score': 0.0}
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(field for field in fields if isinstance(field, Number))
        self._names = tuple(field.name for field in self.fields)
        self._struct = struct.Struct("<" + "".join(field.code[1:] for field in self.fields))
        self.size = self._struct.size

    def read(self, cursor: Cursor) -> dict[str, Any]:
        """The values by field name.

        Raises:
            TruncatedError: they do not fit into what is left of the file.
        """
        if cursor.left < self.size:
            return read(cursor, self.fields)  # knows which of them is cut off
        values = self._struct.unpack_from(cursor.buffer, cursor.offset)
        cursor.offset += self.size
        return dict(zip(self._names, values))


def write(record: Record, values: Mapping[str, Any], offset: int = 0) -> bytes:
    """The bytes of one record that begins at ``offset`` of its file; lengths and counts are filled in."""
    values = {**_lengths(record, values), **values}
    out = b""
    for field in record:
        out += field.write(values, offset + len(out))
    return out


def _lengths(record: Record, values: Mapping[str, Any]) -> dict[str, int]:
    """The counts and lengths that follow from the values themselves."""
    return {
        (field.count if isinstance(field, Array) else field.length): len(values[field.name])
        for field in record
        if isinstance(field, (Array, Text))
    }
