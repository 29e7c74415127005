"""Directories made of GGUF files under transformers: the logits and tokens of the directories they were made from."""

from __future__ import annotations

import pytest

from llama_ref.conversion.checkpoints import plan_to_hf
from llama_ref.conversion.converting import plan_conversion
from tests.today import huggingface_directory

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

# What a GGUF file cannot say (dynamic scaling, mscale, a sliding window) makes other logits, and is told.
CASES = (
    *("added-both", "bias", "codellama-theta1e6", "f32-bin", "headdim32", "linear-old", "llama1-mha", "llama2-gqa"),
    *("llama3-bpe", "llama3-new", "odd48", "qwen2", "qwen2-tied", "qwen3", "tied", "yarn-new", "yarn-noorig"),
)
TEXTS = ("Hello world", "  two  spaces", "中文 text é\n\nline", "<s> [INST] hi </s>")
TOKENS = [1, 5, 9, 300, 77, 42, 13, 200, 8, 17, 3, 4] * 4


@pytest.mark.parametrize("case", CASES)
def test_the_logits_are_the_same(case, vectors, tmp_path):
    model, pre = huggingface_directory(vectors, case, tmp_path / case)
    with plan_conversion(model, tmp_path / "m.gguf", outtype="f32", pre_tokenizer=pre) as plan:
        plan.write()
    with plan_to_hf(tmp_path / "m.gguf", tmp_path / "back") as plan:
        plan.write()
    found = []
    for directory in (model, tmp_path / "back"):
        loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        with torch.no_grad():
            found.append(loaded(torch.tensor([TOKENS]) % loaded.config.vocab_size).logits)
    assert torch.equal(*found)


@pytest.mark.parametrize("case", ["llama3-bpe", "qwen2", "qwen3"])
def test_the_tokens_are_the_same(case, vectors, tmp_path):
    model, pre = huggingface_directory(vectors, case, tmp_path / case)
    with plan_conversion(model, tmp_path / "m.gguf", pre_tokenizer=pre) as plan:
        plan.write()
    with plan_to_hf(tmp_path / "m.gguf", tmp_path / "back") as plan:
        plan.write()
    one, other = (transformers.AutoTokenizer.from_pretrained(path) for path in (model, tmp_path / "back"))
    assert [one(text).input_ids for text in TEXTS] == [other(text).input_ids for text in TEXTS]
