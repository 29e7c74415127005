"""Project 3: q4_0 of March 2023, unpacked, and quantized to the byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.dequantize import dequantize
from ggmlpy.formats.eras import APRIL_30, AUGUST_21, MARCH_31, MAY_19, Era
from ggmlpy.quantizers.arrays import quantize

from ..differences import differing_bytes
from ..project import Difference, Mistake, Project

KINDS = ("unpack", "quantize", "quantize halves", "quantize zeros")
Q4_0 = MARCH_31.types["q4_0"]
SIZE = Q4_0.block.itemsize


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """Blocks to unpack, or numbers to pack."""
    values = rng.randn(int(rng.randint(6, 12)), 32).astype(np.float32) * np.float32(0.05)
    if kind == "unpack":
        path = folder / "blocks.q4_0"
        path.write_bytes(quantize(values, Q4_0).tobytes())
        return path
    if kind == "quantize halves":  # codes exactly between two whole numbers
        values = (rng.randint(-13, 14, values.shape) / 2).astype(np.float32)
        values[:, 0] = rng.choice([-7, 7], len(values))
    if kind == "quantize zeros":
        values[1] = 0
        values[2, 1:] = 0
    path = folder / "values.f32"
    path.write_bytes(values.tobytes())
    return path


def answer(path: Path) -> bytes:
    return dequantize(_blocks(path), Q4_0).tobytes() if _unpacks(path) else quantize(_values(path), Q4_0).tobytes()


def _unpacks(path: Path) -> bool:
    return path.suffix == ".q4_0"


def _values(path: Path) -> NDArray[np.float32]:
    return np.frombuffer(path.read_bytes(), "<f4").reshape(-1, 32)


def _blocks(path: Path) -> NDArray[np.void]:
    return np.frombuffer(path.read_bytes(), Q4_0.block)


def _unpacked(path: Path, zero: int = 8, order: str = "pairs") -> bytes:
    """Numbers as a program reads them that takes nibbles in another order, or forgets the zero point."""
    if not _unpacks(path):
        raise ValueError("something to quantize")
    blocks = _blocks(path)
    low, high = blocks["qs"] & 15, blocks["qs"] >> 4
    codes = {
        "pairs": np.stack([low, high], axis=-1).reshape(-1, 32),
        "high first": np.stack([high, low], axis=-1).reshape(-1, 32),
        "halves": np.concatenate([low, high], axis=-1),
    }[order]
    return ((codes.astype(np.float32) - zero) * blocks["d"][:, None]).astype("<f4").tobytes()


Rounding = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def half_away(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.trunc(x + np.copysign(np.float32(0.5), x))


def _packed(path: Path, rounded: Rounding = half_away, divides: bool = False, order: str = "pairs") -> bytes:
    """Blocks as a program writes them that rounds otherwise, or puts codes elsewhere."""
    if _unpacks(path):
        raise ValueError("something to unpack")
    x = _values(path)
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(7)
    with np.errstate(all="ignore"):
        scaled = np.where(d > 0, x / d if divides else x * (np.float32(1) / d), np.float32(0))
    codes = (rounded(scaled) + 8).astype(np.uint8)
    blocks = np.empty(len(x), Q4_0.block)
    low, high = {
        "pairs": (codes[:, 0::2], codes[:, 1::2]),
        "high first": (codes[:, 1::2], codes[:, 0::2]),
        "halves": (codes[:, :16], codes[:, 16:]),
    }[order]
    blocks["d"], blocks["qs"] = d[:, 0], low | high << 4
    return blocks.tobytes()


def _in_order(path: Path, order: str) -> bytes:
    """Codes in another order, on the way in or out."""
    return _unpacked(path, order=order) if _unpacks(path) else _packed(path, order=order)


def _of(era: Era) -> Callable[[Path], bytes]:
    def packed(path: Path) -> bytes:
        if _unpacks(path):
            raise ValueError("something to unpack")
        return quantize(_values(path), "q4_0", era).tobytes()

    return packed


MISTAKES = (
    Mistake("two neighbors share a byte: the first is in its lower half", lambda p: _in_order(p, "high first")),
    Mistake(
        "values 0 and 1 share a byte; that 0 and 16 do came in May 2023", lambda path: _in_order(path, "halves")
    ),
    Mistake("a code is the number plus 8", lambda path: _unpacked(path, zero=0)),
    Mistake("halves are rounded away from zero, and not to the even number", lambda path: _packed(path, np.round)),
    Mistake("codes are rounded, and not cut off", lambda path: _packed(path, np.trunc)),
    Mistake("codes are rounded, and not rounded down", lambda path: _packed(path, np.floor)),
    Mistake("multiply by 1 / d, which is rounded once, instead of dividing by d",
            lambda path: _packed(path, divides=True)),
    Mistake("this is the scale of April 2023, max / -8; March has the greatest magnitude / 7", _of(APRIL_30)),
    Mistake("this is the layout of May 2023; in March two neighbors share a byte", _of(MAY_19)),
    Mistake("this is a block of August 2023, 18 bytes; in March the scale is a float32", _of(AUGUST_21)),
)  # fmt: skip


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    if _unpacks(path):
        return differing_bytes(expected, found, 128, "block", {"values": slice(0, 128)})
    return differing_bytes(expected, found, SIZE, "block", {"scale": slice(0, 4), "codes": slice(4, SIZE)})


PROJECT = Project(
    3, "q4_0", "Unpack q4_0, then quantize it to the byte", "解开 q4_0，再逐字节量化",
    KINDS, make, "out.bin", answer, differ, MISTAKES,
)  # fmt: skip
