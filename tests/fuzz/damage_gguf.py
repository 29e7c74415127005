"""Damage to GGUF files that stay well formed: keys, types, lengths and values of others, tensors that overlap."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["damaged_gguf"]

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # type id: code
STRING, ARRAY = 8, 9
INTEGERS = (0, 1, 2, 3, 4, 8, 12, 32, 33, 255, 1 << 16, (1 << 20) - 1, 1 << 20, (1 << 31) - 1)
FLOATS = (0.0, -1.0, 1e-6, 1e30, float("inf"), float("-inf"), float("nan"))
TEXTS = (b"", b"llama", b"gpt2", b"falcon", b"\xff\xfe", b"<0x41>", b"<0xZZ>", "▁".encode(), b"a\0b", b"x" * 300)
KEYS = (
    b"general.architecture",
    b"general.alignment",
    b"general.file_type",
    b"split.count",
    b"split.no",
    b"ggmlpy.n_mult",
)
KEYS += (
    b"llama.attention.head_count_kv",
    b"llama.rope.dimension_count",
    b"llama.context_length",
    b"tokenizer.ggml.model",
)
KEYS += (
    b"tokenizer.ggml.tokens",
    b"tokenizer.ggml.scores",
    b"tokenizer.ggml.token_type",
    b"ggmlpy.vocabulary",
    b"\xff",
    b"",
)
KEYS += (b"llama.embedding_length", b"llama.attention.head_count", b"llama.feed_forward_length", b"llama.block_count")
NAMES = (
    b"token_embd.weight",
    b"output.weight",
    b"output_norm.weight",
    b"blk.0.attn_q.weight",
    b"blk.1.attn_q.weight",
    b"\xff",
)
TYPES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 30, 39, 99)


@dataclass
class Parts:
    """A file taken apart: pairs of key, type and encoded value; tensors of name, dimensions, type and offset."""

    order: str
    version: int
    pairs: list[list]
    tensors: list[list]
    data: bytes

    @property
    def wide(self) -> str:
        return self.order + ("I" if self.version == 1 else "Q")

    def string(self, text: bytes) -> bytes:
        return struct.pack(self.wide, len(text)) + text

    def encoded(self) -> bytes:
        out = b"GGUF" + struct.pack(self.order + "I", self.version)
        out += struct.pack(self.wide, len(self.tensors)) + struct.pack(self.wide, len(self.pairs))
        for key, kind, value in self.pairs:
            out += self.string(key) + struct.pack(self.order + "I", kind) + value
        for name, dims, kind, offset in self.tensors:
            out += self.string(name) + struct.pack(self.order + "I", len(dims))
            out += b"".join(struct.pack(self.wide, n) for n in dims) + struct.pack(self.order + "IQ", kind, offset)
        return out + b"\0" * (-len(out) % 32) + self.data


class _Reader:
    """Walks over a valid file; a damaged one ends in struct.error or a ValueError."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 8
        version = struct.unpack_from("<I", data, 4)[0]
        self.order = "<" if version < 1 << 16 else ">"
        self.version = version if self.order == "<" else version >> 24
        self.wide = "I" if self.version == 1 else "Q"
        if data[:4] != b"GGUF" or self.version not in (1, 2, 3):
            raise ValueError("no GGUF file")

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from(self.order + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> bytes:
        size = self.number(self.wide)
        if size > len(self.data):
            raise ValueError("cut off")
        self.at += size
        return self.data[self.at - size : self.at]

    def skip(self, kind: int, depth: int = 0) -> None:
        if kind == STRING:
            self.text()
        elif kind == ARRAY and depth < 5:
            item, count = self.number("I"), self.number(self.wide)
            if count > len(self.data):
                raise ValueError("cut off")
            if item in NUMBERS:
                self.at += count * struct.calcsize("<" + NUMBERS[item])
            else:
                for _ in range(count):
                    self.skip(item, depth + 1)
        else:
            self.at += struct.calcsize("<" + NUMBERS[kind])

    def parts(self) -> Parts:
        n_tensors, n_pairs = self.number(self.wide), self.number(self.wide)
        pairs, tensors = [], []
        for _ in range(min(n_pairs, 500)):
            key, kind, start = self.text(), self.number("I"), self.at
            self.skip(kind)
            pairs.append([key, kind, self.data[start : self.at]])
        for _ in range(min(n_tensors, 500)):
            name, n_dims = self.text(), self.number("I")
            dims = [self.number(self.wide) for _ in range(min(n_dims, 9))]
            tensors.append([name, dims, self.number("I"), self.number("Q")])
        return Parts(self.order, self.version, pairs, tensors, self.data[self.at + -self.at % 32 :])


def damaged_gguf(rng: random.Random, data: bytes) -> bytes:
    """The file with one to three things in it changed, all counts and lengths right; ``data`` if it is no such file."""
    try:
        parts = _Reader(data).parts()
        for _ in range(rng.choice((1, 1, 2, 3))):
            rng.choice(_CHANGES)(rng, parts)
        return parts.encoded()
    except (struct.error, ValueError, KeyError, IndexError):
        return data[: rng.randrange(len(data) + 1)]


def _value(rng: random.Random, parts: Parts, kind: int) -> bytes:
    """An encoded value of a type."""
    if kind == STRING:
        return parts.string(rng.choice(TEXTS))
    if kind == ARRAY:
        item = rng.choice((STRING, 6, 5, 4, 0, 12, ARRAY))
        count = rng.choice((0, 1, 2, 11, 12, 13))
        head = struct.pack(parts.order + "I", item) + struct.pack(parts.wide, count)
        return head + b"".join(_value(rng, parts, 4 if item == ARRAY else item) for _ in range(count))
    code = NUMBERS[kind]
    if code in "fd":
        value: float = rng.choice(FLOATS)
        return struct.pack(parts.order + code, value)
    size = struct.calcsize("<" + code)
    return (rng.choice(INTEGERS) & ((1 << 8 * size) - 1)).to_bytes(size, "little" if parts.order == "<" else "big")


def _new_value(rng: random.Random, parts: Parts) -> None:
    pair = rng.choice(parts.pairs)
    if rng.random() < 0.5:
        pair[1] = rng.choice((*NUMBERS, STRING, ARRAY))
    pair[2] = _value(rng, parts, pair[1])


def _new_key(rng: random.Random, parts: Parts) -> None:
    rng.choice(parts.pairs)[0] = rng.choice(KEYS)


def _more(rng: random.Random, parts: Parts) -> None:
    kind = rng.choice((*NUMBERS, STRING, ARRAY))
    parts.pairs.insert(rng.randrange(len(parts.pairs) + 1), [rng.choice(KEYS), kind, _value(rng, parts, kind)])


def _fewer(rng: random.Random, parts: Parts) -> None:
    of = rng.choice((parts.pairs, parts.pairs, parts.tensors))
    del of[rng.randrange(len(of))]


def _repeat(rng: random.Random, parts: Parts) -> None:
    of = rng.choice((parts.pairs, parts.tensors))
    of.append(list(rng.choice(of)))


def _none_left(rng: random.Random, parts: Parts) -> None:
    rng.choice((parts.pairs, parts.tensors)).clear()


def _deep(rng: random.Random, parts: Parts) -> None:
    depth = rng.choice((2, 4, 5, 6, 60))
    one = struct.pack(parts.order + "I", ARRAY) + struct.pack(parts.wide, 1)
    parts.pairs.append([b"deep", ARRAY, one * depth + struct.pack(parts.order + "I", 0) + struct.pack(parts.wide, 0)])


def _tensor(rng: random.Random, parts: Parts) -> None:
    """Another name, shape, type or place of a tensor's data."""
    tensor = rng.choice(parts.tensors)
    kind = rng.randrange(5)
    if kind == 0:
        tensor[0] = rng.choice((*NAMES, *(other[0] for other in parts.tensors)))
    elif kind == 1:
        tensor[1] = rng.choice(
            (tensor[1][::-1], [*tensor[1], 1], tensor[1][:1], [], [rng.choice(INTEGERS)] * 2, [1] * 5)
        )
    elif kind == 2:
        tensor[2] = rng.choice(TYPES)
    elif kind == 3:
        tensor[3] = rng.choice(
            (0, 32, 64, 1, tensor[3] + 32, tensor[3] - 32 & 0xFFFFFFFF, rng.choice(parts.tensors)[3])
        )
    else:
        other = rng.choice(parts.tensors)
        tensor[1], other[1] = other[1], tensor[1]


_CHANGES: tuple[Callable[[random.Random, Parts], None], ...] = (_new_value,) * 5 + (_tensor,) * 4
_CHANGES += (_new_key, _new_key, _more, _more, _fewer, _fewer, _repeat, _deep, _none_left)
