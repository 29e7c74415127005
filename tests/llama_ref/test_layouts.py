"""What the arithmetics read in a block is what the dequantizer says, for every type and any bytes.

All of them derive where codes are from one record, :class:`ggmlpy.formats.tensor_types.TensorType`; the dequantizer is
held against llama.cpp's loops in ``tests/ggmlpy/test_dequantize.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.formats.codes import signed_codes
from ggmlpy.formats.containers import CONTAINERS, GGUF
from ggmlpy.formats.dequantize import dequantize, scales_of
from ggmlpy.formats.tensor_types import TENSOR_TYPES, types_of
from ggmlpy.machine.kernels import kernel
from ggmlpy.machine.vectors import store_i8x32
from llama_ref.arithmetic.exact import k_quants, layouts
from llama_ref.arithmetic.fast.layouts import LAYOUTS, SIXTEENS, of_sixteens

SEEDS = st.integers(0, 2**32)
K_QUANTS = [layout for layout, record in TENSOR_TYPES.items() if record.is_k_quant]
# What a file can be read as. No file says that it has iq1_s of 2024-02, whose scales serve eight values, not sixteen.
CONTAINER_VERSIONS = [(each.name, version) for each in (*CONTAINERS.values(), GGUF) for version in each.versions]
IN_FILES = {record.layout for container in CONTAINER_VERSIONS for record in types_of(*container).values()}
WIDENED = [name for name, record in TENSOR_TYPES.items() if record.quantized and name in IN_FILES - LAYOUTS.keys()]


def random_blocks(seed, layout, count):
    """Blocks of any bytes, but with numbers for scales: [count]."""
    record, rng = TENSOR_TYPES[layout], np.random.default_rng(seed)
    blocks = np.frombuffer(rng.bytes(count * record.type_size), record.block).copy()
    for name in record.scale_fields:
        blocks[name] = 127 if name == "e" else rng.standard_normal(count)
    if layout == "iq1_m":  # the upper four bits of the last word are those of the block's float16
        blocks["scales"][:, 3] = blocks["scales"][:, 3] & 0x0FFF | 0x3000
    return blocks


def value_in(block, layout, i):
    """Element ``i`` of a block's bytes as the record of the fast arithmetic has it: plain integers and floats."""

    def number(place, dtype):
        return np.frombuffer(block, dtype, 1, place)[0]

    if layout.bits == 8:
        place = layout.codes + i if i < 16 else layout.codes_second + i - 16
        code = int(number(place, "<u1")) ^ 128  # the kernels make codes unsigned
    else:
        byte, shift = (i // 2, 4 * (i % 2)) if layout.interleaved else (i % 16, 4 * (i // 16))
        code = int(number(layout.codes + byte, "<u1")) >> shift & 15
    if layout.levels:
        code = layout.levels[code] + layout.zero
    if layout.high is not None:
        code |= (int(number(layout.high, "<u4")) >> i & 1) << 4
    value = np.float32(code - layout.zero) * np.float32(number(layout.d, layout.scale))
    return value if layout.m is None else value + np.float32(number(layout.m, layout.scale))


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "sixteens"])
@given(seed=SEEDS)
def test_the_fast_layout_is_the_dequantizers(name, seed):
    block = random_blocks(seed, name, 1)
    assert LAYOUTS[name].size == len(block.tobytes())
    values = [value_in(block.tobytes(), LAYOUTS[name], i) for i in range(32)]
    assert np.array_equal(np.array(values, np.float32), dequantize(block, TENSOR_TYPES[name]))


@pytest.mark.parametrize("name", WIDENED)
@given(seed=SEEDS)
def test_what_is_widened_keeps_its_values(name, seed):
    record, blocks = TENSOR_TYPES[name], random_blocks(seed, name, 2)[None]
    scale, minimum = scales_of(blocks, record)
    wide = np.zeros((1, 2 * record.blck_size // 16), SIXTEENS)
    wide["codes"], wide["d"] = signed_codes(blocks, record).reshape(1, -1, 16), of_sixteens(scale, record)
    if minimum is not None:
        wide["m"] = of_sixteens(-minimum if record.is_k_quant else minimum, record)
    values = wide["codes"].astype(np.float32) * wide["d"][..., None] + wide["m"][..., None]
    assert np.array_equal(values.reshape(1, -1), dequantize(blocks, record))


@kernel
def parts_of(layout, p, codes):
    """What the exact arithmetic reads in the block at `p`: the codes into an array, scale and minimum."""
    facts = layouts.facts_of(layout)
    store_i8x32(codes.ctypes.data, layouts.codes_of(facts, p))
    minimum = layouts.minimum_of(facts, p) if layouts.has_minimum(facts) else np.float32(0)
    return layouts.scale_of(facts, p), minimum


@pytest.mark.parametrize("name", list(layouts.LAYOUTS))
@given(seed=SEEDS)
def test_the_exact_layout_is_the_dequantizers(name, seed):
    record = TENSOR_TYPES[name]
    blocks = random_blocks(seed, name, 32 // record.blck_size)
    codes = np.empty(32, np.int8)
    scale, minimum = parts_of(layouts.LAYOUTS[name], blocks.ctypes.data, codes)
    assert np.array_equal(codes, signed_codes(blocks, record).reshape(-1))
    scales, minimums = scales_of(blocks, record)
    assert scale == scales[0]
    assert layouts.has_minimum(layouts.facts_of(layouts.LAYOUTS[name])) == (minimums is not None)
    assert minimums is None or minimum == minimums[0]


@pytest.mark.parametrize("name", K_QUANTS)
@given(seed=SEEDS)
def test_the_exact_unpacking_of_k_quants_is_the_dequantizers(name, seed):
    record, block = TENSOR_TYPES[name], random_blocks(seed, name, 1)
    block["d"] = 1
    if "dmin" in record.field_names:
        block["dmin"] = 1
    codes = np.empty(256, np.int8)
    scales, minima = np.empty(16, np.int32), np.empty(16, np.int32)
    k_quants.unpack(k_quants.KINDS[name], block.ctypes.data, codes, scales, minima)
    assert np.array_equal(codes, signed_codes(block, record)[0])
    scale, minimum = scales_of(block, record)
    assert np.array_equal(scales, np.repeat(scale[0], record.run // 16))
    assert np.array_equal(minima, np.zeros(16) if minimum is None else np.repeat(minimum[0], record.run // 16))
