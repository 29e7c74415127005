"""A GGML file once opened: header, vocabulary, and tensors that stay on the disk until they are asked for.

    >>> import ggmlpy                                                     # doctest: +SKIP
    >>> with ggmlpy.open_model("ggml-model-q4_0.bin") as model:           # doctest: +SKIP
    ...     model.tensors["layers.0.attention.wq.weight"].numpy()[:2, :2]

Opening reads the header, the vocabulary's lengths and one header a tensor, and nothing else: a 4 GB file opens in
milliseconds. Each length and count is checked against what is left of the file before it is used. What is wrong with a
file raises :class:`~ggmlpy.files.errors.FormatError`; with ``strict=False`` what can be survived (trailing bytes, a
last tensor that is cut off) is collected in :attr:`ModelFile.problems` instead, which is how ``identify`` looks at
ruins.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import (
    BadMagicError,
    FormatError,
    IntegrityError,
    MissingFileError,
    ShapeError,
    TruncatedError,
    UnsupportedError,
)
from ggmlpy.files.mapping import Touching

from .containers import BY_MAGIC, CONTAINERS, GGUF, HPARAMS, MAGIC, Attributes, Container, Hparams
from .fields import Cursor, Number, read
from .tensor_types import TensorType, types_of

__all__ = ["ModelFile", "Part", "Piece", "Tensor", "Vocabulary", "open_model"]

CHUNK_BYTES = 1 << 22
LONGEST_NAME = 256  # a name longer than this is no tensor's name
TEXTS = 4096  # of the vocabulary, copied out of the map at a time


class Vocabulary(Sequence[bytes]):
    """The pieces of a file's vocabulary in order of their ids, each as raw bytes.

    Attributes:
        scores: float32 [n_vocab], zeros where the container stores none.
    """

    def __init__(self, buffer: memoryview, starts: NDArray[Any], head: int, tail: int) -> None:
        self._buffer = buffer
        self._starts = starts  # [n_vocab + 1]: where each entry begins; the last is where the next would
        self._head = head  # bytes before a text
        self._tail = tail  # bytes after it: the score, or nothing

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return bytes(self._buffer[int(self._starts[index]) + self._head : int(self._starts[index + 1]) - self._tail])

    def entry_offset(self, index: int) -> int:
        """Where entry ``index`` begins in the file."""
        return int(self._starts[index])

    def __iter__(self) -> Iterator[bytes]:
        head, tail = self._head, self._tail
        for first in range(0, len(self), TEXTS):
            starts = self._starts[first : first + TEXTS + 1].tolist()
            data, begin = bytes(self._buffer[starts[0] : starts[-1]]), starts[0]
            yield from [data[a - begin + head : b - begin - tail] for a, b in itertools.pairwise(starts)]

    @property
    def scores(self) -> NDArray[np.float32]:
        if not self._tail:
            return np.zeros(len(self), np.float32)
        data = np.frombuffer(self._buffer, np.uint8)
        at = self._starts[1:].astype(np.int64)[:, None] - self._tail + np.arange(4)  # [n_vocab, 4]
        return data[at].view("<f4")[:, 0].astype(np.float32)


class ListedVocabulary(Vocabulary):
    """A vocabulary that was read as a list (GGUF keeps texts, scores and types in three arrays)."""

    def __init__(self, pieces: Sequence[bytes], scores: NDArray[np.float32]) -> None:
        self._pieces = pieces
        self._scores = scores

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        return list(self._pieces[index]) if isinstance(index, slice) else self._pieces[index]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    @property
    def scores(self) -> NDArray[np.float32]:
        return self._scores


@dataclass(frozen=True)
class Piece:
    """The part of a tensor that lies in one file.

    Attributes:
        part: index of the file.
        header: offset of the tensor's header.
        offset: offset of its data.
        shape: its shape there, [rows, columns] or [n].
        data: uint8 [nbytes], a view of the map.
    """

    part: int
    header: int
    offset: int
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


@dataclass(frozen=True)
class Tensor:
    """A tensor, lazily: its bytes are read from the map when asked for.

    Attributes:
        name: the Meta name.
        type: what its bytes mean.
        shape: [rows, columns] or [n], over all parts.
        pieces: where it lies; more than one in a multi-part model.
        axis: the axis along which the pieces are joined.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    axis: int | None = None

    @property
    def ne(self) -> tuple[int, ...]:
        """The dimensions as the file has them, columns first."""
        return self.shape[::-1]

    @property
    def offset(self) -> int:
        """Offset of its data in the first file."""
        return self.pieces[0].offset

    @property
    def n_rows(self) -> int:
        return self.shape[0] if len(self.shape) == 2 else 1

    @property
    def n_cols(self) -> int:
        return self.shape[-1]

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.n_cols)

    @property
    def nbytes(self) -> int:
        return self.n_rows * self.row_bytes

    def raw_rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes of rows ``start`` to ``stop``: uint8 [stop - start, row_bytes]; a view where they lie together."""
        start, stop, _ = slice(start, stop).indices(self.n_rows)
        grids = [piece.data.reshape(_rows(piece.shape), -1) for piece in self.pieces]
        if len(grids) == 1 or self.axis is None:
            return grids[0][start:stop]
        if self.axis == 1:
            return np.concatenate([grid[start:stop] for grid in grids], axis=1)
        firsts = np.cumsum([0] + [len(grid) for grid in grids])
        cut = [
            grid[max(start - first, 0) : max(stop - first, 0)] for grid, first in zip(grids, firsts[:-1], strict=True)
        ]
        filled = [grid for grid in cut if len(grid)]
        return filled[0] if len(filled) == 1 else np.concatenate(cut)

    def raw(self) -> NDArray[np.uint8]:
        """All bytes, in the order a single-part file has them: uint8 [nbytes]."""
        return self.raw_rows(0, self.n_rows).reshape(-1)

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[NDArray[np.uint8]]:
        """All bytes a few rows at a time, each piece about ``size`` bytes: uint8 [rows, row_bytes]."""
        step = max(1, size // max(1, self.row_bytes))
        for start in range(0, self.n_rows, step):
            yield self.raw_rows(start, start + step)

    def blocks(self) -> NDArray[Any]:
        """The blocks with their named fields: [rows, blocks a row], or [blocks] of a 1-D tensor."""
        return _as_blocks(self.raw_rows(0, self.n_rows), self.type).reshape(*self.shape[:-1], -1)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` as numbers: float32 [stop - start, columns]."""
        from .dequantize import dequantize

        return dequantize(_as_blocks(self.raw_rows(start, stop), self.type), self.type)

    def numpy(self) -> NDArray[np.float32]:
        """The whole tensor as float32, dequantized, of shape :attr:`shape`."""
        return self.rows(0, self.n_rows).reshape(self.shape)


@dataclass(frozen=True)
class Part:
    """One file of a model, as it lies there."""

    path: Path
    cursor: Cursor
    container: Container
    version: int
    hparams: Hparams
    vocab: Vocabulary
    tensors: Mapping[str, tuple[TensorType, Piece]]
    vocab_offset: int
    tensors_offset: int
    end: int
    attributes: Attributes | None = None


class ModelFile:
    """An open model: a context manager.

    Attributes:
        paths: its file, or its files in order of their parts.
        parts: the same, as they were read.
        container, version: "ggml", "ggmf", "ggjt" or "gguf", and 0 to 3.
        hparams: the header.
        attributes: what a GGUF file says beyond it, or what was understood before.
        vocab: the vocabulary.
        tensors: the tensors by name, in the order of the file, parts joined.
        problems: what ``strict=False`` let pass.
    """

    def __init__(self, parts: Sequence[Part], tensors: Mapping[str, Tensor], problems: Sequence[FormatError]) -> None:
        first = parts[0]
        self.parts = tuple(parts)
        self.paths = tuple(part.path for part in parts)
        self.declared = first.container
        self.container = first.container.name
        self.version = first.version
        self.hparams = first.hparams
        self.attributes = first.attributes or Attributes(n_ff=first.hparams.n_ff, n_head_kv=first.hparams.n_head)
        self.vocab = first.vocab
        self.tensors = dict(tensors)
        self.problems = list(problems)
        self._touching: Touching | None = None

    @property
    def path(self) -> Path:
        """The (first) file."""
        return self.paths[0]

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(part.cursor.size for part in self.parts)

    @property
    def format_name(self) -> str:
        """ "ggml (unversioned)", "ggmf v1", "ggjt v1" …"""
        return self.declared.title(self.version)

    @property
    def types(self) -> dict[int, TensorType]:
        """What the tensor type ids mean in this container."""
        return types_of(self.container, self.version, self.hparams.ftype)

    @property
    def n_ff(self) -> int:
        """Width of the feed-forward layer."""
        return self.attributes.n_ff

    def touch_ahead(self) -> None:
        """Have the whole file mapped in the background, for whoever is going to read all of it: see `Touching`."""
        if self._touching is None:
            self._touching = Touching(part.cursor.buffer for part in self.parts)

    def close(self) -> None:
        """Forget the maps; arrays handed out before keep theirs alive."""
        if self._touching is not None:
            self._touching.stop()
        self.parts = ()
        self.tensors = {}

    def __enter__(self) -> ModelFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ModelFile {self.path} {self.format_name}, {len(self.tensors)} tensors>"


def open_model(path: str | os.PathLike[str], *, n_parts: int | None = None, strict: bool = True) -> ModelFile:
    """Open a model of any container, with all its parts.

    Arguments:
        path: the file; for a multi-part model its first file (the others are ``path.1``, ``path.2`` …).
        n_parts: how many files; found by looking if not given.
        strict: raise on what could be survived (otherwise it is collected in ``problems``).

    Raises:
        MissingFileError: no such file, or a part is missing.
        BadMagicError, UnsupportedError: not a container or version of this library.
        FormatError: anything else that is wrong with it.
    """
    from .multipart import find_parts, join_parts

    if is_gguf(Path(path)):
        from .gguf_model import open_gguf_model

        return open_gguf_model(Path(path))
    problems: list[FormatError] = []
    first = read_part(Path(path), 0, strict, problems)
    paths = find_parts(first, n_parts)
    parts = [first, *(read_part(other, index, strict, problems) for index, other in enumerate(paths[1:], 1))]
    return ModelFile(parts, join_parts(parts), problems)


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does."""
    return bytes(map_file(path)[:4]) == GGUF.magic.to_bytes(4, "little")


def map_file(path: Path) -> memoryview:
    """The bytes of a file, mapped into memory for reading.

    Raises:
        MissingFileError: there is no such file, or it may not be read.
        TruncatedError: it is empty.
    """
    try:
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                raise TruncatedError(
                    "the file is empty",
                    path=path,
                    offset=0,
                    field="magic",
                    expected="at least 4 bytes",
                    found="0 (llama.cpp says: bad magic, got 0)",
                    cause="a download or copy that never began",
                    next_step="fetch the file again",
                )
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise MissingFileError("no such file", path=path, next_step="check the name and the directory") from error
    except IsADirectoryError as error:
        raise MissingFileError(
            "is a directory, not a model file", path=path, next_step=f"python cli.py doctor {path}"
        ) from error
    except OSError as error:
        raise MissingFileError(
            f"cannot read: {error.strerror}", path=path, next_step="check its permissions"
        ) from error


def read_part(path: Path, index: int, strict: bool, problems: list[FormatError]) -> Part:
    """Read the structure of one file."""
    cursor = Cursor(map_file(path), str(path))
    container, version = _read_magic(cursor)
    cursor.offset = 0
    header = read(cursor, container.header)
    hparams = Hparams(**{field.name: header[field.name] for field in HPARAMS})
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
            next_step=f"python cli.py identify {cursor.path}",
        )
    return container, version


def _bad_magic(cursor: Cursor, magic: int) -> BadMagicError:
    from ggmlpy.files.kinds import FIRST_BYTES
    from ggmlpy.look.identify import guess_by_magic

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


def _read_vocabulary(cursor: Cursor, container: Container, hparams: Hparams) -> Vocabulary:
    """Walk the lengths only; texts and scores stay in the map."""
    head = next(field.size for field in container.token if isinstance(field, Number))
    tail = sum(field.size for field in container.token[2:] if isinstance(field, Number))
    count = hparams.n_vocab
    if not 0 <= count <= cursor.left // (head + tail):
        raise TruncatedError(
            "the vocabulary cannot fit into the file",
            path=cursor.path,
            offset=8 if container.name != "ggml" else 4,
            field="n_vocab",
            expected=f"between 0 and {cursor.left // (head + tail):,}, what the file has room for",
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
        f"python cli.py migrate {cursor.path} OUT writes the file anew without them",
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
                next_step=f"python cli.py identify {cursor.path}",
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


def _rows(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 2 else 1


def _as_blocks(raw: NDArray[np.uint8], tensor_type: TensorType) -> NDArray[Any]:
    """uint8 [rows, row_bytes] -> blocks [rows, blocks a row]."""
    return np.ascontiguousarray(raw).view(tensor_type.block)
