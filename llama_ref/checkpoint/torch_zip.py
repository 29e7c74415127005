"""The zip archive around a checkpoint, read strictly.

A zip file says everything twice: a header precedes each record, and a directory at the end repeats the headers
with offsets. Readers that trust only one of the two can be shown different contents. This one reads both and demands
that they agree, that records follow each other from byte 0 to the directory without a gap or an overlap, and that
nothing stands behind the end record; so every byte of the file belongs to exactly one thing.

::

    record*      local header "PK\\3\\4", name, extra (zip64, padding), data, [data descriptor "PK\\7\\8"]
    directory    one entry "PK\\1\\2" a record, with the offset of its local header
    [zip64 end "PK\\6\\6" and its locator "PK\\6\\7"]      torch.save always writes these
    end          "PK\\5\\6", 22 bytes, no comment

Source: PKWARE APPNOTE 6.3.9, sections 4.3 to 4.5; what torch.save does of it is in :mod:`.pth_writer`.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from typing import NoReturn

from ggmlpy.files.errors import BadMagicError, FormatError, IntegrityError, TruncatedError, UnsupportedError

from .zip_records import CENTRAL, DESCRIPTOR, END, LOCAL, WIDE_DESCRIPTOR, ZIP64_END, ZIP64_LOCATOR, form_of

__all__ = ["STORED", "Buffer", "Record", "inflate", "read_directory"]

Buffer = memoryview  # of the mapped file

STORED, DEFLATED = 0, 8
MAX_RECORDS = 100_000  # the largest checkpoints with optimizer state hold about 30,000
MAX_DEFLATED = 2 << 30  # bytes that a compressed record may expand to; torch.save never compresses
_DEFLATE_RATIO = 1032  # no deflate stream expands further (zlib technical notes)
_FLAGS = 0x0808  # bit 3: sizes stand behind the data; bit 11: names are UTF-8
_DEFLATE_LEVEL = 0x0006  # bits 1 and 2 say how hard the compressor tried; meaningless to a reader
_LIMIT32 = 0xFFFFFFFF

_LOCAL, _CENTRAL, _END = map(form_of, (LOCAL, CENTRAL, END))
_ZIP64_END, _ZIP64_LOCATOR = map(form_of, (ZIP64_END, ZIP64_LOCATOR))


@dataclass(frozen=True)
class Record:
    """One member of the archive, proven to lie within the file."""

    name: str
    method: int  # 0 stored, 8 deflated
    crc: int
    compressed: int  # bytes in the file
    size: int  # bytes of the content
    header: int  # offset of the local header
    data: int  # offset of the first byte of the data
    end: int  # offset behind the data and its descriptor


class _Zip:
    """The mapped file with its path, for the messages."""

    def __init__(self, buffer: Buffer, path: str) -> None:
        self.buffer = buffer
        self.path = path
        self.size = len(buffer)

    def refuse(
        self,
        problem: str,
        offset: int | None = None,
        *,
        error: type[FormatError] = IntegrityError,
        field: str | None = None,
        expected: object = None,
        found: object = None,
        cause: str = "the archive was damaged or edited; torch.save writes no such thing",
    ) -> NoReturn:
        raise error(
            problem,
            path=self.path,
            offset=offset,
            field=field,
            expected=expected,
            found=found,
            cause=cause,
            next_step="get the file again from its publisher and compare its SHA256",
        )

    def unpack(self, form: struct.Struct, offset: int, what: str) -> tuple:
        if offset < 0 or offset + form.size > self.size:
            self.refuse(
                f"{what} lies outside the file",
                offset,
                error=TruncatedError,
                expected=f"{form.size} bytes",
                found=max(0, self.size - offset),
                cause="the file was cut off",
            )
        return form.unpack_from(self.buffer, offset)


def read_directory(buffer: Buffer, path: str) -> dict[str, Record]:
    """All records of the archive by name, in the order of the file.

    Raises:
        TruncatedError: the end record is missing, or something lies outside the file.
        IntegrityError: the two accounts of the archive differ, records overlap, names are unsafe or appear twice.
        UnsupportedError: encryption, another compression than deflate, more than one disk.
    """
    archive = _Zip(buffer, path)
    n_records, directory, directory_end = _directory_place(archive)
    records: dict[str, Record] = {}
    offset = directory
    for _ in range(n_records):
        record, offset = _read_entry(archive, offset, directory, directory_end)
        if record.name in records:
            archive.refuse(f"record {record.name!r} appears twice", record.header, field=record.name)
        records[record.name] = record
    if offset != directory_end:
        archive.refuse("the directory holds more than its entries", offset, expected=directory_end, found=offset)
    return _without_gaps(archive, records, directory)


def inflate(buffer: Buffer, record: Record, path: str) -> bytes:
    """The content of a deflated record: exactly ``record.size`` bytes, or an error; never more memory than that."""
    archive = _Zip(buffer, path)
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = machine.decompress(buffer[record.data : record.data + record.compressed], record.size + 1)
    except zlib.error as error:
        archive.refuse(f"record {record.name!r} cannot be inflated: {error}", record.data, field=record.name)
    if len(content) != record.size or not machine.eof or machine.unused_data:
        archive.refuse(
            f"record {record.name!r} does not inflate to the announced size",
            record.data,
            field=record.name,
            expected=f"{record.size:,} bytes",
            found=f"{len(content):,}" + ("" if machine.eof else " or more"),
            cause="a zip bomb, or the file is damaged",
        )
    return content


# -- the end of the archive --------------------------------------------------------------------------------------------


def _directory_place(archive: _Zip) -> tuple[int, int, int]:
    """(number of records, offset of the directory, offset behind it), from the end record and its zip64 twin."""
    end = archive.size - _END.size
    if archive.size < 4 or bytes(archive.buffer[:4]) not in (b"PK\3\4", b"PK\5\6"):
        archive.refuse("not a zip archive", 0, error=BadMagicError, found=bytes(archive.buffer[:4]))
    if end < 0 or bytes(archive.buffer[end : end + 4]) != b"PK\5\6":
        _explain_missing_end(archive)
    _, disk, disk_of_directory, here, n_records, length, start, comment = archive.unpack(_END, end, "the end record")
    if disk or disk_of_directory or here != n_records:
        archive.refuse("an archive of several disks", end, error=UnsupportedError)
    if comment:
        archive.refuse("the end record announces a comment that is not there", end, found=comment)
    behind = end
    place = _zip64_place(archive, end)
    if place is not None:
        clamped = (min(place[0], 0xFFFF), min(place[1], _LIMIT32), min(place[2], _LIMIT32))
        if (n_records, length, start) != clamped:
            archive.refuse("the two end records differ", end, expected=clamped, found=(n_records, length, start))
        n_records, length, start, behind = place
    if start + length != behind:
        archive.refuse(
            "the directory is not where the end record says",
            end,
            field="offset of the directory",
            expected=behind - length,
            found=start,
            cause="bytes were put before or into the archive",
        )
    if n_records > MAX_RECORDS or n_records * _CENTRAL.size > length:
        archive.refuse(
            "an impossible number of records",
            end,
            expected=f"at most {min(MAX_RECORDS, length // _CENTRAL.size):,}",
            found=f"{n_records:,}",
        )
    return n_records, start, behind


def _zip64_place(archive: _Zip, end: int) -> tuple[int, int, int, int] | None:
    """(records, length, offset, offset of the zip64 end record), or None in an archive without one."""
    at = end - _ZIP64_LOCATOR.size
    if at < 0 or bytes(archive.buffer[at : at + 4]) != b"PK\6\7":
        return None
    _, disk, place, n_disks = archive.unpack(_ZIP64_LOCATOR, at, "the zip64 locator")
    if disk or n_disks != 1:
        archive.refuse("an archive of several disks", at, error=UnsupportedError)
    if place != at - _ZIP64_END.size:
        archive.refuse("the zip64 end record is misplaced", at, expected=at - _ZIP64_END.size, found=place)
    magic, size, _, _, disk, disk_of_directory, here, n_records, length, start = archive.unpack(
        _ZIP64_END, place, "the zip64 end record"
    )
    if magic != b"PK\6\6" or size != _ZIP64_END.size - 12 or disk or disk_of_directory or here != n_records:
        archive.refuse("the zip64 end record is malformed", place)
    return n_records, length, start, place


def _explain_missing_end(archive: _Zip) -> NoReturn:
    """The file does not end with an end record: cut off, or is there something behind the archive?"""
    tail = bytes(archive.buffer[max(0, archive.size - 66_000) :])
    at = tail.rfind(b"PK\5\6")
    if at >= 0 and len(tail) - at >= _END.size:
        extra = len(tail) - at - _END.size
        archive.refuse(
            f"{extra} bytes stand behind the end of the archive",
            archive.size - extra,
            cause="a comment or other data was appended; torch.save writes none",
        )
    archive.refuse(
        "the end of the archive is missing",
        archive.size,
        error=TruncatedError,
        field="end record",
        expected='"PK\\5\\6" in the last 22 bytes',
        found=bytes(archive.buffer[-4:]),
        cause="an interrupted download or copy",
    )


# -- records -----------------------------------------------------------------------------------------------------------


def _read_entry(archive: _Zip, offset: int, directory: int, directory_end: int) -> tuple[Record, int]:
    """The record that the directory entry at ``offset`` describes, and the offset of the next entry."""
    fields = archive.unpack(_CENTRAL, offset, "a directory entry")
    magic, _, _, flags, method, _, _, crc, compressed, size, n_name, n_extra, n_comment, disk, _, attributes, header = (
        fields
    )
    after = offset + _CENTRAL.size + n_name + n_extra + n_comment
    if magic != b"PK\1\2" or after > directory_end:
        archive.refuse("a damaged directory entry", offset, expected=b"PK\1\2", found=magic)
    name = _safe_name(archive, offset, offset + _CENTRAL.size, n_name)
    if disk or n_comment:
        archive.refuse(f"record {name!r} has a comment or lies on another disk", offset, field=name)
    extra = offset + _CENTRAL.size + n_name
    wide = _zip64_extra(archive, extra, n_extra, name)
    if wide is not None:
        size, compressed, header = _widen(archive, offset, name, wide, (size, compressed, header))
    _check_kind(archive, offset, name, flags, method, attributes)
    if method == STORED and compressed != size:
        archive.refuse(f"record {name!r}: two sizes for stored data", offset, expected=size, found=compressed)
    if method == DEFLATED and (size > compressed * _DEFLATE_RATIO + 64 or size > MAX_DEFLATED):
        archive.refuse(
            f"record {name!r} would expand {compressed:,} bytes to {size:,}", offset, field=name, cause="a zip bomb"
        )
    record = Record(name, method, crc, compressed, size, header, data=0, end=0)
    return _read_local(archive, record, flags, directory), after


def _check_kind(archive: _Zip, offset: int, name: str, flags: int, method: int, attributes: int) -> None:
    """Refuse encrypted records, foreign compression, symbolic links and directories.

    The attributes are Unix's mode in the upper half and DOS's byte in the lower; readers differ in which they believe.
    """
    if flags & 0x2041:
        archive.refuse(f"record {name!r} is encrypted", offset, error=UnsupportedError, field=name)
    if method not in (STORED, DEFLATED):
        archive.refuse(f"record {name!r}: compression method {method}", offset, error=UnsupportedError, field=name)
    if flags & ~(_FLAGS | (_DEFLATE_LEVEL if method == DEFLATED else 0)):
        archive.refuse(f"record {name!r} has unknown flags", offset, field=name, found=hex(flags))
    if (attributes >> 16) & 0xF000 not in (0, 0x8000) or attributes & 0x18:
        found = hex(attributes)
        archive.refuse(f"record {name!r} is a symbolic link or no regular file", offset, field=name, found=found)


def _read_local(archive: _Zip, record: Record, flags: int, directory: int) -> Record:
    """The record with the offsets of its data and of its end, once its local header agrees with the directory."""
    name, header = record.name, record.header
    found = archive.unpack(_LOCAL, header, f"the local header of {name!r}")
    magic, _, local_flags, local_method, _, _, crc, compressed, size, n_name, n_extra = found
    if magic != b"PK\3\4" or (local_flags, local_method) != (flags, record.method):
        archive.refuse(f"record {name!r}: its local header differs from the directory", header, field=name)
    data = header + _LOCAL.size + n_name + n_extra
    end = data + record.compressed
    if end > directory:
        archive.refuse(
            f"record {name!r} reaches into the directory or beyond the file",
            header,
            field=name,
            expected=f"an end at or before {directory}",
            found=end,
        )
    if archive.buffer[header + _LOCAL.size : data - n_extra] != name.encode():
        archive.refuse(f"record {name!r} has another name in its local header", header, field=name)
    wide = _zip64_extra(archive, data - n_extra, n_extra, name)
    if wide is not None:
        wide_size, wide_compressed = struct.unpack_from("<QQ", wide + bytes(max(0, 24 - len(wide))))
        size = wide_size if size == _LIMIT32 else size
        compressed = wide_compressed if compressed == _LIMIT32 else compressed
    late = bool(flags & 8)
    _check_sizes(archive, record, (crc, compressed, size), late)
    if late:
        end = _end_of_descriptor(archive, record, end, wide is not None)
    return replace(record, data=data, end=end)


def _check_sizes(archive: _Zip, record: Record, local: tuple[int, int, int], late: bool) -> None:
    """CRC and sizes in the local header: the directory's, or zeros where they follow ``late``, in a descriptor."""
    stated = (record.crc, record.compressed, record.size)
    allowed = [stated] + late * [(0, 0, 0), (0, 0, record.size)]
    if local not in allowed:
        archive.refuse(
            f"record {record.name!r}: sizes or CRC differ between local header and directory",
            record.header,
            field=record.name,
            expected=stated,
            found=local,
        )


def _end_of_descriptor(archive: _Zip, record: Record, offset: int, wide: bool) -> int:
    """The offset behind the descriptor that follows the data at ``offset``, once it agrees with the directory."""
    form = form_of(WIDE_DESCRIPTOR if wide else DESCRIPTOR)
    found = archive.unpack(form, offset, f"the descriptor of {record.name!r}")
    if found != (b"PK\7\x08", record.crc, record.compressed, record.size):
        archive.refuse(f"record {record.name!r}: the descriptor behind its data differs", offset, field=record.name)
    return offset + form.size


def _zip64_extra(archive: _Zip, offset: int, length: int, name: str) -> bytes | None:
    """The content of the zip64 extra field among those at ``offset``, or None."""
    found = None
    end = offset + length
    while offset < end:
        if end - offset < 4:
            archive.refuse(f"record {name!r} has a damaged extra field", offset, field=name)
        kind, size = struct.unpack_from("<HH", archive.unpack(struct.Struct("<4s"), offset, "an extra field")[0])
        offset += 4
        if size > end - offset or kind == 0x7075 or (kind == 1 and found is not None):
            archive.refuse(f"record {name!r} has a damaged or misleading extra field", offset, field=name)
        if kind == 1:
            found = bytes(archive.buffer[offset : offset + size])
        offset += size
    return found


def _widen(archive: _Zip, offset: int, name: str, wide: bytes, values: tuple[int, int, int]) -> tuple[int, int, int]:
    """(size, compressed size, offset) with each 0xFFFFFFFF replaced by the next 64-bit value of the extra field."""
    n_wide = values.count(_LIMIT32)
    if len(wide) != 8 * n_wide:
        archive.refuse(f"record {name!r} has a damaged zip64 field", offset, expected=8 * n_wide, found=len(wide))
    replacements = iter(struct.unpack(f"<{n_wide}Q", wide))
    size, compressed, header = (next(replacements) if value == _LIMIT32 else value for value in values)
    return size, compressed, header


def _safe_name(archive: _Zip, offset: int, at: int, length: int) -> str:
    """The name at ``at``: UTF-8, relative, without empty, ``.`` or ``..`` components."""
    try:
        name = str(archive.buffer[at : at + length], "utf-8")
    except UnicodeDecodeError:
        archive.refuse("a record's name is not UTF-8", offset)
    if name.endswith("/"):
        archive.refuse(f"record {name!r} is a directory", offset, cause="packed again by another program than torch")
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or not name.isprintable() or "\\" in name or ":" in parts[0]:
        archive.refuse(f"unsafe record name {name[:80]!r}", offset, cause="a path that leads out of the archive")
    return name


def _without_gaps(archive: _Zip, records: dict[str, Record], directory: int) -> dict[str, Record]:
    """``records`` in file order, once they fill the file from 0 to the directory."""
    ordered = sorted(records.values(), key=lambda record: record.header)
    offset = 0
    for record in ordered:
        if record.header != offset:
            what = "overlaps another record" if record.header < offset else f"comes {record.header - offset} bytes late"
            archive.refuse(f"record {record.name!r} {what}", record.header, field=record.name, expected=offset)
        offset = record.end
    if offset != directory:
        archive.refuse(f"{directory - offset} bytes belong to no record", offset)
    return {record.name: record for record in ordered}
