"""Comparison: the verdict, the first difference decoded, and the quantizer that explains it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy import ModelParams, open_model
from ggmlpy.look.identify import expected_size, identify
from ggmlpy.quantizers.whole_file import quantize_file
from ggmlpy.verify.compare import compare
from ggmlpy.verify.tensors import ulp_distance
from ggmlpy.verify.whose_quantizer import explain, quantizer_signs
from tests.ggmlpy.k_models import write_k_model
from tests.ggmlpy.models import write_tiny


def test_a_model_is_itself_in_any_container(tmp_path):
    paths = [write_tiny(tmp_path / name, name, version) for name, version in (("ggml", 0), ("ggmf", 1), ("ggjt", 1))]
    for other in paths[1:]:
        with open_model(paths[0]) as a, open_model(other) as b:
            assert compare(a, b).verdict == "same content"


def test_one_flipped_code_is_found_and_decoded(tmp_path):
    path = write_tiny(tmp_path / "a.bin")
    with open_model(path) as model:
        tensor = model.tensors["layers.0.attention.wo.weight"]
        at = tensor.offset + 5 * tensor.row_bytes + 4 + 3  # row 5, fourth byte of codes: elements 6 and 7
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    (tmp_path / "b.bin").write_bytes(data)
    with open_model(path) as a, open_model(tmp_path / "b.bin") as b:
        result = compare(a, b)
        (item,) = result.differing
        assert (item.name, item.row, item.column, item.n_different) == (tensor.name, 5, 7, 1)
        assert item.a
        assert item.b
        assert item.a.offset == at - 7
        assert [i for i, (x, y) in enumerate(zip(item.a.codes, item.b.codes, strict=True)) if x != y] == [7]
        assert item.a.values == a.tensors[tensor.name].rows(5, 6)[0].tolist()
    assert result.verdict == "values differ"
    assert result.sentence().startswith("1 values differ in 1 tensors, at most")


def test_a_tolerance_forgives(tmp_path):
    path = write_tiny(tmp_path / "a.bin", type_name="f16")
    with open_model(path) as model:
        at = model.tensors["norm.weight"].offset
        value = model.tensors["norm.weight"].numpy()[0]
    data = bytearray(path.read_bytes())
    data[at : at + 4] = np.nextafter(value, np.float32(9)).tobytes()
    (tmp_path / "b.bin").write_bytes(data)
    with open_model(path) as a, open_model(tmp_path / "b.bin") as b:
        assert compare(a, b).sentence() == "1 values differ in 1 tensors, at most 1 ulp"
        assert compare(a, b, tolerance=1e-5).verdict == "same content"


def test_other_shapes_and_tensors_are_different(tmp_path):
    a = write_tiny(tmp_path / "a.bin")
    b = write_tiny(tmp_path / "b.bin", hparams=ModelParams.from_header(20, 32, 32, 2, 2, 16, 2))
    with open_model(a) as first, open_model(b) as second:
        result = compare(first, second)
    assert result.verdict == "different"
    assert result.header == ["n_layer 1 and 2"]
    assert "layers.1.attention.wq.weight only in B" in result.sentence()


def test_each_era_s_quantizer_is_named(golden):
    with open_model(golden("ggml/T1_convert_f16/T1.p2.f16.bin")) as source:
        for pin, eras in ((2, {"2023-03-19", "2023-03-30", "2023-03-31"}), (3, {"2023-04-30"}), (5, {"2023-08-21"})):
            with open_model(golden(f"ggml/T1_quant_p{pin}/T1.q4_0.bin")) as model:
                tensors = [tensor for tensor in model.tensors.values() if tensor.type.quantized]
                counts = explain(tensors, source.tensors)
            assert {era for era, count in counts.items() if count == len(tensors)} == eras


@pytest.mark.parametrize(("pin", "words"), [(0, "2023-03 "), (2, "2023-03 "), (3, "2023-04-30"), (5, "2023-04-30")])
def test_q4_0_blocks_carry_the_mark_of_their_quantizer(pin, words, golden):
    with open_model(golden(f"ggml/T1_quant_p{pin}/T1.q4_0.bin")) as model:
        assert words in quantizer_signs(model.tensors["output.weight"], 400)


def test_identify_tells_eras_apart(golden):
    assert "quantizer of 2023-03 " in identify(golden("ggml/T1_quant_p2/T1.q4_0.bin")).era
    assert "quantizer of 2023-04-30" in identify(golden("ggml/T1_quant_p3/T1.q4_0.bin")).era
    assert identify(golden("ggml/T1_quant_p3/T1.q5_1.bin")).era == "2023-04-30 (q5_1 exist since April)"


@pytest.mark.parametrize("type", ["q2_k", "q3_k_m", "q4_k_s", "q5_k_m", "q6_k"])
def test_identify_dates_a_file_by_its_types_too(type, tmp_path):
    """ggjt v3 is of May 2023; its k-quants came in June."""
    quantize_file(write_k_model(tmp_path / "f16.bin", 256), tmp_path / "k.bin", type, "2023-08-21")
    era = identify(tmp_path / "k.bin").era
    assert era.startswith("2023-06-05 – 2023-08-20 (")
    assert era.endswith("since 2023-06-05)")


def test_identify_dates_a_file_without_k_quants_by_its_container(tmp_path):
    assert identify(write_k_model(tmp_path / "f16.bin", 256)).era == "2023-05-19 – 2023-08-20"


@pytest.mark.parametrize("cut", [1, 100, 1500, 4000])
def test_the_expected_size_of_a_cut_file_is_its_old_size(cut, tmp_path):
    path = write_tiny(tmp_path / "a.bin", "ggmf", 1)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-cut])
    with open_model(path, strict=False) as model:
        assert expected_size(model) == size
    assert identify(path).problems


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(0, 1000))
def test_ulp_distance_counts_steps(start, steps):
    x = np.float32(start)
    bits = np.array([x]).view(np.int32)
    y = (bits + steps).view(np.float32)
    if np.isfinite(y[0]) and np.signbit(y[0]) == np.signbit(x):
        assert ulp_distance(np.array([x]), y)[0] == steps
