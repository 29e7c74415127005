"""Writing GGUF: the same declared records as the reader's; the file appears under its name only when complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import UsageError
from ggmlpy.files.ordered import Workers
from ggmlpy.files.segments import Segment, write_segments

from .fields import Align, write
from .gguf import ALIGNMENT, GGUF_MAGIC, records_of
from .gguf_values import TYPE_IDS, Value
from .out_tensor import OutTensor, segments_of

__all__ = ["gguf_size", "prefix", "write_gguf"]


def write_gguf(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Value],
    tensors: Iterable[OutTensor],
    progress: Callable[[int], object] | None = None,
    *,
    version: int = 3,
    workers: Workers | None = None,
) -> int:
    """Write a GGUF file and return its size.

    Arguments:
        metadata: in the order of the file.
        tensors: in the order of the file, with GGUF names.
        progress: called with the number of bytes after each chunk.
        version: 1, 2 or 3; the last two differ in this number only.
        workers: who makes and writes the tensors; by default one thread per processor.

    Raises:
        UsageError: a tensor does not have the promised size.
        OutputError: the file could not be written; nothing stands under its name then.
    """
    tensors = list(tensors)
    beginning, _ = prefix(metadata, tensors, version)
    with atomic_write(path, size=gguf_size(metadata, tensors, version)) as stream:
        return write_segments(stream, _segments(beginning, _alignment(metadata), tensors, progress), workers)


def _segments(
    beginning: bytes, alignment: int, tensors: Iterable[OutTensor], progress: Callable[[int], object] | None
) -> Iterator[Segment]:
    yield Segment.of_bytes(beginning)
    for tensor in tensors:
        yield from segments_of(tensor, progress)
        yield Segment.of_bytes(bytes(-tensor.nbytes % alignment))


def gguf_size(metadata: Mapping[str, Value], tensors: Sequence[OutTensor], version: int = 3) -> int:
    """Bytes of the file that :func:`write_gguf` would write."""
    alignment = _alignment(metadata)
    return len(prefix(metadata, tensors, version)[0]) + sum(
        tensor.nbytes + -tensor.nbytes % alignment for tensor in tensors
    )


def _alignment(metadata: Mapping[str, Value]) -> int:
    """What every tensor's data begins at a multiple of."""
    stated = metadata.get("general.alignment", Value("u32", ALIGNMENT)).value
    if not isinstance(stated, int) or stated < 1 or stated & (stated - 1):
        raise UsageError(f"an alignment is a power of two, not {stated}")
    return stated


def prefix(metadata: Mapping[str, Value], tensors: Sequence[OutTensor], version: int = 3) -> tuple[bytes, list[int]]:
    """Everything before the data, and each tensor's offset in the data section."""
    records = records_of(version)
    alignment = _alignment(metadata)
    counts = {"magic": GGUF_MAGIC, "version": version, "n_tensors": len(tensors), "n_kv": len(metadata)}
    out = [write(records.header, counts)]
    for key, value in metadata.items():
        pair = {"key": key.encode(), "type": TYPE_IDS[value.type], "value": value}
        out.append(write(records.pair, pair) if value.pair is None or version == 1 else bytes(value.pair))
    offsets = []
    offset = 0
    for tensor in tensors:
        offsets.append(offset)
        values = {"name": tensor.name.encode(), "dims": tensor.shape[::-1], "type": tensor.type.id, "offset": offset}
        out.append(write(records.tensor, values))
        offset += tensor.nbytes + -tensor.nbytes % alignment
    before = b"".join(out)
    if not tensors and "split.count" not in metadata:
        return before, offsets  # a vocabulary alone ends with its last pair
    return before + Align("padding", multiple=alignment).write({}, len(before)), offsets
