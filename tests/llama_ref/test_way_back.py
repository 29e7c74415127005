"""GGML and GGUF files become checkpoints again: Meta's layout, Hugging Face's, and a tokenizer made of the pieces."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import cli
from ggmlpy import open_model
from ggmlpy.files.errors import FormatError, VocabularyError
from ggmlpy.formats.tensor_names import rename
from llama_ref.checkpoint import open_checkpoint, open_pth
from llama_ref.checkpoint.ggml import open_ggml
from llama_ref.conversion.checkpoints import plan_from_hf, plan_to_hf
from llama_ref.conversion.ggml_to_pth import ggml_to_pth
from llama_ref.vocabulary.rebuilding import rebuilt_tokenizer, same_vocabulary
from llama_ref.vocabulary.tokenizer_file import load_vocabulary


@pytest.fixture
def f16(data: Path) -> Path:
    return data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin"


def tensors_of(directory: Path) -> dict[str, tuple[str, bytes]]:
    with open_checkpoint(directory) as checkpoint:
        return {name: (tensor.dtype, tensor.stored().tobytes()) for name, tensor in checkpoint.tensors.items()}


@pytest.mark.parametrize("container", ["ggml", "ggmf1", "ggjt1", "ggjt3", "gguf"])
@pytest.mark.parametrize("outtype", ["f16", "f32"])
def test_a_checkpoint_comes_back_tensor_for_tensor(data: Path, tmp_path: Path, container: str, outtype: str) -> None:
    source = shutil.copytree(data / "ggml" / "T1_input", tmp_path / "7B")
    file = tmp_path / "model.bin"
    options = ["--outtype", outtype, "--container", container, "--outfile", str(file), "-q"]
    assert cli.main(["convert", str(source), *options]) == 0
    assert cli.main(["to-meta", str(file), str(tmp_path / "meta"), "-q"]) == 0
    assert cli.main(["to-hf", str(file), str(tmp_path / "hf"), "-q"]) == 0
    expected = tensors_of(source)
    if outtype == "f16":
        assert tensors_of(tmp_path / "meta") == expected
        assert tensors_of(tmp_path / "hf") == expected
    with open_checkpoint(source) as one, open_checkpoint(tmp_path / "meta") as other:
        assert other.params.header() == one.params.header()
        for name, tensor in one.tensors.items():
            assert np.array_equal(tensor.f32(), other.tensors[name].f32())


@pytest.mark.parametrize("name", ["T1.q4_0.bin", "T1.q4_1.bin"])
def test_quantized_tensors_are_dequantized_and_it_is_told(data: Path, tmp_path: Path, name: str) -> None:
    file = data / "ggml" / "T1_quant_p2" / name
    with plan_from_hf(file, tmp_path / "out") as plan:
        plan.write()
        kind = name.split(".")[1]
        assert any(f"were quantized ({kind}): dequantized and rounded to float16" in note for note in plan.notes)
    with open_model(file) as model, open_checkpoint(tmp_path / "out") as checkpoint:
        for name, tensor in checkpoint.tensors.items():
            assert tensor.dtype == "float16"
            assert np.array_equal(tensor.numpy(), model.tensors[name].numpy().astype(np.float16))


def test_the_tokenizer_has_the_pieces_of_the_file(f16: Path, data: Path, tmp_path: Path) -> None:
    original = data / "ggml" / "T1_input" / "tokenizer.model"
    with open_model(f16) as model:
        rebuilt = rebuilt_tokenizer(model.vocab)
        (tmp_path / "tokenizer.model").write_bytes(rebuilt.to_bytes())
        assert same_vocabulary(model.vocab, load_vocabulary(tmp_path / "tokenizer.model"))
        assert same_vocabulary(model.vocab, load_vocabulary(original))


def test_the_tokenizer_cuts_as_the_original_does(tokenizers: Path, data: Path, tmp_path: Path) -> None:
    """The published tokenizer of LLaMA, through a vocabulary-only file and back."""
    sentencepiece = pytest.importorskip("sentencepiece")
    shutil.copy(tokenizers / "llama.model", tmp_path / "tokenizer.model")
    command = ["convert", str(tmp_path), "--vocab-only", "--params", "7B", "-q", "--outfile", str(tmp_path / "v.bin")]
    assert cli.main(command) == 0
    with open_model(tmp_path / "v.bin") as model:
        (tmp_path / "again.model").write_bytes(rebuilt_tokenizer(model.vocab).to_bytes())
    one = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    other = sentencepiece.SentencePieceProcessor(str(tmp_path / "again.model"))
    assert [other.id_to_piece(i) for i in range(len(one))] == [one.id_to_piece(i) for i in range(len(one))]
    assert [other.is_byte(i) for i in range(len(one))] == [one.is_byte(i) for i in range(len(one))]
    for text in ("介绍北京", "Once upon  a time,\n\tthere", " x", "", "👩‍👩‍👧 ﬁ ４２", "a" * 300):
        assert other.encode(text) == one.encode(text)
        assert other.decode(one.encode(text)) == one.decode(one.encode(text))


def test_a_tokenizer_beside_the_file_is_taken_if_it_is_the_files(f16: Path, data: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(f16, tmp_path / "m.bin"))
    shutil.copy(data / "ggml" / "T1_input" / "tokenizer.model", tmp_path)
    with plan_to_hf(file, tmp_path / "out") as plan:
        assert tmp_path / "tokenizer.model" in plan.copies
    shutil.copy(data / "merge" / "v11-llama" / "lora" / "tokenizer.model", tmp_path)
    with plan_to_hf(file, tmp_path / "out") as plan:
        assert not plan.copies
        assert any("made from the file's vocabulary" in note for note in plan.notes)
    with pytest.raises(VocabularyError, match="the tokenizer is not that of the file"):
        plan_to_hf(file, tmp_path / "out", tokenizer=tmp_path / "tokenizer.model")


def test_a_vocabulary_alone_is_no_checkpoint(data: Path, tmp_path: Path) -> None:
    source = shutil.copytree(data / "ggml" / "T1_input", tmp_path / "7B")
    assert cli.main(["convert", str(source), "--vocab-only", "-q", "--outfile", str(tmp_path / "v.bin")]) == 0
    with pytest.raises(FormatError):
        open_ggml(tmp_path / "v.bin")


@pytest.mark.parametrize("command", [["convert"], ["merge", "--lora", "x", "--base"]])
def test_commands_for_checkpoints_name_the_way_back(command: list[str], f16: Path, capsys) -> None:
    assert cli.main([*command, str(f16)]) == 3
    assert f"to-meta {f16} OUT_DIR" in capsys.readouterr().err


GOLDEN_PTH = ["ggml-model-f16.pth", "ggml-model-f16hf.pth", "ggml-model-q4_0.pth", "ggml-model-q4_0hf.pth"]


@pytest.mark.parametrize("name", GOLDEN_PTH)
def test_the_pth_of_march_2023_is_written_to_the_byte(name: str, golden, tmp_path: Path) -> None:
    record = json.loads(golden("today-models/old/manifest.json").read_text())["files"][name]
    target = tmp_path / record["original_name"]
    ggml_to_pth(golden(record["input"]), target, huggingface="hf" in name, torch_format="2.13")
    assert hashlib.sha256(target.read_bytes()).hexdigest() == record["sha256"]


@pytest.mark.parametrize("options", [[], ["--hf"]])
def test_the_pth_of_march_2023_is_read_back(f16: Path, options: list[str], tmp_path: Path) -> None:
    source = shutil.copy(f16, tmp_path / "model.bin")
    assert cli.main(["ggml-to-pth", str(source), *options, "-q"]) == 0
    with open_pth(tmp_path / "model-to-torch.pth") as weights, open_model(f16) as model:
        for name, tensor in model.tensors.items():
            spelt = "state_dict." + (rename(name, "huggingface") if options else name)
            assert weights[spelt].shape == tensor.shape
            if not options:
                assert np.array_equal(weights[spelt].f32(), tensor.numpy())


def test_the_pth_of_march_2023_is_not_written_over_its_source(f16: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ggml-to-pth", str(f16), str(f16)]) == 2
    assert str(f16) in capsys.readouterr().err
