"""A file's bytes with what they mean beside them, from the same declared records that read and write it.

:func:`hexdump` yields one :class:`Line` a field: where it is, its bytes, its path (``header.n_vocab``,
``vocabulary[278].text``, ``tensor[norm.weight].dims``), its value and what the declaration says of it. Long runs
(vocabularies, many tensors) are folded to their ends; ask for a field by name to see it wherever it stands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.formats.fields import Cursor, Record, Span, walk
from ggmlpy.formats.ggla import HEADER, TENSOR, GglaFile, is_ggla, open_ggla
from ggmlpy.formats.gguf import GgufFile, open_gguf, records_of
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_file import ModelFile, Part
from ggmlpy.formats.opening import is_gguf, open_model
from ggmlpy.formats.tensor_types import TensorType

__all__ = ["Line", "hexdump", "matches"]

ENDS = 3  # entries shown from each end of a folded run
SHOWN_BYTES = 16


@dataclass(frozen=True)
class Line:
    """One field of a file.

    Attributes:
        offset, size: where it is; size 0 marks a folded run.
        data: its first bytes.
        path: its name with those of the records around it.
        value: what it holds, in words where it is long.
        doc: what the declaration says of it.
    """

    offset: int
    size: int
    data: bytes
    path: str
    value: str
    doc: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = {"offset": self.offset, "size": self.size, "hex": self.data.hex(), "field": self.path}
        return {**fields, "value": self.value, "doc": self.doc}


def hexdump(path: str | os.PathLike[str], *, fold: bool = True) -> Iterator[Line]:
    """The lines of a GGML, GGUF or ggla file in the order of their offsets.

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
    with open_model(path, strict=False) as model:
        yield from _dump_part(model, model.parts[0], fold)


def matches(line: Line, name: str) -> bool:
    """Whether a field was meant by ``name``: its whole path, its last part, or one record's name.

    >>> matches(Line(8, 4, b"", "header.n_vocab", "400"), "n_vocab")
    True
    """
    return name in (line.path, line.path.rsplit(".", 1)[-1]) or line.path.startswith((name + ".", name + "["))


def _dump_part(model: ModelFile, part: Part, fold: bool) -> Iterator[Line]:
    cursor = Cursor(part.cursor.buffer, part.cursor.path)
    yield from _record(cursor, part.container.header, "header")
    yield from _run(
        len(part.vocab),
        "vocabulary entries",
        fold,
        lambda index: _record_at(cursor, part.vocab.entry_offset(index), part.container.token, f"vocabulary[{index}]"),
    )
    pieces = list(part.tensors.items())

    def tensor_lines(index: int) -> Iterator[Line]:
        name, (tensor_type, piece) = pieces[index]
        yield from _record_at(cursor, piece.header, part.container.tensor, f"tensor[{name}]")
        yield _data_line(cursor, piece.offset, len(piece.data), name, tensor_type)

    yield from _run(len(pieces), "tensors", fold, tensor_lines)
    if part.end < cursor.size:
        yield _line(cursor, part.end, cursor.size - part.end, "unread", "bytes after the last whole tensor", "")


def _dump_gguf(file: GgufFile, fold: bool) -> Iterator[Line]:
    cursor = Cursor(file.cursor.buffer, file.cursor.path)
    cursor.order = file.order
    records = records_of(file.version)
    yield from _record(cursor, records.header, "header")
    for key in file.metadata:
        yield from _record(cursor, records.pair, f"metadata[{key}]")
    for name in file.tensors:
        yield from _record(cursor, records.tensor, f"tensor[{name}]")
    if file.data_offset > cursor.offset:
        gap = file.data_offset - cursor.offset
        yield _line(cursor, cursor.offset, gap, "padding", f"{gap} zeros", "up to the alignment")
    tensors = list(file.tensors.values())
    yield from _run(
        len(tensors),
        "tensors' data",
        fold,
        lambda i: iter([_data_line(cursor, tensors[i].offset, len(tensors[i].data), tensors[i].name, tensors[i].type)]),
    )


def _dump_ggla(file: GglaFile, fold: bool) -> Iterator[Line]:
    cursor = Cursor(file.cursor.buffer, file.cursor.path)
    yield from _record(cursor, HEADER, "header")
    tensors = list(file.tensors.values())

    def tensor_lines(index: int) -> Iterator[Line]:
        tensor = tensors[index]
        yield from _record_at(cursor, tensor.header, TENSOR, f"tensor[{tensor.name}]")
        yield _data_line(cursor, tensor.offset, tensor.values.nbytes, tensor.name, tensor.type)

    yield from _run(len(tensors), "tensors", fold, tensor_lines)


def _run(count: int, what: str, fold: bool, lines_of: Callable[[int], Iterator[Line]]) -> Iterator[Line]:
    """All of a run, or its ends with a note between."""
    hidden = count - 2 * ENDS if fold else 0
    for index in range(count):
        if hidden > 1 and index == ENDS:
            first = next(lines_of(index))
            yield Line(first.offset, 0, b"", "", f"… {hidden:,} more {what}")
        if hidden > 1 and ENDS <= index < count - ENDS:
            continue
        yield from lines_of(index)


def _record_at(cursor: Cursor, offset: int, record: Record, prefix: str) -> Iterator[Line]:
    cursor.offset = offset
    yield from _record(cursor, record, prefix)


def _record(cursor: Cursor, record: Record, prefix: str) -> Iterator[Line]:
    for span in walk(cursor, record):
        if span.size:
            yield _line(cursor, span.offset, span.size, f"{prefix}.{span.field.name}", _said(span), span.field.doc)


def _line(cursor: Cursor, offset: int, size: int, path: str, value: str, doc: str) -> Line:
    data = bytes(cursor.buffer[offset : offset + min(size, SHOWN_BYTES)])
    return Line(offset, size, data, path, value, doc)


def _data_line(cursor: Cursor, offset: int, size: int, name: str, record: TensorType) -> Line:
    return _line(
        cursor, offset, size, f"tensor[{name}].data", f"{size:,} bytes of {record.layout}", _block_words(record)
    )


def _block_words(record: TensorType) -> str:
    """The fields of a block with the bytes where they stand; nothing for plain numbers."""
    if not record.quantized:
        return ""
    places = [f"{record.field_words(field)} at {record.offset(field)}" for field in record.field_names]
    what = f"blocks of {record.type_size} bytes for {record.blck_size} values: {', '.join(places)}"
    return f"{what}; a value is {record.doc}"


def _said(span: Span) -> str:
    """The value in words."""
    name, value = span.field.name, span.value
    if name == "magic":
        return f"0x{value:08x} {value.to_bytes(4, 'little').decode('ascii', 'replace')!r}"
    if name == "padding":
        return f"{span.size} zeros"
    if isinstance(value, bytes):
        return repr(value.decode("utf-8", "backslashreplace")) if _is_text(value) else value.hex(" ")
    if isinstance(value, Value):
        return _said_metadata(value)
    return str(list(value) if isinstance(value, tuple) else value)


def _is_text(value: bytes) -> bool:
    try:
        return value.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _said_metadata(value: Value) -> str:
    if value.type == "string":
        return f"string {value.text()!r}"
    if value.type != "array":
        return f"{value.type} {value.value}"
    some = value.value[:4]
    texts = [str(item) if isinstance(some, np.ndarray) else repr(_short(item)) for item in some]
    return f"array of {len(value.value):,} {value.item}: {', '.join(texts)}{' …' * (len(value.value) > 4)}"


def _short(item: bytes | Value) -> str:
    return item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else item.type
