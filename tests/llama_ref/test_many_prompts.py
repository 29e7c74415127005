"""generate --prompts: each prompt for itself, a file that goes on where it was interrupted, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_ref.text.answer_file import read_prompts
from toolchain.commands.main import main

MODEL = str(Path(__file__).parents[1] / "data" / "ggml" / "T1_quant_p2" / "T1.q4_0.bin")
ASK = ["generate", "-m", MODEL, "-n", "4", "--numerics", "exact", "-q"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("the model\n\n你好\n" + "too long " * 300 + "\nlast\n", "utf-8")
    return path


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_run_that_was_interrupted_goes_on(prompts: Path, tmp_path: Path, capsys) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run = [*ASK, "--prompts", str(prompts), "-s", "5"]
    assert main([*run, "--output", str(whole)]) == 3  # one prompt has no answer
    assert "error: 1 of 4 prompts have no answer" in capsys.readouterr().err
    assert [record.get("ended_by", "error") for record in records(whole)] == ["length", "length", "error", "length"]
    for size in (0, 10, len(whole.read_bytes()) // 2, len(whole.read_bytes())):
        cut.write_bytes(whole.read_bytes()[:size])
        assert main([*run, "--output", str(cut)]) == 3
        assert cut.read_bytes() == whole.read_bytes()
    assert main(run) == 3
    assert capsys.readouterr().out.encode() == whole.read_bytes()
    alone = [*ASK, "-s", "5", "-p", "the model", "--json"]
    assert main(alone) == 0
    assert json.loads(capsys.readouterr().out)["text"] == records(whole)[0]["text"]


def test_instructions_are_answered_as_chat_does(tmp_path: Path, capsys) -> None:
    prompts = tmp_path / "data.json"
    prompts.write_text('[{"instruction": "Say", "input": "你好", "output": "?"}]', "utf-8")
    assert main([*ASK, "-s", "5", "-ins", "--prompts", str(prompts)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert main(["chat", *ASK[1:], "-s", "5", "--json", "Say\n你好"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == answer["text"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("-s", "6"), "another seed"),
        (("-n", "5"), "another model or options"),
        (("--temp", "0.5"), "another model or options"),
        (("-ins",), "another model or options"),
    ],
)
def test_answers_of_another_kind_are_not_mixed(prompts: Path, tmp_path: Path, capsys, change, what) -> None:
    prompts.write_text("one\n")
    run = [*ASK, "--prompts", str(prompts), "--output", str(tmp_path / "a.jsonl")]
    assert main(run) == 0
    assert main(run) == 0  # with the seed of the first
    before = (tmp_path / "a.jsonl").read_bytes()
    assert main([*run, *change]) == 2
    assert f"is of {what}" in capsys.readouterr().err
    prompts.write_text("two\n")
    assert main(run) == 2
    assert "is of another prompt" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").read_bytes() == before


def test_other_files_are_not_written_over(prompts: Path, tmp_path: Path, capsys) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n")
    assert main([*ASK, "--prompts", str(prompts), "--output", str(notes)]) == 2
    assert "is no file of answers" in capsys.readouterr().err
    assert notes.read_text() == "my notes\n"


@pytest.mark.parametrize("more", [("-p", "x"), ("-i",), ("--json",), ("--mtest",), ("--compare-with", MODEL)])
def test_what_is_for_one_text_is_excluded(prompts: Path, capsys, more) -> None:
    assert main([*ASK, "--prompts", str(prompts), *more]) == 2
    assert "--prompts excludes" in capsys.readouterr().err


def test_output_needs_prompts(tmp_path: Path, capsys) -> None:
    assert main([*ASK, "-p", "x", "--output", str(tmp_path / "a")]) == 2
    assert "--prompts FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\n\nb\r\n", ["a", "b"]),
        ('{"prompt": "a"}\n{"instruction": "b", "input": "c"}\n', ["a", "b\nc"]),
        ('["a", {"instruction": "b", "input": ""}]', ["a", "b"]),
    ],
)
def test_prompts_of_every_kind(tmp_path: Path, text: str, found: list[str]) -> None:
    (tmp_path / "p").write_text("\N{ZERO WIDTH NO-BREAK SPACE}" + text, "utf-8", newline="")
    assert read_prompts(tmp_path / "p") == found


@pytest.mark.parametrize("text", ["", "\n", "[]", "[1]", '{"a": "b"}', '{"prompt": 1}', "[", '{"prompt": "a"}\nx'])
def test_files_without_prompts(tmp_path: Path, capsys, text: str) -> None:
    (tmp_path / "p").write_text(text)
    assert main([*ASK, "--prompts", str(tmp_path / "p")]) == 3
    assert capsys.readouterr().err.startswith("error: ")
