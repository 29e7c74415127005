"""identify and doctor say what training data is, and train refuses data that was prepared for something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import cli
import toolchain.demo.files as demo
from llama_ref.checkpoint.safetensors_file import SafetensorsFile
from toolchain.look.doctor import examine
from toolchain.look.identify import identify_any

TOKENIZER = str(demo.FOLDER / "base" / "tokenizer.model")
RECORDS = {
    "Alpaca": {"instruction": "翻译", "input": "hello", "output": "你好"},
    "pCLUE": {"input": "1 + 1?", "target": "2"},
    "translation2019zh": {"english": "hello", "chinese": "你好"},
    "conversations (ShareGPT's or chat messages)": {
        "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    },
}


def write(path: Path, records: list[Any], encoding: str = "utf-8") -> Path:
    path.write_text(json.dumps(records, ensure_ascii=False), encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("layout", RECORDS)
def test_the_layout_of_records_is_named(layout: str, encoding: str, tmp_path: Path) -> None:
    found = identify_any(write(tmp_path / "data.json", [RECORDS[layout]] * 3, encoding))
    assert (found.what, found.model) == ("instruction data", layout)


def test_lines_of_json_in_two_layouts(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    records = [RECORDS["pCLUE"], RECORDS["Alpaca"], RECORDS["pCLUE"]]
    path.write_text("\n".join(map(json.dumps, records)))
    assert identify_any(path).model == "of the first 3 records: 2 pCLUE, 1 Alpaca"


def test_replies_of_a_language_model_are_training_data_as_well(tmp_path: Path) -> None:
    path, words = tmp_path / "replies.txt", "Here are 20 tasks:\n```json\n"
    path.write_text(f"{words}[{json.dumps(RECORDS['Alpaca'])},]\n```\n[{{", "utf-8")
    found = identify_any(path)
    assert (found.what, found.model, found.readers) == ("instruction data", "Alpaca", "`instructions`")
    assert [each.kind for each in examine(tmp_path).found] == ["data"]
    plain = identify_any(write(tmp_path / "clean.json", [RECORDS["Alpaca"]]))
    assert plain.readers == "`instructions`, `train prepare --records`"


def test_a_text_that_quotes_records_far_inside_is_none(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("words " * 300 + json.dumps(RECORDS["Alpaca"]), "utf-8")
    assert not examine(tmp_path).found


def test_other_json_is_no_training_data(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", [{"hidden_size": 64, "messages": 3}])
    assert not examine(tmp_path).found
    assert cli.main(["identify", str(path)]) == 3


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("今天天气很好。\n" * 300, "utf-8")
    write(tmp_path / "records.json", [RECORDS["Alpaca"]] * 3)
    for name, more in (("texts.txt", []), ("records.json", ["--records"])):
        output = tmp_path / name.replace(name.partition(".")[2], "safetensors")
        argv = ["train", "prepare", str(tmp_path / name), "--tokenizer", TOKENIZER, "-o", str(output), *more]
        assert cli.main(argv) == 0
    return tmp_path


def test_prepared_data_is_identified(prepared: Path) -> None:
    texts, records = (identify_any(prepared / f"{name}.safetensors") for name in ("texts", "records"))
    assert texts.what == records.what == "safetensors, prepared training data"
    assert "texts of the recipe original: 13 rows of up to 512 tokens" in texts.model
    assert "train stage2" in texts.next_step
    assert "train instruct" in records.next_step
    assert [found.kind for found in examine(prepared).found] == ["data"] * 3


def test_its_header_is_read_once(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header may be 100 MB long."""
    opened, read = [], SafetensorsFile.__init__
    monkeypatch.setattr(SafetensorsFile, "__init__", lambda file, path: opened.append(path) or read(file, path))
    identify_any(prepared / "texts.safetensors")
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("stage", "name", "more", "words"),
    [
        ("stage2", "records", [], "was prepared from records, and stage2 trains on texts"),
        ("instruct", "texts", [], "was prepared from texts, and instruct trains on records"),
        ("stage2", "texts", ["--recipe", "alpaca-2"], "was prepared for the recipe original, and alpaca-2 cuts"),
    ],
)
def test_data_prepared_for_something_else_is_refused(
    stage: str, name: str, more: list[str], words: str, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, data = str(demo.FOLDER / "base"), str(prepared / f"{name}.safetensors")
    argv = ["train", stage, data, "--tokenizer", TOKENIZER, "--base", base, "--steps", "1", "-o", str(prepared / "out")]
    assert cli.main([*argv, *more]) == 2
    assert words in capsys.readouterr().err
