"""Damage inside archives: a record is changed, the archive packed anew with right sums, so that the damage arrives."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable

from ggmlpy.files.npy import ZIP_TROUBLE
from tests.fuzz.damage_bytes import Spans
from tests.llama_ref.attacks import forge

__all__ = ["damaged_names", "repacked", "zip_spans"]

NAMES = (
    "../x",
    "/etc/x",
    "C:\\x",
    "a\\..\\x",
    "x/",
    "",
    ".",
    "中文",
    "a\0b",
    "adapter_model.bin",
    "x" * 300,
    "a/./b",
    "a//b",
)


def records_of(data: bytes) -> list[tuple[str, bytes]]:
    """Names and contents; empty for what Python's reader can't read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [(info.filename, archive.read(info)) for info in archive.infolist() if info.file_size < 1 << 20]
    except ZIP_TROUBLE:
        return []


def repacked(
    rng: random.Random,
    data: bytes,
    damage: Callable[[str, bytes], bytes],
    first: float = 0.0,
    methods: tuple[int, ...] = (0, 0, 0, 8),
) -> bytes:
    """The archive with one record damaged, the first one at least that often; ``data`` if it is no archive."""
    records = records_of(data)
    if not records:
        return data
    chosen = 0 if rng.random() < first else rng.randrange(len(records))
    members = [
        forge.Member(name, damage(name, content) if i == chosen else content, method=rng.choice(methods))
        for i, (name, content) in enumerate(records)
    ]
    if rng.random() < 0.1:
        rng.shuffle(members)
    return forge.archive(members)


def damaged_names(rng: random.Random, data: bytes) -> bytes:
    """The archive with records renamed, repeated, dropped, or described in two ways."""
    members = [forge.Member(name, content, method=rng.choice((0, 8))) for name, content in records_of(data)]
    if not members:
        return data
    for _ in range(rng.choice((1, 1, 2))):
        i = rng.randrange(len(members))
        member, kind = members[i], rng.randrange(6)
        if kind == 0:
            members[i] = forge.Member(rng.choice((*NAMES, members[0].name, member.name + "/x")), member.data)
        elif kind == 1:
            members.append(member)
        elif kind == 2 and len(members) > 1:
            del members[i]
        elif kind == 3:
            member.central = {**member.central, **_lie(rng, len(member.data))}
        elif kind == 4:
            member.local = {**member.local, **_lie(rng, len(member.data))}
        else:
            lie = _lie(rng, len(member.data))
            member.local, member.central = {**member.local, **lie}, {**member.central, **lie}
    end = {rng.choice(("count", "size", "offset", "disk", "here")): rng.choice((0, 1, 2, 0xFFFF))}
    return forge.archive(members, **(end if rng.random() < 0.15 else {}))


def _lie(rng: random.Random, size: int) -> dict:
    numbers = (0, 1, size - 1 if size else 0, size + 1, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF)
    return rng.choice(
        (
            {"size": rng.choice(numbers)},
            {"packed": rng.choice(numbers)},
            {"crc": rng.choice(numbers)},
            {"flags": rng.choice((1, 8, 0x40, 0x800, 0x2000, 0xFFFF))},
            {"method": rng.choice((8, 9, 12, 14, 93, 99))},
            {"extra": rng.choice((b"\1\0\x10\0" + b"\xff" * 16, b"\1\0", b"\1\0\xff\xff", b"up\x05\0\1\0\0\0\0"))},
            {"name": rng.choice(NAMES).encode() or b"x"},
        )
    )


def zip_spans(data: bytes) -> Spans:
    """Where the numbers of the headers, the directory and the end records stand."""
    spans: list[tuple[int, int]] = []
    layouts = {
        b"PK\3\4": "HHHHHIIIHH",
        b"PK\1\2": "HHHHHHIIIHHHHHII",
        b"PK\5\6": "HHHHIIH",
        b"PK\6\6": "QHHIIQQQQ",
        b"PK\6\7": "IQI",
        b"PK\7\x08": "III",
    }
    for magic, codes in layouts.items():
        at = data.find(magic)
        while at >= 0:
            offset = at + 4
            for code in codes:
                spans.append((offset, struct.calcsize("<" + code)))
                offset += spans[-1][1]
            at = data.find(magic, at + 4)
    return [span for span in spans if sum(span) <= len(data)]
