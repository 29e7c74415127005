"""Damage that knows nothing of a format, and damage that knows where its fields are."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

__all__ = ["LARGEST", "Spans", "damaged", "extreme_number"]

Spans = Sequence[tuple[int, int]]  # offset and size of each declared field
LARGEST = 1 << 16  # bytes of an input

EXTREMES = (0, 1, 2, 3, 7, 31, 32, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 1 << 20, 1 << 24, 0x7FFFFFFF)
EXTREMES += (0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 8, (1 << 64) - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 3e38, 1e308, float("inf"), float("-inf"), float("nan"))


def extreme_number(rng: random.Random, size: int, old: bytes) -> bytes:
    """``size`` bytes that a reader may stumble over: extreme integers, neighbours of the old value, odd floats."""
    order = "little" if rng.random() < 0.9 else "big"
    if size in (4, 8) and rng.random() < 0.1:
        value = rng.choice(FLOATS)
        return struct.pack("<d" if size == 8 else "<f", value if size == 8 else max(min(value, 3e38), -3e38))
    if rng.random() < 0.4:
        number = int.from_bytes(old, "little")
        number = rng.choice((number + 1, number - 1, number * 2, number // 2, -number, number ^ 1 << rng.randrange(32)))
    else:
        number = rng.choice(EXTREMES)
    return (number & ((1 << 8 * size) - 1)).to_bytes(size, order)  # type: ignore[arg-type]


class Damage:
    """One input on its way to ruin."""

    def __init__(self, rng: random.Random, donors: Sequence[bytes], fragments: Sequence[bytes]) -> None:
        self.rng, self.donors, self.fragments = rng, donors, fragments

    def place(self, data: bytes) -> int:
        return self.rng.randrange(len(data) + 1)

    def span(self, data: bytes) -> tuple[int, int]:
        """The ends of a piece, short ones more often."""
        a = self.place(data)
        return a, min(len(data), a + self.rng.choice((1, 2, 4, 8, 16, 64, 256, len(data))))

    def flip(self, data: bytes) -> bytes:
        at = self.place(data)
        return data[:at] + bytes(b ^ 1 << self.rng.randrange(8) for b in data[at : at + 1]) + data[at + 1 :]

    def overwrite(self, data: bytes) -> bytes:
        at, new = self.place(data), self.rng.randbytes(self.rng.choice((1, 2, 4)))
        return data[:at] + new + data[at + len(new) :]

    def number(self, data: bytes) -> bytes:
        at, size = self.place(data), self.rng.choice((1, 2, 4, 4, 8))
        return data[:at] + extreme_number(self.rng, size, data[at : at + size]) + data[at + size :]

    def cut(self, data: bytes) -> bytes:
        a, b = self.span(data)
        return data[:a] + data[b:]

    def truncate(self, data: bytes) -> bytes:
        return data[: self.place(data)]

    def repeat(self, data: bytes) -> bytes:
        a, b = self.span(data)
        return data[:b] + data[a : min(b, a + 300)] * self.rng.choice((1, 2, 40)) + data[b:]

    def swap(self, data: bytes) -> bytes:
        a, b, c = sorted(self.place(data) for _ in range(3))
        return data[:a] + data[b:c] + data[a:b] + data[c:]

    def splice(self, data: bytes) -> bytes:
        at = self.place(data)
        return data[:at] + self.rng.choice(self.fragments) + data[at + self.rng.choice((0, 0, 1, 4, 9)) :]

    def cross(self, data: bytes) -> bytes:
        other = self.rng.choice(self.donors)
        return data[: self.place(data)] + other[self.place(other) :]

    BLIND: tuple[Callable[[Damage, bytes], bytes], ...] = (flip, overwrite, number) * 2
    BLIND += (cut, truncate, repeat, swap, splice, cross)


class FieldDamage(Damage):
    """Damage to fields whose places are known (as long as the sizes before them stay)."""

    def field(self, data: bytes, spans: Spans) -> tuple[int, int]:
        at, size = self.rng.choice(spans)
        return min(at, len(data)), min(at + size, len(data))

    def extreme_field(self, data: bytes, spans: Spans) -> bytes:
        numbers = [span for span in spans if span[1] in (1, 2, 4, 8)]
        at, end = self.field(data, numbers or spans)
        return data[:at] + extreme_number(self.rng, min(end - at, 8), data[at:end][:8]) + data[at + min(end - at, 8) :]

    def cut_at_field(self, data: bytes, spans: Spans) -> bytes:
        at, end = self.field(data, spans)
        return data[: self.rng.choice((at, end, max(0, end - 1), at + 1))]

    def copy_field(self, data: bytes, spans: Spans) -> bytes:
        """One field's bytes in another's place: offsets that overlap, lengths of other things."""
        a, b = self.field(data, spans)
        same = [span for span in spans if span[1] == b - a]
        c, d = self.field(data, same or spans)
        return data[:a] + data[c:d] + data[b:]

    def drop_field(self, data: bytes, spans: Spans) -> bytes:
        a, b = self.field(data, spans)
        return data[:a] + data[b:]

    def move_fields(self, data: bytes, spans: Spans) -> bytes:
        """A run of fields, such as a whole record, stands somewhere else, or twice."""
        first = self.rng.randrange(len(spans))
        last = min(len(spans) - 1, first + self.rng.choice((0, 1, 3, 5, 6, 11)))
        a, b = min(spans[first][0], len(data)), min(sum(spans[last]), len(data))
        at = min(self.rng.choice(spans)[0], len(data))
        piece = data[a:b]
        if self.rng.random() < 0.5:
            return data[:at] + piece + data[at:]
        rest = data[:a] + data[b:]
        at = min(at, len(rest))
        return rest[:at] + piece + rest[at:]

    BY_FIELD: tuple[Callable[[FieldDamage, bytes, Spans], bytes], ...] = (extreme_field,) * 5
    BY_FIELD += (copy_field, copy_field, cut_at_field, drop_field, move_fields)


def damaged(
    rng: random.Random,
    data: bytes,
    donors: Sequence[bytes],
    *,
    spans: Spans = (),
    fragments: Sequence[bytes] = (b"\0" * 40, b"\xff" * 40),
    times: Sequence[int] = (1, 1, 1, 2, 3, 8),
) -> bytes:
    """``data`` damaged a few times, by its fields where ``spans`` tells them, at most :data:`LARGEST` bytes."""
    damage = FieldDamage(rng, donors, fragments)
    for _ in range(rng.choice(times)):
        if spans and rng.random() < 0.6:
            data = rng.choice(damage.BY_FIELD)(damage, data, spans)
        else:
            data = rng.choice(damage.BLIND)(damage, data)
    return data[:LARGEST]
