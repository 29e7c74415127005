"""Reading one ggml, ggmf or ggjt file: the header, the lengths of the vocabulary, and one header per tensor.

The records are declared in :mod:`ggmlpy.formats.containers`. Each length and count is checked against what is left of
the file before it is used, and the tensors' data stay in the map: a file of 4 GB opens in milliseconds.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ggmlpy.files.errors import BadMagicError, FormatError, IntegrityError, ShapeError, TruncatedError, UnsupportedError
from ggmlpy.files.kinds import FIRST_BYTES, guess_by_magic
from ggmlpy.files.mapping import map_file

from .containers import BY_MAGIC, CONTAINERS, GGUF, HPARAMS, MAGIC, Container
from .fields import Cursor, Number, read
from .model_file import Part, Piece, Vocabulary
from .model_params import ModelParams
from .tensor_types import TensorType, types_of

__all__ = ["read_part"]

LONGEST_NAME = 256  # no tensor has a longer name


def read_part(path: Path, index: int, strict: bool, problems: list[FormatError]) -> Part:
    """Read the structure of one file.

    Args:
        path: the file.
        index: which part of the model it is.
        strict: raise at the first damaged tensor; otherwise add the error to ``problems`` and stop there.

    Raises:
        FormatError: it is not such a file, or it is damaged.
    """
    cursor = Cursor(map_file(path), str(path))
    container, version = _read_magic(cursor)
    cursor.offset = 0
    header = read(cursor, container.header)
    hparams = ModelParams.from_header(**{field.name: header[field.name] for field in HPARAMS})
    vocab_offset = cursor.offset
    vocab = _read_vocabulary(cursor, container, hparams)
    tensors_offset = cursor.offset
    types = types_of(container.name, version, hparams.ftype)
    tensors = _read_tensors(cursor, container, types, index, strict, problems)
    return Part(path, cursor, container, version, hparams, vocab, tensors, vocab_offset, tensors_offset, cursor.offset)


def _read_magic(cursor: Cursor) -> tuple[Container, int]:
    (magic,) = read(cursor, (MAGIC,)).values()
    container = BY_MAGIC.get(magic)
    if container is None:
        raise _bad_magic(cursor, magic)
    header_version = next((field for field in container.header if field.name == "version"), None)
    version = read(cursor, (header_version,))["version"] if header_version else 0
    if version not in container.versions:
        raise UnsupportedError(
            f"unsupported format version {version} of {container.name}",
            path=cursor.path,
            offset=4,
            field="version",
            expected=" or ".join(map(str, container.versions)),
            found=version,
            cause="a corrupt header, or a file written by a program that made up its own version",
            next_step=f"`identify {cursor.path}`",
        )
    return container, version


def _bad_magic(cursor: Cursor, magic: int) -> BadMagicError:
    known = ", ".join(f"0x{container.magic:08x} {container.name}" for container in (*CONTAINERS.values(), GGUF))
    cause, next_step = guess_by_magic(bytes(cursor.buffer[:FIRST_BYTES]), str(cursor.path))
    return BadMagicError(
        "bad magic: this is not a GGML model file",
        path=cursor.path,
        offset=0,
        field="magic",
        expected=known,
        found=f"0x{magic:08x}",
        cause=cause,
        next_step=next_step,
    )


def _read_vocabulary(cursor: Cursor, container: Container, hparams: ModelParams) -> Vocabulary:
    """Walk the lengths only; texts and scores stay in the map."""
    head = next(field.size for field in container.token if isinstance(field, Number))
    tail = sum(field.size for field in container.token[2:] if isinstance(field, Number))
    count = hparams.n_vocab
    if not 0 <= count <= cursor.left // (head + tail):
        raise TruncatedError(
            "the file is too short for its vocabulary",
            path=cursor.path,
            offset=8 if container.name != "ggml" else 4,
            field="n_vocab",
            expected=f"at most {cursor.left // (head + tail):,} entries, what the file has room for",
            found=f"{count:,}",
            cause="the file is cut off or its header is corrupt",
            next_step="compare its size and SHA256 with the source",
        )
    starts = _walk_short_texts(cursor, head + tail, count)
    if starts is None:
        starts = _walk_texts(cursor, head + tail, count)
    cursor.offset = starts[-1]
    return Vocabulary(cursor.buffer, np.frombuffer(starts, starts.typecode), head, tail)


def _new_starts(cursor: Cursor) -> array[int]:
    """Where entries begin, in as few bytes as the size of the file allows; the first begins here."""
    return array("i" if cursor.size < 1 << 30 else "q", [cursor.offset])


def _walk_texts(cursor: Cursor, between: int, count: int) -> array[int]:
    """Where the entries begin that have ``between`` bytes besides their text, and where what follows them does.

    Raises:
        TruncatedError: one of them reaches beyond the end of the file.
    """
    starts, at = _new_starts(cursor), cursor.offset
    append, length_at, last = starts.append, struct.Struct("<I").unpack_from, cursor.size - 4
    for i in range(count):
        length = length_at(cursor.buffer, at)[0] if at <= last else 0
        following = at + between + length
        if following > cursor.size:
            cursor.offset = at
            raise _bad_token(cursor, i, length)
        at = following
        append(at)
    return starts


def _walk_short_texts(cursor: Cursor, between: int, count: int) -> array[int] | None:
    """The same in half the time where no text is longer than 255 bytes: then the low byte of a length is all of it.

    None where that is not so or the file ends; `_walk_texts` then says where.
    """
    starts, at, buffer = _new_starts(cursor), cursor.offset, cursor.buffer
    append = starts.append
    try:
        for _ in range(count):
            at += between + buffer[at]
            append(at)
    except IndexError:
        return None
    if at > cursor.size:
        return None
    lengths_at = np.frombuffer(starts, starts.typecode)[:-1]  # [count]
    data = np.frombuffer(buffer, np.uint8)
    return None if any(data[lengths_at + byte].any() for byte in (1, 2, 3)) else starts


def _bad_token(cursor: Cursor, index: int, length: int) -> TruncatedError:
    return TruncatedError(
        "the file ends inside the vocabulary",
        path=cursor.path,
        offset=cursor.offset,
        field=f"vocabulary entry {index}",
        expected=f"{length:,} bytes of text",
        found=f"{max(cursor.left - 4, 0):,} bytes left",
        cause="the file is cut off, or this length is corrupt",
        next_step="fetch or convert the file again",
    )


def _read_tensors(
    cursor: Cursor,
    container: Container,
    types: Mapping[int, TensorType],
    index: int,
    strict: bool,
    problems: list[FormatError],
) -> dict[str, tuple[TensorType, Piece]]:
    tensors: dict[str, tuple[TensorType, Piece]] = {}
    while cursor.left:
        start = cursor.offset
        try:
            _check_not_trailing(cursor, container, tensors)
            name, tensor_type, piece = _read_tensor(cursor, container, types, index)
            if name in tensors:
                raise ShapeError(
                    f"tensor {name!r} occurs twice",
                    path=cursor.path,
                    offset=start,
                    field="name",
                    cause="a corrupt file",
                )
        except FormatError as error:
            if strict:
                raise
            problems.append(error)
            cursor.offset = start
            break
        tensors[name] = (tensor_type, piece)
    return tensors


def _check_not_trailing(cursor: Cursor, container: Container, tensors: Mapping[str, object]) -> None:
    """Bytes after the last tensor that can't be another tensor get a message of their own."""
    left = cursor.left
    rest = cursor.buffer[cursor.offset : cursor.offset + 4096]
    if left >= container.tensor_numbers.size and any(rest):
        return
    raise IntegrityError(
        f"{left:,} trailing bytes after the last tensor" + ("" if any(rest) else " (all zero)"),
        path=cursor.path,
        offset=cursor.offset,
        field="end of file",
        expected=f"{cursor.offset:,} bytes, the end of tensor {len(tensors)}",
        found=f"{cursor.size:,} bytes",
        cause="a header of a further tensor was cut off, or something was appended (llama.cpp does not notice)",
        next_step=f"compare with the source; if the {len(tensors)} tensors are complete, "
        f"`migrate {cursor.path} OUT` writes the file anew without them",
    )


def _read_tensor(
    cursor: Cursor, container: Container, types: Mapping[int, TensorType], index: int
) -> tuple[str, TensorType, Piece]:
    start = cursor.offset
    head = _checked_head(cursor, container)
    values = read(cursor, container.tensor[len(head) :], head)
    name = _decode_name(cursor, start, values["name"])
    tensor_type = _known_type(cursor, container, types, start, name, values["type"])
    shape = tuple(reversed(values["dims"]))
    if min(shape) < 1:
        raise ShapeError(
            f"tensor {name!r} has an empty dimension", path=cursor.path, offset=start + 12, field="dims", found=shape
        )
    if shape[-1] % tensor_type.blck_size:
        raise ShapeError(
            f"the rows of tensor {name!r} are not whole blocks of {tensor_type.name}",
            path=cursor.path,
            offset=start + 12,
            field="dims",
            expected=f"a multiple of {tensor_type.blck_size} columns",
            found=shape[-1],
            cause="a corrupt header, or a type id that means something else in the program that wrote this",
        )
    nbytes = math.prod(shape[:-1]) * tensor_type.row_bytes(shape[-1])
    offset = cursor.offset
    if nbytes > cursor.left:
        raise TruncatedError(
            f"the file ends inside tensor {name!r}",
            path=cursor.path,
            offset=offset,
            field="data",
            expected=f"{nbytes:,} bytes of {tensor_type.name}, so a file of at least {offset + nbytes:,}",
            found=f"{cursor.left:,} left of {cursor.size:,}",
            cause="an interrupted download or copy, or a header that lies about shape or type",
            next_step="compare the file's size with its source, then fetch or convert it again",
        )
    data = np.frombuffer(cursor.take(nbytes, name), np.uint8)
    return name, tensor_type, Piece(index, start, offset, shape, data)


def _checked_head(cursor: Cursor, container: Container) -> dict[str, int]:
    """The numbers with which a tensor's header begins, once the two lengths have been found plausible."""
    start = cursor.offset
    head = container.tensor_numbers.read(cursor)
    for field, low, high in (("n_dims", 1, 2), ("name_length", 1, LONGEST_NAME)):
        if not low <= head[field] <= high:
            raise ShapeError(
                "no valid tensor header here",
                path=cursor.path,
                offset=start + 4 * (field == "name_length"),
                field=field,
                expected=f"{low} to {high}",
                found=head[field],
                cause="the tensor before it has another type or shape than its header says, or the file is corrupt",
                next_step=f"`identify {cursor.path}`",
            )
    return head


def _decode_name(cursor: Cursor, start: int, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise ShapeError(
            "a tensor's name is not text",
            path=cursor.path,
            offset=start,
            field="name",
            found=name[:40],
            cause="the tensor before it has another type or shape than its header says, or the file is corrupt",
        ) from error


def _known_type(
    cursor: Cursor, container: Container, types: Mapping[int, TensorType], start: int, name: str, number: int
) -> TensorType:
    if number in types:
        return types[number]
    raise UnsupportedError(
        f"unknown tensor type {number} of tensor {name!r}",
        path=cursor.path,
        offset=start + 8,
        field="type",
        expected=f"one of {', '.join(f'{t.id} {t.name}' for t in types.values())} in {container.name}",
        found=number,
        cause="a corrupt header, or a type of another era than the container's version says",
    )
