"""The page as one file: it holds everything; its modules agree with each other, with the tables, in both languages."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path

import pytest

import cli
from ggmlpy.files.errors import FormatError
from tests.explore.harness import NODE, node
from toolchain.explore.assemble import bundle, modules, page_of, write_page
from toolchain.explore.operations import OPERATIONS, line_of, sources
from toolchain.explore.tables import tables

LONGEST_MODULE, LONGEST_LINE = 500, 240


@pytest.fixture(scope="module")
def q4_0(data: Path) -> Path:
    return data / "ggml" / "T1_quant_p2" / "T1.q4_0.bin"


@pytest.fixture(scope="module")
def page(q4_0: Path, data: Path) -> str:
    return page_of(q4_0, data / "ggml" / "T1_input" / "tokenizer.model")


def test_the_page_asks_for_nothing_else(page):
    outside_data = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert not re.findall(r'\b(?:src|href)="(?!data:)', outside_data)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", outside_data.partition("const TABLES")[0])
    script = bundle({**modules(), "tables.js": "export const TABLES = {};\n"})
    assert not re.findall(r"\bfetch\(|XMLHttpRequest|\bimport\b|\beval\(|innerHTML", script)


def test_the_page_holds_the_very_model(page, q4_0):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["model"]["name"] == q4_0.name
    assert base64.b64decode(data["model"]["base64"]) == q4_0.read_bytes()
    assert len(data["beside"]["pieces"]) == len(data["beside"]["scores"]) == 400


def test_the_modules_are_one_script_without_a_name_twice(tmp_path):
    if NODE is None:
        pytest.skip("node is not installed: the script is not parsed")
    (tmp_path / "page.mjs").write_text(bundle(modules()), "utf-8")
    run = subprocess.run([NODE, "--check", tmp_path / "page.mjs"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


def test_every_module_is_used_and_readable():
    texts = modules()
    script = bundle(texts)
    for name, text in texts.items():
        assert f"// ── {name} ──" in script, f"{name} is imported by nothing"
        if name != "tables.js":
            assert text.startswith("//"), f"{name} says what it is for"
            assert len(text.splitlines()) <= LONGEST_MODULE, name
            assert max(map(len, text.splitlines())) <= LONGEST_LINE, name
            for imported in re.findall(r"^import \{ ([^}]*) \}", text, re.MULTILINE):
                for word in imported.split(", "):
                    assert len(re.findall(rf"\b{word}\b", text)) > 1, f"{name} does not use {word}"


WORDS = """
import { FIELDS, LANGUAGES } from "./words.js";
const gaps = (text) => [...text.matchAll(/\\{(\\w+)\\}/g)].map((each) => each[1]).sort().join();
const paths = (words, at = "") => Object.entries(words).flatMap(([key, value]) =>
  typeof value === "object" ? paths(value, `${at}${key}.`) : [[at + key, gaps(value)]]);
print({ en: paths(LANGUAGES.en), zh: paths(LANGUAGES.zh), fields: Object.keys(FIELDS) });
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return node(tmp_path_factory.mktemp("words"), WORDS)


def test_both_languages_have_the_same_words_with_the_same_gaps(words):
    assert words["en"] == words["zh"]


def test_every_word_that_the_page_asks_for_is_there_and_none_is_left_over(words):
    there = dict(words["en"])
    script = "".join(text for name, text in modules().items() if name not in ("words.js", "tables.js"))
    asked = set(re.findall(r'\bword\("([\w.]+)"', script)) | {
        f"errors.{key}" for key in re.findall(r'FileError\("(\w+)"', script)
    }
    groups = {key.rpartition(".")[0] for key in there if "." in key}
    assert asked - groups <= there.keys()
    quoted = set(re.findall(r'"(?:errors\.)?(\w+)"', script)) | asked
    assert {key for key in there if "." not in key} - quoted == set()
    assert {key.partition(".")[2] for key in there if key.startswith("errors.")} - quoted == set()


def test_every_operation_has_words_and_every_field_its_chinese(words):
    there = dict(words["zh"])
    assert {f"operations.{each.key}.0" for each in OPERATIONS} == {
        key for key in there if key.startswith("operations.") and key.endswith(".0")
    }
    known = tables()
    records = [container[name] for container in known["containers"] for name in ("header", "token", "tensor")]
    records += [each[name] for each in known["gguf"]["records"].values() for name in ("header", "pair", "tensor")]
    documented = {field["doc"] for record in records for field in record} - {""}
    assert documented - set(words["fields"]) == set()


def test_each_operation_names_a_line_that_is_there_once():
    texts = sources()
    for each in OPERATIONS:
        assert each.line in texts[each.source].splitlines()[line_of(texts[each.source], each.line) - 1]
        assert set(each.origin) <= {other.key for other in OPERATIONS} | {"stream"}


def test_the_command(q4_0, tmp_path, capsys):
    target = tmp_path / "page.html"
    assert cli.main(["explore", "-m", str(q4_0), "--html", str(target)]) == 0
    assert f"{target}: {target.stat().st_size:,} bytes" in capsys.readouterr().err
    assert target.read_text("utf-8").startswith("<!doctype html>")


def test_what_cannot_be_a_page_is_refused_before_it_is_written(q4_0, tmp_path, monkeypatch, capsys):
    cut = tmp_path / "cut.bin"
    cut.write_bytes(q4_0.read_bytes()[:-9])
    assert cli.main(["explore", "-m", str(cut), "--html", str(tmp_path / "page.html")]) == 3
    monkeypatch.setattr("toolchain.explore.assemble.LARGEST_MODEL", 1000)
    with pytest.raises(FormatError, match="too large for a page"):
        write_page(q4_0, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_second_vocabulary_that_the_page_cannot_hold_is_refused(q4_0, data, tmp_path, capsys):
    source, html = data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin", tmp_path / "page.html"
    assert cli.main(["migrate", "-q", str(source), str(tmp_path / "m.gguf")]) == 0
    command = ["explore", "-m", str(q4_0), "--html", str(html), "--beside"]
    assert cli.main([*command, str(tmp_path / "m.gguf")]) == 3
    assert "a vocabulary of GGUF is read by the page itself" in capsys.readouterr().err
    broken = bytearray(source.read_bytes())
    first_score = 8 + 7 * 4 + 4 + int.from_bytes(broken[36:40], "little")  # behind the header, a length and a text
    broken[first_score : first_score + 4] = b"\x00\x00\xc0\x7f"
    (tmp_path / "nan.bin").write_bytes(broken)
    assert cli.main([*command, str(tmp_path / "nan.bin")]) == 3
    assert "NaN" in capsys.readouterr().err
    assert not html.exists()
