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

Metadata values are read and written in :mod:`ggmlpy.formats.gguf_values`; whole files are written in
:mod:`ggmlpy.formats.gguf_writer`. Every count is compared with what is left of the file before anything is read on its
word: a file of 49 bytes can't ask for an array of a thousand million items.

Source: docs/gguf.md in ggml; gguf-py and llama.cpp at c392e5094.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError, MissingFileError, ShapeError, TruncatedError, UnsupportedError
from ggmlpy.files.mapping import map_file, read_out

from .fields import U32, U64, Array, Cursor, Number, Record, Text, read
from .gguf_values import Typed, Value, check_count
from .tensor_types import REMOVED, TensorType, types_of

__all__ = [
    "ALIGNMENT",
    "GGUF_MAGIC",
    "GgufFile",
    "GgufTensor",
    "open_gguf",
    "open_splits",
    "part_of_split",
    "records_of",
    "split_paths",
]

GGUF_MAGIC = 0x46554747
ALIGNMENT = 32
MAX_DIMS = 4
CHUNK_BYTES = 1 << 20


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

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        """Its bytes in pieces, read from the file; raises :class:`TruncatedError` where that has become shorter."""
        for start in range(0, len(self.data), CHUNK_BYTES):
            yield read_out(self.data[start : start + CHUNK_BYTES], f"tensor {self.name!r}")


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

    def little_endian(self, tensor: GgufTensor) -> NDArray[np.uint8]:
        """The bytes of a tensor as all other files have them: of a big-endian file a copy, for these are rare."""
        if self.order == "<":
            return tensor.data
        swapped: NDArray[np.uint8] = tensor.data.view(tensor.type.block).byteswap().view(np.uint8)
        return swapped

    def number(self, key: str, default: float | None = None) -> Any:
        """A finite number.

        Raises:
            FormatError: it is missing and has no default, or it is not a number.
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
    check_count(cursor, "n_kv", count, smallest)
    metadata: dict[str, Value] = {}
    as_written = cursor.order == "<" and records.size.size == 8
    for _ in range(count):
        start = cursor.offset
        pair = read(cursor, records.pair)
        key = pair["key"].decode("utf-8", "backslashreplace")
        if key in metadata:
            raise FormatError(f"metadata key {key!r} occurs twice", path=cursor.path, offset=start, field="key")
        pair_bytes = cursor.buffer[start : cursor.offset] if as_written else None
        metadata[key] = replace(pair["value"], pair=pair_bytes)
    return metadata


def _alignment(cursor: Cursor, metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", Value("u32", ALIGNMENT)).value
    if not isinstance(value, int) or not 0 < value <= 1 << 20 or value & (value - 1):
        raise FormatError(
            "the alignment is not a power of two",
            path=cursor.path,
            field="general.alignment",
            expected="a power of two, usually 32",
            found=value,
            cause="corrupt metadata",
        )
    return value


def _read_infos(cursor: Cursor, records: Records, count: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    check_count(cursor, "n_tensors", count, 2 * records.size.size + 16)
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
    removed, why = REMOVED.get(number, ("unknown", "a corrupt file, or a type later than this program"))
    raise UnsupportedError(
        f"tensor {name!r} has type {number} ({removed}), which no GGUF file of today has",
        path=cursor.path,
        offset=start,
        field="type",
        expected=", ".join(record.name for record in known.values()),
        found=removed,
        cause=why,
        next_step="quantize the f16 file of the same model again" if number in REMOVED else None,
    )


def open_splits(path: str | os.PathLike[str]) -> list[GgufFile]:
    """A GGUF file with all the files that it is split over, in their order.

    Raises:
        FormatError: see :func:`open_gguf`; or one of the files is missing, or a tensor lies in two of them.
    """
    first = open_gguf(path)
    files = [first if other == first.path else open_gguf(other) for other in split_paths(first)]
    seen: set[str] = set()
    for file in files:
        twice = sorted(seen & file.tensors.keys())
        if twice:
            raise ShapeError(
                f"tensor {twice[0]!r} lies in an earlier file of this split model, too", path=file.path, field="name",
                cause="files of two models, or a corrupt file",
            )  # fmt: skip
        seen |= file.tensors.keys()
    return files


_SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)")


def part_of_split(gguf: GgufFile) -> tuple[str, str] | None:
    """What a file is, and what to do with it, that is one part of a split model by its keys but not by its name."""
    count, number = gguf.integer("split.count", 0), gguf.integer("split.no", 0)
    match = _SPLIT_NAME.fullmatch(gguf.path.name)
    is_named, is_whole = match and int(match[3]) == count, gguf.integer("split.tensors.count", -1) == len(gguf.tensors)
    if count <= 1 or is_named or is_whole:
        return None
    what = f"part {number + 1} of {count} of a split model"
    if gguf.cursor.size > gguf.end + gguf.alignment:
        return f"{what}, with other parts joined behind it", "use the parts as they were"
    return f"{what}, renamed", f"name it NAME-{number + 1:05}-of-{count:05}.gguf beside the others"


def split_paths(gguf: GgufFile) -> list[Path]:
    """The files of a split model, from any of them; the file itself if it is not split.

    Raises:
        MissingFileError: one is missing, or cannot be found by this one's name.
    """
    match = _SPLIT_NAME.fullmatch(gguf.path.name)
    if part := part_of_split(gguf):
        what, step = part
        raise MissingFileError(
            f"this is {what}",
            path=gguf.path,
            field="split.count",
            expected=f"{gguf.integer('split.tensors.count', 0) or 'more'} tensors",
            found=len(gguf.tensors),
            cause="other parts are found by a name that ends in -00001-of-00003.gguf",
            next_step=step,
        )
    if gguf.integer("split.count", 0) <= 1 or match is None:
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
