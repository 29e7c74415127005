"""A tensor on its way into a file: its name, type and shape, and its bytes when they are asked for.

Writers take these from open files, from quantizers and from checkpoints alike, and never hold more than a few pieces.
Most can make any of their rows by themselves; then several threads make and write them (:mod:`ggmlpy.files.segments`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import UsageError
from ggmlpy.files.ordered import Workers
from ggmlpy.files.segments import Chunk, Segment, bytes_of

from .model_file import Tensor
from .tensor_types import TensorType

__all__ = ["OutTensor", "made_by_rows", "out_tensor", "row_chunks", "segments_of", "when_whole"]

#: Values made at a time: 2 MB of f16; starting costs nothing beside it, and a core's cache holds most of them.
SEGMENT_VALUES = 1 << 20

Rows = Callable[[int, int], Chunk]  # the bytes of rows start to stop


@dataclass(frozen=True)
class OutTensor:
    """A tensor to be written.

    Attributes:
        name: the Meta name.
        type: what its bytes mean.
        shape: [rows, columns] or [n].
        chunks: its bytes, in pieces, produced when they are written.
        rows: the same, of any rows by themselves and in any thread; None: they only come one after the other.
        taken: called with a range of rows when they and all before them are written.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[Chunk]]
    rows: Rows | None = None
    taken: Callable[[int, int], object] | None = None

    def __repr__(self) -> str:
        return f"<OutTensor {self.name}: {self.type} {list(self.shape)}>"

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.shape[-1])

    @property
    def nbytes(self) -> int:
        return self.n_rows * self.row_bytes


def made_by_rows(
    name: str,
    type: TensorType,
    shape: tuple[int, ...],
    rows: Rows,
    *,
    workers: Workers | None = None,
    taken: Callable[[int, int], object] | None = None,
) -> OutTensor:
    """A tensor that can make any of its rows by themselves.

    Args:
        rows: the bytes of rows ``start`` to ``stop``; called by any thread.
        workers: who makes the next ones, if it is only read from first to last.
        taken: called with a range of rows when they and all before them are written, or were read.
    """

    def chunks() -> Iterator[Chunk]:
        ranges = _row_ranges(shape)
        made = (workers.ordered if workers else map)(lambda some: rows(*some), ranges)
        for (start, stop), data in zip(ranges, made, strict=True):
            yield data
            if taken:
                taken(start, stop)

    return OutTensor(name, type, shape, chunks, rows, taken)


def when_whole(n_rows: int, tell: Callable[[], object]) -> Callable[[int, int], object]:
    """For :attr:`OutTensor.taken`: ``tell`` is called when the last row is written."""
    return lambda start, stop: tell() if stop == n_rows else None


def _row_ranges(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    n_rows, step = math.prod(shape[:-1]), max(1, SEGMENT_VALUES // max(1, shape[-1]))
    return [(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def out_tensor(tensor: Tensor) -> OutTensor:
    """A tensor of an open file, to be copied as it is."""
    return made_by_rows(tensor.name, tensor.type, tensor.shape, tensor.read_rows)


def row_chunks(tensor: OutTensor) -> Iterator[NDArray[np.uint8]]:
    """A tensor's bytes as whole rows, however they were chunked: uint8 [rows, row_bytes]."""
    width = tensor.row_bytes
    rest = np.zeros(0, np.uint8)
    for chunk in tensor.chunks():
        data = np.frombuffer(bytes_of(chunk), np.uint8)
        data = np.concatenate([rest, data]) if len(rest) else data
        whole = len(data) // width * width
        if whole:
            yield data[:whole].reshape(-1, width)
        rest = data[whole:]


def segments_of(tensor: OutTensor, progress: Callable[[int], object] | None = None) -> Iterator[Segment]:
    """The data of one tensor as segments of a file.

    Args:
        progress: called with the number of bytes when a segment is written.

    Raises:
        UsageError: there are more or fewer bytes than the tensor's type and shape promise.
    """
    if tensor.rows is None:
        yield from _following(tensor, progress)
        return
    for start, stop in _row_ranges(tensor.shape):
        yield _of_rows(tensor, tensor.rows, start, stop, progress)


def _of_rows(tensor: OutTensor, rows: Rows, start: int, stop: int, progress: Callable[[int], object] | None) -> Segment:
    size = (stop - start) * tensor.row_bytes

    def written() -> None:
        if tensor.taken:
            tensor.taken(start, stop)
        if progress:
            progress(size)

    return Segment(size, lambda: rows(start, stop), written=written, of=_title(tensor))


def _following(tensor: OutTensor, progress: Callable[[int], object] | None) -> Iterator[Segment]:
    """What comes one after the other."""
    total = 0
    for chunk in tensor.chunks():
        data = bytes_of(chunk)
        total += data.nbytes
        told = partial(progress, data.nbytes) if progress else None
        yield Segment(data.nbytes, data.toreadonly, written=told)
    if total != tensor.nbytes:
        raise UsageError(f"{_title(tensor)}: {tensor.nbytes:,} bytes promised, {total:,} written")


def _title(tensor: OutTensor) -> str:
    return f"tensor {tensor.name!r}"
