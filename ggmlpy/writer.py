"""Writing a GGML file: the same declared records as the reader's, streamed, under the final name only when complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from .architecture import gguf_name
from .atomic import atomic_write
from .containers import CONTAINERS, Attributes, Container, Hparams
from .errors import UsageError
from .fields import write
from .model_file import Tensor
from .tensor_types import TensorType

__all__ = ["OutTensor", "file_size", "header_bytes", "out_tensor", "write_chunks", "write_model"]

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
    chunks: Callable[[], Iterable[Chunk]] = field(repr=False)

    @property
    def nbytes(self) -> int:
        return (self.shape[0] if len(self.shape) == 2 else 1) * self.type.row_bytes(self.shape[-1])


def out_tensor(tensor: Tensor) -> OutTensor:
    """A tensor of an open file, to be copied as it is."""
    return OutTensor(tensor.name, tensor.type, tensor.shape, tensor.chunks)


def write_model(
    path: str | os.PathLike[str],
    container: str,
    version: int,
    hparams: Hparams,
    vocab: Iterable[tuple[bytes, float]],
    tensors: Iterable[OutTensor],
    progress: Callable[[int], object] | None = None,
    attributes: Attributes | None = None,
) -> int:
    """Write one file and return its size in bytes.

    Arguments:
        container, version: "ggml" 0, "ggmf" 1, "ggjt" 1 to 3, "gguf" 3.
        vocab: text and score of each piece (unversioned files drop the score), ``hparams.n_vocab`` of them.
        tensors: in the order of the file; each one's bytes are asked for once.
        progress: called with the number of bytes after each chunk.
        attributes: what only GGUF says; what LLaMA models agree on if not given.

    Raises:
        UsageError: the vocabulary or a tensor does not have the promised size, or a type does not exist there.
        OutputError: the file could not be written; nothing stands under its name then.
    """
    tensors = list(tensors)
    if container == "gguf":
        return _write_gguf(path, version, hparams, list(vocab), tensors, progress, attributes)
    declared = CONTAINERS[container]
    prefix = header_bytes(declared, version, hparams, vocab)
    with atomic_write(path, size=file_size(declared, len(prefix), tensors)) as stream:
        stream.write(prefix)
        for tensor in tensors:
            stream.write(_tensor_header(declared, tensor, stream.tell()))
            write_chunks(stream, tensor, progress)
        return stream.tell()


def _write_gguf(
    path: str | os.PathLike[str],
    version: int,
    hparams: Hparams,
    vocab: Sequence[tuple[bytes, float]],
    tensors: Sequence[OutTensor],
    progress: Callable[[int], object] | None,
    attributes: Attributes | None,
) -> int:
    from .gguf import write_gguf
    from .gguf_model import gguf_metadata

    if version != 3:
        raise UsageError("GGUF is written as version 3")
    attributes = attributes or Attributes(n_ff=hparams.n_ff, n_head_kv=hparams.n_head)
    renamed = [replace(tensor, name=gguf_name(tensor.name)) for tensor in tensors]
    return write_gguf(path, gguf_metadata(hparams, attributes, vocab), renamed, progress)


def header_bytes(container: Container, version: int, hparams: Hparams, vocab: Iterable[tuple[bytes, float]]) -> bytes:
    """Everything before the first tensor."""
    values: Mapping[str, int] = {"magic": container.magic, "version": version, **hparams.as_dict()}
    entries = [write(container.token, {"text": text, "score": score}) for text, score in vocab]
    if len(entries) != hparams.n_vocab:
        raise UsageError(f"the header promises {hparams.n_vocab} vocabulary entries, {len(entries)} were given")
    return write(container.header, values) + b"".join(entries)


def file_size(container: Container, offset: int, tensors: Iterable[OutTensor]) -> int:
    """Where the file ends if these tensors begin at ``offset``."""
    for tensor in tensors:
        offset += len(_tensor_header(container, tensor, offset)) + tensor.nbytes
    return offset


def _tensor_header(container: Container, tensor: OutTensor, offset: int) -> bytes:
    values = {"type": tensor.type.id, "dims": tensor.shape[::-1], "name": tensor.name.encode()}
    return write(container.tensor, values, offset)


def write_chunks(stream: BinaryIO, tensor: OutTensor, progress: Callable[[int], object] | None) -> None:
    """The data of one tensor, checked against the size that was promised."""
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
