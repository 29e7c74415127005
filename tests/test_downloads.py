"""What is not on this disk, and words of other programs: the answer is the download, or the command, to run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import cli

HUB = "looks like a name on Hugging Face"
ADDRESS = "this is an address"
MODEL = Path(__file__).parent / "data" / "ggml" / "T1_quant_p2" / "T1.q4_0.bin"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "-m", "hfl/some-model", "-p", "x"],
        ["chat", "-m", "hfl/some-model"],
        ["logits", "-m", "hfl/some-model", "--tokens", "1", "--out", "x.npy"],
        ["perplexity", "-m", "hfl/some-model", "-f", "x"],
        ["convert", "hfl/some-model"],
        ["convert", "hfl/some-model/"],
        ["convert", "hf://hfl/some-model"],
        ["to-hf", "hfl/some-model", "out"],
        ["from-hf", "hfl/some-model", "out"],
        ["merge", "--base", "hfl/some-model", "--lora", "x", "--output", "out"],
        ["merge", "--base", ".", "--lora", "here,hfl/some-model", "--output", "out"],
        ["merge", "--base_model", ".", "--lora_model", "hfl/some-model"],
        ["verify", "hfl/some-model"],
        ["verify", ".", "--source", "hfl/some-model"],
        ["identify", "hfl/some-model"],
        ["quantize", "hfl/some-model", "out.bin", "2"],
        ["compare", ".", "hfl/some-model"],
        ["doctor", "hfl/some-model"],
    ],
)
def test_a_name_on_hugging_face(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 3
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert HUB in line
    assert line.endswith("Next: hf download hfl/some-model --local-dir some-model, then give some-model")


@pytest.mark.parametrize(
    ("name", "cause", "words"),
    [
        ("ziqingyang/chinese-alpaca-lora-7b", HUB, "hf download ziqingyang/chinese-alpaca-lora-7b --local-dir"),
        ("https://huggingface.co/hfl/a-7b", ADDRESS, "hf download hfl/a-7b --local-dir a-7b, then give a-7b"),
        ("https://huggingface.co/hfl/a-7b/tree/main", ADDRESS, "hf download hfl/a-7b --local-dir a-7b, then"),
        ("https://huggingface.co/hfl/a/tree/v2", ADDRESS, "hf download hfl/a --revision v2 --local-dir a, then"),
        ("https://hf-mirror.com/hfl/a/resolve/main/q4.gguf?x=1", ADDRESS, "hf download hfl/a q4.gguf --local-dir a"),
        ("https://example.com/q4_0.bin?key=1", ADDRESS, "curl -L -o q4_0.bin 'https://example.com/q4_0.bin?key=1'"),
        ("https://pan.baidu.com/s/1oORTdpr2TvlkxjpyWtb5Sw?pwd=33hb", ADDRESS, "open it in a browser, save the file"),
    ],
)
def test_names_and_addresses(name: str, cause: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["identify", name]) == 3
    err = capsys.readouterr().err
    assert cause in err
    assert words in err


@pytest.mark.parametrize(
    "name", ["models/7B", "zh-models/13B/", "there/model", "x/ggml-model.bin", "/a/b", "a", "a/b/c"]
)
def test_ordinary_paths_that_are_missing_stay_paths(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").mkdir()
    assert cli.main(["convert", name]) == 3
    assert "Hugging Face" not in capsys.readouterr().err


def test_a_folder_of_that_name_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    Path("hfl/some-model").mkdir(parents=True)
    assert cli.main(["doctor", "hfl/some-model"]) != 2
    assert "Hugging Face" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["identify", "-"], "a pipe cannot be. Next: write it to a file first"),
        (["generate", "-m", r"models\7B\m.bin", "-p", "a"], "write it with slashes: models/7B/m.bin"),
        (["generate", "-m", str(MODEL), "--lora", "hfl/chinese-alpaca-lora-7b", "-p", "a"], HUB),
        (["generate", "-m", str(MODEL), "--lora", "missing.gguf", "-p", "a"], "missing.gguf: no such file."),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="there backslashes separate folders")
def test_what_is_no_file(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 3
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["llama-quantize", "a.bin", "b.bin", "q4_0"], "it is quantize here"),
        (["convert_hf_to_gguf.py", "base"], "it is convert here"),
        (["run", "llama2"], "it is chat here"),
        (["pull", "llama2"], "nothing is downloaded here: hf download NAME --local-dir DIR"),
        (["perplexity", "-m", "m.bin", "text.txt"], "did you mean -f text.txt?"),
        (["bench", "m.bin"], "did you mean -m m.bin?"),
        (["merge", "base", "lora", "--output", "out"], "did you mean --base base?"),
    ],
)
def test_commands_and_orders_of_others(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert words in capsys.readouterr().err


def test_without_a_prompt_a_person_is_told(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch) -> None:
    """The model invents a token, which need not be a whole character."""
    monkeypatch.setattr("sys.stdin", open(os.devnull, encoding="utf-8"))  # noqa: SIM115
    assert cli.main(["generate", "-m", str(MODEL), "-n", "1", "--numerics", "reference"]) == 0
    assert b"no prompt was given" in capfdbinary.readouterr().err
