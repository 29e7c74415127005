"""The product of each kind of matrix with vectors."""

from __future__ import annotations

from ggmlpy.machine.vectors import load, load_bf16x16, load_f16x16

from .few_products import make_few
from .float_products import make_float_product
from .layouts import FLOATS, LAYOUTS, SUPERBLOCKS
from .matrix_functions import Product
from .panel_products import make_panel
from .row_products import make_rows
from .superblock_products import make_superblock_product

__all__ = ["make_product"]

LOADS = {"f32": load, "f16": load_f16x16, "bf16": load_bf16x16}  # sixteen values as f32


def make_product(kind: str) -> Product:
    """The functions for a kind of matrix: a name in `LAYOUTS`, in `SUPERBLOCKS` or in `FLOATS`."""
    if kind in FLOATS:
        return make_float_product(LOADS[kind], FLOATS[kind])
    if kind in SUPERBLOCKS:
        return make_superblock_product(SUPERBLOCKS[kind])
    layout = LAYOUTS[kind]
    return Product(make_rows(layout), make_panel(layout), make_few(layout))
