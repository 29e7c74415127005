"""The zip archive around a checkpoint, as torch's own writer lays it out.

Records are stored; each is ``<prefix>/<name>``, the prefix being the file's name without its last extension. Local
headers carry neither CRC nor sizes; those follow the data in a descriptor, so that one pass suffices.

::

    local header   version 0, flags 0x0808 (0x0800 and no descriptor if empty), date 0, CRC and sizes 0
                   extra: [zip64: u16 1, u16 n; if size >= 2^32-1: u64 size, u64 0; if offset >= 2^32-1: u64 offset]
                          "FB", u16 n, n times "Z" so that the data starts at a multiple of 64
    data
    descriptor     "PK\\7\\8", CRC, size, size: u32, or u64 if the local header has a zip64 field
    directory      version 0, made by 0, real CRC; zip64 field with both real sizes
    zip64 end      always, made by 0x031e, needs 45; its locator; the end record with its values clamped

Sources: caffe2/serialize/inline_container.cc; third_party/miniz; files of torch 1.13.1, 2.0.1, 2.5.1, 2.6.0, 2.13.0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ggmlpy.files.segments import Segment

from .crc32 import RunningCrc
from .pth_pickle import Tensor
from .serialization_id import serialization_id
from .torch_formats import Layout

__all__ = ["Place", "archive_segments", "archive_size", "end_records", "plan_archive"]

_LIMIT32 = 0xFFFFFFFF
_ALIGNMENT = 64


@dataclass(frozen=True)
class Place:
    """A record and where it stands; all of its bytes but the CRC follow from that."""

    name: str  # without the prefix
    full: bytes
    size: int
    header: int  # offset of the local header

    @property
    def wide(self) -> bool:
        """Whether its local header has a zip64 field."""
        return self.size >= _LIMIT32 or self.header >= _LIMIT32

    @property
    def data(self) -> int:
        """Offset of the data."""
        return self.header + len(self.local_header())

    @property
    def end(self) -> int:
        """Offset behind the data and its descriptor."""
        return self.data + self.size + len(self.descriptor(0))

    def _zip64(self, compressed: int) -> bytes:
        values = [self.size, compressed] if self.size >= _LIMIT32 else []
        values += [self.header] if self.header >= _LIMIT32 else []
        return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""

    @property
    def _flags(self) -> int:
        return 0x0808 if self.size else 0x0800

    def local_header(self) -> bytes:
        zip64 = self._zip64(0)
        used = self.header + 30 + len(self.full) + len(zip64) + 4
        extra = zip64 + struct.pack("<2sH", b"FB", -used % _ALIGNMENT) + b"Z" * (-used % _ALIGNMENT)
        fixed = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, self._flags, 0, 0, 0, 0, 0, 0, len(self.full), len(extra))
        return fixed + self.full + extra

    def descriptor(self, crc: int) -> bytes:
        if not self.size:
            return b""
        return struct.pack("<4sIQQ" if self.wide else "<4sIII", b"PK\7\x08", crc, self.size, self.size)

    def directory_entry(self, crc: int) -> bytes:
        extra = self._zip64(self.size)
        size = min(self.size, _LIMIT32)
        numbers = (0, 0, self._flags, 0, 0, 0, crc, size, size, len(self.full), len(extra), 0, 0, 0, 0)
        fixed = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *numbers, min(self.header, _LIMIT32))
        return fixed + self.full + extra


def plan_archive(prefix: str, layout: Layout, pickle_size: int, tensors: Sequence[Tensor]) -> list[Place]:
    """Every record with its offset. CRCs are not needed for that, so the size is known before the first byte."""
    keys = range(len(tensors)) if layout.numeric else sorted(range(len(tensors)), key=str)
    sizes = [("data.pkl", pickle_size), *((name, len(content)) for name, content in layout.first)]
    sizes += [(f"data/{key}", tensors[key].nbytes) for key in keys]
    sizes += [("version", 2)] + [(".data/serialization_id", 40)] * layout.identified
    places: list[Place] = []
    for name, size in sizes:
        start = places[-1].end if places else 0
        places.append(Place(name, f"{prefix}/{name}".encode(), size, start))
    return places


def archive_size(places: Sequence[Place]) -> int:
    return places[-1].end + sum(len(place.directory_entry(0)) for place in places) + 56 + 20 + 22


def archive_segments(
    layout: Layout,
    places: Sequence[Place],
    pickle: bytes,
    tensors: Sequence[Tensor],
    progress: Callable[[int], object] | None = None,
) -> Iterator[Segment]:
    """All records, the directory and the three end records, as segments of a file.

    Args:
        progress: called with the number of bytes when a segment of a tensor is written.
    """
    fixed = {"data.pkl": pickle, "version": b"3\n", **dict(layout.first)}
    sums = [RunningCrc() for _ in places]
    for i, place in enumerate(places):
        key = place.name.removeprefix("data/")
        content: Iterable[Segment]
        if place.name == ".data/serialization_id":
            content = [Segment(place.size, partial(_identified, places[:i], sums), late=True)]
        else:
            content = tensors[int(key)].segments(progress) if key != place.name else [_fixed(fixed[place.name])]
        yield _fixed(place.local_header())
        yield from map(sums[i].over, content)
        yield Segment(len(place.descriptor(0)), partial(_descriptor, place, sums[i]), late=True)
    yield Segment(archive_size(places) - places[-1].end, partial(_end, places, sums), late=True)


_fixed = Segment.of_bytes


def _identified(places: Sequence[Place], sums: Sequence[RunningCrc]) -> bytes:
    filled = [crc.value for place, crc in zip(places, sums) if place.size]
    return serialization_id([place.name for place in places], filled)


def _descriptor(place: Place, crc: RunningCrc) -> bytes:
    return place.descriptor(crc.value)


def _end(places: Sequence[Place], sums: Sequence[RunningCrc]) -> bytes:
    """The directory and what follows it."""
    directory = b"".join(place.directory_entry(crc.value) for place, crc in zip(places, sums, strict=True))
    return directory + end_records(len(places), len(directory), places[-1].end)


def end_records(n: int, size: int, offset: int) -> bytes:
    """The zip64 end record, its locator, and the end record of the classic format."""
    zip64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0x031E, 45, 0, 0, n, n, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1)
    few = min(n, 0xFFFF)
    classic = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, few, few, min(size, _LIMIT32), min(offset, _LIMIT32), 0)
    return zip64 + locator + classic
