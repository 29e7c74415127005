"""How blocks are laid out, as tables of numbers that kernels index: a layout is a small integer.

So a kernel is compiled once for all layouts. Everything is derived from the records of the types that the eras knew
(:mod:`ggmlpy.formats.tensor_types`).
"""

from __future__ import annotations

import numpy as np

from ggmlpy.formats.eras import ERAS
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

_RECORDS = list(
    {
        record.layout: record
        for era in ERAS.values()
        for record in era.types.values()
        if record.quantized and not record.is_k_quant
    }.values()
)
LAYOUTS = {record.layout: number for number, record in enumerate(_RECORDS)}
Q4_0, Q4_1, Q4_2 = LAYOUTS["q4_0-2023-03"], LAYOUTS["q4_1-2023-03"], LAYOUTS["q4_2"]
BYTES_OF_32 = np.array([record.row_bytes(32) for record in _RECORDS])  # bytes that hold 32 values
BLOCK_BYTES = np.array([record.type_size for record in _RECORDS])
CODES_AT = np.array([record.offset("qs") for record in _RECORDS])
ZEROS = np.array([record.zero for record in _RECORDS], np.int32)
IN_BYTES = np.array([record.code_width == 8 for record in _RECORDS])
IN_PAIRS = np.array([record.codes[0].apart == 1 for record in _RECORDS])  # otherwise in halves
HIGH_AT = np.array([record.offset("qh") if len(record.codes) > 1 else 0 for record in _RECORDS])  # 0: no fifth bits
WIDE_SCALES = np.array([record.block["d"] == np.dtype("<f4") for record in _RECORDS])  # f32, otherwise f16
MINIMUM_AT = np.array([record.offset("m") if "m" in record.field_names else 0 for record in _RECORDS])  # 0: none


@kernel
def codes_of(layout, p):
    """The 32 codes of the block at `p`, in element order, the type's zero taken off."""
    q = p + CODES_AT[layout]
    if IN_BYTES[layout]:
        return load_i8x32(q)
    if layout == Q4_2:
        codes = nibbles_of_two(q, q + BLOCK_BYTES[layout])
    elif IN_PAIRS[layout]:
        codes = nibbles_in_pairs(q)
    else:
        codes = nibbles_in_halves(q)
    if HIGH_AT[layout]:
        codes = or_codes(codes, fifth_bits(p + HIGH_AT[layout]))
    return minus(codes, ZEROS[layout])


@kernel
def scale_of(layout, p):
    """The scale d of the block at `p`."""
    return load_f32(p) if WIDE_SCALES[layout] else load_f16(p)


@kernel
def minimum_of(layout, p):
    """The minimum m of the block at `p`."""
    m = p + MINIMUM_AT[layout]
    return load_f32(m) if WIDE_SCALES[layout] else load_f16(m)


@kernel
def has_minimum(layout):
    return MINIMUM_AT[layout] != 0
