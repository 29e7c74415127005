"""A file's bytes with what they mean beside them, from the same declared records that read and write it.

:func:`hexdump` yields one :class:`Line` a field: where it is, its bytes, its path (``header.n_vocab``,
``vocabulary[278].text``, ``tensor[norm.weight].dims``), its value and what the declaration says of it. Long runs
(vocabularies, many tensors) are folded to their ends; ask for a field by name to see it wherever it stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ggmlpy.files.mapping import map_file
from ggmlpy.formats.fields import Cursor
from ggmlpy.formats.ggla import HEADER, TENSOR, GglaFile, is_ggla, open_ggla
from ggmlpy.formats.ggml_reader import read_part
from ggmlpy.formats.gguf import GgufFile, open_gguf, records_of
from ggmlpy.formats.importance import DAT_END, DAT_ENTRY, DAT_HEADER, is_importance, open_importance
from ggmlpy.formats.model_file import Part
from ggmlpy.formats.opening import is_gguf
from ggmlpy.formats.tensor_types import TensorType

from .lines import Line, line_at, record_lines, record_lines_at, run_lines

__all__ = ["hexdump"]


def hexdump(path: str | os.PathLike[str], *, fold: bool = True) -> Iterator[Line]:
    """The lines of a GGML, GGUF or ggla file, or of an importance matrix, in the order of their offsets.

    Arguments:
        fold: show only the ends of long runs.

    Raises:
        FormatError: the file can't be read.
    """
    if is_gguf(Path(path)):
        yield from _dump_gguf(open_gguf(path), fold)
        return
    if is_ggla(path):
        yield from _dump_ggla(open_ggla(path), fold)
        return
    if is_importance(path):
        yield from _dump_importance(Path(path), fold)
        return
    yield from _dump_part(read_part(Path(path), 0, False, []), fold)


def _dump_part(part: Part, fold: bool) -> Iterator[Line]:
    cursor = Cursor(part.cursor.buffer, part.cursor.path)
    yield from record_lines(cursor, part.container.header, "header")
    yield from run_lines(
        len(part.vocab),
        "vocabulary entries",
        fold,
        lambda index: record_lines_at(
            cursor, part.vocab.entry_offset(index), part.container.token, f"vocabulary[{index}]"
        ),
    )
    pieces = list(part.tensors.items())

    def tensor_lines(index: int) -> Iterator[Line]:
        name, (tensor_type, piece) = pieces[index]
        yield from record_lines_at(cursor, piece.header, part.container.tensor, f"tensor[{name}]")
        yield _data_line(cursor, piece.offset, len(piece.data), name, tensor_type)

    yield from run_lines(len(pieces), "tensors", fold, tensor_lines)
    if part.end < cursor.size:
        yield line_at(cursor, part.end, cursor.size - part.end, "unread", "bytes after the last whole tensor", "")


def _dump_gguf(file: GgufFile, fold: bool) -> Iterator[Line]:
    cursor = Cursor(file.cursor.buffer, file.cursor.path)
    cursor.order = file.order
    records = records_of(file.version)
    yield from record_lines(cursor, records.header, "header")
    for key in file.metadata:
        yield from record_lines(cursor, records.pair, f"metadata[{key}]")
    for name in file.tensors:
        yield from record_lines(cursor, records.tensor, f"tensor[{name}]")
    if file.data_offset > cursor.offset:
        gap = file.data_offset - cursor.offset
        yield line_at(cursor, cursor.offset, gap, "padding", f"{gap} zeros", "up to the alignment")
    tensors = list(file.tensors.values())
    yield from run_lines(
        len(tensors),
        "tensors' data",
        fold,
        lambda i: iter([_data_line(cursor, tensors[i].offset, len(tensors[i].data), tensors[i].name, tensors[i].type)]),
    )


def _dump_ggla(file: GglaFile, fold: bool) -> Iterator[Line]:
    cursor = Cursor(file.cursor.buffer, file.cursor.path)
    yield from record_lines(cursor, HEADER, "header")
    tensors = list(file.tensors.values())

    def tensor_lines(index: int) -> Iterator[Line]:
        tensor = tensors[index]
        yield from record_lines_at(cursor, tensor.header, TENSOR, f"tensor[{tensor.name}]")
        yield _data_line(cursor, tensor.offset, tensor.values.nbytes, tensor.name, tensor.type)

    yield from run_lines(len(tensors), "tensors", fold, tensor_lines)


def _dump_importance(path: Path, fold: bool) -> Iterator[Line]:
    names = list(open_importance(path).entries)  # checks every count
    cursor = Cursor(map_file(path), str(path))
    yield from record_lines(cursor, DAT_HEADER, "header")
    entries = [list(record_lines(cursor, DAT_ENTRY, f"importance[{name}]")) for name in names]
    yield from run_lines(len(entries), "tensors", fold, lambda index: iter(entries[index]))
    if cursor.left:
        yield from record_lines(cursor, DAT_END, "end")


def _data_line(cursor: Cursor, offset: int, size: int, name: str, record: TensorType) -> Line:
    return line_at(
        cursor, offset, size, f"tensor[{name}].data", f"{size:,} bytes of {record.layout}", _block_words(record)
    )


def _block_words(record: TensorType) -> str:
    """The fields of a block with the bytes where they stand; nothing for plain numbers."""
    if not record.quantized:
        return ""
    places = [f"{record.field_words(field)} at {record.offset(field)}" for field in record.field_names]
    what = f"blocks of {record.type_size} bytes for {record.blck_size} values: {', '.join(places)}"
    return f"{what}; a value is {record.doc}"
