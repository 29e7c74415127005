"""merge and tokenizer on the command line: exit codes, what goes to stdout, and the messages."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from llama_ref.conversion.converting import plan_conversion
from tests.lora.test_merge import assert_same_files, inputs
from toolchain.commands.main import main


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_merge(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapters = inputs(data, "head-multi-lora")
    lora = ",".join(map(str, adapters))
    assert run("merge", "--base_model", base, "--lora_model", lora, "--output_dir", tmp_path / "out") == 0
    assert_same_files(tmp_path / "out", data / "merge" / "head-multi-lora" / "out")
    out, err = capsys.readouterr()
    assert out == ""
    assert "28 LoRA pairs found and applied, 2 whole tensors replaced; 14 of 14 tensors changed" in err


def test_merge_says_what_it_would_do(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapters = inputs(data, "head-multi-lora")
    repeated = [word for path in adapters for word in ("--lora", path)]
    assert run("merge", "--base", base, *repeated, "--output", tmp_path / "out", "--dry-run") == 0
    out, err = capsys.readouterr()
    assert "adapter 2  501" in out
    assert err == ""
    assert not (tmp_path / "out").exists()


def test_merge_in_json(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, (adapter,) = inputs(data, "v11-llama")
    output = tmp_path / "model.bin"
    options = ("--output-type", "ggml-q4_0", "--json", "-q")
    assert run("merge", "--base", base, "--lora", adapter, "--output", output, *options) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert (record["n_pairs"], record["n_vocab"]) == (14, 500)
    assert record["files"] == [{"path": str(output), "size": output.stat().st_size}]
    assert err == ""


def test_exit_codes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, (llama, alpaca) = inputs(data, "head-multi-lora")
    merge = ("merge", "--base", base, "--output", tmp_path / "out")
    assert run(*merge, "--lora", f"{alpaca},{llama}") == 3
    assert "the adapters are in the wrong order" in capsys.readouterr().err
    assert run(*merge, "--lora", llama, "--output-type", "onnx") == 2
    assert "unknown output type 'onnx'" in capsys.readouterr().err
    assert run(*merge, "--lora", tmp_path / "nothing") == 3
    assert run(*merge, "--lora", llama) == 0
    assert run(*merge, "--lora", llama) == 2
    assert "use --force to replace" in capsys.readouterr().err
    assert run(*merge, "--lora", llama, "--force") == 0
    assert run("merge", "--base", tmp_path / "nothing", "--lora", llama, "--output", tmp_path / "x") == 3


def test_tokenizer_merge(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = data / "merge" / "tokenizer-tiny"
    inputs_ = (golden / "llama.model", golden / "chinese_sp.model")
    assert run("tokenizer", "merge", *inputs_, tmp_path / "merged.model") == 0
    assert (tmp_path / "merged.model").read_bytes() == (golden / "merged.model").read_bytes()
    assert "320 + 651 = 971 pieces; 49 were there already" in capsys.readouterr().err
    assert run("tokenizer", "merge", *inputs_, tmp_path / "dir", "--pad_token", "[PAD]") == 0
    assert json.loads((tmp_path / "dir" / "special_tokens_map.json").read_text())["pad_token"] == "[PAD]"
    assert run("tokenizer", "merge", tmp_path / "dir", golden / "chinese_sp.model", tmp_path / "same.model") == 0
    assert (tmp_path / "same.model").read_bytes() == (tmp_path / "dir" / "tokenizer.model").read_bytes()
    assert run("tokenizer", "merge", tmp_path / "nothing", golden / "llama.model", tmp_path / "x.model") == 3


def test_a_corpus_in_another_encoding_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "今天天气很好，我们去公园散步。\n" * 5000  # longer than what is looked at
    for encoding, words in (("utf-8", ""), ("gb18030", "GBK or GB18030"), ("utf-16", "UTF-16"), ("utf-8-sig", "BOM")):
        (tmp_path / "zh.txt").write_text(text, encoding)
        run("tokenizer", "train", tmp_path / "zh.txt", "--output", tmp_path / "zh.model", "--vocab-size", 270)
        said = capsys.readouterr().err
        assert ("zh.txt: the text is" in said) == bool(words)
        assert words in said


def test_tokenizer_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zh.txt").write_text("你好世界，今天天气很好。\n我们去公园玩。\n" * 30, encoding="utf-8")
    assert run("tokenizer", "train", tmp_path / "zh.txt", "--output", tmp_path / "zh.model", "--no-byte-fallback") == 0
    assert (tmp_path / "zh.model").stat().st_size > 0
    assert run("tokenizer", "train", tmp_path / "zh.txt", "-o", tmp_path / "x.model", "--vocab-size", 5) == 2
    assert "smaller than required_chars" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["words", "file", "-f", "stdin"])
def test_tokenizer_stats(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    golden, text = data / "merge" / "tokenizer-tiny", "你好 世界"
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    given = {"words": text.split(), "file": [tmp_path / "t.txt"], "-f": ["-f", tmp_path / "t.txt"], "stdin": ["-"]}[way]
    assert run("tokenizer", "stats", golden / "llama.model", golden / "merged.model", *given, "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["n_pieces"], second["n_pieces"]) == (320, 971)
    assert first["n_characters"] == second["n_characters"] == 5
    assert first["n_tokens"] > second["n_tokens"]
    assert run("tokenizer", "stats", golden / "llama.model", golden / "merged.model", *given) == 0
    assert "tokens a character" in capsys.readouterr().out


def test_tokenizer_stats_without_a_text(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = data / "merge" / "tokenizer-tiny"
    assert run("tokenizer", "stats", golden / "llama.model", golden / "merged.model") == 2
    assert "give a text" in capsys.readouterr().err


def test_merge_writes_into_this_folder_unless_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, (adapter,) = inputs(data, "v11-llama")
    monkeypatch.chdir(tmp_path)
    script = ("merge", "--base_model", base, "--lora_model", adapter)
    assert run(*script) == 0
    assert_same_files(tmp_path, data / "merge" / "v11-llama" / "out")
    assert run(*script) == 2
    assert "already; use --force to replace" in capsys.readouterr().err


def test_tokenize_takes_control_tokens_for_what_they_are(
    golden, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = golden("today-models/hf/llama3-bpe")
    assert main(["tokenize", "--special", "--json", str(folder / "tokenizer.json"), "<|begin_of_text|>h"]) == 0
    assert [token["id"] for token in json.loads(capsys.readouterr().out)["tokenizers"]] == [356, 71]
    with plan_conversion(folder, tmp_path / "m.gguf", pre_tokenizer="llama-bpe") as plan:
        plan.write()
    for option, count in (("--special", 2), ("-q", 17)):
        assert main(["tokenize", option, "--json", "-m", str(tmp_path / "m.gguf"), "<|begin_of_text|>h"]) == 0
        tokens = json.loads(capsys.readouterr().out)["gguf"]
        assert len(tokens) == count
    assert main(["tokenize", "--special", "-m", str(data / "ggml" / "T1_input" / "tokenizer.model"), "<s>"]) == 2
    assert "--special is for GGUF files" in capsys.readouterr().err
