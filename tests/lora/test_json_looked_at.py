"""identify says what a file of JSON is, whatever its name, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cli
import toolchain.demo.files as demo
from tests.llama_ref.test_json_tokenizer import record
from toolchain.look.identify import identify_any

ADAPTER = {"peft_type": "LORA", "r": 8, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]}
META = {"dim": 64, "multiple_of": 32, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-6, "vocab_size": -1}
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4,
    "num_hidden_layers": 2, "rms_norm_eps": 1e-6, "vocab_size": 300,
}  # fmt: skip
KINDS = {
    "LoRA adapter": (ADAPTER, "rank 8, alpha 32 on q_proj, v_proj"),
    "Meta's layout": (META, "64 wide, 2 layers, 4 heads"),
    "Hugging Face's layout": (CONFIG, "llama, 64 wide, 2 layers, 4 heads"),
    "index": ({"metadata": {}, "weight_map": {"a": "1.bin", "b": "2.bin", "c": "1.bin"}}, "3 tensors in 2 files"),
    "tokenizer.json": (record(), "pieces"),
    "tokenizer_config.json": ({"tokenizer_class": "LlamaTokenizer"}, "LlamaTokenizer"),
    "special_tokens_map.json": ({"bos_token": "<s>"}, ""),
    "added_tokens.json": ({"[PAD]": 49953}, "[PAD] 49953"),
    "generation_config.json": ({"transformers_version": "5.0", "bos_token_id": 1}, ""),
    "in-toto": ({"_type": "https://in-toto.io/Statement/v1"}, ""),
    "receipt": ({"format": "ggmlpy receipt 1"}, ""),
    "saved conversation": ({"format": "ggmlpy chat 1"}, ""),
}


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), "utf-8")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_its_kind_follows_from_its_keys(kind: str, tmp_path: Path) -> None:
    value, model = KINDS[kind]
    found = identify_any(write(tmp_path / "renamed.json", value))
    assert kind in found.what
    assert model in found.model
    assert not found.problems


def test_the_files_of_a_published_adapter(tmp_path: Path) -> None:
    for path in (demo.FOLDER / "chinese-llama-lora").glob("*.json"):
        assert identify_any(path).what.endswith(f"({path.name})")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (ADAPTER | {"peft_type": "IA3"}, "only LoRA adapters are added to weights"),
        (ADAPTER | {"r": "eight"}, "r"),
        (META | {"dim": -1}, "dim"),
        ({"weight_map": []}, "weight_map is not an object"),
    ],
)
def test_what_is_wrong_with_it_is_a_problem(
    value: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["identify", str(write(tmp_path / "x.json", value))]) == 3
    said = capsys.readouterr().out
    assert words in next(line for line in said.splitlines() if line.strip().startswith("problem"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.json", '{"hello": "x", "\\u001b[2J": 2}', "found an object with the keys hello, "),
        ("x.json", "{     }", "found an empty object"),
        ("x.json", "[1, 2]", "found a list"),
        ("log.jsonl", '{"step": 1}\n{"step": 2}\n', "found lines"),
        ("x.json", '{"r": 8, ', "is not JSON"),
        ("x.json", '{"r": 8, "r": 9, "lora_alpha": 1}', "the key 'r' stands twice"),
    ],
)
def test_other_json_is_called_so(
    name: str, text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    assert cli.main(["identify", str(tmp_path / name)]) == 3
    said = capsys.readouterr().err
    assert words in said
    assert "\x1b" not in said
    assert len(said.splitlines()) == 1


def test_text_is_no_safetensors_header(tmp_path: Path) -> None:
    """The ninth byte of this text begins an object, as that of a safetensors file does."""
    (tmp_path / "x.json").write_text('{"data":{"a": 1}}', "utf-8")
    assert cli.main(["identify", str(tmp_path / "x.json")]) == 3
