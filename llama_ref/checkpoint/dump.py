"""The bytes of a checkpoint with what they mean: zip archives and the pickles in them, files of before, safetensors.

Each function yields the lines of a file from its first byte to its last. A pickle is listed opcode by opcode, which
runs nothing of it; it was read by the strict reader before, so a file that this one refuses is refused here, too.
"""

from __future__ import annotations

import io
import os
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggmlpy.files.mapping import map_file
from ggmlpy.formats.fields import U64, Cursor, Record
from ggmlpy.look.json_lines import BETWEEN, json_lines
from ggmlpy.look.lines import Line, line_at, record_lines, record_lines_at, run_lines, said_text, without_gaps

from .pickle_reader import Storage, TensorView
from .pth import PthFile, open_pth
from .safetensors_file import open_safetensors
from .tensor import DTYPES, LazyTensor, widen_bfloat16
from .torch_zip import STORED, read_directory
from .torch_zip import Record as Member
from .zip_records import CENTRAL, DESCRIPTOR, END, LOCAL, WIDE_DESCRIPTOR, ZIP64_END, ZIP64_LOCATOR, form_of

__all__ = ["Element", "elements_of_pth", "elements_of_safetensors", "pth_lines", "safetensors_lines", "zip_lines"]

PICKLES = ("magic", "version", "system", "object", "keys")  # of a legacy file, in their order
LEGACY_SIZE: Record = (U64("size", "elements of the storage"),)
HEADER_LENGTH: Record = (U64("header_length", "bytes of JSON"),)
PARTS = {
    "version": "the version of torch's layout",
    "byteorder": "of the machine that saved it",
    ".format_version": "of the archive",
    ".storage_alignment": "the data of storages begin at multiples of it",
    ".data/serialization_id": "two hashes: of the records' names, and of their CRCs",
}
MANY_CHARACTERS = 80


@dataclass(frozen=True)
class Element:
    """A number that a byte is a part of.

    Attributes:
        tensor: the name of the tensor that it is an element of.
        dtype, shape: of that tensor.
        index: where it is in the tensor.
        value: what it is.
    """

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    index: tuple[int, ...]
    value: Any


# ── zip archives ─────────────────────────────────────────────────────────────────────────────────────────────────────


def pth_lines(path: str | os.PathLike[str], fold: bool = True) -> Iterator[Line]:
    """A checkpoint of torch.save, zip or legacy.

    Raises:
        FormatError: the file can't be read.
    """
    with open_pth(path) as file:
        if file.format == "legacy":
            yield from _legacy_lines(file, fold)
            return
        yield from _archive_lines(Cursor(map_file(path), os.fspath(path)), file, fold)


def zip_lines(path: str | os.PathLike[str], fold: bool = True) -> Iterator[Line]:
    """A zip archive of whatever files.

    Raises:
        FormatError: the archive can't be read.
    """
    yield from _archive_lines(Cursor(map_file(path), os.fspath(path)), None, fold)


def _archive_lines(cursor: Cursor, file: PthFile | None, fold: bool) -> Iterator[Line]:
    members, names = list(read_directory(cursor.buffer, cursor.path or "").values()), _names_by_storage(file)
    for member in members:
        yield from record_lines_at(cursor, member.header, LOCAL, f"member[{member.name}]")
        yield from _contents(cursor, member, names, fold)
        if member.end > member.data + member.compressed:
            wide = member.end - member.data - member.compressed == form_of(WIDE_DESCRIPTOR).size
            record = WIDE_DESCRIPTOR if wide else DESCRIPTOR
            yield from record_lines_at(cursor, member.data + member.compressed, record, f"descriptor[{member.name}]")
    cursor.offset = members[-1].end if members else 0
    for member in members:
        yield from record_lines(cursor, CENTRAL, f"directory[{member.name}]")
    if cursor.left > form_of(END).size:
        yield from record_lines(cursor, ZIP64_END, "zip64_end")
        yield from record_lines(cursor, ZIP64_LOCATOR, "zip64_locator")
    yield from record_lines(cursor, END, "end")


Names = dict[str, list[str]]  # of the tensors in each storage


def _names_by_storage(file: PthFile | None) -> Names:
    names: Names = {}
    for name, view in file.views.items() if file else ():
        names.setdefault(view.storage.key, []).append(name)
    return names


def _contents(cursor: Cursor, member: Member, names: Names, fold: bool) -> Iterator[Line]:
    """The data of a member: of a checkpoint's, what they mean."""
    path, part = f"member[{member.name}]", member.name.partition("/")[2]
    if not member.compressed:
        return
    if member.method != STORED:
        said = f"{member.compressed:,} bytes, of which {member.size:,} are inflated"
        yield line_at(cursor, member.data, member.compressed, f"{path}.data", said, "compressed contents")
    elif names and part == "data.pkl":
        yield from _pickle_lines(cursor, member.data, path, fold)
    elif part.startswith("data/") and (key := part.removeprefix("data/")) in names:
        yield _storage_line(cursor, key, names[key], member.data, member.size)
    else:
        said = _beginning(bytes(cursor.buffer[member.data : member.data + member.size]))
        yield line_at(cursor, member.data, member.size, f"{path}.data", said, PARTS.get(part, "the contents"))


def _beginning(data: bytes) -> str:
    """The first words of a text, or the first bytes of something else."""
    try:
        text = " ".join(data.decode().split())
    except UnicodeDecodeError:
        return said_text(data)
    return repr(text) if len(text) <= MANY_CHARACTERS else f"{text[:MANY_CHARACTERS]!r} …"


def _storage_line(cursor: Cursor, key: str, names: list[str], offset: int, size: int) -> Line:
    """The data of a storage, with the tensors that are in it."""
    shown = ", ".join(names[:4]) + " …" * (len(names) > 4)
    return line_at(cursor, offset, size, f"storage[{key}].data", f"{size:,} bytes", f"the data of {shown}")


def _pickle_lines(cursor: Cursor, offset: int, path: str, fold: bool) -> Iterator[Line]:
    """A pickle's opcodes; the cursor ends up behind it."""
    stream = io.BytesIO(cursor.buffer[offset:])  # the reader has seen that it ends
    found = [(op, value, offset + (at or 0)) for op, value, at in pickletools.genops(stream)]
    cursor.offset = offset + stream.tell()
    ends = [*(at for _, _, at in found[1:]), cursor.offset]

    def lines_of(index: int) -> Iterator[Line]:
        op, value, at = found[index]
        said = op.name if value is None else f"{op.name} {value!r}"
        said = f"{said[:MANY_CHARACTERS]} …" if len(said) > MANY_CHARACTERS else said
        doc = " ".join(op.doc.partition(".")[0].split())
        yield line_at(cursor, at, ends[index] - at, f"{path}.opcode[{index}]", said, doc)

    yield from run_lines(len(found), "opcodes", fold, lines_of)


def _legacy_lines(file: PthFile, fold: bool) -> Iterator[Line]:
    cursor, names = Cursor(map_file(file.path), file.path), _names_by_storage(file)
    for name in PICKLES:
        yield from _pickle_lines(cursor, cursor.offset, f"pickle[{name}]", fold)
    storages: dict[str, Storage] = {view.storage.key: view.storage for view in file.views.values()}
    for storage in sorted(storages.values(), key=lambda each: file.data_offset(each) or 0):
        yield from record_lines(cursor, LEGACY_SIZE, f"storage[{storage.key}]")
        yield _storage_line(cursor, storage.key, names[storage.key], cursor.offset, storage.nbytes)
        cursor.offset += storage.nbytes


def elements_of_pth(path: str | os.PathLike[str], offset: int) -> list[Element]:
    """The elements of tensors that the byte is a part of: several where tensors share a storage."""
    with open_pth(path, check_crc=False) as file:
        places = ((name, view, file.data_offset(view.storage)) for name, view in file.views.items())
        inside = [
            (file.tensors[name], view, offset - start)
            for name, view, start in places
            if start is not None and start <= offset < start + view.storage.nbytes
        ]
        return [
            _element(tensor, index)
            for tensor, view, at in inside
            if (index := _index_in(view, at // DTYPES[view.dtype].size)) is not None
        ]


def _index_in(view: TensorView, element: int) -> tuple[int, ...] | None:
    """Where in a view an element of its storage is, or None.

    An axis with a longer stride decides first; in what torch saves no two elements of such a view are one.
    """
    rest, index = element - view.offset, [0] * len(view.shape)
    for axis in sorted(range(len(view.shape)), key=lambda axis: -view.strides[axis]):
        if view.strides[axis] > 0 and view.shape[axis] > 1:
            index[axis] = min(rest // view.strides[axis], view.shape[axis] - 1) if rest > 0 else 0
            rest -= index[axis] * view.strides[axis]
    return tuple(index) if rest == 0 and 0 not in view.shape else None


def _element(tensor: LazyTensor, index: tuple[int, ...]) -> Element:
    rows = tensor.stored(index[0], index[0] + 1)[0] if index else tensor.stored()
    value = rows[index[1:]] if index[1:] else rows
    if tensor.dtype == "bfloat16":
        value = widen_bfloat16(np.asarray(value))
    return Element(tensor.name, tensor.dtype, tensor.shape, index, np.asarray(value).item())


# ── safetensors ──────────────────────────────────────────────────────────────────────────────────────────────────────


def safetensors_lines(path: str | os.PathLike[str], fold: bool = True) -> Iterator[Line]:
    """A safetensors file.

    Raises:
        FormatError: the file can't be read.
    """
    with open_safetensors(path) as file:
        cursor = Cursor(map_file(path), os.fspath(path))
        names = sorted((name for name in file if file[name].nbytes), key=lambda name: file.offsets[name])
        length = U64("").read(cursor, {})
        header = list(json_lines(cursor, length, "header"))
        cursor.offset = 0
        yield from record_lines(cursor, HEADER_LENGTH, "header")
        end = Cursor(cursor.buffer[: cursor.offset + length], cursor.path, cursor.offset)
        lines = list(without_gaps(header, end, "header.json", BETWEEN))
        yield from run_lines(len(lines), "lines of JSON", fold, lambda index: iter([lines[index]]))

        def tensor_line(index: int) -> Iterator[Line]:
            tensor, offset = file[names[index]], file.offsets[names[index]]
            said = f"{tensor.nbytes:,} bytes of {tensor.dtype}, {list(tensor.shape)}"
            yield line_at(cursor, offset, tensor.nbytes, f"tensor[{tensor.name}].data", said, "")

        yield from run_lines(len(names), "tensors", fold, tensor_line)


def elements_of_safetensors(path: str | os.PathLike[str], offset: int) -> list[Element]:
    """The element of a tensor that the byte is a part of, or nothing."""
    with open_safetensors(path) as file:
        for name, tensor in file.items():
            start = file.offsets[name]
            if start <= offset < start + tensor.nbytes:
                flat = (offset - start) // DTYPES[tensor.dtype].size
                return [_element(tensor, tuple(int(i) for i in np.unravel_index(flat, tensor.shape)))]
    return []
