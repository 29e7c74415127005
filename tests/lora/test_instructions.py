"""Instruction data: what is repaired, what is dropped, and that each is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import FormatError, MissingFileError
from lora.training import json_objects
from lora.training.instructions import (
    CleanReport,
    clean,
    iterate_instructions,
    read_instructions,
    write_instructions,
)

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
    "a brace too many": (f"[{{{a}, {b}]", [A, B], {}),
    "a full-width space between": (f"[{a},\u3000{b}]", [A, B], {}),
    "true": ('[{"instruction": "a", "output": true}]', [{"instruction": "a", "input": "", "output": "true"}], {}),
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
        "2 of 3 records kept; 1 duplicate, 1 several arrays, 1 trailing comma"
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
    for content in (b"\xff", b"\xff\xfe\0\xd8", b"{\0\xff"):
        (tmp_path / "data.json").write_bytes(content)
        with pytest.raises(FormatError, match=r"not UTF-(8|16) text"):
            read_instructions(tmp_path / "data.json")
    (tmp_path / "data.json").write_text("[]")
    with pytest.raises(FormatError, match="no instruction record"):
        read_instructions(tmp_path / "data.json")


TURNS = [("system", "你是助手"), ("human", "说你好"), ("gpt", "你好"), ("human", "再说一遍"), ("gpt", "你好！")]
FOLDED = {
    "instruction": "你是助手\n说你好\n\n### Response:\n\n你好\n\n### Instruction:\n\n再说一遍",
    "input": "",
    "output": "你好！",
}
CONTEXT = {"history in the instruction": 1, "system in the instruction": 1}
LAYOUTS = {
    "Alpaca with history": (
        {"instruction": "再说一遍", "output": "你好！", "system": "你是助手", "history": [["说你好", "你好"]]},
        FOLDED,
        CONTEXT,
    ),
    "ShareGPT": (
        {"id": "1", "conversations": [{"from": who, "value": text} for who, text in TURNS]},
        FOLDED,
        {"conversation": 1, **CONTEXT},
    ),
    "chat messages": (
        {"messages": [{"role": {"human": "user", "gpt": "assistant"}.get(who, who), "content": t} for who, t in TURNS]},
        FOLDED,
        {"conversation": 1, **CONTEXT},
    ),
    "ShareGPT without an answer": (
        {"conversations": [{"from": who, "value": text} for who, text in (*TURNS, ("human", "?"))]},
        FOLDED,
        {"conversation": 1, "unanswered question": 1, **CONTEXT},
    ),
    "pCLUE": (
        {"input": "这是关于哪方面的新闻？", "target": "电影", "answer_choices": ["电影", "体育"], "type": "classify"},
        {"instruction": "这是关于哪方面的新闻？", "input": "", "output": "电影"},
        {"pCLUE": 1},
    ),
    "translation2019zh": (
        {"english": "Hello.", "chinese": "你好。"},
        {"instruction": "请将下面的英文翻译成中文。", "input": "Hello.", "output": "你好。"},
        {"translation": 1},
    ),
    "a placeholder": ({**A, "input": "<noinput>"}, A, {"placeholder": 1}),
    "a Chinese placeholder": ({**A, "input": "<无输入>"}, A, {"placeholder": 1}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_read_and_what_was_done_is_counted(name: str) -> None:
    given, expected, counts = LAYOUTS[name]
    records, report = clean(json.dumps([given], ensure_ascii=False))
    assert records == [expected]
    assert report.counts == counts


@pytest.mark.parametrize(
    "given",
    [
        {"conversations": "你好"},
        {"conversations": [{"from": "gpt", "value": "你好"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]},
        {"messages": [{"role": "user", "content": ["a"]}]},
        {**A, "history": ["a", "b"]},
        {"input": ["a"], "target": "b"},
    ],
)
def test_what_fits_no_layout_is_dropped_and_counted(given: dict[str, object]) -> None:
    records, report = clean(json.dumps([given, B], ensure_ascii=False))
    assert records == [B]
    assert report.counts == {"not a record": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "data.json").write_bytes(f"[{a}, {b}]".encode(encoding))
    records, report = read_instructions(tmp_path / "data.json")
    assert records == [A, B]
    told = {"utf-16": ["read as UTF-16"], "gb18030": ["read as GB18030 (GBK)"]}
    assert report.notes == told.get(encoding, [])


def test_a_record_comes_once_among_all_files(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(f"[{a}]", "utf-8")
    (tmp_path / "y.json").write_text(f"[{a}, {b}]", "utf-8")
    seen: set[bytes] = set()
    reports = [CleanReport(), CleanReport()]
    found = [list(iterate_instructions(tmp_path / f"{n}.json", r, seen)) for n, r in zip("xy", reports)]
    assert found == [[A], [B]]
    assert reports[1].counts == {"duplicate": 1}


HARD = {
    "quotes": ('{"instruction":"', r"\""),
    "quotes and braces": ('{"a":"', r"\"{"),
    "objects in objects": ("", '{"a":[{"b":1},'),
    "open arrays": ("", '{"a":[1,'),
    "open strings": ("", '{"'),
    "damaged objects": ("", '{"a" 1},'),
    "replies that were cut off": ("", f'[{a}, {b}, {{"instruction": "c", "output": "d'),
}


@pytest.mark.parametrize("name", HARD)
def test_the_work_grows_with_the_length(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that searches for the ends of objects may look at: a multiple of the length."""
    monkeypatch.setattr(json_objects, "LARGEST_OBJECT", 1 << 12)
    looked = []

    class Counting:
        def __init__(self, pattern: Any) -> None:
            self.pattern = pattern

        def finditer(self, text: bytes, start: int, stop: int) -> Any:
            for match in self.pattern.finditer(text, start, stop):
                looked.append(match.end() - match.start())
                yield match

    monkeypatch.setattr(json_objects, "_TOKEN", Counting(json_objects._TOKEN))
    begin, piece = HARD[name]
    for length in (100_000, 200_000):
        looked.clear()
        clean(begin + piece * (length // len(piece)))
        assert sum(looked) < 7 * length


def test_records_survive_among_replies_that_were_cut_off() -> None:
    """Each reply ends inside a string; the records of the next are found all the same."""
    replies = [
        f'[{{"instruction": "{i}", "output": "b"}}, {{"instruction": "c{i}", "output": "d"}}, {{"instruction": "cut o'
        for i in range(0, 5000)
    ]
    records, _ = clean("\n".join(replies))
    assert len(records) == 10_000


def test_an_object_larger_than_any_record_is_looked_into() -> None:
    many = [{"instruction": f"{i}", "input": "", "output": "x" * 100} for i in range(9000)]
    records, report = clean(json.dumps({"version": 1, "data": many}))
    assert records == many
    assert report.counts == {}


def test_findings_are_all_counted_but_not_all_kept() -> None:
    _, report = clean('{"a": 1},' * 20_000)
    assert report.counts["not a record"] == 20_000
    assert len(report.findings) == json_objects.MOST_FINDINGS


@given(st.lists(st.sampled_from(['{"a":', "{", "}", '"', "\\", "[", "]", ",", a, b, " ", "\n"]), max_size=30))
def test_whole_records_behind_any_text_are_found_or_something_is_told(pieces: list[str]) -> None:
    records, report = clean("".join(pieces))
    assert records or report.counts or not any(piece in (a, b) for piece in pieces)
