"""The grids of IQ1, IQ2 and IQ3: an index in a block stands for eight (IQ3: four) values at once.

Weights of a model are not spread evenly, and neighbors are not all large at once: of the 3^8 ways to give eight values
one of three magnitudes, the grid of iq2_xxs has 256, so that an index of 8 bits says what would take 13. Signs stand
beside the index, one bit a value; where there are only seven bits for eight signs, their number is even. IQ1 has no
signs: its points have the coordinates -1, 0 and 1, and a bit beside them moves all eight up or down by an eighth.

The points are in ``grids.txt``, as levels; this module says what number a level stands for, and reads the points of
whole blocks as small integers. For IQ1 these are eighths. iq1_s and iq3_s had other grids in their first weeks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRIDS", "Grid", "grid_levels", "grid_values"]

Blocks = NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """One table of points.

    Attributes:
        size: how many points.
        width: coordinates of a point.
        numbers: what each level of a coordinate stands for.
    """

    size: int
    width: int
    numbers: tuple[int, ...]

    @property
    def bits(self) -> int:
        """Bits of a level in ``grids.txt``."""
        return 2 if self.width == 8 else 3


# fmt: off
GRIDS = {
    "iq2xxs": Grid(256,  8, (8, 25, 43)),
    "iq2xs":  Grid(512,  8, (8, 25, 43)),
    "iq2s":   Grid(1024, 8, (8, 25, 43)),
    "iq3xxs": Grid(256,  4, (4, 12, 20, 28, 36, 44, 52, 62)),
    "iq3s":   Grid(512,  4, (1, 3, 5, 7, 9, 11, 13, 15)),
    "iq1s":   Grid(2048, 8, (-8, 0, 8)),
    "iq1s-2024-02": Grid(512, 8, (-8, 0, 8)),
    "iq3s-2024-02": Grid(512, 4, (4, 12, 20, 28, 36, 44, 52, 62)),
}
# fmt: on


@cache
def grid_levels(name: str) -> NDArray[np.uint8]:
    """The points of a grid as levels 0, 1, 2 …: uint8 [size, width].

    >>> grid_levels("iq3xxs")[:3].tolist()
    [[0, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0]]
    """
    grid = GRIDS[name]
    words = np.array([int(word, 16) for word in _texts()[name]], np.uint16)
    shifts = grid.bits * np.arange(grid.width, dtype=np.uint16)
    return ((words[:, np.newaxis] >> shifts) & np.uint16((1 << grid.bits) - 1)).astype(np.uint8)


@cache
def _texts() -> dict[str, list[str]]:
    """The words of ``grids.txt`` after each name."""
    text = files("ggmlpy.formats").joinpath("grids.txt").read_text("ascii")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        first, *rest = line.split() or [""]
        if first in GRIDS:
            words = found[first] = []
        elif first and first != "#":
            words += [first, *rest]
    return found


@cache
def _points(name: str) -> NDArray[np.int8]:
    """The points of a grid in numbers: int8 [size, width]."""
    return np.array(GRIDS[name].numbers, np.int8)[grid_levels(name)]


@cache
def _signs() -> NDArray[np.int8]:
    """-1 where a bit is set, else 1: int8 [256, 8], the lowest bit first."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1, bitorder="little")
    return 1 - 2 * bits.astype(np.int8)


@cache
def _even_signs() -> NDArray[np.int8]:
    """The same for seven bits: the eighth makes their number even. int8 [128, 8]."""
    seven = np.arange(128, dtype=np.uint8)
    parity = np.unpackbits(seven[:, np.newaxis], axis=1).sum(axis=1, dtype=np.uint8) & 1
    return _signs()[seven | parity << 7]


def grid_values(blocks: Blocks, layout: str) -> NDArray[np.int8]:
    """The values of blocks of an IQ layout ("iq2_xxs" …) in units of their scale: int8 [..., n_blocks, 256]."""
    return _VALUES[layout](blocks).reshape(*blocks.shape, 256)


# Each function: blocks -> int8 [..., n_blocks, groups, width].


def fields(data: Blocks, width: int) -> Blocks:
    """Bytes [..., n] as the numbers of ``width`` bits in them, the lowest bits first: uint16 [..., n * 8 / width]."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    numbers = (data[..., np.newaxis] >> shifts) & np.uint8((1 << width) - 1)
    return numbers.reshape(*data.shape[:-1], -1).astype(np.uint16)


def signed(points: Blocks, signs: Blocks) -> Blocks:
    """Points [..., groups, width] with the signs [..., 32, 8] of their values."""
    return points.reshape(signs.shape) * signs


def seven_bit_signs(words: Blocks) -> Blocks:
    """The four indices of seven bits in each u32 [..., 8]: signs [..., 32, 8]."""
    indices = (words[..., np.newaxis] >> np.array([0, 7, 14, 21], np.uint32)) & np.uint32(127)
    return _even_signs()[indices.reshape(*words.shape[:-1], -1)]


def iq2_xxs(blocks: Blocks) -> Blocks:
    """Of each eight bytes four are indices; the others are a word of four indices of signs and the scale."""
    words = np.ascontiguousarray(blocks["qs"]).reshape(*blocks.shape, 8, 8)
    signs = np.ascontiguousarray(words[..., 4:]).view("<u4")[..., 0]
    return signed(_points("iq2xxs")[words[..., :4]], seven_bit_signs(signs))


def iq2_xs(blocks: Blocks) -> Blocks:
    """A word is an index of nine bits and seven bits of signs."""
    words = blocks["qs"]
    return signed(_points("iq2xs")[words & 511], _even_signs()[words >> 9])


def iq2_s(blocks: Blocks) -> Blocks:
    """Two more bits of an index are in ``qh``; all eight signs are there."""
    return signed(_points("iq2s")[blocks["qs"] | fields(blocks["qh"], 2) << 8], _signs()[blocks["signs"]])


def iq3_xxs(blocks: Blocks) -> Blocks:
    return signed(_points("iq3xxs")[blocks["qs"]], seven_bit_signs(blocks["signs"]))


def iq3_s(blocks: Blocks, grid: str = "iq3s") -> Blocks:
    """One more bit of an index is in ``qh``."""
    return signed(_points(grid)[blocks["qs"] | fields(blocks["qh"], 1) << 8], _signs()[blocks["signs"]])


def moved(indices: Blocks, down: Blocks) -> Blocks:
    """Points of IQ1, in eighths, moved down or up by one."""
    return _points("iq1s")[indices] + (1 - 2 * (down != 0).astype(np.int8))[..., np.newaxis]


def iq1_s(blocks: Blocks) -> Blocks:
    """A word of ``qh`` serves four points: three more bits of each index, the scale, and where they are moved."""
    down = np.repeat(blocks["qh"] & np.uint16(0x8000), 4, axis=-1)
    return moved(eleven_bit_indices(blocks), down)


def eleven_bit_indices(blocks: Blocks) -> Blocks:
    """Indices [..., 32] of iq1_s, three bits of each in ``qh``."""
    high = (blocks["qh"][..., np.newaxis] >> np.array([0, 3, 6, 9], np.uint16)) & np.uint16(7)
    return blocks["qs"] | high.reshape(blocks["qs"].shape) << 8


def iq1_s_2024_02(blocks: Blocks) -> Blocks:
    """A nibble of ``scales`` serves a point: one more bit of its index, and the scale."""
    return _points("iq1s-2024-02")[blocks["qs"] | (fields(blocks["scales"], 4) >> 3) << 8]


def iq1_m(blocks: Blocks) -> Blocks:
    """Four bits of ``qh`` serve a point: three more bits of its index, and where it is moved."""
    high = fields(blocks["qh"], 4)
    return moved(blocks["qs"] | (high & 7) << 8, high & 8)


_VALUES: dict[str, Callable[[Blocks], Blocks]] = {
    "iq1_m": iq1_m,
    "iq1_s": iq1_s,
    "iq1_s-2024-02": iq1_s_2024_02,
    "iq1_s-2024-03": lambda blocks: _points("iq1s")[eleven_bit_indices(blocks)],
    "iq2_s": iq2_s,
    "iq2_xs": iq2_xs,
    "iq2_xxs": iq2_xxs,
    "iq3_s": iq3_s,
    "iq3_s-2024-02": lambda blocks: iq3_s(blocks, "iq3s-2024-02"),
    "iq3_xxs": iq3_xxs,
}
