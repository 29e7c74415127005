"""How blocks are laid out, as tables of numbers that kernels index: a layout is a small integer.

So a kernel is compiled once for all layouts. Everything is derived from the records of the types that the eras knew
(:mod:`ggmlpy.formats.tensor_types`).
"""

from __future__ import annotations

import numpy as np

from ggmlpy.formats.eras import ERAS
from ggmlpy.formats.tensor_types import TensorType
from ggmlpy.machine.kernels import kernel
from ggmlpy.machine.vectors import (
    fifth_bits,
    load_f16,
    load_f32,
    load_i8x32,
    minus,
    nibbles_in_halves,
    nibbles_in_pairs,
    nibbles_of_two,
    or_codes,
)

BYTES, PAIRS, HALVES, TWO, FIFTH = 0, 1, 2, 3, 4  # how codes are packed; with FIFTH added, a fifth bit lies elsewhere

_RECORDS = list(
    {
        record.layout: record
        for era in ERAS.values()
        for record in era.types.values()
        if record.quantized and not record.is_k_quant
    }.values()
)


def packing_of(record: TensorType) -> int:
    if record.code_width == 8:
        return BYTES
    if record.blck_size == 16:
        return TWO
    return (PAIRS if record.codes[0].apart == 1 else HALVES) + (FIFTH if len(record.codes) > 1 else 0)


LAYOUTS = {record.layout: number for number, record in enumerate(_RECORDS)}
Q4_0, Q4_1, Q4_2 = LAYOUTS["q4_0-2023-03"], LAYOUTS["q4_1-2023-03"], LAYOUTS["q4_2"]
BYTES_OF_32 = np.array([record.row_bytes(32) for record in _RECORDS])  # bytes that hold 32 values
BLOCK_BYTES = np.array([record.type_size for record in _RECORDS])
CODES_AT = np.array([record.offset("qs") for record in _RECORDS])
ZEROS = np.array([record.zero for record in _RECORDS], np.int32)
PACKING = np.array([packing_of(record) for record in _RECORDS])
HIGH_AT = np.array([record.offset("qh") if len(record.codes) > 1 else 0 for record in _RECORDS])  # 0: no fifth bits
WIDE_SCALES = np.array([record.block["d"] == np.dtype("<f4") for record in _RECORDS])  # f32, otherwise f16
MINIMUM_AT = np.array([record.offset("m") if "m" in record.field_names else 0 for record in _RECORDS])  # 0: none


@kernel
def facts_of(layout):
    """What the functions below take: looked up once, before the loops of a kernel."""
    codes = PACKING[layout], CODES_AT[layout], HIGH_AT[layout], ZEROS[layout], BLOCK_BYTES[layout]
    return codes, WIDE_SCALES[layout], MINIMUM_AT[layout]


@kernel
def codes_of(facts, p):
    """The 32 codes of the block at `p`, in element order, the type's zero taken off."""
    (packing, codes_at, high_at, zero, block_bytes), _, _ = facts
    q = p + codes_at
    if packing == PAIRS:
        return minus(nibbles_in_pairs(q), zero)
    if packing == HALVES:
        return minus(nibbles_in_halves(q), zero)
    if packing == BYTES:
        return load_i8x32(q)
    if packing == PAIRS + FIFTH:
        return minus(or_codes(nibbles_in_pairs(q), fifth_bits(p + high_at)), zero)
    if packing == HALVES + FIFTH:
        return minus(or_codes(nibbles_in_halves(q), fifth_bits(p + high_at)), zero)
    return minus(nibbles_of_two(q, q + block_bytes), zero)


@kernel
def scale_of(facts, p):
    """The scale d of the block at `p`."""
    _, wide, _ = facts
    return load_f32(p) if wide else load_f16(p)


@kernel
def minimum_of(facts, p):
    """The minimum m of the block at `p`."""
    _, wide, minimum_at = facts
    return load_f32(p + minimum_at) if wide else load_f16(p + minimum_at)


@kernel
def has_minimum(facts):
    _, _, minimum_at = facts
    return minimum_at != 0
