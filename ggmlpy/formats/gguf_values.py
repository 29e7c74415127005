"""The typed values of GGUF metadata: numbers, strings, and arrays of either or of arrays.

A string is its length (u64; u32 in v1) and that many bytes. An array is the type of its items, their number, and the
items; arrays of arrays exist. Numbers have the file's byte order.

Source: docs/gguf.md in ggml, section "gguf_metadata_value_type".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ggmlpy.files.errors import TruncatedError, UnsupportedError

from .fields import U32, U64, Cursor, Field, Number

__all__ = ["TYPE_IDS", "VALUE_TYPES", "Typed", "Value", "check_count"]

DEEPEST_ARRAY = 4

# fmt: off
VALUE_TYPES: dict[int, tuple[str, str]] = {  # id: name, struct code
    0: ("u8", "<B"),  1: ("i8", "<b"),   2: ("u16", "<H"),   3: ("i16", "<h"),   4: ("u32", "<I"),  5: ("i32", "<i"),
    6: ("f32", "<f"), 7: ("bool", "<?"), 8: ("string", ""),  9: ("array", ""),  10: ("u64", "<Q"), 11: ("i64", "<q"),
    12: ("f64", "<d"),
}
# fmt: on
TYPE_IDS: dict[str, int] = {name: number for number, (name, _) in VALUE_TYPES.items()}


@dataclass(frozen=True)
class Value:
    """A typed metadata value.

    Attributes:
        type: "u32", "string", "array" …
        value: a number, bytes, a numpy array of numbers, or a list (of bytes or values).
        item: the type of an array's items.
        pair: of a little-endian file since v2, the bytes of the whole pair, key included: copied where it is kept.
    """

    type: str
    value: Any
    item: str = ""
    pair: memoryview | None = field(default=None, compare=False, repr=False)

    def __eq__(self, other: object) -> bool:
        """Arrays compare number by number."""
        if not isinstance(other, Value) or (self.type, self.item) != (other.type, other.item):
            return False
        if isinstance(self.value, np.ndarray) or isinstance(other.value, np.ndarray):
            return np.array_equal(self.value, other.value)
        return bool(self.value == other.value)

    def text(self) -> str:
        """A string value as text."""
        return bytes(self.value).decode("utf-8", "replace")


@dataclass(frozen=True)
class Typed(Field):
    """A metadata value; an earlier field says its type."""

    type: str = "type"
    size: Number = field(default_factory=lambda: U64("length"))

    def read(self, cursor: Cursor, values: Mapping[str, Any]) -> Value:
        return _read_value(cursor, values[self.type], self.size, 0)

    def write(self, values: Mapping[str, Any], offset: int) -> bytes:
        return _write_value(values[self.name], self.size)


def check_count(cursor: Cursor, name: str, count: int, smallest: int) -> None:
    """Refuse a count of things of at least ``smallest`` bytes each for which the file has no room.

    Raises:
        TruncatedError: there is not enough left of the file.
    """
    if count > cursor.left // smallest:
        raise TruncatedError(
            "a count is larger than the file has room for",
            path=cursor.path,
            offset=cursor.offset,
            field=name,
            expected=f"at most {cursor.left // smallest:,}",
            found=f"{count:,}",
            cause="the file is cut off, or its header is corrupt",
            next_step="compare its size and SHA256 with the source",
        )


def _read_value(cursor: Cursor, number: int, size: Number, depth: int) -> Value:
    name, code = _value_type(cursor, number)
    if name == "array":
        return _read_array(cursor, size, depth)
    if name == "string":
        return Value(name, bytes(cursor.take(size.read(cursor, {}), "string")))
    return Value(name, Number("value", code=code).read(cursor, {}))


def _read_array(cursor: Cursor, size: Number, depth: int) -> Value:
    """Numbers as one numpy array, strings as a list of bytes, arrays as a list of values."""
    item_number = U32("item type").read(cursor, {})
    count = size.read(cursor, {})
    item, code = _value_type(cursor, item_number)
    if code:
        check_count(cursor, "array length", count, struct.calcsize(code))
        data = cursor.take(count * struct.calcsize(code), "array")
        return Value("array", np.frombuffer(data, np.dtype(cursor.order + code[1:])), item)
    check_count(cursor, "array length", count, size.size if item == "string" else size.size + 4)
    if depth == DEEPEST_ARRAY:
        raise UnsupportedError(
            "arrays are nested too deep",
            path=cursor.path,
            offset=cursor.offset,
            field="array",
            expected=f"at most {DEEPEST_ARRAY} levels",
        )
    if item == "string":
        return Value("array", _read_strings(cursor, size, count), item)
    return Value("array", [_read_value(cursor, item_number, size, depth + 1) for _ in range(count)], item)


def _read_strings(cursor: Cursor, size: Number, count: int) -> list[bytes]:
    """The vocabulary is one of these: tens of thousands of short strings."""
    buffer, at, width = cursor.buffer, cursor.offset, size.size
    length_at, last = struct.Struct(cursor.order + size.code[1:]).unpack_from, cursor.size - width
    strings = []
    for _ in range(count):
        length = length_at(buffer, at)[0] if at <= last else cursor.size
        at += width + length
        if at > cursor.size:
            cursor.offset = min(at - length, cursor.size)
            cursor.take(length, "string")
        strings.append(bytes(buffer[at - length : at]))
    cursor.offset = at
    return strings


def _value_type(cursor: Cursor, number: int) -> tuple[str, str]:
    if number in VALUE_TYPES:
        return VALUE_TYPES[number]
    raise UnsupportedError(
        f"unknown metadata value type {number}",
        path=cursor.path,
        offset=cursor.offset - 4,
        field="type",
        expected=", ".join(f"{key} {name}" for key, (name, _) in VALUE_TYPES.items()),
        found=number,
        cause="the length of the value before it is corrupt, or the file is cut off",
    )


def _write_value(value: Value, size: Number) -> bytes:
    if value.type == "string":
        return _counted(size, value.value) + bytes(value.value)
    if value.type != "array":
        return struct.pack(VALUE_TYPES[TYPE_IDS[value.type]][1], value.value)
    head = struct.pack("<I", TYPE_IDS[value.item]) + _counted(size, value.value)
    if value.item == "string":
        return head + b"".join(_counted(size, item) + bytes(item) for item in value.value)
    if value.item == "array":
        return head + b"".join(_write_value(item, size) for item in value.value)
    return head + np.asarray(value.value).astype(VALUE_TYPES[TYPE_IDS[value.item]][1]).tobytes()


def _counted(size: Number, things: Any) -> bytes:
    """How many they are."""
    return struct.pack(size.code, len(things))
