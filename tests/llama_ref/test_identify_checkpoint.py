"""identify and fingerprint on files before the conversion: checkpoints, adapters, tokenizers, archives."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest

import cli
from ggmlpy.files.errors import FormatError, IntegrityError, MissingFileError
from llama_ref.checkpoint import LazyTensor, write_pth
from toolchain.look.identify import identify_other
from toolchain.verify.fingerprint import content_fingerprint


@pytest.mark.parametrize(
    ("name", "what", "model", "vocabulary", "next_step"),
    [
        ("ggml/T3_input/consolidated.00.pth", "Meta's layout", "128 wide, 2 layers, 4 heads", "400 pieces", "doctor"),
        (
            "merge/step1-hf-7b/hf/pytorch_model.bin",
            "Hugging Face's layout",
            "64 wide, 2 layers, 4 heads",
            "320 pieces",
            "doctor",
        ),
        ("merge/step1-hf-7b/hf_equivalent.safetensors", "safetensors", "64 wide, 2 layers", "320 pieces", "doctor"),
        ("merge/v11-llama/lora/adapter_model.bin", "LoRA adapter", "unknown", "500 pieces", "merge --base"),
        ("merge/step1-hf-7b/hf/tokenizer.model", "SentencePiece tokenizer", "", "320 pieces", "tokenize"),
        (
            "merge/parser/bf16.legacy.t113.pth",
            "legacy checkpoint, tensors of another",
            "unknown",
            "no embedding",
            "own",
        ),
    ],
)
def test_kinds(name, what, model, vocabulary, next_step, data):
    found = identify_other(data / name)
    assert found is not None
    assert what in found.what
    assert found.model == model
    assert vocabulary in found.vocabulary
    assert next_step in found.next_step
    assert found.size == (data / name).stat().st_size
    assert found.problems == []


def test_which_torch(data):
    for folder, era in (
        ("torch1.13.1", "torch 1.6 to 2.0"),
        ("torch2.13.0", "torch 2.7 or later (here --torch-format 2.6 to 2.13)"),
    ):
        found = identify_other(data / "merge" / "pth-format" / folder / "consolidated.00.pth")
        assert found is not None
        assert found.era == era
        assert found.types == {"float16": 21}


def test_archives(data, tmp_path):
    with zipfile.ZipFile(tmp_path / "lora.zip", "w") as archive:
        for path in (data / "merge" / "v11-llama" / "lora").iterdir():
            archive.write(path, f"lora/{path.name}")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", "b")
    lora, other = identify_other(tmp_path / "lora.zip"), identify_other(tmp_path / "x.zip")
    assert lora is not None
    assert other is not None
    assert lora.what == "zip archive of a LoRA adapter"
    assert f"merge --base BASE_DIR --lora {tmp_path / 'lora.zip'}" in lora.next_step
    assert other.what == "zip archive of 1 files, no adapter among them"


def test_an_empty_checkpoint(tmp_path):
    write_pth(tmp_path / "adapter_model.bin", [])
    found = identify_other(tmp_path / "adapter_model.bin")
    assert found is not None
    assert "saved empty" in found.what


def test_other_files_are_left_to_others(tmp_path):
    for content in (b"", b"hello world, this is text", b"GIF89a"):
        (tmp_path / "x").write_bytes(content)
        assert identify_other(tmp_path / "x") is None


def test_bad_files_raise_what_their_reader_raises(data, tmp_path):
    with pytest.raises(IntegrityError):
        identify_other(data / "merge" / "malicious" / "huge_numel.pth")
    (tmp_path / "x.zip").write_bytes(b"PK\3\4 but nothing else")
    with pytest.raises(FormatError):
        identify_other(tmp_path / "x.zip")


def test_a_published_width(tmp_path):
    """The size has a name where the layers are all in one file."""
    tensors = [LazyTensor.of_array("norm.weight", np.zeros(4096, "f2"))]
    tensors += [LazyTensor.of_array(f"layers.{i}.ffn_norm.weight", np.zeros(4096, "f2")) for i in range(32)]
    write_pth(tmp_path / "x.pth", tensors)
    found = identify_other(tmp_path / "x.pth")
    assert found is not None
    assert found.model == "7B"


def test_commands(data, tmp_path, capsys):
    source = shutil.copytree(data / "ggml" / "T1_input", tmp_path / "7B")
    assert cli.main(["identify", *map(str, sorted(source.glob("[ct]*")))]) == 0
    out = capsys.readouterr().out
    assert "LLaMA weights in Meta's layout" in out
    assert "SentencePiece tokenizer" in out
    golden = data / "ggml" / "T1_convert_f16" / "T1.p0.f16.bin"
    assert cli.main(["fingerprint", str(source), str(source / "consolidated.00.pth"), str(golden)]) == 0
    assert len({line.split()[0] for line in capsys.readouterr().out.splitlines()}) == 1
    assert cli.main(["fingerprint", str(tmp_path / "none")]) == 3
    assert cli.main(["fingerprint", str(source / "params.json")]) == 3


def test_fingerprints_of_files_by_themselves(data, tmp_path):
    adapter = data / "merge" / "v11-llama" / "lora" / "adapter_model.bin"
    shutil.copy(adapter, tmp_path / "copy.bin")
    assert content_fingerprint(adapter) == content_fingerprint(tmp_path / "copy.bin")
    other = data / "merge" / "v11-alpaca-pad" / "lora" / "adapter_model.bin"
    assert content_fingerprint(adapter) != content_fingerprint(other)
    with pytest.raises(MissingFileError, match="cannot be opened"):
        content_fingerprint(tmp_path / "none")
