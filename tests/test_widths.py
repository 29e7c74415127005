"""On a terminal nothing is wider than it is, and what is broken can still be copied; elsewhere nothing is broken."""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cli
from tests.docs.blocks import commands_of
from toolchain.commands.main import build_parser
from toolchain.demo.files import demo_files
from toolchain.terminal.widths import continued, fitted, shown_width
from toolchain.zoo.make import make_zoo

WIDTHS = (60, 80, 120)
OVERWRITTEN = re.compile(r"[^\n]*\r")  # by progress bars, which look at the terminal itself
WORDS = re.compile(r"\[-[^\]]*\]|\S+")
COLOR = re.compile("\033\\[[0-9;]*m")
WORD = st.text("ab-/\"'\\,; 你好，。", min_size=1, max_size=30).map(str.strip).filter(bool)


def too_wide(text: str, width: int) -> list[str]:
    """Lines that could have been broken: they are several words, or several parts of a usage."""
    lines = OVERWRITTEN.sub("", COLOR.sub("", text).replace("\r\n", "\n")).splitlines()
    return [line for line in lines if shown_width(line) > width and len(WORDS.findall(line)) > 1]


# ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(WORD, min_size=1, max_size=20), st.integers(20, 120))
def test_what_is_broken_is_the_same_text(parts: list[str], width: int) -> None:
    lines = fitted(" ".join(parts), width)
    assert "".join("".join(lines).split()) == "".join(" ".join(parts).split())
    assert all(shown_width(line) <= width or len(line.split()) == 1 for line in lines)


@given(st.lists(st.text("ab-/你 ", min_size=1, max_size=30), min_size=1, max_size=12), st.integers(20, 120))
def test_a_continued_command_is_the_same_command(arguments: list[str], width: int) -> None:
    lines = continued(f"  ggmlpy {shlex.join(arguments)}", width)
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == ["ggmlpy", *arguments]


def test_chinese_is_broken_anywhere_but_before_its_punctuation() -> None:
    assert fitted("北京是中国的首都，也是", 16) == ["北京是中国的首", "  都，也是"]


# ── help ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


def examples_in(text: str) -> list[list[str]]:
    return list(commands_of(text.partition("example:\n")[2]))


@pytest.mark.parametrize("width", WIDTHS)
def test_help(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [
        list(commands_of((parser.epilog or "").partition("example:\n")[2])) for parser in parsers(build_parser())
    ]
    monkeypatch.setenv("COLUMNS", str(width))
    for parser, expected in zip(parsers(build_parser()), examples, strict=True):
        text = parser.format_help()
        assert not too_wide(text, width), parser.prog
        assert examples_in(text) == expected


# ── what commands print ──────────────────────────────────────────────────────────────────────────────────────────────


class Terminal(io.TextIOWrapper):
    """Takes what is printed, and says that it is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined]


def on_a_terminal(line: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """All that a command prints where stdout and stderr are terminals."""
    out, err = Terminal(), Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", err)
        try:
            cli.main(shlex.split(line))
        except SystemExit as error:
            assert error.code in (0, 2)  # noqa: PT017
    return out.shown() + err.shown()


COMMANDS = """
identify base
identify base/tokenizer.model
identify f16.bin
identify missing.bin
inspect --tensors f16.bin
inspect base
inspect --metadata --tensors f16.gguf
explain f16.gguf 4000
explain f16.bin 100000
compare f16.bin f16.gguf
compare base chinese-llama-lora
compare chinese-alpaca-lora chinese-llama-lora
fingerprint f16.bin
doctor .
doctor . -v
verify base
verify base --lora chinese-llama-lora
tokenize -m base 你好，今天天气怎么样？我们一起去公园散步好不好？
tokenizer stats base/tokenizer.model chinese-alpaca-lora/tokenizer.model 人工智能是计算机科学的一个分支
merge --base base --lora chinese-llama-lora,chinese-alpaca-lora --output merged --dry-run
merge --base base --lora chinese-alpaca-lora,chinese-llama-lora --output merged
merge --base chinese-llama-lora --lora base --output merged
quantize f16.bin q4_0.bin q4_K
quantize f16.bin q4_0.bin q8
generate -m f16.gguf --temperature 0.2 -p 你好
chat f16.bin -n 1
generate -m f16.bin -c 100000 -p a -n 1 -v
train stage1 --plan 7B
course
formats
frobnicate
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    for name in ("base", "chinese-llama-lora", "chinese-alpaca-lora"):
        os.symlink(demo_files() / name, folder / name)
    for name in ("f16.bin", "f16.gguf"):
        assert cli.main(["convert", str(folder / "base"), "--outfile", str(folder / name), "-q"]) == 0
    return folder


@pytest.mark.parametrize("width", WIDTHS)
def test_commands(width: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", str(width))
    for line in COMMANDS.strip().splitlines():
        text = on_a_terminal(line, monkeypatch)
        assert text.strip(), line
        assert not too_wide(text, width), line


def test_every_complaint_of_the_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    make_zoo(tmp_path, "broken/*")
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            assert not too_wide(on_a_terminal(f"identify {shlex.quote(str(path))}", monkeypatch), 80), path


def test_elsewhere_an_error_is_one_line(folder: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.chdir(folder)
    assert cli.main(shlex.split("merge --base base --lora chinese-alpaca-lora,chinese-llama-lora --output merged")) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_pseudo_terminal_the_messages_fit_it(width: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """stderr is the terminal; stdout is a file, which has no width. A path is not broken, so it is a short one."""
    monkeypatch.chdir(folder)
    from tests.ggmlpy.test_compiling import on_a_terminal as run_in_a_terminal

    command = [sys.executable, str(Path(cli.__file__)), "convert", "f16.bin"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    text = run_in_a_terminal(command, environment, width=width, code=3)
    assert "error:" in text
    assert not too_wide(text, width)
