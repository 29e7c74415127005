"""Every key of the GGUF specification, one probe each: what a model computes with is honored, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.gguf_values import Value
from llama_ref.arithmetic.model_keys import HARMLESS
from tests.ggmlpy.models import write_tiny
from tests.llama_ref.test_gguf_models import HPARAMS, logits, rewritten, with_keys

gguf_package = pytest.importorskip("gguf", reason="the list of keys is the package's")

YARN = {"llama.rope.scaling.type": Value("string", b"yarn"), "llama.rope.scaling.factor": Value("f32", 4.0)}
# Keys that llama.cpp does not read for a LLaMA, or that say nothing of the arithmetic: why
READ_BY_NOBODY = {
    "llama.attention.sliding_window": "llama.cpp looks at it in other families only; that it is passed over is told",
    "llama.context_length": "how far it was trained; YaRN without an original context reads it",
    "llama.rope.scaling.yarn_ext_factor": "llama.cpp takes its own number",
    "llama.rope.scaling.yarn_attn_factor": "llama.cpp takes its own number",
    "llama.rope.scaling.yarn_beta_fast": "llama.cpp takes its own number",
    "llama.rope.scaling.yarn_beta_slow": "llama.cpp takes its own number",
}
WORDS = {
    "llama.rope.scaling.type": b"linear2",
    "llama.tensor_data_layout": b"another",
    "llama.expert_gating_func": b"softmax",
}
PROBES = {
    "llama.rope.freq_base": Value("f32", 5e5),
    "llama.rope.scaling.original_context_length": Value("u32", 4),
    "llama.attention.layer_norm_rms_epsilon": Value("f32", 0.5),
    "llama.attention.head_count_kv": Value("u32", 2),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    source = write_tiny(folder / "a.bin", "ggjt", 3, "f16", hparams=HPARAMS)
    return rewritten(source, folder / "a.gguf", HPARAMS)


def every_key() -> list[str]:
    keys = gguf_package.constants.Keys
    groups = [keys.LLM, keys.Attention, keys.Rope, keys.Attention.Indexer, keys.SSM, keys.WKV, keys.KDA]
    texts = {text for group in groups for text in vars(group).values() if isinstance(text, str) and "{arch}" in text}
    older = {"llama.rope.scale", "llama.rope.scale_linear", "rope.unheard_of", "attention.unheard_of"}
    return sorted({text.format(arch="llama", dense="2") for text in texts} | older)


def probes(key: str) -> list[Value]:
    """Values that a reader who passes over the key would not notice."""
    if key in PROBES:
        return [PROBES[key]]
    if key in WORDS:
        return [Value("string", WORDS[key])]
    return [Value("u32", 3), Value("f32", 3.5), Value("array", np.ones(2, np.float32), "f32")]


def outcome(path, plain) -> str:
    try:
        computed = logits(path)
    except (FormatError, UsageError) as error:
        return f"refused: {error}"
    return "ignored" if np.array_equal(computed, plain) else "honored"


@pytest.mark.parametrize("key", every_key())
def test_a_key_is_honored_or_refused_by_name(key, model, tmp_path):
    for around in ({}, YARN) if ".rope." in key else ({},):
        base = with_keys(model, tmp_path / "base.gguf", around)
        plain = logits(base)
        for number, value in enumerate(probes(key)):
            found = outcome(with_keys(base, tmp_path / f"{number}.gguf", {key: value}), plain)
            if found.startswith("refused"):
                assert key in found or "refused: " + str(tmp_path) in found, found
            elif found == "ignored":
                allowed = HARMLESS.get(key, ((), ""))[0]
                unread = key == "llama.rope.scale_linear" if around else key.startswith("llama.rope.scaling.")
                assert key in READ_BY_NOBODY or allowed is None or unread or value.value in allowed, value
