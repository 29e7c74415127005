"""What stands beside the tensors of an output counts: numbers, keys, tokenizer, and the bytes of small files."""

from __future__ import annotations

import json
import shutil

import pytest

from ggmlpy import ModelParams, open_model, write_model
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_params import RopeScaling
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.verify.compare import compare
from ggmlpy.verify.numbers import key_differences, params_differences
from ggmlpy.verify.quantization import verify_files
from ggmlpy.verify.terms import BETWEEN
from llama_ref.conversion.checkpoints import convert_to_huggingface
from llama_ref.vocabulary.sentencepiece_model import tokenizer_bytes
from lora.merging.merge import merge
from tests.ggmlpy.models import write_tiny
from toolchain.verify.outputs import verify_output

OTHER = "same tensors, other behavior"


@pytest.fixture(scope="module")
def merged(golden, tmp_path_factory):
    """Base, adapter and the right merge, in Hugging Face's layout."""
    folder = tmp_path_factory.mktemp("beside")
    base, adapter = golden("merge/v11-llama/base/7B"), golden("merge/v11-llama/lora")
    merge(base, [adapter], folder / "out", output_type="huggingface", weights="safetensors")
    return base, adapter, folder / "out"


def verdict(merged, tmp_path, change):
    """The report on a copy of the merge in which something was changed."""
    base, adapter, out = merged
    shutil.copytree(out, tmp_path / "copy")
    change(tmp_path / "copy")
    return verify_output(tmp_path / "copy", base, [adapter])


def configured(**changes):
    def change(folder, name="config.json"):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("key", "value"),
    [("rope_theta", 1e6), ("rms_norm_eps", 1e-3), ("bos_token_id", 0), ("sliding_window", 16),
     ("rope_scaling", {"type": "linear", "factor": 2.0}), ("logit_scale", 0.5)],
)  # fmt: skip
def test_a_configuration_that_changes_results_is_another_behavior(key, value, merged, tmp_path):
    report = verdict(merged, tmp_path, configured(**{key: value}))
    assert (report.verdict, report.exit_code, report.differing) == (OTHER, 1, [])


def test_a_configuration_in_other_words_is_the_same_content(merged, tmp_path):
    report = verdict(merged, tmp_path, configured(transformers_version="5.0", use_cache=False, head_dim=None))
    assert (report.verdict, report.exit_code) == ("identical content", 0)


def test_a_tokenizer_of_another_size_is_another_behavior(merged, tmp_path):
    base, _, _ = merged
    other = tokenizer_bytes(base.parent / "tokenizer.model")
    report = verdict(merged, tmp_path, lambda folder: (folder / "tokenizer.model").write_bytes(other))
    assert (report.verdict, report.exit_code) == (OTHER, 1)
    assert "vocabulary of" in report.sentence()


def test_a_tokenizer_that_adds_an_end_is_another_behavior(merged, tmp_path):
    report = verdict(merged, tmp_path, lambda folder: configured(add_eos_token=True)(folder, "tokenizer_config.json"))
    assert report.behavior == ["tokenizer_config.json: add_eos_token True instead of False"]


def test_exported_folders_are_looked_at_alike(golden, tmp_path):
    base = golden("merge/v11-llama/base/7B")
    convert_to_huggingface(base, tmp_path / "hf")
    assert verify_output(tmp_path / "hf", base).verdict == "identical bytes"
    configured(rms_norm_eps=1e-5)(tmp_path / "hf")
    assert verify_output(tmp_path / "hf", base).verdict == OTHER


def rewritten(path, target, vocab=None, **changes):
    """A GGUF file with other numbers."""
    from dataclasses import replace

    with open_model(path) as model:
        pairs = vocab or list(zip(model.vocab, model.vocab.scores.tolist(), strict=True))
        tensors = [OutTensor(t.name, t.type, t.shape, t.chunks) for t in model.tensors.values()]
        write_model(target, "gguf", 3, replace(model.hparams, **changes), pairs, tensors)
    return target


@pytest.fixture
def gguf(tmp_path):
    return rewritten(write_tiny(tmp_path / "a.bin", type_name="f16"), tmp_path / "a.gguf")


@pytest.mark.parametrize(
    "changes",
    [{"rope_theta": 1e6}, {"norm_eps": 1e-3}, {"bos_id": 0}, {"rope_scaling": RopeScaling(type="linear", factor=4.0)}],
)
def test_keys_of_a_gguf_file_count(changes, gguf, tmp_path):
    other = rewritten(gguf, tmp_path / "b.gguf", **changes)
    report = verify_files(other, gguf)
    assert (report.verdict, report.exit_code) == (OTHER, 1)
    with open_model(gguf) as a, open_model(other) as b:
        result = compare(a, b)
    assert (result.verdict, result.exit_code) == (OTHER, 1)


def test_identical_bytes_are_equal_bytes(gguf, tmp_path):
    assert verify_files(gguf, gguf).verdict == "identical bytes"
    with open_model(gguf) as model:
        pairs = list(zip(model.vocab, model.vocab.scores.tolist(), strict=True))
    pairs[-2:] = pairs[:-3:-1]
    assert verify_files(rewritten(gguf, tmp_path / "b.gguf", pairs), gguf).verdict == OTHER


def test_unknown_keys_count_unless_they_are_known_to_be_harmless():
    assert not list(key_differences({}, {"general.license": Value("string", b"x")}, BETWEEN))
    a = {"llama.new": Value("f32", 2.0), "general.license": Value("string", b"x")}
    found = list(key_differences(a, {}, BETWEEN))
    assert [(item.words, item.changes_results) for item in found] == [
        ("llama.new 2 and nothing", True),
        ("keys on which no result depends: general.license", False),
    ]
    assert not list(key_differences({"attention_bias": False}, {}, BETWEEN))


def test_what_follows_from_the_heads_is_not_told_twice():
    a, b = (ModelParams(n_embd=64, n_layer=1, n_head=heads, n_mult=32) for heads in (4, 2))
    assert [item.words for item in params_differences(a, b, BETWEEN, {"n_rot"})] == ["n_head 4 and 2"]
