"""Tiles (AMX): eight registers, of up to 16 rows of up to 64 bytes, and an instruction that multiplies two as matrices.

They are numbered by the program, hold nothing over `release_tiles`, and meet other registers only through memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from ggmlpy.machine.jit import cgutils

from .language import I8, I64, call

__all__ = ["release_tiles", "tile_dots", "tile_load", "tile_store", "use_tiles"]


def use_tiles(b: ir.IRBuilder, shapes: Sequence[tuple[int, int]]) -> None:
    """Set the tiles 0, 1 … up as (rows, bytes of a row), all zero."""
    rows, widths = [r for r, _ in shapes], [w for _, w in shapes]
    pad = [0] * (8 - len(shapes))
    settings = np.zeros(1, [("palette", "u1"), ("start", "u1", 15), ("widths", "<u2", 16), ("rows", "u1", 16)])
    settings["palette"], settings["widths"][0, :8], settings["rows"][0, :8] = 1, widths + pad, rows + pad
    place = cgutils.global_constant(b.module, "tile_settings", cgutils.make_bytearray(settings.tobytes()))
    call(b, "llvm.x86.ldtilecfg", ir.VoidType(), [b.bitcast(place, I8.as_pointer())])


def release_tiles(b: ir.IRBuilder) -> None:
    call(b, "llvm.x86.tilerelease", ir.VoidType(), [])


def tile_load(b: ir.IRBuilder, tile: int, a: Any, stride: int) -> None:
    """Read a tile's rows, which lie `stride` bytes apart."""
    call(b, "llvm.x86.tileloadd64", ir.VoidType(), [I8(tile), b.inttoptr(a, I8.as_pointer()), I64(stride)])


def tile_store(b: ir.IRBuilder, tile: int, a: Any, stride: int) -> None:
    call(b, "llvm.x86.tilestored64", ir.VoidType(), [I8(tile), b.inttoptr(a, I8.as_pointer()), I64(stride)])


def tile_dots(b: ir.IRBuilder, sums: int, x: int, y: int) -> None:
    """sums i32 [m][n] = x · y of signed bytes; x: i8 [m][k], y: i8 [k/4][n][4]."""
    call(b, "llvm.x86.tilezero", ir.VoidType(), [I8(sums)])
    call(b, "llvm.x86.tdpbssd", ir.VoidType(), [I8(tile) for tile in (sums, x, y)])
