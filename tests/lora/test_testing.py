"""The assertions for other projects' tests: silent where all is right, telling where it is not."""

from __future__ import annotations

import pytest

from ggmlpy import open_model
from ggmlpy.quantizers.migration import migrate
from ggmlpy.quantizers.whole_file import quantize_file
from ggmlpy.testing import assert_quantized_from, assert_same_model
from llama_ref.conversion.converting import plan_conversion
from lora.merging.merge import merge
from tests.ggmlpy.models import write_tiny
from tests.lora.test_verify import inputs
from toolchain.testing import assert_made_from


@pytest.fixture
def f16(tmp_path):
    return write_tiny(tmp_path / "f16.bin", "ggjt", 1, "f16")


def test_same_model_in_other_containers(f16, tmp_path):
    with open_model(f16) as model:
        migrate(model, tmp_path / "old.bin", "ggmf", 1)
    assert_same_model(f16, tmp_path / "old.bin")
    with pytest.raises(AssertionError, match="containers: ggjt v1 and ggmf v1"):
        assert_same_model(f16, tmp_path / "old.bin", same_container=True)


def test_another_model_is_told_with_its_tensors(f16, tmp_path):
    other = write_tiny(tmp_path / "other.bin", "ggjt", 1, "f16", seed=1)
    with pytest.raises(AssertionError, match=r"tok_embeddings\.weight differs: .* values, at most .* first at row 0"):
        assert_same_model(f16, other)


def test_a_changed_value_is_told_and_tolerated(f16, tmp_path):
    data = bytearray(f16.read_bytes())
    with open_model(f16) as model:
        offset = model.tensors["layers.0.attention.wo.weight"].offset
    data[offset] ^= 1
    (tmp_path / "changed.bin").write_bytes(data)
    with pytest.raises(AssertionError, match="1 values differ in 1 tensors, at most"):
        assert_same_model(f16, tmp_path / "changed.bin")
    assert_same_model(f16, tmp_path / "changed.bin", tolerance=0.01)


def test_quantized(f16, tmp_path):
    quantize_file(f16, tmp_path / "q.bin", "q4_0", "2023-04-30")
    assert_quantized_from(tmp_path / "q.bin", f16)
    assert_quantized_from(tmp_path / "q.bin", f16, era="2023-04-30")
    with pytest.raises(AssertionError, match=r"(?s)is not the quantize of .*likely cause: the quantizer of 2023-04-30"):
        assert_quantized_from(tmp_path / "q.bin", f16, era="2023-03-31")


def test_made_from(golden, tmp_path):
    base, adapters, out = inputs(golden, "v11-llama")
    assert_made_from(out, base, adapters)
    merge(base, [*adapters, *adapters], tmp_path / "twice")
    with pytest.raises(AssertionError, match="likely cause: the adapter was applied twice"):
        assert_made_from(tmp_path / "twice", base, adapters)
    with plan_conversion(out, tmp_path / "f16.bin") as plan:
        plan.write()
    assert_made_from(tmp_path / "f16.bin", out)
