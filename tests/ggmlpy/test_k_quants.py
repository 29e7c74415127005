"""The k-quants against digests of the real tool's files (era 2023-08-21, scalar build, one thread)."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy import UsageError, open_model
from ggmlpy.files.errors import ShapeError
from ggmlpy.formats.dequantize import dequantize
from ggmlpy.formats.eras import era_of
from ggmlpy.formats.file_types import FILE_TYPES, TypeChooser, file_type_of, file_types, more_bits
from ggmlpy.formats.tensor_types import TENSOR_TYPES
from ggmlpy.quantizers.rows import quantize_rows as quantize
from ggmlpy.quantizers.whole_file import quantize_file
from tests.ggmlpy.k_models import write_k_model

AUGUST = era_of("2023-08-21")
K_QUANTS = ("q2_K", "q3_K", "q4_K", "q5_K", "q6_K")


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def k_model(tmp_path_factory):
    made = {}

    def make(n_vocab: int):
        if n_vocab not in made:
            made[n_vocab] = write_k_model(tmp_path_factory.mktemp("k") / f"{n_vocab}.bin", n_vocab)
        return made[n_vocab]

    return make


@pytest.mark.parametrize("n_vocab", [256, 300])
@pytest.mark.parametrize("name", list(file_types(AUGUST)))
def test_the_real_tools_file(data, k_model, tmp_path, name, n_vocab):
    wanted = json.loads((data / "ggml" / "k_quants.json").read_text())[str(n_vocab)]
    source = k_model(n_vocab)
    assert digest(source) == wanted["input"]
    quantize_file(source, tmp_path / "out.bin", name, AUGUST, threads=2)
    assert digest(tmp_path / "out.bin") == wanted["output"][name]


@pytest.mark.parametrize("name", K_QUANTS)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_error_is_a_fraction_of_the_spread(name, seed):
    x = np.random.default_rng(seed).standard_normal((1, 512)).astype(np.float32)
    record = TENSOR_TYPES[name]
    error = dequantize(quantize(x, name, AUGUST).view(record.block), record) - x
    bound = {"q2_K": 0.40, "q3_K": 0.22, "q4_K": 0.10, "q5_K": 0.05, "q6_K": 0.03}[name]
    assert np.sqrt(np.mean(error**2)) < bound


@pytest.mark.parametrize("name", K_QUANTS)
def test_zeros_stay_zeros(name):
    record = TENSOR_TYPES[name]
    blocks = quantize(np.zeros((1, 256), np.float32), name, AUGUST).view(record.block)
    assert not dequantize(blocks, record).any()


# --- which tensor gets which type ---------------------------------------------------------------------------------


def test_q4_k_m_raises_the_first_and_last_eighth_and_every_third(vectors):
    with open_model(vectors / "ggml" / "T2_quant_p5_q4_K_M" / "T2.q4_K_M.bin") as model:
        f16 = TENSOR_TYPES["f16"]
        choose = TypeChooser(FILE_TYPES["Q4_K_M"], AUGUST, model.tensors)
        chosen = {name: choose(name, tensor.shape, f16) or tensor.type for name, tensor in model.tensors.items()}
        assert chosen == {name: tensor.type for name, tensor in model.tensors.items()}


def test_more_bits_of_32_layers():
    raised = [layer for layer in range(32) if more_bits(layer, 32)]
    assert raised == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]


def test_a_matrix_that_k_quants_don_t_divide_is_refused_with_the_way_out():
    choose = TypeChooser(FILE_TYPES["Q4_K_S"], AUGUST, [])
    with pytest.raises(ShapeError, match=r"multiples of 256, found 64 x 400.*choose Q4_0, Q5_0 or Q8_0"):
        choose("layers.0.attention.wq.weight", (400, 64), TENSOR_TYPES["f16"])


@pytest.mark.parametrize(
    ("request_type", "era", "name"),
    [
        ("2", "2023-03-31", "Q4_0"),
        (3, "2023-03-19", "Q4_1"),
        ("q4_0", "2023-04-30", "Q4_0"),
        ("5", "2023-04-30", "Q4_2"),
        ("Q4_K", "2023-08-21", "Q4_K_M"),
        ("15", "2023-08-21", "Q4_K_M"),
        ("q3_k_l", "2023-08-21", "Q3_K_L"),
        ("1", "2023-08-21", "F16"),
    ],
)
def test_a_type_is_a_number_or_a_name_in_any_case(request_type, era, name):
    assert file_type_of(request_type, era).name == name


def test_a_type_of_another_era_is_refused_by_name():
    with pytest.raises(
        UsageError, match="unknown type 'q5_0' for era 2023-03-31; it has 2 or q4_0, 3 or q4_1; q5_0 needs"
    ):
        file_type_of("q5_0")
    with pytest.raises(UsageError, match="unknown type '1' for era 2023-03-31"):
        file_type_of("1")
