"""Tools to build hostile checkpoints: a pickle assembler and a zip writer that can lie in every field."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from toolchain.zoo.pickles import HOOKS, PROTO, STOP, call, integer, integers, name, storage, tensor, text  # noqa: F401


def program(value: bytes) -> bytes:
    """A whole pickle whose value is ``{"w": value}``"""
    return PROTO + b"}" + text("w") + value + b"s" + STOP


# -- zip archives ------------------------------------------------------------------------------------------------------


@dataclass
class Member:
    """A record as a well-behaved writer would write it, unless told otherwise."""

    name: str | bytes
    data: bytes = b""
    method: int = 0
    flags: int = 0x0800
    packed: bytes | None = None  # the bytes in the file; by default the data, compressed if method is 8
    local: dict = field(default_factory=dict)  # fields of the local header that differ: name, crc, size, packed, ...
    central: dict = field(default_factory=dict)  # fields of the directory that differ: offset, mode, disk, ...
    before: bytes = b""  # bytes of no record in front of it

    def fields(self, changes: dict) -> dict:
        packed = self.packed if self.packed is not None else deflate(self.data) if self.method == 8 else self.data
        encoded = self.name if isinstance(self.name, bytes) else self.name.encode()
        base = {"name": encoded, "method": self.method, "flags": self.flags, "crc": zlib.crc32(self.data)}
        base |= {
            "size": len(self.data),
            "packed": len(packed),
            "bytes": packed,
            "extra": b"",
            "mode": 0,
            "attributes": 0,
            "disk": 0,
        }
        return base | changes


def deflate(data: bytes) -> bytes:
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return machine.compress(data) + machine.flush()


def archive(members, *, prepend=b"", append=b"", gap=b"", comment=b"", **end) -> bytes:
    """The bytes of a zip file. ``end``: fields of the end record that differ (count, here, size, offset, disk)."""
    out = bytearray(prepend)
    directory = bytearray()
    for member in members:
        out += member.before
        f = member.fields(member.local)
        offset = len(out) - len(prepend)
        out += struct.pack(
            "<4sHHHHHIIIHH", b"PK\3\4", 20, f["flags"], f["method"], 0, 0, f["crc"], f["packed"], f["size"],
            len(f["name"]), len(f["extra"]),
        )  # fmt: skip
        out += f["name"] + f["extra"] + f["bytes"]
        f = member.fields({"offset": offset, **member.central})
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 0x031E, 20, f["flags"], f["method"], 0, 0, f["crc"], f["packed"],
            f["size"], len(f["name"]), len(f["extra"]), 0, f["disk"], 0, f["mode"] << 16 | f["attributes"], f["offset"],
        )  # fmt: skip
        directory += f["name"] + f["extra"]
    out += gap
    start = len(out) - len(prepend)
    e = {"count": len(members), "size": len(directory), "offset": start, "disk": 0, "zip64": b"", **end}
    e.setdefault("here", e["count"])
    out += directory + e["zip64"]
    out += struct.pack(
        "<4sHHHHIIH", b"PK\5\6", e["disk"], 0, e["here"], e["count"], e["size"], e["offset"], len(comment)
    )
    return bytes(out + comment + append)


DATA = bytes(range(32))


def members(pickle: bytes | None = None, content: bytes = DATA, **changes) -> list[Member]:
    """The records of a benign checkpoint with one float16 tensor [4, 4]: pickle, data, version.

    ``changes`` replace a record, or drop it where they are None, or add one.
    """
    made = {
        "main": Member("x/data.pkl", pickle if pickle is not None else program(tensor())),
        "data": Member("x/data/0", content),
        "version": Member("x/version", b"3\n"),
    }
    return [member for member in (made | changes).values() if member is not None]


def checkpoint(pickle: bytes | None = None, content: bytes = DATA, **changes) -> bytes:
    """The file of :func:`members`."""
    return archive(members(pickle, content, **changes))
