"""Adapters merged into models of today: grouped heads, bfloat16, biases, tied embeddings, a tokenizer.json."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ggmlpy.files.errors import UsageError, VocabularyError
from llama_ref.checkpoint import open_checkpoint
from llama_ref.checkpoint.safetensors_file import open_safetensors
from llama_ref.conversion.converting import plan_conversion
from lora.merging.merge import merge
from tests.today import huggingface_directory

CASES = {"llama2-gqa": "all-r4", "llama3-bpe": "all-r4", "bias": "all-r4", "tied": "all-r4", "qwen2": "qwen2-r4"}
STEP = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


@pytest.mark.parametrize("case", CASES)
def test_the_change_is_added_in_the_type_of_the_base(case, vectors, tmp_path):
    base, _ = huggingface_directory(vectors, case, tmp_path / case)
    adapter = vectors / "today-models" / "lora" / CASES[case]
    merge(base, [adapter], tmp_path / "merged", output_type="huggingface", dtype="auto")
    config = json.loads((adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    with open_safetensors(adapter / "adapter_model.safetensors") as lora, open_checkpoint(base) as before:
        changed = open_safetensors(tmp_path / "merged" / "model.safetensors")
        assert set(changed) == set(open_safetensors(base / "model.safetensors"))
        for name, tensor in open_safetensors(base / "model.safetensors").items():
            wanted = tensor.f32()
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            if f"{stem}.lora_A.weight" in lora:
                wanted = wanted + scale * (lora[f"{stem}.lora_B.weight"].f32() @ lora[f"{stem}.lora_A.weight"].f32())
            assert changed[name].dtype == tensor.dtype
            np.testing.assert_allclose(changed[name].f32(), wanted, rtol=STEP[tensor.dtype], atol=1e-6)
        assert before.params.n_head_kv == 2
    with open_checkpoint(tmp_path / "merged"):
        pass


@pytest.fixture
def llama3(vectors, tmp_path):
    base, pre = huggingface_directory(vectors, "llama3-bpe", tmp_path / "llama3-bpe")
    return base, vectors / "today-models" / "lora" / "all-r4", pre


def test_a_tokenizer_json_comes_along(llama3, tmp_path):
    base, adapter, _ = llama3
    merge(base, [adapter], tmp_path / "merged", output_type="huggingface")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes()
    assert not (tmp_path / "merged" / "tokenizer.model").exists()


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_gguf_with_a_tokenizer_json_is_what_the_merged_directory_gives(kind, llama3, tmp_path):
    base, adapter, pre = llama3
    merge(base, [adapter], tmp_path / "Org-7B-chat", output_type="huggingface", dtype="auto")
    with plan_conversion(tmp_path / "Org-7B-chat", tmp_path / "two.gguf", outtype=kind, pre_tokenizer=pre) as plan:
        plan.write()
    straight = tmp_path / "Org-7B-chat.gguf"
    report = merge(base, [adapter], straight, output_type=f"gguf-{kind}", pre_tokenizer=pre)
    assert straight.read_bytes() == (tmp_path / "two.gguf").read_bytes()
    assert (report.n_pairs, report.n_changed) == (14, 14)


def test_what_a_model_with_a_tokenizer_json_can_not_be(llama3, tmp_path):
    base, adapter, pre = llama3
    with pytest.raises(UsageError, match="--output-type gguf-f16"):
        merge(base, [adapter], tmp_path / "m.bin", output_type="ggml-f16", pre_tokenizer=pre)
    with pytest.raises(VocabularyError) as caught:
        merge(base, [adapter], tmp_path / "m.gguf", output_type="gguf-f16")
    assert str(caught.value).startswith(f"{base / 'tokenizer.json'}: the rules by which")
