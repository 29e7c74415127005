"""A tensor on its way into a file: its name, type and shape, and its bytes when they are asked for.

Writers take these from open files, from quantizers and from checkpoints alike, and never hold more than a piece of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import UsageError

from .model_file import Tensor
from .tensor_types import TensorType

__all__ = ["OutTensor", "out_tensor", "row_chunks", "write_chunks"]

Chunk = bytes | bytearray | memoryview | NDArray[np.generic]


@dataclass(frozen=True)
class OutTensor:
    """A tensor to be written.

    Attributes:
        name: the Meta name.
        type: what its bytes mean.
        shape: [rows, columns] or [n].
        chunks: its bytes, in pieces, produced when they are written.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[Chunk]]

    def __repr__(self) -> str:
        return f"<OutTensor {self.name}: {self.type} {list(self.shape)}>"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


def out_tensor(tensor: Tensor) -> OutTensor:
    """A tensor of an open file, to be copied as it is."""
    return OutTensor(tensor.name, tensor.type, tensor.shape, tensor.chunks)


def row_chunks(tensor: OutTensor) -> Iterator[NDArray[np.uint8]]:
    """A tensor's bytes as whole rows, however they were chunked: uint8 [rows, row_bytes]."""
    width = tensor.type.row_bytes(tensor.shape[-1])
    rest = np.zeros(0, np.uint8)
    for chunk in tensor.chunks():
        data = _bytes_of(chunk) if isinstance(chunk, np.ndarray) else np.frombuffer(chunk, np.uint8)
        data = np.concatenate([rest, data]) if len(rest) else data
        whole = len(data) // width * width
        if whole:
            yield data[:whole].reshape(-1, width)
        rest = data[whole:]


def write_chunks(stream: BinaryIO, tensor: OutTensor, progress: Callable[[int], object] | None) -> None:
    """Write the data of one tensor.

    Args:
        progress: called with the number of bytes after each chunk.

    Raises:
        UsageError: there are more or fewer bytes than the tensor's type and shape promise.
    """
    written = 0
    for chunk in tensor.chunks():
        data = _bytes_of(chunk).data if isinstance(chunk, np.ndarray) else memoryview(chunk).cast("B")
        written += stream.write(data)
        if progress:
            progress(data.nbytes)
    if written != tensor.nbytes:
        raise UsageError(f"tensor {tensor.name!r}: {tensor.nbytes:,} bytes promised, {written:,} written")


def _bytes_of(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
