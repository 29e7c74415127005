"""The program is called what the person typed; the libraries do not know it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from toolchain.commands.main import COMMANDS, main
from toolchain.terminal import program

ROOT = Path(__file__).resolve().parents[1]
DOORS = ["python cli.py", "ggmlpy", "python -m ggmlpy"]


def open_door(door: str, argv: list[str]) -> int:
    return cli.main(argv) if door == "python cli.py" else main(argv, door)


@pytest.mark.parametrize("door", DOORS)
def test_usage_and_examples(door, capsys):
    with pytest.raises(SystemExit):
        open_door(door, ["quantize", "--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: {door} quantize ")
    assert f"\n  {door} quantize files/ggml-model-f16.bin" in out.partition("example:")[2]


@pytest.mark.parametrize("door", DOORS)
def test_where_help_is(door, capsys):
    assert open_door(door, ["verify"]) == 2
    assert capsys.readouterr().err.splitlines()[1] == f"see: {door} verify --help"


@pytest.mark.parametrize("door", DOORS)
def test_the_next_step(door, capsys, tmp_path):
    assert open_door(door, ["inspect", str(tmp_path)]) == 3
    assert capsys.readouterr().err.endswith(f"Next: {door} doctor {tmp_path}\n")


@pytest.mark.parametrize("door", DOORS)
def test_the_next_step_in_json(door, capsys, data):
    model = data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin"
    assert open_door(door, ["identify", "--json", str(model)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["next_step"] == f"{door} quantize {model} OUT q4_0"


def test_the_package_runs_as_a_module():
    run = subprocess.run([sys.executable, "-m", "ggmlpy", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.startswith("usage: python -m ggmlpy [-h]")


def test_only_the_commands_between_backticks_are_spoken():
    names = list(COMMANDS)
    program.opened_as("ggmlpy", names)
    assert program.spoken("`verify a`, then `git lfs pull`") == "ggmlpy verify a, then `git lfs pull`"
    assert program.spoken("`to-hf A B` or `to-hfx`") == "ggmlpy to-hf A B or `to-hfx`"
    assert program.spoken("an excerpt: run `doctor /hom") == "an excerpt: run ggmlpy doctor /hom"
    assert program.spoken_within({"`merge`": ["`merge`", 1]}) == {"`merge`": ["ggmlpy merge", 1]}


@pytest.mark.parametrize("library", ["ggmlpy", "llama_ref", "lora"])
def test_libraries_do_not_know_the_program(library):
    for path in (ROOT / library).rglob("*.py"):
        if path.name != "__main__.py":
            assert not re.search(r"cli\.py|python -m ggmlpy", path.read_text("utf-8")), path
