"""Instruction data: what is repaired, what is dropped, and that each is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import FormatError, MissingFileError
from lora.training.instructions import clean, read_instructions, write_instructions

A, B = {"instruction": "你好", "input": "", "output": "你好！"}, {"instruction": "1+1", "input": "x", "output": "2"}
a, b = (json.dumps(record, ensure_ascii=False) for record in (A, B))

REPAIRS = {
    "whole": (f"[{a}, {b}]", [A, B], {}),
    "several arrays": (f"[{a}]\n[{b}]", [A, B], {"several arrays": 1}),
    "three arrays": (f"[{a}][{b}][]", [A, B], {"several arrays": 2}),
    "comma before bracket": (f"[{a}, {b},\n]", [A, B], {"trailing comma": 1}),
    "comma before brace": (f"[{a[:-1]},}}, {b}]", [A, B], {"trailing comma": 1}),
    "commas everywhere": (f"[{a[:-1]} , }}, {b[:-1]},\n}},]", [A, B], {"trailing comma": 3}),
    "cut off in a string": (f"[{a}, {b[:20]}", [A], {"cut off": 1}),
    "cut off behind a record": (f"[{a}, {b}", [A, B], {}),
    "cut off behind a comma": (f"[{a}, ", [A], {}),
    "cut off, then another array": (f"[{a}, {{ [{b}]", [A, B], {"cut off": 1}),
    "fences": (f"```json\n[{a}]\n```", [A], {"words around": 2}),
    "words in front": (f"Here you are: [{a}]", [A], {"words around": 1}),
    "no commas between": (f"[{a} {b}]", [A, B], {"missing comma": 1}),
    "a line each": (f"{a}\n{b}\n", [A, B], {"json lines": 1}),
    "wrapped": (f'{{"data": [{a}, {b}]}}', [A, B], {}),
    "wrapped and cut off": (f'{{"data": [{a}, {b}', [A, B], {"cut off": 1}),
    "twice": (f"[{a}, {a}]", [A], {"duplicate": 1}),
    "new line in a string": ('[{"instruction": "1+1", "input": "x", "output": "\n2"}]', [B], {}),
    "no input": ('[{"instruction": "你好", "output": "你好！"}]', [A], {}),
    "no output": (f'[{{"instruction": "?"}}, {a}]', [A], {"not a record": 1}),
    "empty output": (f'[{{"instruction": "?", "output": " "}}, {a}]', [A], {"not a record": 1}),
    "a list as output": (f'[{{"instruction": "?", "output": ["x"]}}, {a}]', [A], {"not a record": 1}),
    "a colon lost": (f'[{{"instruction" "?", "output": "x"}}, {a}]', [A], {"unreadable": 1}),
    "brackets in strings": ('[{"instruction": "a, ]}", "output": "{[,}"}]', [{"instruction": "a, ]}", "input": "",
                                                                            "output": "{[,}"}], {}),
    "an escaped quote": (r'[{"instruction": "say \"}\"", "output": "}",}]', [{"instruction": 'say "}"', "input": "",
                                                                              "output": "}"}], {"trailing comma": 1}),
    "nothing": ("", [], {}),
    "only words": ("I cannot do that.", [], {"words around": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", REPAIRS)
def test_repairs(name: str) -> None:
    text, expected, counts = REPAIRS[name]
    records, report = clean(text)
    assert records == expected
    assert report.counts == counts
    assert report.n_kept == len(expected)


def test_findings_name_the_line() -> None:
    _, report = clean(f"[\n{a},\n{b},\n{{{a[1:40]}")
    assert [(finding.kind, finding.line) for finding in report.findings] == [("cut off", 4)]
    assert "line 4: cut off" in str(report.findings[0])


def test_report_in_words() -> None:
    assert str(clean(f"[{a}]")[1]) == "1 of 1 records kept; nothing to repair"
    assert str(clean(f"[{a}, {a}]\n[{b},]")[1]) == (
        "2 of 3 records kept; 1 several arrays, 1 duplicate, 1 trailing comma"
    )


texts = st.text(max_size=30).filter(str.strip)
records_ = st.lists(
    st.fixed_dictionaries({"instruction": texts, "input": st.text(max_size=20), "output": texts}),
    unique_by=lambda r: (r["instruction"].strip(), r["input"].strip()),
    max_size=6,
)


@given(records_, st.integers(0, 2000))
def test_whatever_is_cut_off_keeps_the_whole_records(records: list[dict[str, str]], length: int) -> None:
    text = json.dumps(records, ensure_ascii=False)
    wanted = [{name: value.strip() for name, value in record.items()} for record in records]
    assert clean(text)[0] == wanted
    kept, _ = clean(text[:length])
    assert kept == wanted[: len(kept)]
    assert len(kept) >= sum(
        len(json.dumps(records[: n + 1], ensure_ascii=False)) <= length for n in range(len(records))
    )


@given(st.text(max_size=300) | st.text(alphabet='{}[],:"\\ ab\n', max_size=200))
def test_any_text_is_survived(text: str) -> None:
    records, report = clean(text)
    assert len(records) == report.n_kept <= report.n_found


def test_written_and_read_again(tmp_path: Path) -> None:
    write_instructions(tmp_path / "data.json", [A, B])
    assert read_instructions(tmp_path / "data.json")[0] == [A, B]
    assert "你好" in (tmp_path / "data.json").read_text("utf-8")


def test_refuses_files_without_records(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_instructions(tmp_path / "data.json")
    (tmp_path / "data.json").write_bytes("[]".encode("utf-16"))
    with pytest.raises(FormatError, match="not UTF-8"):
        read_instructions(tmp_path / "data.json")
    (tmp_path / "data.json").write_text("[]")
    with pytest.raises(FormatError, match="no instruction record"):
        read_instructions(tmp_path / "data.json")
