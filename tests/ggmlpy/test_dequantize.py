"""Dequantization against a transcription of llama.cpp's loops, one value at a time, on arbitrary bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy import TENSOR_TYPES, UsageError, open_model, types_of
from ggmlpy.formats.dequantize import dequantize
from ggmlpy.formats.grids import GRIDS, grid_levels
from tests.ggmlpy.scalar_types import VALUES as LATER_VALUES

f32 = np.float32
QUANTIZED = [layout for layout, record in TENSOR_TYPES.items() if record.quantized]


def value_of(block, record, i: int) -> np.float32:
    """Value ``i`` of one block, as dequantize_row_* computes it."""
    name = record.name
    if name.endswith("_K"):
        return K_VALUES[name](block, i)
    if record.layout in LATER_VALUES:
        return LATER_VALUES[record.layout](block, i)
    d, qs = f32(block["d"]), block["qs"]
    if name == "q8_0":
        return f32(int(qs[i])) * d
    in_pairs = record.layout.endswith(("2023-03", "2023-04")) or name in ("q4_2", "q4_3")
    byte, high = (i // 2, i % 2) if in_pairs else (i % 16, i // 16)
    code = int(qs[byte]) >> 4 if high else int(qs[byte]) & 15
    if name.startswith("q5"):
        code |= (int(block["qh"]) >> i & 1) << 4
    if name in ("q4_0", "q4_2", "q5_0"):
        return f32(code - (16 if name == "q5_0" else 8)) * d
    return f32(f32(code) * d) + f32(block["m"])


def q2_k(block, i):
    sub, n, l = i // 16, i // 128, i % 32  # noqa: E741
    code = int(block["qs"][32 * n + l]) >> (2 * (i % 128 // 32)) & 3
    byte = int(block["scales"][sub])
    return f32(f32(block["d"]) * f32(byte & 15)) * f32(code) - f32(block["dmin"]) * f32(byte >> 4)


def q3_k(block, i):
    sub, n, l = i // 16, i // 128, i % 32  # noqa: E741
    low = int(block["qs"][32 * n + l]) >> (2 * (i % 128 // 32)) & 3
    code = low - (0 if int(block["hmask"][l]) >> (i // 32) & 1 else 4)
    scales = [int(byte) for byte in block["scales"]]
    nibble = scales[sub] & 15 if sub < 8 else scales[sub - 8] >> 4
    scale = (nibble | (scales[8 + sub % 4] >> (2 * (sub // 4)) & 3) << 4) - 32
    return f32(f32(block["d"]) * f32(scale)) * f32(code)


def scale_and_min(q, j):
    q = [int(byte) for byte in q]
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    return (q[j + 4] & 15) | (q[j - 4] >> 6) << 4, (q[j + 4] >> 4) | (q[j] >> 6) << 4


def q4_k(block, i, fifth=0):
    byte = int(block["qs"][32 * (i // 64) + i % 32])
    code = (byte >> 4 if i % 64 >= 32 else byte & 15) + fifth
    scale, minimum = scale_and_min(block["scales"], i // 32)
    return f32(f32(block["d"]) * f32(scale)) * f32(code) - f32(block["dmin"]) * f32(minimum)


def q5_k(block, i):
    return q4_k(block, i, fifth=16 if int(block["qh"][i % 32]) >> (i // 32) & 1 else 0)


def q6_k(block, i):
    n, within, l = i // 128, i % 128, i % 32  # noqa: E741
    quarter = within // 32
    byte = int(block["ql"][64 * n + l + (32 if quarter % 2 else 0)])
    low = byte >> 4 if quarter >= 2 else byte & 15
    code = (low | (int(block["qh"][32 * n + l]) >> (2 * quarter) & 3) << 4) - 32
    return f32(f32(block["d"]) * f32(int(block["scales"][i // 16]))) * f32(code)


K_VALUES = {"q2_K": q2_k, "q3_K": q3_k, "q4_K": q4_k, "q5_K": q5_k, "q6_K": q6_k}


@pytest.mark.parametrize("layout", QUANTIZED)
@given(data=st.data())
def test_any_bytes_decode_as_in_llama_cpp(layout, data):
    record = TENSOR_TYPES[layout]
    block = np.frombuffer(data.draw(st.binary(min_size=record.type_size, max_size=record.type_size)), record.block)
    with np.errstate(all="ignore"):
        expected = np.array([value_of(block[0], record, i) for i in range(record.blck_size)], np.float32)
    values = dequantize(block, record)
    finite = ~np.isnan(expected)
    assert np.array_equal(np.isnan(values), ~finite)
    assert np.array_equal(values[finite].view(np.uint32), expected[finite].view(np.uint32))


@pytest.mark.parametrize("layout", list(TENSOR_TYPES))
def test_the_shape_is_kept(layout):
    record = TENSOR_TYPES[layout]
    values = dequantize(np.zeros((2, 3, 4), record.block), record)
    assert values.shape == (2, 3, 4 * record.blck_size)
    assert values.dtype == np.float32


def test_random_blocks_of_todays_types_decode_as_in_ggml(golden):
    """Blocks of random bytes, and of extreme ones; what libggml-base made of them."""
    folder = golden("today-quants/dequant")
    facts = json.loads((folder / "types.json").read_text())
    records = types_of("gguf", 3)
    for name, fact in facts.items():
        record = records[fact["type"]]
        assert (record.name, record.blck_size, record.type_size) == (name, fact["block_values"], fact["block_bytes"])
        if record.quantized:
            expected = np.fromfile(folder / f"{name}.f32", "<f4")
            values = dequantize(np.fromfile(folder / f"{name}.bin", record.block), record)
            differing = (values.view(np.uint32) != expected.view(np.uint32)) & ~(np.isnan(values) & np.isnan(expected))
            assert not differing.any(), name
    quantized = {record.name for record in records.values() if record.quantized}
    assert quantized <= facts.keys()


def test_the_points_of_a_grid_are_in_order_and_distinct():
    for name, grid in GRIDS.items():
        levels = grid_levels(name)
        assert levels.shape == (grid.size, grid.width)
        assert levels.max() == len(grid.numbers) - 1
        weights = len(grid.numbers) ** np.arange(grid.width, dtype=np.int64)
        assert len(np.unique(levels @ weights)) == grid.size, name


def test_plain_numbers_are_themselves():
    for name in ("i8", "i16", "i32", "i64", "f64"):
        record = TENSOR_TYPES[name]
        assert dequantize(np.arange(4).astype(record.block), record).tolist() == [0, 1, 2, 3]


def test_two_quantizations_of_one_model_agree(golden):
    """The mixes of August 2023: what q4_K_M and q6_K files of the same model hold differs by their steps only."""
    with (
        open_model(golden("ggml/T2_quant_p5_q4_K_M/T2.q4_K_M.bin")) as coarse,
        open_model(golden("ggml/T2_quant_p5_q6_K/T2.q6_K.bin")) as fine,
    ):
        for name, tensor in fine.tensors.items():
            a, b = tensor.numpy(), coarse.tensors[name].numpy()
            assert np.sqrt(np.mean((a - b) ** 2)) <= 0.1 * np.std(a), name


def test_blocks_of_another_type_are_refused():
    with pytest.raises(UsageError, match="blocks of q4_0-2023-03 have dtype"):
        dequantize(np.zeros(4, TENSOR_TYPES["q4_1-2023-03"].block), TENSOR_TYPES["q4_0-2023-03"])
