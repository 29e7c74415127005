"""Importance matrices: how much an error in each column of each matrix counts, as llama-imatrix measured it.

For every matrix it is the mean square of what the matrix was multiplied by while a model read a text. Two formats::

    NAME.gguf  general.type "imatrix" · imatrix.datasets [string] · imatrix.chunk_count u32 · imatrix.chunk_size u32
               per matrix TENSOR.in_sum2  f32 [matrices, columns]  sums of squares, over all tokens
                          TENSOR.counts   f32 [matrices, 1]        tokens
    NAME.dat   n_entries i32
               n_entries times: length i32 · name · n_calls i32 · n_values i32 · f32 [n_values], n_calls times the mean
               last chunk i32 · length i32 · name of the text                     (missing in the oldest files)

A tensor of experts has one matrix for each. The formats round differently, so the same run written as both gives two
importance matrices, and two different quantized files.

Source: common/imatrix-loader.cpp and tools/imatrix/imatrix.cpp in llama.cpp (2026).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, ShapeError, TruncatedError
from ggmlpy.files.mapping import map_file

from .fields import I32, Array, Cursor, Record, Text
from .gguf import GGUF_MAGIC, GgufFile, open_gguf
from .gguf_values import Value
from .gguf_writer import write_gguf
from .out_tensor import OutTensor
from .tensor_types import TENSOR_TYPES

__all__ = [
    "DAT_END",
    "DAT_ENTRY",
    "DAT_HEADER",
    "ImportanceMatrix",
    "is_importance",
    "is_importance_gguf",
    "looks_like_dat",
    "open_importance",
    "rows_of",
    "write_importance",
]

SUMS, COUNTS = ".in_sum2", ".counts"
SMALLEST_ENTRY = 4 + 1 + 4 + 4 + 4
LONGEST_NAME = 1 << 10
DAT_HEADER: Record = (I32("n_entries", "tensors"),)
DAT_ENTRY: Record = (
    I32("name_length", "bytes of the name"),
    Text("name", "the tensor's name, such as blk.0.attn_q.weight", "name_length"),
    I32("n_calls", "pieces of text that were measured"),
    I32("n_values", "columns of the tensor, times its experts"),
    Array("values", "for each column the mean square of what it is multiplied by, n_calls times", "<f", "n_values"),
)
DAT_END: Record = (
    I32("last_chunk", "pieces of text that were measured"),
    I32("name_length", "bytes of the name"),
    Text("dataset", "the text's name", "name_length"),
)


@dataclass(frozen=True)
class ImportanceMatrix:
    """What an importance matrix says.

    Attributes:
        path: the file.
        format: "gguf" or "dat".
        entries: float32 [values] by the names of tensors; the matrices of experts one after another.
        datasets: the texts that it was measured on.
        n_chunks: pieces of text; 0 if the file does not say.
        chunk_size: tokens in one; 0 if the file does not say.
    """

    path: Path
    format: str
    entries: Mapping[str, NDArray[np.float32]]
    datasets: Sequence[str] = ()
    n_chunks: int = 0
    chunk_size: int = 0

    def only(self, include: Sequence[str], exclude: Sequence[str]) -> ImportanceMatrix:
        """Without the tensors whose names have one of ``exclude`` in them, or, given ``include``, none of those."""
        kept = {
            name: values
            for name, values in self.entries.items()
            if not any(part in name for part in exclude) and (not include or any(part in name for part in include))
        }
        return replace(self, entries=kept)

    def of(self, name: str, shape: tuple[int, ...], *, optional: bool = False) -> NDArray[np.float32] | None:
        """The weights of a tensor of ``shape`` (rows first): float32 [experts, columns]; None if it has no entry.

        Args:
            optional: an entry of another length is passed over.

        Raises:
            ShapeError: the entry has another length.
            FormatError: it has numbers that are not finite.
        """
        values = self.entries.get(name)
        if values is None:
            return None
        n_matrices = shape[0] if len(shape) == 3 else 1
        if len(values) != n_matrices * shape[-1]:
            if optional:
                return None
            raise ShapeError(
                f"the importance of tensor {name!r} is that of another matrix",
                path=self.path, field=name, expected=f"{n_matrices * shape[-1]} values", found=len(values),
                cause="the importance matrix of another model", next_step=f"`inspect {self.path}`",
            )  # fmt: skip
        if not np.isfinite(values).all():
            raise FormatError(
                f"the importance of tensor {name!r} is not finite",
                path=self.path, field=name, cause="the model computed NaN when it was measured",
                next_step="measure it again",
            )  # fmt: skip
        return values.reshape(n_matrices, shape[-1])


def open_importance(path: str | os.PathLike[str]) -> ImportanceMatrix:
    """Read an importance matrix of either format.

    Raises:
        FormatError: it is not one, it is cut off, or it contradicts itself.
    """
    path = Path(path)
    cursor = Cursor(map_file(path), str(path))
    if bytes(cursor.buffer[:4]) == GGUF_MAGIC.to_bytes(4, "little"):
        return _from_gguf(open_gguf(path))
    return _from_dat(path, cursor)


def is_importance(path: str | os.PathLike[str]) -> bool:
    """Whether a file is, by its beginning, an importance matrix of either format."""
    head = bytes(map_file(path)[:64])
    if head[:4] != GGUF_MAGIC.to_bytes(4, "little"):
        return looks_like_dat(head, os.path.getsize(path))
    try:
        return is_importance_gguf(open_gguf(path))
    except FormatError:
        return False  # its reader says what is wrong


def is_importance_gguf(file: GgufFile) -> bool:
    """Whether a GGUF file is an importance matrix."""
    return file.text("general.type", b"model") == "imatrix" or any(name.endswith(SUMS) for name in file.tensors)


def _from_gguf(file: GgufFile) -> ImportanceMatrix:
    if not is_importance_gguf(file):
        raise FormatError(
            "this GGUF file is not an importance matrix", path=file.path, field="general.type", expected="imatrix",
            found=file.text("general.type", b"nothing"), cause="a model's file in the place of its importance matrix",
            next_step=f"`identify {file.path}`",
        )  # fmt: skip
    entries = {}
    for name, tensor in file.tensors.items():
        if not name.endswith(SUMS):
            continue
        counts = file.tensors.get(name.removesuffix(SUMS) + COUNTS)
        if counts is None or tensor.type.name != "f32" or counts.type.name != "f32":
            raise FormatError(
                f"tensor {name!r} has no counts of type f32 beside it", path=file.path, field=name,
                cause="not written by llama-imatrix, or damaged",
            )  # fmt: skip
        sums = tensor.data.view("<f4").reshape(-1, tensor.shape[-1])
        n = counts.data.view("<f4")
        if len(n) != len(sums):
            raise ShapeError(
                f"the counts of {name!r} are those of another tensor", path=file.path, field=name,
                expected=f"{len(sums)} counts", found=len(n),
            )  # fmt: skip
        entries[name.removesuffix(SUMS)] = _means(sums.astype(np.float32), n.astype(np.float32))
    datasets = file.metadata.get("imatrix.datasets")
    names = datasets.value if datasets is not None and datasets.item == "string" else []
    texts = [bytes(name).decode("utf-8", "replace") for name in names]
    chunks, size = (file.integer(f"imatrix.{key}", 0) for key in ("chunk_count", "chunk_size"))
    return ImportanceMatrix(file.path, "gguf", entries, texts, chunks, size)


def _means(sums: NDArray[np.float32], counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """[matrices, columns] and [matrices] -> [matrices * columns]; a matrix that nothing reached counts 1 everywhere."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        means = np.where(counts[:, None] > 0, sums / counts[:, None], np.float32(1))
    return means.reshape(-1)


def looks_like_dat(head: bytes, size: int) -> bool:
    """Whether a file begins as an importance matrix of the older format does: with the name of a tensor.

    >>> looks_like_dat(b"\\1\\0\\0\\0\\x13\\0\\0\\0blk.0.attn_k.weight", 1000)
    True
    """
    if len(head) < 12:
        return False
    n, length = struct.unpack_from("<ii", head)
    name = head[8 : 8 + max(0, length)]
    room = 0 < n <= size // SMALLEST_ENTRY and 0 < length <= LONGEST_NAME
    return room and name.isascii() and name.startswith((b"blk.", b"output.", b"token_embd."))


def _from_dat(path: Path, cursor: Cursor) -> ImportanceMatrix:
    n = _number(cursor, "n_entries")
    _check(cursor, "n_entries", n, cursor.left // SMALLEST_ENTRY)
    entries: dict[str, NDArray[np.float32]] = {}
    for _ in range(n):
        name, values = _dat_entry(cursor)
        if name in entries:
            raise FormatError(f"tensor {name!r} occurs twice", path=path, offset=cursor.offset, field="name")
        entries[name] = values
    chunks, texts = 0, []
    if cursor.left:
        chunks, length = _number(cursor, "last chunk"), _number(cursor, "length of a name")
        _check(cursor, "length of a name", length, cursor.left)
        texts.append(bytes(cursor.take(length, "dataset")).decode("utf-8", "replace"))
    return ImportanceMatrix(path, "dat", entries, texts, chunks)


def _dat_entry(cursor: Cursor) -> tuple[str, NDArray[np.float32]]:
    length = _number(cursor, "length of a name")
    _check(cursor, "length of a name", length, min(cursor.left, LONGEST_NAME))
    name = bytes(cursor.take(length, "name")).decode("utf-8", "backslashreplace")
    calls, n_values = _number(cursor, "n_calls"), _number(cursor, "n_values")
    _check(cursor, "n_values", n_values, cursor.left // 4)
    values = np.frombuffer(cursor.take(4 * n_values, "values"), "<f4").astype(np.float32)
    return name, values / np.float32(calls) if calls > 0 else values


def _number(cursor: Cursor, name: str) -> int:
    return int(struct.unpack("<i", cursor.take(4, name))[0])


def _check(cursor: Cursor, name: str, count: int, most: int) -> None:
    if not 0 < count <= most:
        raise TruncatedError(
            "a count is larger than the file has room for, or not positive",
            path=cursor.path, offset=cursor.offset - 4, field=name, expected=f"1 to {most:,}", found=f"{count:,}",
            cause="not an importance matrix, or cut off",
            next_step="measure it again with llama-imatrix, or `imatrix`",
        )  # fmt: skip


def write_importance(
    path: str | os.PathLike[str],
    sums: Mapping[str, NDArray[np.float32]],
    n_tokens: int,
    *,
    format: str,
    dataset: str,
    n_chunks: int,
    chunk_size: int,
) -> None:
    """Write what was measured, as llama-imatrix does.

    Args:
        sums: float32 [columns] by the names of tensors: the sums of squares over all tokens.
        n_tokens: how many.
        format: "gguf" or "dat".
        dataset: the name of the text.

    Raises:
        OutputError: it could not be written.
    """
    sums = dict(sorted(sums.items(), key=lambda entry: entry[0].encode()))
    if format == "dat":
        calls = -(-n_tokens // chunk_size)
        data = struct.pack("<i", len(sums))
        for name, values in sums.items():
            means = values / np.float32(n_tokens) * np.float32(calls)
            data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values))
            data += means.astype("<f4").tobytes()
        data += struct.pack("<ii", n_chunks, len(dataset.encode())) + dataset.encode()
        with atomic_write(path, size=len(data)) as stream:
            stream.write(data)
        return
    f32, tensors = TENSOR_TYPES["f32"], []
    for name, values in sums.items():
        for end, numbers in ((SUMS, values), (COUNTS, np.array([n_tokens]))):
            tensors.append(OutTensor(name + end, f32, numbers.shape, partial(_chunk_of, numbers)))
    keys = {
        "general.type": Value("string", b"imatrix"),
        "imatrix.datasets": Value("array", [dataset.encode()], "string"),
        "imatrix.chunk_count": Value("u32", n_chunks),
        "imatrix.chunk_size": Value("u32", chunk_size),
    }
    write_gguf(path, keys, tensors)


def _chunk_of(numbers: NDArray[Any]) -> list[NDArray[Any]]:
    return [numbers.astype("<f4")]


def rows_of(matrix: ImportanceMatrix) -> Iterator[dict[str, Any]]:
    """What there is to show: one record for each tensor."""
    for name, values in matrix.entries.items():
        finite = values[np.isfinite(values)]
        yield {
            "tensor": name,
            "values": len(values),
            "mean": float(finite.mean()) if len(finite) else float("nan"),
            "largest": float(finite.max()) if len(finite) else float("nan"),
            "zeros": int(np.count_nonzero(values == 0)),
        }
