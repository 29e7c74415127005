"""``ggml-adapter-model.bin``: a LoRA adapter for llama.cpp of April 2023 and later, until GGUF took over.

A header, then tensors one after the other until the file ends, each with its data at the next multiple of 32, as in
ggjt. Names are Meta's with ``.loraA`` or ``.loraB``. A is transposed, [columns, r], in the adapter's own type; B is
[rows, r] and f32. The rows of wq and wk stay in Hugging Face's order, although those of the models do not.

Source: convert-lora-to-ggml.py of llama.cpp 3e5aa8a1c; the same bytes at 6986c7835 and dadbed99e.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import BadMagicError, FormatError, TruncatedError, UnsupportedError
from ggmlpy.files.kinds import first_bytes, kind_of
from ggmlpy.files.mapping import map_file

from .containers import GGJT
from .fields import I32, U32, Cursor, Record, read
from .tensor_types import TensorType, type_named

__all__ = ["HEADER", "MAGIC", "SIDES", "TENSOR", "TYPES", "VERSION", "GglaFile", "GglaTensor", "is_ggla", "open_ggla"]

MAGIC, VERSION = 0x67676C61, 1
SIDES = (".loraA", ".loraB")
LONGEST_NAME = 256
HEADER: Record = (
    U32("magic", "the container, as a little-endian integer"),
    I32("version", "the version of the container"),
    I32("r", "the rank: columns of every matrix"),
    I32("alpha", "the change is multiplied by alpha / r"),
)
TENSOR: Record = GGJT.tensor
TYPES: dict[int, TensorType] = {id: type_named(name, "ggjt", 1) for id, name in ((0, "f32"), (1, "f16"))}


@dataclass(frozen=True)
class GglaTensor:
    """Half of a pair where it lies.

    Attributes:
        header: offset of its record.
        offset: of its data.
        values: as the file has them, [columns, r] or [rows, r].
    """

    name: str
    type: TensorType
    header: int
    offset: int
    values: NDArray[Any]


@dataclass(frozen=True)
class GglaFile:
    """An open adapter.

    Attributes:
        r, alpha: the change is multiplied by ``alpha / r``.
        tensors: by the name in the file.
    """

    path: Path
    cursor: Cursor
    r: int
    alpha: int
    tensors: dict[str, GglaTensor]


def is_ggla(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as such an adapter does."""
    kind = kind_of(first_bytes(path))
    return kind is not None and kind.name == "ggla"


def open_ggla(path: str | os.PathLike[str]) -> GglaFile:
    """Open ``ggml-adapter-model.bin``.

    Raises:
        BadMagicError, UnsupportedError: another format, version or type.
        TruncatedError: it ends too early.
        FormatError: names or shapes that are none.
    """
    cursor = Cursor(map_file(path), os.fspath(path))
    header = read(cursor, HEADER)
    if header["magic"] != MAGIC:
        found = hex(header["magic"])
        raise BadMagicError("not a ggla adapter", path=path, offset=0, expected=hex(MAGIC), found=found)
    if header["version"] != VERSION:
        found = header["version"]
        raise UnsupportedError("unknown version of ggla", path=path, offset=4, expected=VERSION, found=found)
    if not 0 < header["r"] < 1 << 16:
        raise FormatError("the rank is out of range", path=path, offset=8, field="r", found=header["r"])
    tensors: dict[str, GglaTensor] = {}
    for tensor in _tensors(cursor):
        if tensor.name in tensors:
            raise FormatError("a tensor is there twice", path=path, found=tensor.name)
        tensors[tensor.name] = tensor
    return GglaFile(Path(path), cursor, header["r"], header["alpha"], tensors)


def _tensors(cursor: Cursor) -> Iterator[GglaTensor]:
    while cursor.left:
        begin = cursor.offset
        _check_numbers(cursor)
        record = read(cursor, TENSOR)
        name, kind = record["name"].decode("utf-8", "replace"), TYPES[record["type"]]
        columns, rows = record["dims"]
        if columns < 1 or rows < 1 or not name.endswith(SIDES):
            raise FormatError("not half of a LoRA pair", path=cursor.path, field=name, found=f"[{rows}, {columns}]")
        offset, size = cursor.offset, rows * columns * np.dtype(kind.block).itemsize
        if size > cursor.left:
            raise TruncatedError(
                f"the file ends inside {name}",
                path=cursor.path,
                offset=offset,
                expected=f"{size:,} bytes",
                found=cursor.left,
            )
        values = np.frombuffer(cursor.take(size, name), kind.block).reshape(rows, columns)
        yield GglaTensor(name, kind, begin, offset, values)


def _check_numbers(cursor: Cursor) -> None:
    """The three numbers of a tensor's record, before any of them is used."""
    at = cursor.offset
    n_dims, length, kind = (read(cursor, (field,))[field.name] for field in TENSOR[:3])
    cursor.offset = at
    if n_dims != 2 or not 0 < length <= LONGEST_NAME or kind not in TYPES:
        found = f"{n_dims} dimensions, a name of {length} bytes, type {kind}"
        wanted = "2, a name, 0 or 1"
        raise FormatError("not a tensor's header", path=cursor.path, offset=at, expected=wanted, found=found)
