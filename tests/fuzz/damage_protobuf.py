"""Damage to protobuf messages, such as SentencePiece models: other types, extreme varints, lengths that lie."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.fuzz.damage_bytes import extreme_number

__all__ = ["damaged_protobuf", "encode", "parse", "varint"]

Part = tuple[int, int, bytes]  # field number, wire type, content (without its length)
TEXTS = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"<0x41>",
    b"<0xZZ>",
    b"<unk>",
    b"<s>",
    b"</s>",
    "▁".encode(),
    b"\xed\xa0\x80",
    b"a" * 200,
)
INTEGERS = (0, 1, 2, 3, 4, 5, 6, 7, 127, 128, 255, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 63) - 1, (1 << 64) - 1)


def varint(value: int) -> bytes:
    """The shortest encoding."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def parse(data: bytes) -> list[Part] | None:
    """The fields of a message; None if it is none."""
    parts, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            start, (_, at) = at, _varint(data, at)
            content = data[start:at]
        elif wire in (1, 2, 5):
            size, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            content, at = data[at : at + size], at + size
        else:
            return None
        if at > len(data) or not number:
            return None
        parts.append((number, wire, content))
    return parts


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            return 0, len(data) + 1
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            break
    return value, at


def encode(parts: Sequence[Part]) -> bytes:
    """The message again, lengths filled in."""
    return b"".join(
        varint(number << 3 | wire) + (varint(len(content)) if wire == 2 else b"") + content
        for number, wire, content in parts
    )


def damaged_protobuf(rng: random.Random, data: bytes) -> bytes:
    """A message with a few of its fields, or of the fields inside them, changed."""
    parts = parse(data)
    if not parts:
        return data
    for _ in range(rng.choice((1, 1, 2, 5))):
        index = rng.randrange(len(parts))
        number, wire, content = parts[index]
        inner = parse(content) if wire == 2 and len(content) > 3 and rng.random() < 0.75 else None
        if inner:
            place = rng.randrange(len(inner))
            inner[place : place + 1] = _changed(rng, inner[place])
            parts[index] = (number, wire, encode(inner))
        else:
            parts[index : index + 1] = _changed(rng, parts[index])
        if rng.random() < 0.1:
            a, b = rng.randrange(len(parts) or 1), rng.randrange(len(parts) or 1)
            parts[a:a] = parts[b : b + rng.choice((1, 3, 30))]
        if not parts:
            break
    out = encode(parts)
    if rng.random() < 0.1:  # a length that lies, a varint that is too long
        at = rng.randrange(len(out) + 1)
        out = out[:at] + rng.choice((b"\xff" * 9 + b"\x01", b"\xff" * 12, b"\x80\x00", b"\x0a\xff\xff\x7f")) + out[at:]
    return out


def _changed(rng: random.Random, part: Part) -> list[Part]:
    """None, one, or several fields in its place."""
    number, wire, content = part
    kind = rng.randrange(10)
    if kind == 0:
        return []
    if kind == 1:
        return [part] * rng.choice((2, 3, 60))
    if kind == 2:
        return [(rng.choice((1, 2, 3, 4, 5, 6, 15, 16, 200, 1 << 28)), wire, content)]
    if kind == 3:
        wire = rng.choice((0, 1, 2, 5))
        return [(number, wire, {0: varint(rng.choice(INTEGERS)), 1: b"\0" * 8, 2: content, 5: b"\0" * 4}[wire])]
    if wire == 0:
        return [(number, wire, varint(rng.choice(INTEGERS)))]
    if wire in (1, 5):
        return [
            (number, wire, rng.choice((extreme_number(rng, len(content), content), b"\0\0\xc0\x7f"[: len(content)])))
        ]
    cut = rng.randrange(len(content) + 1)
    return [(number, wire, rng.choice((*TEXTS, content[:cut], content + b"\0", content[cut:] + content[:cut])))]
