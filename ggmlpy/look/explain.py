"""What the byte at an offset is: its field, and within a tensor its row, block, code and value.

Which values of a block a byte takes part in is found by trying: they are those that another byte in its place changes.
So nothing here knows how a type packs its codes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import MissingFileError, UsageError
from ggmlpy.formats.codes import signed_codes
from ggmlpy.formats.dequantize import dequantize
from ggmlpy.formats.ggla import is_ggla, open_ggla
from ggmlpy.formats.ggml_reader import read_part
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.importance import is_importance
from ggmlpy.formats.opening import is_gguf
from ggmlpy.formats.tensor_types import TENSOR_TYPES, TensorType

from .hexdump import hexdump
from .lines import Line

__all__ = ["Explanation", "Place", "explain", "explained"]


@dataclass(frozen=True)
class Place:
    """Where a byte is in the data of a tensor.

    Attributes:
        tensor: its name in the file.
        shape: rows first.
        row, block: counted from 0; the block is counted within the row.
        byte: of the block.
        field: of the block, None for plain numbers.
        columns: those of the row whose values the byte takes part in.
        codes: the integers of these values, before they are scaled; empty for plain numbers.
        values: float32 of these columns.
    """

    tensor: str
    type: TensorType
    shape: tuple[int, ...]
    row: int
    block: int
    byte: int
    field: str | None
    columns: tuple[int, ...]
    codes: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Explanation:
    """One byte of a file.

    Attributes:
        field: the declared field that it belongs to.
        place: where it is in a tensor's data, if it is there.
    """

    path: str
    offset: int
    byte: int
    field: Line
    place: Place | None = None


def explain(path: str | os.PathLike[str], offset: int) -> Explanation:
    """What the byte at ``offset`` of a GGML, GGUF or ggla file, or of an importance matrix, is.

    Raises:
        UsageError: the file is not as long.
        FormatError: the file can't be read.
    """
    found = explained(path, offset, hexdump(path, fold=False))
    return replace(found, place=_place(path, found.field, offset))


def explained(path: str | os.PathLike[str], offset: int, lines: Iterable[Line]) -> Explanation:
    """The byte at ``offset`` of a file whose fields are ``lines``.

    Raises:
        MissingFileError: there is no such file.
        UsageError: the file is not as long.
        FormatError: the file can't be read.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            if not 0 <= offset < size:
                raise UsageError(f"offset {offset:,} is outside the file, which has {size:,} bytes")
            file.seek(offset)
            byte = file.read(1)[0]
    except OSError as error:
        raise MissingFileError(f"cannot be opened: {error.strerror}", path=path) from error
    line = next((each for each in lines if each.offset <= offset < each.offset + each.size), None)
    if line is None:
        line = Line(offset, 1, bytes([byte]), "padding", "a byte between fields", "up to the next aligned offset")
    return Explanation(os.fspath(path), offset, byte, line)


def _place(path: str | os.PathLike[str], line: Line, offset: int) -> Place | None:
    for name, type, shape, start, data in _tensors(path):
        if start == line.offset and start <= offset < start + len(data) and line.path.endswith(("].data", "].values")):
            return _place_in(name, type, shape, np.asarray(data), offset - start)
    return None


def _tensors(path: str | os.PathLike[str]) -> Iterator[tuple[str, TensorType, tuple[int, ...], int, Any]]:
    """Name, type, shape, offset and bytes of each tensor of this very file."""
    if is_gguf(Path(path)):
        file = open_gguf(path)
        for tensor in file.tensors.values():
            yield tensor.name, tensor.type, tensor.shape, tensor.offset, file.little_endian(tensor)
    elif is_ggla(path):
        for half in open_ggla(path).tensors.values():
            yield half.name, half.type, half.values.shape, half.offset, half.values.reshape(-1).view(np.uint8)
    elif is_importance(path):
        for line in hexdump(path, fold=False):
            if line.path.endswith("].values"):
                name = line.path.removeprefix("importance[").removesuffix("].values")
                data = np.fromfile(path, np.uint8, line.size, offset=line.offset)
                yield name, TENSOR_TYPES["f32"], (line.size // 4,), line.offset, data
    else:
        for name, (type, piece) in read_part(Path(path), 0, False, []).tensors.items():
            yield name, type, piece.shape, piece.offset, piece.data


def _place_in(name: str, type: TensorType, shape: tuple[int, ...], data: NDArray[np.uint8], at: int) -> Place:
    per_row = type.row_bytes(shape[-1])
    row, in_row = divmod(at, per_row)
    block, byte = divmod(in_row, type.type_size)
    start = row * per_row + block * type.type_size
    raw = np.array(data[start : start + type.type_size])
    first = block * type.blck_size
    within = _affected(raw, byte, type) if type.quantized else (0,)
    codes = signed_codes(raw.view(type.block), type)[0] if type.quantized else ()
    values = dequantize(raw.view(type.block), type).reshape(-1)
    return Place(
        name,
        type,
        shape,
        row,
        block,
        byte,
        _field_at(type, byte),
        tuple(first + index for index in within),
        tuple(int(codes[index]) for index in within) if type.quantized else (),
        tuple(float(values[index]) for index in within),
    )


def _field_at(type: TensorType, byte: int) -> str | None:
    """The field of a block that holds a byte."""
    begun = [name for name in type.field_names if type.offset(name) <= byte]
    return begun[-1] if begun else None


FILLINGS = (0x00, 0x55, 0xAA, 0xFF)
FLIPS = np.array([0xFF, *(1 << bit for bit in range(8))], np.uint8)


def _affected(raw: NDArray[np.uint8], byte: int, type: TensorType) -> tuple[int, ...]:
    """The values of a block that take part of their code, their scale or their minimum from a byte.

    A scale that is 0 would hide codes, and a code of 0 hides its scale. So the byte is also tried in blocks whose scale
    is 1 and whose other bytes are all alike.
    """
    blocks = np.stack([raw, *(_filled(filling, raw, byte, type) for filling in FILLINGS)])[:, np.newaxis]
    others = np.repeat(blocks, len(FLIPS), axis=1)
    others[:, :, byte] ^= FLIPS
    different = np.zeros(type.blck_size, bool)
    for read in (signed_codes, dequantize):
        before, after = (
            read(np.ascontiguousarray(each).view(type.block)[..., 0].reshape(-1, 1), type).reshape(
                *each.shape[:2], type.blck_size
            )
            for each in (blocks, others)
        )
        different |= ((before != after) & ~((before != before) & (after != after))).any(axis=(0, 1))  # NaN is NaN
    return tuple(np.flatnonzero(different).tolist())


def _filled(filling: int, raw: NDArray[np.uint8], byte: int, type: TensorType) -> NDArray[np.uint8]:
    """A block of equal bytes whose own scales are 1, and in which the byte is what it was."""
    filled = np.full(type.type_size, filling, np.uint8)
    block = filled.view(type.block)
    for field in type.scale_fields:
        block[field] = 1
    filled[byte] = raw[byte]
    return filled
