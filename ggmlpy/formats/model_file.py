"""An open model file: header, vocabulary, and tensors that stay on the disk until they are asked for.

    >>> import ggmlpy                                                     # doctest: +SKIP
    >>> with ggmlpy.open_model("ggml-model-q4_0.bin") as model:           # doctest: +SKIP
    ...     model.tensors["layers.0.attention.wq.weight"].numpy()[:2, :2]

Opening reads the header, the vocabulary's lengths and one header per tensor, and nothing else: a 4 GB file opens in
milliseconds. Each length and count is checked against what is left of the file before it is used. What is wrong with a
file raises :class:`~ggmlpy.files.errors.FormatError`; with ``strict=False`` what can be survived (trailing bytes, a
last tensor that is cut off) is collected in :attr:`ModelFile.problems` instead, which lets ``identify`` describe
damaged files.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ggmlpy.files.errors import FormatError
from ggmlpy.files.html import html_table
from ggmlpy.files.mapping import Touching, check_length, read_out

from .containers import Container
from .dequantize import dequantize
from .fields import Cursor
from .model_params import ModelParams
from .tensor_types import TensorType, types_of

if TYPE_CHECKING:
    from .gguf_values import Value

__all__ = ["ModelFile", "Part", "Piece", "Tensor", "Vocabulary"]

CHUNK_BYTES = 1 << 20  # memory of this size is used again and again; more would be taken from the system each time
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
        return self._read(int(self._starts[index]) + self._head, int(self._starts[index + 1]) - self._tail).tobytes()

    def __repr__(self) -> str:
        return f"<Vocabulary of {len(self):,} tokens>"

    def entry_offset(self, index: int) -> int:
        """Where entry ``index`` begins in the file."""
        return int(self._starts[index])

    def __iter__(self) -> Iterator[bytes]:
        head, tail = self._head, self._tail
        for first in range(0, len(self), TEXTS):
            starts = self._starts[first : first + TEXTS + 1].tolist()
            data, begin = self._read(starts[0], starts[-1]).tobytes(), starts[0]
            yield from [data[a - begin + head : b - begin - tail] for a, b in itertools.pairwise(starts)]

    @property
    def scores(self) -> NDArray[np.float32]:
        if not self._tail:
            return np.zeros(len(self), np.float32)
        begin = int(self._starts[0])
        data = self._read(begin, int(self._starts[-1]))
        at = self._starts[1:].astype(np.int64)[:, None] - begin - self._tail + np.arange(4)  # [n_vocab, 4]
        return data[at].view("<f4")[:, 0].astype(np.float32)

    @property
    def types(self) -> NDArray[np.int32] | None:
        """GGUF's type of each piece; None in the older containers, which state none."""
        return None

    @property
    def spellings(self) -> Sequence[bytes] | None:
        """GGUF's text of each piece: ▁ for a space, ``<0x0A>`` for a byte; None in the older containers."""
        return None

    def _read(self, start: int, stop: int) -> NDArray[np.uint8]:
        return read_out(np.frombuffer(self._buffer[start:stop], np.uint8), "the vocabulary")


class ListedVocabulary(Vocabulary):
    """A vocabulary that was read as a list (GGUF keeps texts, scores and types in three arrays)."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        scores: NDArray[np.float32],
        types: NDArray[np.int32] | None = None,
        spellings: Sequence[bytes] | None = None,
    ) -> None:
        self._pieces = pieces
        self._spellings = spellings
        self._scores = scores
        self._types = types

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

    @property
    def types(self) -> NDArray[np.int32] | None:
        return self._types

    @property
    def spellings(self) -> Sequence[bytes] | None:
        return self._spellings


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
    data: NDArray[np.uint8] = field(repr=False)


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
        return math.prod(self.shape[:-1])

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
        return self._joined(self._rows_of_pieces(start, stop))

    def read_rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The same, read from the file into memory of our own: for what goes through a whole file once.

        Raises:
            TruncatedError: the file has become shorter since it was opened.
        """
        return self._joined([read_out(rows, f"tensor {self.name!r}") for rows in self._rows_of_pieces(start, stop)])

    def _rows_of_pieces(self, start: int, stop: int) -> list[NDArray[np.uint8]]:
        start, stop, _ = slice(start, stop).indices(self.n_rows)
        grids = [piece.data.reshape(_rows(piece.shape), -1) for piece in self.pieces]
        if len(grids) == 1 or self.axis is None:
            return [grids[0][start:stop]]
        if self.axis == 1:
            return [grid[start:stop] for grid in grids]
        firsts = np.cumsum([0] + [len(grid) for grid in grids])
        return [
            grid[max(start - first, 0) : max(stop - first, 0)] for grid, first in zip(grids, firsts[:-1], strict=True)
        ]

    def _joined(self, rows: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        if self.axis == 1 and len(rows) > 1:
            return np.concatenate(rows, axis=1)
        filled = [some for some in rows if len(some)] or rows[:1]
        return filled[0] if len(filled) == 1 else np.concatenate(filled)

    def raw(self) -> NDArray[np.uint8]:
        """All bytes, in the order a single-part file has them: uint8 [nbytes]."""
        return self.raw_rows(0, self.n_rows).reshape(-1)

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[NDArray[np.uint8]]:
        """All bytes a few rows at a time, each piece about ``size`` bytes: uint8 [rows, row_bytes]."""
        step = max(1, size // max(1, self.row_bytes))
        for start in range(0, self.n_rows, step):
            yield self.read_rows(start, start + step)

    def blocks(self) -> NDArray[Any]:
        """The blocks with their named fields: [rows, blocks a row], or [blocks] of a 1-D tensor."""
        return as_blocks(self.raw_rows(0, self.n_rows), self.type).reshape(*self.shape[:-1], -1)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` as numbers: float32 [stop - start, columns]. They are read from the file.

        Raises:
            TruncatedError: the file has become shorter since it was opened.
        """
        return dequantize(as_blocks(self.read_rows(start, stop), self.type), self.type)

    def rows_at(self, places: Sequence[int]) -> NDArray[np.float32]:
        """Some rows, in this order, as numbers: float32 [places, columns]. They are read from the file.

        Raises:
            IndexError: there is no such row.
            TruncatedError: the file has become shorter since it was opened.
        """
        if not all(0 <= place < self.n_rows for place in places):
            raise IndexError(f"tensor {self.name!r} has {self.n_rows} rows")
        raw = np.concatenate([self.read_rows(place, place + 1) for place in places])
        return dequantize(as_blocks(raw, self.type), self.type)

    def numpy(self) -> NDArray[np.float32]:
        """The whole tensor as float32, dequantized, of shape :attr:`shape`."""
        return self.rows(0, self.n_rows).reshape(self.shape)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """What ``np.asarray(tensor)`` gives: :meth:`numpy`, in another type if one is named.

        Raises:
            ValueError: a view was asked for; decoding always makes new numbers.
        """
        if copy is False:
            raise ValueError("a tensor's numbers are decoded from its file, so there is no array to share")
        values = self.numpy()
        return values if dtype is None else values.astype(dtype, copy=False)

    def __str__(self) -> str:
        return f"{self.name}: {self.type} {list(self.shape)}"

    def __repr__(self) -> str:
        return f"<Tensor {self}>"

    def _repr_html_(self) -> str:
        rows = [("type", self.type), ("shape", list(self.shape)), ("offset", f"{self.offset:,}")]
        return html_table(self.name, [*rows, ("bytes", f"{self.nbytes:,}"), ("values", self._first_values())])

    def _first_values(self, count: int = 4) -> str:
        values = self.rows(0, 1)[0, :count]
        return ", ".join(f"{value:.4g}" for value in values) + (" …" if math.prod(self.shape) > count else "")


@dataclass(frozen=True)
class Part:
    """One file of a model, as it lies there."""

    path: Path
    cursor: Cursor
    container: Container
    version: int
    hparams: ModelParams
    vocab: Vocabulary
    tensors: Mapping[str, tuple[TensorType, Piece]]
    vocab_offset: int
    tensors_offset: int
    end: int

    def __repr__(self) -> str:
        return f"<Part {self.path} {self.container.title(self.version)}, {len(self.tensors)} tensors>"


class ModelFile:
    """An open model: a context manager.

    Attributes:
        paths: its file, or its files in order of their parts.
        parts: the same, as they were read.
        container, version: "ggml", "ggmf", "ggjt" or "gguf", and 0 to 3.
        hparams: the shape and the numbers of the model, as far as the file says them.
        vocab: the vocabulary.
        metadata: of GGUF, all its keys in their order; empty for others.
        tensors: the tensors by name, in the order of the file, parts joined.
        problems: what ``strict=False`` let pass.
        as_stored: a GGUF file of an architecture that is not computed here (or an adapter): tensors have GGUF's names,
            there is no vocabulary, and of ``hparams`` only the file type and the keys count.
    """

    def __init__(self, parts: Sequence[Part], tensors: Mapping[str, Tensor], problems: Sequence[FormatError]) -> None:
        first = parts[0]
        self.parts = tuple(parts)
        self.paths = tuple(part.path for part in parts)
        self.declared = first.container
        self.container = first.container.name
        self.version = first.version
        self.hparams = first.hparams
        self.vocab = first.vocab
        self.metadata: Mapping[str, Value] = {}
        self.tensors = dict(tensors)
        self.problems = list(problems)
        self.as_stored = False
        self._touching: Touching | None = None

    @property
    def path(self) -> Path:
        """The (first) file."""
        return self.paths[0]

    @property
    def stored(self) -> list[Tensor]:
        """The tensors that stand in the file: :attr:`tensors` has an output matrix even where it is the embedding."""
        names = {name for part in self.parts for name in part.tensors}
        return [tensor for name, tensor in self.tensors.items() if name in names]

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(part.cursor.size for part in self.parts)

    @property
    def format_name(self) -> str:
        """ "ggml (unversioned)", "ggmf v1", "ggjt v1" …"""
        return self.declared.title(self.version)

    def check_length(self) -> None:
        """Whether the files still have all that they had when they were opened.

        Raises:
            TruncatedError: one has become shorter. Reading what it lost through the map would end the process.
        """
        for part in self.parts:
            check_length(part.cursor.buffer)

    @property
    def types(self) -> dict[int, TensorType]:
        """What the tensor type ids mean in this container."""
        return types_of(self.container, self.version, self.hparams.ftype)

    @property
    def n_ff(self) -> int:
        """Width of the feed-forward layer."""
        return self.hparams.n_ff

    def touch_ahead(self) -> None:
        """Have the whole file mapped in the background, for a caller that is about to read all of it: see
        `Touching`."""
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

    def _repr_html_(self) -> str:
        counts = Counter(str(tensor.type) for tensor in self.tensors.values())
        rows: list[tuple[str, object]] = [
            ("format", self.format_name),
            ("size", f"{self.size:,} bytes" if self.parts else "closed"),
            ("model", self.hparams),
            ("vocabulary", f"{len(self.vocab):,} tokens"),
            ("tensors", ", ".join(f"{count} {name}" for name, count in counts.items())),
        ]
        return html_table(str(self.path), rows)


def _rows(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-1])


def as_blocks(raw: NDArray[np.uint8], tensor_type: TensorType) -> NDArray[Any]:
    """uint8 [rows, row_bytes] -> blocks [rows, blocks a row]."""
    return np.ascontiguousarray(raw).view(tensor_type.block)
