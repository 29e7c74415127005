"""What a zip archive is made of, as declared records: its readers and its dump derive from them.

Source: PKWARE APPNOTE 6.3.9, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct

from ggmlpy.formats.fields import U32, U64, Number, Record, Text

__all__ = ["CENTRAL", "DESCRIPTOR", "END", "LOCAL", "WIDE_DESCRIPTOR", "ZIP64_END", "ZIP64_LOCATOR", "form_of"]


def _u16(name: str, doc: str = "") -> Number:
    return Number(name, doc, "<H")


def _signature(doc: str) -> Number:
    return Number("signature", doc, "<4s")


_ENTRY = (
    _u16("version_needed", "of the ZIP standard, times 10"),
    _u16("flags", "bit 3: CRC and sizes stand behind the data; bit 11: the name is UTF-8"),
    _u16("method", "0: stored as it is, 8: deflated"),
    _u16("time", "of day, in MS-DOS's form; torch writes 0"),
    _u16("date", "in MS-DOS's form; torch writes 0"),
    U32("crc", "CRC-32 of the contents; 0 in front of data whose descriptor has it"),
    U32("compressed", "bytes in the archive; 0xFFFFFFFF: see the extra field"),
    U32("size", "bytes of the contents; 0xFFFFFFFF: see the extra field"),
    _u16("name_length", "bytes of the name"),
    _u16("extra_length", "bytes of the extra fields"),
)
_EXTRA = Text("extra", "wide sizes, and padding that puts the data at an aligned offset", "extra_length")
LOCAL: Record = (
    _signature("PK 3 4: a member begins"),
    *_ENTRY,
    Text("name", "of the member", "name_length"),
    _EXTRA,
)
CENTRAL: Record = (
    _signature("PK 1 2: an entry of the directory"),
    _u16("version_made_by", "of the ZIP standard, times 10; the upper byte is the system"),
    *_ENTRY,
    _u16("comment_length", "bytes of the comment"),
    _u16("disk", "0: there is one disk"),
    _u16("internal_attributes", "0"),
    U32("external_attributes", "the mode of the file in Unix, in the upper half"),
    U32("offset", "where the member begins; 0xFFFFFFFF: see the extra field"),
    Text("name", "of the member", "name_length"),
    _EXTRA,
    Text("comment", "", "comment_length"),
)
DESCRIPTOR: Record = (
    _signature("PK 7 8: behind the data of a member"),
    U32("crc", "CRC-32 of the contents"),
    U32("compressed", "bytes in the archive"),
    U32("size", "bytes of the contents"),
)
WIDE_DESCRIPTOR: Record = (
    *DESCRIPTOR[:2],
    U64("compressed", "bytes in the archive"),
    U64("size", "bytes of the contents"),
)
ZIP64_END: Record = (
    _signature("PK 6 6: the end, with wide numbers"),
    U64("record_size", "bytes that follow"),
    _u16("version_made_by", "of the ZIP standard, times 10; the upper byte is the system"),
    _u16("version_needed", "of the ZIP standard, times 10"),
    U32("disk", "0: there is one disk"),
    U32("disk_of_directory", "0"),
    U64("n_here", "entries on this disk"),
    U64("n_entries", "entries of the directory"),
    U64("directory_size", "bytes of the directory"),
    U64("directory", "where the directory begins"),
)
ZIP64_LOCATOR: Record = (
    _signature("PK 6 7: where the wide end is"),
    U32("disk", "0: there is one disk"),
    U64("offset", "where the wide end begins"),
    U32("n_disks", "1"),
)
END: Record = (
    _signature("PK 5 6: the end"),
    _u16("disk", "0: there is one disk"),
    _u16("disk_of_directory", "0"),
    _u16("n_here", "entries on this disk"),
    _u16("n_entries", "entries of the directory"),
    U32("directory_size", "bytes of the directory"),
    U32("directory", "where the directory begins"),
    _u16("comment_length", "0: nothing follows"),
)


def form_of(record: Record) -> struct.Struct:
    """The numbers of a record, in the notation of :mod:`struct`.

    >>> form_of(END).size
    22
    """
    return struct.Struct("<" + "".join(field.code[1:] for field in record if isinstance(field, Number)))
