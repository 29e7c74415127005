"""Rows of tensors, read a few at a time into memory of our own.

A mapped file costs nothing until it is read, but streaming through all of it costs twice: page faults cost more than
copying, and every page that was touched counts as this process's memory. So streaming code uses read().
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import TruncatedError

from .model_file import ModelFile, Tensor
from .out_tensor import OutTensor

__all__ = ["RowFiles", "RowSource"]

CHUNK_BYTES = 1 << 20
_SEEKING = threading.Lock()


def _read_at(stream: FileIO, size: int, offset: int) -> bytes:
    """Read without regard to where other threads read; Windows must seek, one thread at a time."""
    if hasattr(os, "pread"):
        return os.pread(stream.fileno(), size, offset)
    with _SEEKING:
        stream.seek(offset)
        return stream.read(size) or b""


class RowSource:
    """The rows of one tensor.

    Attributes:
        tensor: what is read.
    """

    def __init__(self, tensor: Tensor, stream: FileIO | None) -> None:
        self.tensor = tensor
        self._stream = stream  # None: the tensor lies in several pieces, or not as the file has it

    def raw(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Their bytes: uint8 [stop - start, row_bytes].

        Raises:
            TruncatedError: the file has become shorter since it was opened.
        """
        if self._stream is None:
            return self.tensor.raw_rows(start, stop)
        width = self.tensor.row_bytes
        stop = min(stop, self.tensor.n_rows)
        size, offset = (stop - start) * width, self.tensor.offset + start * width
        data = _read_at(self._stream, size, offset)
        if len(data) != size:
            raise TruncatedError(
                f"tensor {self.tensor.name!r} ends early: the file was changed while it was read",
                path=self._stream.name,
                offset=offset + len(data),
            )
        return np.frombuffer(data, np.uint8).reshape(stop - start, width)

    def floats(self, start: int, stop: int) -> NDArray[Any]:
        """Their numbers, f32 or f16 as they stand, all others as f32: [stop - start, columns]."""
        if self.tensor.type.block.kind == "f":
            return self.raw(start, stop).view(self.tensor.type.block)
        return self.tensor.rows(start, stop)

    def copied(self) -> OutTensor:
        """The tensor as it is, to be written or compared."""

        def chunks() -> Iterator[NDArray[np.uint8]]:
            step = max(1, CHUNK_BYTES // max(1, self.tensor.row_bytes))
            for start in range(0, self.tensor.n_rows, step):
                yield self.raw(start, min(start + step, self.tensor.n_rows))

        return OutTensor(self.tensor.name, self.tensor.type, self.tensor.shape, chunks)


class RowFiles:
    """The files of a model, opened for reading beside their maps; a context manager."""

    def __init__(self, model: ModelFile) -> None:
        self._stack = ExitStack()
        self._model = model
        self._streams = [self._stack.enter_context(part.path.open("rb", buffering=0)) for part in model.parts]

    def __enter__(self) -> RowFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def source(self, tensor: Tensor) -> RowSource:
        """The rows of a tensor of this model."""
        piece = tensor.pieces[0]
        mapped = np.frombuffer(self._model.parts[piece.part].cursor.buffer, np.uint8)
        as_in_file = piece.data.ctypes.data == mapped.ctypes.data + piece.offset  # not turned around from big-endian
        direct = len(tensor.pieces) == 1 and as_in_file and hasattr(os, "pread")
        return RowSource(tensor, self._streams[piece.part] if direct else None)
