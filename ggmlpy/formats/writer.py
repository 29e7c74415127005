"""Writing a GGML file: the same declared records as the reader's, streamed, under the final name only when complete."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import UsageError
from ggmlpy.files.ordered import Workers
from ggmlpy.files.segments import Segment, write_segments

from .containers import CONTAINERS, Container, refuse_name
from .fields import Number, write
from .model_params import ModelParams
from .out_tensor import OutTensor, segments_of
from .tensor_names import gguf_name

if TYPE_CHECKING:
    from .gguf_values import Value

__all__ = ["file_size", "gguf_prefix", "header_bytes", "write_model", "written_size"]


def write_model(
    path: str | os.PathLike[str],
    container: str,
    version: int,
    hparams: ModelParams,
    vocab: Iterable[tuple[bytes, float]],
    tensors: Iterable[OutTensor],
    progress: Callable[[int], object] | None = None,
    metadata: Mapping[str, Value] | None = None,
    workers: Workers | None = None,
) -> int:
    """Write one file and return its size in bytes.

    Args:
        container, version: "ggml" 0, "ggmf" 1, "ggjt" 1 to 3, "gguf" 3.
        vocab: text and score of each piece (unversioned files drop the score), ``hparams.n_vocab`` of them.
        tensors: in the order of the file; each one's bytes are asked for once.
        progress: called with the number of bytes after each chunk.
        metadata: of GGUF, all keys, in place of those that say ``hparams`` and ``vocab``.
        workers: who makes and writes the tensors; by default one thread per processor.

    Raises:
        UsageError: the vocabulary or a tensor does not have the promised size, or a type does not exist there.
        OutputError: the file could not be written; nothing stands under its name then.
    """
    if container == "gguf":
        from .gguf_writer import write_gguf

        return write_gguf(path, *_as_gguf(version, hparams, vocab, tensors, metadata), progress, workers=workers)
    refuse_name(path, container)
    declared = CONTAINERS[container]
    tensors = list(tensors)
    prefix = header_bytes(declared, version, hparams, vocab)
    with atomic_write(path, size=file_size(declared, len(prefix), tensors)) as stream:
        return write_segments(stream, _segments(declared, prefix, tensors, progress), workers)


def _segments(
    container: Container, prefix: bytes, tensors: Iterable[OutTensor], progress: Callable[[int], object] | None
) -> Iterator[Segment]:
    yield Segment.of_bytes(prefix)
    offset = len(prefix)
    for tensor in tensors:
        header = _tensor_header(container, tensor, offset)
        yield Segment.of_bytes(header)
        yield from segments_of(tensor, progress)
        offset += len(header) + tensor.nbytes


def written_size(
    container: str,
    version: int,
    hparams: ModelParams,
    vocab: Iterable[tuple[bytes, float]],
    tensors: Iterable[OutTensor],
    metadata: Mapping[str, Value] | None = None,
) -> int:
    """Bytes of the file that :func:`write_model` would write from the same arguments."""
    if container == "gguf":
        from .gguf_writer import gguf_size

        return gguf_size(*_as_gguf(version, hparams, vocab, tensors, metadata))
    declared = CONTAINERS[container]
    return file_size(declared, len(header_bytes(declared, version, hparams, vocab)), tensors)


def gguf_prefix(
    version: int,
    hparams: ModelParams,
    vocab: Iterable[tuple[bytes, float]],
    tensors: Iterable[OutTensor],
    metadata: Mapping[str, Value] | None = None,
) -> bytes | None:
    """What :func:`write_model` puts before the tensors' data of a GGUF file; None if it cannot write such a file."""
    from .gguf_writer import prefix

    try:
        return prefix(*_as_gguf(version, hparams, vocab, tensors, metadata))[0]
    except UsageError:
        return None


def _as_gguf(
    version: int,
    hparams: ModelParams,
    vocab: Iterable[tuple[bytes, float]],
    tensors: Iterable[OutTensor],
    metadata: Mapping[str, Value] | None = None,
) -> tuple[Mapping[str, Value], list[OutTensor]]:
    """The metadata and the tensors under GGUF's names."""
    from .gguf_model import gguf_metadata

    if version != 3:
        raise UsageError("GGUF is written as version 3")
    renamed = [replace(tensor, name=gguf_name(tensor.name)) for tensor in tensors]
    return gguf_metadata(hparams, list(vocab)) if metadata is None else metadata, renamed


def header_bytes(
    container: Container, version: int, hparams: ModelParams, vocab: Iterable[tuple[bytes, float]]
) -> bytes:
    """Everything before the first tensor."""
    values: Mapping[str, int] = {"magic": container.magic, "version": version, **hparams.header()}
    for name, number in hparams.header().items():
        if not -(1 << 31) <= number < 1 << 31:
            raise UsageError(f"{name} is {number}, which {container.name} can't hold")
    entries = list(_tokens(container, vocab))
    if len(entries) != hparams.n_vocab:
        raise UsageError(f"the header promises {hparams.n_vocab} vocabulary entries, {len(entries)} were given")
    return write(container.header, values) + b"".join(entries)


def _tokens(container: Container, vocab: Iterable[tuple[bytes, float]]) -> Iterator[bytes]:
    """What :func:`ggmlpy.formats.fields.write` makes of each entry, tens of thousands of times: the numbers before and
    after
    the text are packed at once."""
    before, *after = (struct.Struct(field.code).pack for field in container.token if isinstance(field, Number))
    if not after:
        yield from (before(len(text)) + text for text, _ in vocab)
        return
    yield from (before(len(text)) + text + after[0](score) for text, score in vocab)


def file_size(container: Container, offset: int, tensors: Iterable[OutTensor]) -> int:
    """Where the file ends if these tensors begin at ``offset``."""
    for tensor in tensors:
        offset += len(_tensor_header(container, tensor, offset)) + tensor.nbytes
    return offset


def _tensor_header(container: Container, tensor: OutTensor, offset: int) -> bytes:
    values = {"type": tensor.type.id, "dims": tensor.shape[::-1], "name": tensor.name.encode()}
    return write(container.tensor, values, offset)
