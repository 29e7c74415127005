"""GGUF v1, v2, v3: the container since August 2023. Read all three (either byte order), write v3.

::

    magic      u32    0x46554747, "GGUF"
    version    u32    1, 2 or 3
    n_tensors  u64    (u32 in v1)
    n_kv       u64    (u32 in v1)
    n_kv times:       key: string · type: u32 · value
    n_tensors times:  name: string · n_dims: u32 · dims: n_dims x u64 (u32 in v1) · type: u32 · offset: u64
    zeros up to a multiple of general.alignment (32)
    the tensors' data, each at its offset from here, each aligned

A string is its length (u64; u32 in v1) and that many bytes. An array is the type of its items, their number, and the
items. Big-endian files (v3) have every number reversed, the magic's bytes included in none: ``GGUF`` is what both begin
with, and the version tells the order. A model may be split over ``NAME-00001-of-00003.gguf`` …, each a whole GGUF file.

Every count is compared with what is left of the file before anything is read on its word: a file of 49 bytes can't ask
for an array of a thousand million items.

Source: docs/gguf.md in ggml; gguf-py and llama.cpp at c392e5094.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, MissingFileError, ShapeError, TruncatedError, UnsupportedError, UsageError

from .fields import U32, U64, Align, Array, Cursor, Field, Number, Record, Text, read, write
from .out_tensor import OutTensor, write_chunks
from .tensor_types import TensorType, types_of

__all__ = ["GGUF_MAGIC", "GgufFile", "GgufTensor", "Value", "gguf_size", "open_gguf", "records_of", "write_gguf"]

GGUF_MAGIC = 0x46554747
ALIGNMENT = 32
MAX_DIMS = 4
DEEPEST_ARRAY = 4

# fmt: off
VALUE_TYPES: dict[int, tuple[str, str]] = {  # id: name, struct code
    0: ("u8", "<B"),  1: ("i8", "<b"),   2: ("u16", "<H"),   3: ("i16", "<h"),   4: ("u32", "<I"),  5: ("i32", "<i"),
    6: ("f32", "<f"), 7: ("bool", "<?"), 8: ("string", ""),  9: ("array", ""),  10: ("u64", "<Q"), 11: ("i64", "<q"),
    12: ("f64", "<d"),
}
FOREIGN_TYPES: dict[int, str] = {  # tensor types of GGUF that this library does not decode
    9: "q8_1", 15: "q8_K", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s",
    22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64", 29: "iq1_m", 34: "tq1_0",
    35: "tq2_0", 39: "mxfp4",
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
    """

    type: str
    value: Any
    item: str = ""

    def text(self) -> str:
        """A string value as text."""
        return bytes(self.value).decode("utf-8", "replace")


@dataclass(frozen=True)
class Typed(Field):
    """A metadata value; an earlier field says its type."""

    type: str = "type"
    size: Number = field(default_factory=lambda: U64("length"))

    def take(self, cursor: Cursor, values: Mapping[str, Any]) -> Value:
        return _take_value(cursor, values[self.type], self.size, 0)

    def give(self, values: Mapping[str, Any], offset: int) -> bytes:
        return _give_value(values[self.name])


@dataclass(frozen=True)
class Records:
    """The declared records of one version."""

    header: Record
    pair: Record
    tensor: Record
    size: Number


def records_of(version: int) -> Records:
    """v1 has 32-bit lengths and counts, v2 and v3 have 64-bit ones."""
    wide = U32 if version == 1 else U64
    header = (
        U32("magic", "GGUF"),
        U32("version", "1, 2 or 3; its byte order is the file's"),
        wide("n_tensors", "tensors in this file"),
        wide("n_kv", "metadata pairs"),
    )
    pair = (
        wide("key_length", "bytes of the key"),
        Text("key", "dotted name, such as llama.block_count", "key_length"),
        U32("type", "value type, see VALUE_TYPES"),
        Typed("value", "the value", "type", wide("length")),
    )
    tensor = (
        wide("name_length", "bytes of the name"),
        Text("name", "such as blk.0.attn_q.weight", "name_length"),
        U32("n_dims", "1 to 4"),
        Array("dims", "columns first", "<I" if version == 1 else "<Q", "n_dims"),
        U32("type", "tensor type id"),
        U64("offset", "of the data, from the start of the data section"),
    )
    return Records(header, pair, tensor, wide("length"))


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file.

    Attributes:
        name: as the file spells it.
        shape: rows first.
        header, offset: where its description and its data begin in the file.
        data: uint8 [nbytes], a view of the map.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    header: int
    offset: int
    data: NDArray[np.uint8]


@dataclass(frozen=True)
class GgufFile:
    """An open GGUF file: metadata and lazily mapped tensors.

    Attributes:
        order: "<" or ">".
        data_offset: where the data section begins.
        end: where the last tensor ends.
    """

    path: Path
    cursor: Cursor
    version: int
    order: str
    alignment: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]
    data_offset: int
    end: int

    def number(self, key: str, default: float | None = None) -> Any:
        """A finite number.

        Raises:
            FormatError: it is missing and has no default, or it is no number.
        """
        found = self.metadata.get(key)
        if found is None and default is not None:
            return default
        if found is None or found.type in ("string", "array") or not math.isfinite(found.value):
            raise self._no("number", key, found)
        return found.value

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; raises as :meth:`number`."""
        value = self.number(key, default)
        if value != int(value):
            raise self._no("whole number", key, self.metadata[key])
        return int(value)

    def text(self, key: str, default: bytes = b"") -> str:
        """A string; raises :class:`FormatError` where it is none."""
        found = self.metadata.get(key, Value("string", default))
        if found.type != "string":
            raise self._no("string", key, found)
        return found.text()

    def _no(self, what: str, key: str, found: Value | None) -> FormatError:
        value = "" if found is None or found.type in ("string", "array") else f" {found.value}"
        return FormatError(
            f"the metadata has no {what} {key!r}",
            path=self.path,
            field=key,
            expected=f"a {what}",
            found=f"{found.type}{value}" if found else "nothing",
            cause="a file of another architecture, or written by a faulty converter",
        )


def open_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Read the structure of one GGUF file.

    Raises:
        FormatError: it is no GGUF file, it is cut off, or it contradicts itself.
    """
    from ggmlpy.files.mapping import map_file

    path = Path(path)
    cursor = Cursor(map_file(path), str(path))
    version = _read_version(cursor)
    records = records_of(version)
    header = read(cursor, records.header)
    metadata = _read_metadata(cursor, records, header["n_kv"])
    alignment = _alignment(cursor, metadata)
    infos = list(_read_infos(cursor, records, header["n_tensors"]))
    data_offset = cursor.offset + -cursor.offset % alignment if infos else cursor.offset
    tensors = {info[0]: _bind(cursor, version, data_offset, alignment, *info) for info in infos}
    if len(tensors) != len(infos):
        raise ShapeError("a tensor's name occurs twice", path=path, field="name", cause="a corrupt file")
    end = max((tensor.offset + len(tensor.data) for tensor in tensors.values()), default=cursor.offset)
    return GgufFile(path, cursor, version, cursor.order, alignment, metadata, tensors, data_offset, end)


def _read_version(cursor: Cursor) -> int:
    """The version, and with it the byte order; the cursor is left at the start."""
    cursor.take(4, "magic")
    (version,) = struct.unpack("<I", cursor.take(4, "version"))
    if version & 0xFFFF == 0 and version:
        cursor.order = ">"
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    cursor.offset = 0
    if version not in (1, 2, 3):
        raise UnsupportedError(
            f"unsupported format version {version} of gguf",
            path=cursor.path,
            offset=4,
            field="version",
            expected="1, 2 or 3",
            found=version,
            cause="a corrupt header, or a version later than this program",
        )
    return version


def _read_metadata(cursor: Cursor, records: Records, count: int) -> dict[str, Value]:
    smallest = 2 * records.size.size + 1
    _check_count(cursor, "n_kv", count, smallest)
    metadata: dict[str, Value] = {}
    for _ in range(count):
        start = cursor.offset
        pair = read(cursor, records.pair)
        key = pair["key"].decode("utf-8", "backslashreplace")
        if key in metadata:
            raise FormatError(f"metadata key {key!r} occurs twice", path=cursor.path, offset=start, field="key")
        metadata[key] = pair["value"]
    return metadata


def _check_count(cursor: Cursor, name: str, count: int, smallest: int) -> None:
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


def _take_value(cursor: Cursor, number: int, size: Number, depth: int) -> Value:
    name, code = _value_type(cursor, number)
    if name == "array":
        return _take_array(cursor, size, depth)
    if name == "string":
        return Value(name, bytes(cursor.take(size.take(cursor, {}), "string")))
    return Value(name, Number("value", code=code).take(cursor, {}))


def _take_array(cursor: Cursor, size: Number, depth: int) -> Value:
    """Numbers as one numpy array, strings as a list of bytes, arrays as a list of values."""
    item_number = U32("item type").take(cursor, {})
    count = size.take(cursor, {})
    item, code = _value_type(cursor, item_number)
    if code:
        _check_count(cursor, "array length", count, struct.calcsize(code))
        data = cursor.take(count * struct.calcsize(code), "array")
        return Value("array", np.frombuffer(data, np.dtype(cursor.order + code[1:])), item)
    _check_count(cursor, "array length", count, size.size if item == "string" else size.size + 4)
    if depth == DEEPEST_ARRAY:
        raise UnsupportedError(
            "arrays are nested too deep",
            path=cursor.path,
            offset=cursor.offset,
            field="array",
            expected=f"at most {DEEPEST_ARRAY} levels",
        )
    if item == "string":
        return Value("array", _take_strings(cursor, size, count), item)
    return Value("array", [_take_value(cursor, item_number, size, depth + 1) for _ in range(count)], item)


def _take_strings(cursor: Cursor, size: Number, count: int) -> list[bytes]:
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


def _give_value(value: Value) -> bytes:
    if value.type == "string":
        return struct.pack("<Q", len(value.value)) + bytes(value.value)
    if value.type != "array":
        return struct.pack(VALUE_TYPES[TYPE_IDS[value.type]][1], value.value)
    head = struct.pack("<IQ", TYPE_IDS[value.item], len(value.value))
    if value.item == "string":
        return head + b"".join(struct.pack("<Q", len(item)) + bytes(item) for item in value.value)
    if value.item == "array":
        return head + b"".join(_give_value(item) for item in value.value)
    return head + np.asarray(value.value).astype(VALUE_TYPES[TYPE_IDS[value.item]][1]).tobytes()


def _alignment(cursor: Cursor, metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", Value("u32", ALIGNMENT)).value
    if not isinstance(value, int) or not 0 < value <= 1 << 20 or value & (value - 1):
        raise FormatError(
            "the alignment is no power of two",
            path=cursor.path,
            field="general.alignment",
            expected="a power of two, usually 32",
            found=value,
            cause="corrupt metadata",
        )
    return value


def _read_infos(cursor: Cursor, records: Records, count: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    _check_count(cursor, "n_tensors", count, 2 * records.size.size + 16)
    for _ in range(count):
        start = cursor.offset
        head = read(cursor, records.tensor[:3])
        if not 1 <= head["n_dims"] <= MAX_DIMS:
            raise ShapeError(
                "no valid tensor description here",
                path=cursor.path,
                offset=cursor.offset - 4,
                field="n_dims",
                expected=f"1 to {MAX_DIMS}",
                found=head["n_dims"],
                cause="a corrupt file",
            )
        cursor.offset = start
        info = read(cursor, records.tensor)
        yield info["name"].decode("utf-8", "backslashreplace"), start, info


def _bind(
    cursor: Cursor, version: int, data_offset: int, alignment: int, name: str, start: int, info: Mapping[str, Any]
) -> GgufTensor:
    """Check one tensor against the file and map its data."""
    tensor_type = _tensor_type(cursor, version, name, start, info["type"])
    shape = tuple(reversed(info["dims"]))
    details: dict[str, Any] = {
        "path": cursor.path,
        "offset": start,
        "cause": "a corrupt description, or a cut-off file",
    }
    if min(shape) < 1 or shape[-1] % tensor_type.blck_size:
        raise ShapeError(
            f"tensor {name!r} has an impossible shape",
            field="dims",
            expected=f"positive dimensions, the first a multiple of {tensor_type.blck_size}",
            found=list(shape),
            **details,
        )
    nbytes = math.prod(shape[:-1]) * tensor_type.row_bytes(shape[-1])
    offset = data_offset + info["offset"]
    if info["offset"] % alignment:
        raise ShapeError(
            f"the data of tensor {name!r} is not aligned",
            field="offset",
            expected=f"a multiple of {alignment}",
            found=info["offset"],
            **details,
        )
    if offset + nbytes > cursor.size:
        raise TruncatedError(
            f"the file ends inside tensor {name!r}",
            field="data",
            expected=f"{nbytes:,} bytes from {offset:,}, so a file of at least {offset + nbytes:,}",
            found=f"{cursor.size:,} bytes",
            next_step="compare the file's size with its source, then fetch or convert it again",
            **details,
        )
    data = np.frombuffer(cursor.buffer[offset : offset + nbytes], np.uint8)
    return GgufTensor(name, tensor_type, shape, start, offset, data)


def _tensor_type(cursor: Cursor, version: int, name: str, start: int, number: int) -> TensorType:
    known = types_of("gguf", version)
    if number in known:
        return known[number]
    foreign = FOREIGN_TYPES.get(number, "unknown")
    raise UnsupportedError(
        f"tensor {name!r} has type {number} ({foreign}), which is not supported",
        path=cursor.path,
        offset=start,
        field="type",
        expected=", ".join(record.name for record in known.values()),
        found=foreign,
        cause="a type later than 2023-08" if number in FOREIGN_TYPES else "a corrupt file",
        next_step="use a q4_0 … q8_0 or k-quant file of the same model" if number in FOREIGN_TYPES else None,
    )


def split_paths(gguf: GgufFile) -> list[Path]:
    """The files of a split model, from any of them; the file itself if it is not split.

    Raises:
        MissingFileError: one is missing.
    """
    count = gguf.integer("split.count", 0)
    match = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)", gguf.path.name)
    if count <= 1 or match is None:
        return [gguf.path]
    total = int(match[3])
    paths = [gguf.path.with_name(f"{match[1]}-{i:05}-of-{total:05}{match[4]}") for i in range(1, total + 1)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MissingFileError(
            f"a file of this model split in {total} is missing",
            path=missing[0],
            field="split.count",
            expected=f"{total} files",
            found=f"{total - len(missing)}",
            next_step="put all files into one directory",
        )
    return paths


def write_gguf(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Value],
    tensors: Iterable[OutTensor],
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write a GGUF v3 file and return its size.

    Arguments:
        metadata: in the order of the file.
        tensors: in the order of the file, with GGUF names.
        progress: called with the number of bytes after each chunk.

    Raises:
        UsageError: a tensor does not have the promised size.
        OutputError: the file could not be written; nothing stands under its name then.
    """
    tensors = list(tensors)
    prefix, _ = _prefix(metadata, tensors)
    with atomic_write(path, size=gguf_size(metadata, tensors)) as stream:
        stream.write(prefix)
        for tensor in tensors:
            write_chunks(stream, tensor, progress)
            stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
        return stream.tell()


def gguf_size(metadata: Mapping[str, Value], tensors: Sequence[OutTensor]) -> int:
    """Bytes of the file that :func:`write_gguf` would write."""
    return len(_prefix(metadata, tensors)[0]) + sum(tensor.nbytes + -tensor.nbytes % ALIGNMENT for tensor in tensors)


def _prefix(metadata: Mapping[str, Value], tensors: Sequence[OutTensor]) -> tuple[bytes, list[int]]:
    """Everything before the data, and each tensor's offset in the data section."""
    if "general.alignment" in metadata and metadata["general.alignment"].value != ALIGNMENT:
        raise UsageError(f"GGUF files are written with an alignment of {ALIGNMENT}")
    records = records_of(3)
    counts = {"magic": GGUF_MAGIC, "version": 3, "n_tensors": len(tensors), "n_kv": len(metadata)}
    out = [write(records.header, counts)]
    for key, value in metadata.items():
        out.append(write(records.pair, {"key": key.encode(), "type": TYPE_IDS[value.type], "value": value}))
    offsets = []
    offset = 0
    for tensor in tensors:
        offsets.append(offset)
        values = {"name": tensor.name.encode(), "dims": tensor.shape[::-1], "type": tensor.type.id, "offset": offset}
        out.append(write(records.tensor, values))
        offset += tensor.nbytes + -tensor.nbytes % ALIGNMENT
    prefix = b"".join(out)
    return prefix + Align("padding", multiple=ALIGNMENT).give({}, len(prefix)), offsets
