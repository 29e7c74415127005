"""LLaMA-family models of today, as llama.cpp converts them to GGUF: their logits against transformers and llama.cpp."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llama_ref.text.model import Model
from tests.today import whole_gguf

#: whose logits: llama.cpp's where the file does not say what the checkpoint did (dynamic scaling, windows, YaRN's
#: bounds and its factor on cosine and sine)
CASES = {
    "added-json": "transformers",
    "bias": "transformers",
    "codellama-theta1e6": "transformers",
    "dynamic-new": "llamacpp",
    "f32-safe": "transformers",
    "headdim32": "transformers",
    "linear-int": "transformers",
    "linear-new": "transformers",
    "linear-old": "transformers",
    "llama1-mha": "transformers",
    "llama2-gqa": "transformers",
    "llama3-bpe": "transformers",
    "llama3-new": "transformers",
    "llama3-old": "transformers",
    "mistral-nowindow": "transformers",
    "mistral-window16": "llamacpp",
    "odd48": "transformers",
    "qwen2": "transformers",
    "qwen2-tied": "transformers",
    "qwen3": "transformers",
    "theta-float-new": "transformers",
    "tied": "transformers",
    "yarn-attn": "llamacpp",
    "yarn-mscale": "llamacpp",
    "yarn-new": "llamacpp",
    "yarn-noorig": "transformers",
    "yarn-old": "transformers",
}


@pytest.mark.parametrize("numerics", ["reference", "fast"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers_or_llama_cpp(case, numerics, vectors, tmp_path):
    folder = vectors / "today-models" / "logits"
    record = json.loads((folder / "manifest.json").read_text())["cases"][case]
    path = whole_gguf(vectors, f"{case}.f32.gguf", tmp_path / "m.gguf")
    with Model.from_file(path, numerics=numerics, n_ctx=64, memory_f32=True, n_threads=2) as model:
        logits = model.evaluate(record["tokens"], 0)
        one_by_one = np.concatenate([model.evaluate([token], i) for i, token in enumerate(record["tokens"])])
    expected = np.load(folder / record[CASES[case]])
    difference = float(np.abs(logits - expected).max())
    print(f"{case} {numerics}: {difference:.1e} from {CASES[case]}")
    assert difference < 1e-4
    np.testing.assert_allclose(one_by_one, logits, atol=1e-4)
