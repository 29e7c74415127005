"""Safetensors files: one JSON header, then the tensors' bytes. Read lazily, every number checked; written in a stream.

A file is ``u64 n`` (little-endian), ``n`` bytes of JSON padded with spaces to a multiple of 8, and the data::

    {"__metadata__": {"format": "pt"}, "name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}, …}

Offsets count from the end of the header; the tensors MUST lie one after the other without a gap, an overlap or a rest.
A header is at most 100 MB (the reference implementation's limit). Writers put wide types first and sort by name within
a type, so that data is aligned; this writer's bytes equal those of safetensors 0.8.0.

Own code rather than the library's, because numpy has no bfloat16, so that the library cannot hand out such a tensor,
and because its writer wants all bytes in memory at once. The library is the judge: it opens every file that is written
here before the file takes its name, and the tests hold reader and writer against it.
Source: github.com/huggingface/safetensors, README and safetensors/src/tensor.rs (0.8.0).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import (
    BadMagicError,
    IntegrityError,
    MissingFileError,
    OutputError,
    TruncatedError,
    UnsupportedError,
    UsageError,
)
from ggmlpy.files.kinds import FIRST_BYTES, lookalike
from ggmlpy.files.ordered import Workers
from ggmlpy.files.segments import Segment, write_segments

from .tensor import DTYPES, LazyTensor

__all__ = ["SafetensorsFile", "open_safetensors", "safetensors_size", "write_safetensors"]

LARGEST_HEADER = 100_000_000
MOST_DIMENSIONS = 8

# In the order of the reference implementation's types; a file holds later ones first.
# fmt: off
CODES: dict[str, str] = {
    "BOOL": "bool",   "U8":   "uint8",    "I8":  "int8",    "I16": "int16",   "U16": "uint16",
    "F16":  "float16", "BF16": "bfloat16", "I32": "int32",   "U32": "uint32",
    "F32":  "float32", "F64":  "float64",  "I64": "int64",   "U64": "uint64",
}
# fmt: on
CODE_OF = {name: code for code, name in CODES.items()}
RANK = {name: rank for rank, name in enumerate(CODES.values())}


def open_safetensors(path: str | os.PathLike[str]) -> SafetensorsFile:
    """Open a safetensors file: a mapping from names to tensors that are read when asked for; a context manager.

    Raises:
        MissingFileError, BadMagicError, TruncatedError, IntegrityError, UnsupportedError: the file is missing or bad.

    >>> with open_safetensors("model.safetensors") as file:  # doctest: +SKIP
    ...     file["model.norm.weight"].numpy()
    """
    return SafetensorsFile(path)


class SafetensorsFile(Mapping[str, LazyTensor]):
    """An open safetensors file: a mapping from names to tensors that are read when asked for.

    Attributes:
        path: the file.
        metadata: the texts of ``__metadata__``.
        offsets: where the data of each tensor begins in the file.

    Raises:
        MissingFileError, BadMagicError, TruncatedError, IntegrityError, UnsupportedError: on opening, and
            TruncatedError on reading a tensor of a file that has been cut since.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._stream = open(self.path, "rb")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise MissingFileError(f"cannot be opened: {error.strerror}", path=path) from error
        self._lock = threading.Lock()
        try:
            size = os.fstat(self._stream.fileno()).st_size
            header, self._start = _read_header(self.path, self._stream, size)
            self.metadata = _metadata(self.path, header.pop("__metadata__", {}))
            self.offsets: dict[str, int] = {}
            self.tensors = {name: self._tensor(name, entry) for name, entry in header.items()}
            _check_extents(self.path, header, size - self._start)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> LazyTensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; its tensors can no longer be read."""
        self._stream.close()

    def release(self) -> None:
        """Nothing to give back: what was read is the reader's own copy (compare :meth:`.PthFile.release`)."""

    @property
    def state_dict(self) -> dict[str, LazyTensor]:
        """The tensors of the model: all of them (compare :attr:`.PthFile.state_dict`)."""
        return self.tensors

    def _tensor(self, name: str, entry: object) -> LazyTensor:
        dtype, shape, begin, _ = _checked_entry(self.path, name, entry)
        stored = DTYPES[dtype].stored
        columns = math.prod(shape[1:])
        self.offsets[name] = self._start + begin

        def read(start: int, stop: int) -> np.ndarray:
            offset = self.offsets[name] + start * columns * stored.itemsize
            flat = self._read(offset, (stop - start) * columns, stored, name)
            return flat.reshape((stop - start, *shape[1:]) if shape else ())

        return LazyTensor(name, shape, dtype, read, f"safetensors {self.path.name}")

    def _read(self, offset: int, count: int, dtype: np.dtype, name: str) -> np.ndarray:
        flat = np.empty(count, dtype)
        with self._lock:
            self._stream.seek(offset)
            got = self._stream.readinto(flat.data.cast("B")) if count else 0
        if got != flat.nbytes:
            raise TruncatedError(
                f"the data of tensor {name!r} ends early",
                path=self.path,
                offset=offset,
                expected=f"{flat.nbytes} bytes",
                found=got,
                cause="the file was changed after it had been opened",
            )
        return flat


def _read_header(path: Path, stream: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header as a dict and the offset at which the data starts."""
    head = stream.read(8)
    if len(head) < 8:
        raise TruncatedError("too short for a safetensors file", path=path, expected="8 bytes or more", found=len(head))
    length = struct.unpack("<Q", head)[0]
    if length > LARGEST_HEADER or length < 2:
        first = head + stream.read(FIRST_BYTES - 8)
        cause, next_step = lookalike(first, path) or ("the file has another format", f"`identify {path}`")
        raise BadMagicError(
            "not a safetensors file",
            path=path,
            offset=0,
            field="header length",
            expected=f"2 to {LARGEST_HEADER:,}",
            found=f"{length:,}",
            cause=cause,
            next_step=next_step,
        )
    if length > size - 8:
        raise TruncatedError(
            "ends within its header", path=path, offset=8, expected=f"{length:,} bytes of header",
            found=f"{size - 8:,}", cause="the download is incomplete", next_step="fetch the file again",
        )  # fmt: skip
    return _parse_header(path, stream.read(length)), 8 + length


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            raise IntegrityError("a name occurs twice in the header", path=path, offset=8)
        return record

    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not begin with {")
        return dict(json.loads(text.decode("utf-8"), object_pairs_hook=unique))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            "the header is not JSON", path=path, offset=8, found=str(error)[:80], cause="a damaged or forged file"
        ) from error


def _metadata(path: Path, record: object) -> dict[str, str]:
    if isinstance(record, dict) and all(isinstance(value, str) for value in record.values()):
        return record
    raise IntegrityError("__metadata__ must map text to text", path=path, field="__metadata__", found=str(record)[:80])


def _is_counts(value: object, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(type(v) is int and 0 <= v < 1 << 62 for v in value)


def _checked_entry(path: Path, name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, begin and end of one tensor, proven to agree with each other."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad_entry(path, name, "dtype, shape and data_offsets", entry)
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in CODES:
        raise UnsupportedError(
            f"tensor {name!r} has an unsupported type",
            path=path,
            field="dtype",
            expected=f"one of {', '.join(CODES)}",
            found=code,
            cause="a quantized or newer kind of checkpoint",
        )
    if not _is_counts(shape, MOST_DIMENSIONS):
        raise _bad_entry(path, name, f"a shape of at most {MOST_DIMENSIONS} sizes", shape)
    if not _is_counts(offsets, 2) or len(offsets) != 2:
        raise _bad_entry(path, name, "two offsets", offsets)
    begin, end = offsets
    nbytes = math.prod(shape) * DTYPES[CODES[code]].size
    if end - begin != nbytes:
        raise _bad_entry(path, name, f"{nbytes} bytes for {code} {shape}", f"{end - begin}")
    return CODES[code], tuple(shape), begin, end


def _bad_entry(path: Path, name: str, expected: str, found: object) -> IntegrityError:
    return IntegrityError(
        f"the header's entry of tensor {name!r} is wrong",
        path=path,
        field=name,
        expected=expected,
        found=str(found)[:120],
        cause="a damaged or forged file",
        next_step="fetch the file again",
    )


def _check_extents(path: Path, header: Mapping[str, Any], size: int) -> None:
    """The tensors must cover the data exactly: no gap, no overlap, nothing behind."""
    position = 0
    for begin, end, name in sorted((*entry["data_offsets"], name) for name, entry in header.items()):
        if begin != position:
            problem = "overlaps the one before it" if begin < position else "leaves a gap before it"
            raise IntegrityError(
                f"tensor {name!r} {problem}", path=path, field=name, expected=f"offset {position}", found=begin,
                cause="a damaged or forged file",
            )  # fmt: skip
        position = end
    if position == size:
        return
    if position > size:
        raise TruncatedError(
            "ends within the data", path=path, expected=f"{position:,} bytes of data", found=f"{size:,}",
            cause="the download is incomplete", next_step="fetch the file again",
        )  # fmt: skip
    raise IntegrityError(
        "bytes behind the last tensor", path=path, expected=f"{position:,} bytes of data", found=f"{size:,}",
        cause="two files were joined, or the file was tampered with",
    )  # fmt: skip


def _header_bytes(tensors: Sequence[LazyTensor], metadata: Mapping[str, str]) -> bytes:
    record: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for tensor in tensors:
        extent = [position, position + tensor.nbytes]
        record[tensor.name] = {"dtype": CODE_OF[tensor.dtype], "shape": list(tensor.shape), "data_offsets": extent}
        position = extent[1]
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _in_file_order(path: str | os.PathLike[str], tensors: Iterable[LazyTensor]) -> list[LazyTensor]:
    tensors = list(tensors)
    unsupported = [f"{tensor.name} ({tensor.dtype})" for tensor in tensors if tensor.dtype not in CODE_OF]
    if unsupported:
        raise UsageError(f"safetensors has no type for {', '.join(unsupported[:5])}")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise UsageError(f"{path}: a tensor's name occurs twice")
    return sorted(tensors, key=lambda tensor: (-RANK[tensor.dtype], tensor.name))


def safetensors_header(tensors: Iterable[LazyTensor], metadata: Mapping[str, str]) -> bytes:
    """What :func:`write_safetensors` puts before the data."""
    return _header_bytes(_in_file_order("", tensors), metadata)


def safetensors_size(tensors: Iterable[LazyTensor], metadata: Mapping[str, str]) -> int:
    """Bytes of the file that :func:`write_safetensors` would write."""
    ordered = _in_file_order("", tensors)
    return len(_header_bytes(ordered, metadata)) + sum(tensor.nbytes for tensor in ordered)


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Iterable[LazyTensor],
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], object] | None = None,
    workers: Workers | None = None,
) -> int:
    """Write tensors to one file, a few megabytes at a time, and return its size.

    Args:
        path: the target; it appears when complete.
        tensors: in any order; the file's is the reference implementation's.
        metadata: texts for ``__metadata__``; transformers insists on ``{"format": "pt"}``.
        progress: called with the number of bytes after each piece.
        workers: who makes and writes the tensors; by default one thread per processor.

    Raises:
        UsageError: a type that safetensors lacks, or a name given twice.
        OutputError: the file could not be written, or the safetensors library cannot open it.
    """
    ordered = _in_file_order(path, tensors)
    header = _header_bytes(ordered, metadata or {})
    with atomic_write(path, size=len(header) + sum(tensor.nbytes for tensor in ordered)) as stream:
        segments = itertools.chain.from_iterable(tensor.segments(progress) for tensor in ordered)
        size = write_segments(stream, itertools.chain([Segment.of_bytes(header)], segments), workers)
        stream.flush()
        _check_with_library(stream.name, path, {tensor.name for tensor in ordered})
        return size


def _check_with_library(written: str, path: str | os.PathLike[str], names: set[str]) -> None:
    """Have the reference implementation open what was written, before the file takes its name."""
    if not os.path.isfile(written):
        return  # a device
    from safetensors import SafetensorError, safe_open  # here, because few commands write such files

    try:
        with safe_open(written, framework="numpy") as file:
            found = set(file.keys())
        cause = None if found == names else f"it sees other tensors: {sorted(found ^ names)[:5]}"
    except SafetensorError as error:
        cause = str(error)
    if cause is not None:
        raise OutputError("the safetensors library cannot read what was written", path=path, cause=cause)
