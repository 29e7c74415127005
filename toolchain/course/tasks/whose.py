"""Project 12: who quantized a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.eras import APRIL_30, AUGUST_21, MARCH_31, MAY_19, Era
from ggmlpy.quantizers.arrays import quantize

from ..differences import differing_lines
from ..project import Difference, Mistake, Project

KINDS = ("each once", "mixed", "forged", "many")
ERAS = (MARCH_31, APRIL_30, MAY_19, AUGUST_21)
NOBODY = "nobody"
Maker = tuple[Era, str]
MAKERS: tuple[Maker, ...] = tuple((era, precision) for era in ERAS for precision in ("f32", "f16"))


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """A directory with pairs NAME.f32 and NAME.q4_0."""
    source = folder / "input"
    source.mkdir()
    count = {"each once": 8, "many": 20}.get(kind, 6)
    order = rng.permutation(len(MAKERS))
    for index in range(count):
        maker = MAKERS[order[index] if kind == "each once" else rng.randint(0, len(MAKERS))]
        values = _telling(rng)
        data = bytearray(_made(values, maker))
        if kind == "forged" and index % 2:
            data[int(rng.randint(5, len(data)))] ^= 0x11
        name = f"{index:02}"
        (source / f"{name}.f32").write_bytes(values.tobytes())
        (source / f"{name}.q4_0").write_bytes(bytes(data))
    return source


def _telling(rng: np.random.RandomState) -> NDArray[np.float32]:
    """Numbers of which all makers make something else."""
    while True:
        values = (rng.randn(8, 32) * 0.07).astype(np.float32)
        values[:, ::5] = np.float32(0.07) * rng.randint(-7, 8, values[:, ::5].shape)
        if len({_made(values, maker) for maker in MAKERS}) == len(MAKERS):
            return values


def _made(values: NDArray[np.float32], maker: Maker) -> bytes:
    era, precision = maker
    return quantize(values.astype(np.float16) if precision == "f16" else values, "q4_0", era).tobytes()


def _lines(path: Path, name_of: Callable[[NDArray[np.float32], bytes], str]) -> bytes:
    lines = []
    for blocks in sorted(path.glob("*.q4_0")):
        values = np.frombuffer(blocks.with_suffix(".f32").read_bytes(), "<f4").reshape(-1, 32)
        lines.append(f"{blocks.stem} {name_of(values, blocks.read_bytes())}\n")
    return "".join(lines).encode()


def _whose(values: NDArray[np.float32], data: bytes, makers: tuple[Maker, ...] = MAKERS) -> str:
    return next(
        (f"{era.date} {precision}" for era, precision in makers if _made(values, (era, precision)) == data), NOBODY
    )


def answer(path: Path) -> bytes:
    return _lines(path, _whose)


def _by_the_first_block(values: NDArray[np.float32], data: bytes) -> str:
    size = len(data) // len(values)
    return next((f"{e.date} {p}" for e, p in MAKERS if _made(values, (e, p))[:size] == data[:size]), NOBODY)


MISTAKES = (
    Mistake("a file may have been quantized from half precision: round the numbers to f16 first, and compare again",
            lambda path: _lines(path, lambda v, d: _whose(v, d, tuple(m for m in MAKERS if m[1] == "f32")))),
    Mistake("the source was not in half precision in every file: try both",
            lambda path: _lines(path, lambda v, d: _whose(v, d, tuple(m for m in MAKERS if m[1] == "f16")))),
    Mistake("one byte that differs is enough: no quantizer made that file, and its maker is nobody",
            lambda path: _lines(path, _by_the_first_block)),
    Mistake("blocks of 20 bytes are of three quantizers, not of one",
            lambda path: _lines(path, lambda v, d: _whose(v, d, tuple(m for m in MAKERS if m[0] in ERAS[::3])))),
)  # fmt: skip


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    return differing_lines(expected, found)


PROJECT = Project(
    12, "whose", "Find who quantized a file", "查出是谁量化的", KINDS, make, "makers.txt", answer, differ, MISTAKES
)
