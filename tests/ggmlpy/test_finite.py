"""Values that are NaN or infinite are found in every type, counted, and placed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ggmlpy import TENSOR_TYPES, OutTensor, open_model, types_of
from ggmlpy.formats.dequantize import dequantize
from ggmlpy.formats.finite_bits import all_finite
from ggmlpy.look.finite import SCALES, not_finite, not_finite_tensors, not_finite_words
from ggmlpy.look.identify import identify
from tests.ggmlpy.models import finite_blocks, write_tiny

QUANTIZED = [record for record in TENSOR_TYPES.values() if record.quantized]


def tensor_of(rows: np.ndarray, record, columns: int) -> OutTensor:
    return OutTensor("x", record, (len(rows), columns), lambda: [rows[:2], rows[2:]])


@pytest.mark.parametrize("record", QUANTIZED, ids=lambda record: record.layout)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 1e36])
def test_a_scale_that_is_no_number(record, value: float) -> None:
    """And one that is so large that a value may overflow: what is said is what decoding gives."""
    for name in (name for name in SCALES if name in record.field_names and record.block[name].kind == "f"):
        blocks = finite_blocks(np.random.default_rng(0), record, (5, record.blck_size)).view(record.block).copy()
        assert not_finite(tensor_of(blocks.view("u1").reshape(5, -1), record, record.blck_size)) is None
        with np.errstate(over="ignore"):
            blocks[name][3] = value
        values = dequantize(blocks.reshape(5, 1), record)
        found = not_finite(tensor_of(blocks.view("u1").reshape(5, -1), record, record.blck_size))
        count = int(np.count_nonzero(~np.isfinite(values)))
        assert (found.count if found else 0) == count
        if found:
            assert (found.of, found.index[0]) == (values.size, 3)
            assert found.index == tuple(np.argwhere(~np.isfinite(values))[0])


@given(arrays.arrays("<u4", (4, 3), elements=st.one_of(st.integers(0, 2**32 - 1), st.just(0x7F800000))))
def test_any_bits_of_plain_numbers(bits: np.ndarray) -> None:
    for name in ("f32", "f16", "bf16"):
        record = TENSOR_TYPES[name]
        rows = (bits >> (0 if name == "f32" else 16)).astype(f"<u{record.type_size}").view(record.block)
        with np.errstate(invalid="ignore"):  # of signaling NaN
            values = dequantize(rows, record)
        found = not_finite(OutTensor("x", record, rows.shape, lambda rows=rows: [rows]))
        assert (found.count if found else 0) == np.count_nonzero(~np.isfinite(values))


def test_identify_names_the_tensor_and_the_place(tmp_path) -> None:
    path = write_tiny(tmp_path / "m.bin", type_name="f16")
    assert identify(path).problems == []
    with open_model(path) as model:
        tensor = model.tensors["layers.0.feed_forward.w1.weight"]
        at = tensor.offset + 2 * (5 * tensor.n_cols + 7)
    data = bytearray(path.read_bytes())
    data[at : at + 4] = np.array([np.inf, np.nan], "<f2").tobytes()
    path.write_bytes(data)
    (problem,) = identify(path).problems
    assert "2 of 3,072 values of tensor 'layers.0.feed_forward.w1.weight' are NaN or infinite" in problem
    assert "the first (inf) at [5, 7]" in problem
    assert identify(path, values=False).problems == []
    with open_model(path) as model:
        assert not_finite_words(list(not_finite_tensors(model))) in problem


def test_whole_numbers_are_always_numbers() -> None:
    for record in types_of("gguf", 3).values():
        if record.name in ("i8", "i16", "i32", "i64"):
            values = np.full(32, -1, record.block)
            assert not_finite(OutTensor("x", record, (32,), lambda values=values: [values])) is None, record.name
    f64 = next(record for record in types_of("gguf", 3).values() if record.name == "f64")
    assert not_finite(OutTensor("x", f64, (2,), lambda: [np.array([1.0, -np.inf])])) is not None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bits_tell_what_numpy_says(dtype) -> None:
    unusual = np.array([np.nan, -np.nan, np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).min, -0.0], dtype)
    for value in unusual:
        values = np.full(37, -1.5, dtype)
        assert all_finite(values)
        values[-1] = value
        assert all_finite(values) == bool(np.isfinite(value)), value
    assert all_finite(unusual[:0])
