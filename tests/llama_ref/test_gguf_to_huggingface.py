"""GGUF files of today become Hugging Face directories, from which the converter makes the same files again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ggmlpy.formats.gguf_values import Value
from llama_ref.checkpoint import open_checkpoint
from llama_ref.checkpoint.folder import Folder
from llama_ref.conversion.checkpoints import plan_from_hf, plan_to_hf
from llama_ref.conversion.converting import plan_conversion
from llama_ref.conversion.huggingface_to_gguf.model_card import card_from_metadata, card_of, general_metadata
from tests.today import huggingface_directory
from toolchain.zoo.models_of_today import write_llama_3

CASES = (
    *(
        "Org-Tiny-7B-chat-v1.1",
        "added-both",
        "added-json",
        "bf16-sharded",
        "bias",
        "codellama-theta1e6",
        "headdim32",
        "linear-old",
    ),
    *("llama1-notok-config", "llama2-gqa", "llama3-bpe", "llama3-new", "odd48", "qwen2", "qwen2-tied", "qwen3"),
    *("tied", "yarn-attn", "yarn-new", "yarn-noorig"),
)


@pytest.mark.parametrize("outtype", ["f32", "auto"])
@pytest.mark.parametrize("case", CASES)
def test_there_and_back_and_there_again_is_the_same_file(case, outtype, vectors, tmp_path):
    model, pre = huggingface_directory(vectors, case, tmp_path / case)
    options = {"outtype": outtype, "pre_tokenizer": pre}
    with plan_conversion(model, tmp_path / "one.gguf", **options) as plan:
        plan.write()
    with plan_to_hf(tmp_path / "one.gguf", tmp_path / "Another-13B-instruct-v2") as plan:
        plan.write()
    with plan_conversion(tmp_path / "Another-13B-instruct-v2", tmp_path / "two.gguf", **options) as plan:
        plan.write()
    assert (tmp_path / "two.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()


def test_an_order_of_bin_files_comes_back_in_bin_files(vectors, tmp_path):
    model, _ = huggingface_directory(vectors, "f32-bin", tmp_path / "f32-bin")
    with plan_conversion(model, tmp_path / "one.gguf", outtype="f32") as plan:
        plan.write()
    with plan_to_hf(tmp_path / "one.gguf", tmp_path / "back", weights="bin") as plan:
        plan.write()
    with plan_conversion(tmp_path / "back", tmp_path / "two.gguf", outtype="f32") as plan:
        plan.write()
    assert (tmp_path / "two.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()


@pytest.mark.parametrize("case", ["llama2-gqa", "qwen3", "bias", "tied"])
def test_tensors_come_back_bit_for_bit(case, vectors, tmp_path):
    model, pre = huggingface_directory(vectors, case, tmp_path / case)
    with plan_conversion(model, tmp_path / "m.gguf", outtype="auto", pre_tokenizer=pre) as plan:
        plan.write()
    with plan_to_hf(tmp_path / "m.gguf", tmp_path / "back") as plan:
        plan.write()
    with open_checkpoint(model) as one, open_checkpoint(tmp_path / "back") as other:
        assert {**one.tensors}.keys() == {**other.tensors}.keys()
        for name, tensor in one.tensors.items():
            assert (other.tensors[name].dtype, other.tensors[name].shape) == (tensor.dtype, tensor.shape)
            assert np.array_equal(other.tensors[name].stored(), tensor.stored()), name


def test_grouped_heads_and_scaling_go_to_meta(vectors, tmp_path):
    model, _ = huggingface_directory(vectors, "llama3-new", tmp_path / "llama3-new")
    config = json.loads((model / "config.json").read_text())
    scaling = config["rope_parameters"] | {"factor": 8.0, "original_max_position_embeddings": 8192}
    (model / "config.json").write_text(json.dumps(config | {"rope_parameters": scaling}))
    with plan_conversion(model, tmp_path / "m.gguf") as plan:
        plan.write()
    with plan_from_hf(tmp_path / "m.gguf", tmp_path / "meta") as plan:
        plan.write()
    params = json.loads((tmp_path / "meta" / "params.json").read_text())
    assert (params["n_kv_heads"], params["use_scaled_rope"]) == (2, True)
    with open_checkpoint(model) as one, open_checkpoint(tmp_path / "meta") as other:
        for name, tensor in one.tensors.items():
            assert np.array_equal(other.tensors[name].f32(), tensor.f32()), name


def test_what_a_card_says_comes_back(tmp_path):
    said = {
        "general.name": Value("string", b"Tiny: 1"),
        "general.license": Value("string", b"no"),
        "general.base_model.count": Value("u32", 2),
        "general.base_model.0.name": Value("string", b"Llama 2 7b Hf"),
        "general.base_model.0.organization": Value("string", b"Meta Llama"),
        "general.base_model.0.repo_url": Value("string", b"https://huggingface.co/meta-llama/Llama-2-7b-hf"),
        "general.base_model.1.name": Value("string", b"x"),
        "general.tags": Value("array", [b"on", "中".encode()], "string"),
        "general.languages": Value("array", [b"no"], "string"),
    }
    folder = tmp_path / "Name-7B-chat-v1.1"
    folder.mkdir()
    (folder / "README.md").write_text(card_from_metadata(said))
    assert card_of(Folder.of(folder))["base_model"][0] == "meta-llama/Llama-2-7b-hf"
    found = general_metadata(Folder.of(folder))
    assert {key: value for key, value in found.items() if value.type == "u32" or len(value.value)} == said


def test_what_goes_into_files_beside_is_not_called_lost(tmp_path):
    write_llama_3(tmp_path / "Tiny-Instruct", seed=1)
    with plan_conversion(tmp_path / "Tiny-Instruct", tmp_path / "m.gguf", pre_tokenizer="llama-bpe") as plan:
        plan.write()
    with plan_to_hf(tmp_path / "m.gguf", tmp_path / "back") as plan:
        assert plan.notes == []
    with plan_to_hf(tmp_path / "m.gguf", tmp_path / "weights", weights_only=True) as plan:
        assert "general.sampling.top_p" in plan.notes[0]
