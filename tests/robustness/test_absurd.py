"""Absurd numbers, full and closed streams: one line, the right exit code, never a traceback."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llama_ref.text.model import Model
from tests.conftest import ROOT
from tests.docs.blocks import run
from tests.llama_ref.random_models import Shape, write_random_model
from toolchain.commands.options import number

HUGE = 10**20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model") / "m.bin", Shape(n_vocab=300), "q4_0")


GENERATE = "generate -m MODEL -p a -n 2 -q"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"{GENERATE} -c {HUGE}", "n_ctx must be at most 16,777,216"),
        (f"{GENERATE} -c 1000000000", "n_ctx must be at most"),
        (f"{GENERATE} -c 0", "n_ctx must be at least 1"),
        (f"{GENERATE} -t 1000000", "threads must be at most 1024"),
        (f"{GENERATE} -t {HUGE} --numerics exact", "threads must be at most 1024"),
        (f"{GENERATE} -t -1 --numerics exact", "threads must be at least 1"),
        (f"{GENERATE} -t 0", "threads must be at least 1"),
        (f"{GENERATE} -s {HUGE}", "the seed must be between"),
        (f"perplexity -m MODEL -f MODEL -c {HUGE}", "n_ctx must be at most"),
        (f"logits -m MODEL --out X --tokens 1,{HUGE}", f"token {HUGE} is outside the vocabulary of 300 tokens"),
        (f"logits -m MODEL --out X --tokens -{HUGE}", "outside the vocabulary"),
        (f"bench -m MODEL -t {HUGE} -r 1", "threads must be at most 1024"),
        (f"bench -m MODEL -n {HUGE} -t 1", "n_ctx must be at most"),
        (f"quantize MODEL X 2 -t {HUGE}", "threads must be at most 1024"),
        (f"{GENERATE} --norm-eps -1", "must be a number from 0 on"),
        (f"{GENERATE} --norm-eps nan", "must be a number from 0 on"),
        (f"{GENERATE} -c 8 -p {'a' * 30}", "prompt is too long"),
        *(
            (f"{GENERATE} --{option} {value}", "must be a finite number")
            for option in ("temp", "top-p", "repeat-penalty")
            for value in ("nan", "inf", "1e999")
        ),
        ("compare MODEL MODEL --tolerance nan", "must be a finite number"),
        ("serve -m MODEL --port 99999", "--port: must be from 0 to 65,535, not 99999"),
        ("serve -m MODEL --port -1", "--port: must be from 0 to 65,535, not -1"),
        (f"serve -m MODEL --parallel {HUGE}", "--parallel: must be from 1 to 1,024"),
        ("serve -m MODEL --queue 0", "--queue: must be from 1"),
        (f"migrate MODEL X --container ggmf1 --parts {HUGE}", "a model has at most 256 parts"),
        ("imatrix -m MODEL -f MODEL -o X --chunks 0", "--chunks: must be from 1"),
        ("imatrix -m MODEL -f MODEL -o X --chunks -1", "--chunks: must be from 1"),
        ("inspect MODEL --vocab -1", "--vocab: must be from 0"),
        ("convert MODEL --split-max-tensors -1", "--split-max-tensors: must be from 0"),
        ("train prepare MODEL --tokenizer MODEL -o X --seed -1", "--seed: must be from 0 to 4,294,967,295"),
        (f"train prepare MODEL --tokenizer MODEL -o X --seed {HUGE}", "--seed: must be from 0 to 4,294,967,295"),
        ("train stage1 --plan 7B --batch 0", "--batch: must be from 1"),
        (f"train stage1 --plan 7B --cards {HUGE}", "--cards: must be from 0 to 1,048,576"),
        ("generate -m MODEL -p a --lora-scaled X nan", "FACTOR must be a finite number, not nan"),
    ],
)
def test_an_absurd_number_is_a_usage_error(model: Path, tmp_path: Path, command: str, words: str) -> None:
    argv = command.replace("MODEL", str(model)).replace(" X", f" {tmp_path / 'x'}")
    code, said = run(shlex.split(argv))
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1), said
    assert words in errors[0]
    assert "Traceback" not in said


def test_a_context_that_the_machine_has_no_memory_for(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mmap

    def nothing_left(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", nothing_left)
    from ggmlpy.files.errors import UsageError
    from llama_ref.arithmetic.fast.arrays import aligned

    with pytest.raises(MemoryError):
        aligned((1 << 30,), "u1")
    monkeypatch.undo()
    with Model.from_file(model, numerics="reference") as opened:
        monkeypatch.setattr(opened.backend, "new_cache", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(UsageError, match=r"a context of 512 positions takes more memory than there is.*\(-c\)"):
            opened.new_cache()


@pytest.mark.parametrize("length", ["-1", "-7"])
@pytest.mark.parametrize("era", ["2023-03-19", "2023-03-31"])
def test_a_text_without_a_length_ends_with_the_context(model: Path, tmp_path: Path, length: str, era: str) -> None:
    """Where the model never ends it, nothing else would."""
    how = f"-m {model} -c 12 -s 1 -n {length} --ignore-eos --numerics reference --era {era}".split()
    code, said = run(["generate", "-p", "a", "--json", *how])
    assert code == 0
    assert "note: the context of 12 tokens is full" in said
    assert '"ended_by": "context"' in said
    (tmp_path / "prompts.txt").write_text("a\n")
    code, said = run(["generate", "--prompts", str(tmp_path / "prompts.txt"), "-q", *how])
    answer = json.loads(said)
    assert (code, answer["ended_by"]) == (0, "context")
    assert 6 < answer["tokens"] < 12


def test_numbers_of_options_are_finite() -> None:
    import argparse

    assert number("-1e-3") == -0.001
    for text in ("nan", "inf", "-inf", "1e999"):
        with pytest.raises(argparse.ArgumentTypeError, match="finite"):
            number(text)


def shell(line: str, model: Path) -> tuple[int, str, str]:
    """A command line of a shell, whose redirections no call of ours could make."""
    call = f"{shlex.quote(sys.executable)} cli.py {line.replace('MODEL', shlex.quote(str(model)))}"
    done = subprocess.run(["sh", "-c", call], cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(
    "command", ["inspect MODEL --json", "identify MODEL", "tokenize -m MODEL a", "generate -m MODEL -n 3 -q -p a"]
)
def test_a_full_standard_output_is_one_line_and_code_3(model: Path, command: str) -> None:
    code, _, said = shell(f"{command} >/dev/full", model)
    errors = [line for line in said.splitlines() if "error" in line.lower()]
    assert (code, len(errors)) == (3, 1), said
    assert errors[0].startswith("error: standard output: No space left on device. Next: ")


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix closes the streams")
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("chat -m MODEL -q <&-", 0),
        ("generate -m MODEL -q -n 2 <&-", 0),
        ("identify nowhere 2>&-", 3),
        ("identify MODEL 2>&-", 0),
        ("identify MODEL >&-", 0),
        ("identify nowhere <&- >&- 2>&-", 3),
        ("identify nowhere 2>/dev/full", 3),
    ],
)
def test_closed_streams_are_empty_ones(model: Path, command: str, expected: int) -> None:
    code, _, said = shell(command, model)
    assert code == expected, said
    assert "Traceback" not in said


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no file here that opens and cannot be read")
@pytest.mark.parametrize(
    "command",
    ["chat -m MODEL -q", "generate -m MODEL -n 2 -q -f -", "generate -m MODEL -n 2 -q -i", "tokenize -m MODEL -"],
)
def test_a_standard_input_that_fails_is_named(model: Path, command: str) -> None:
    """The address 0 of a process cannot be read."""
    code, _, said = shell(f"{command} </proc/self/mem", model)
    assert code == 3, said
    assert said.splitlines()[-1].startswith("error: standard input: ")
    assert "cannot be read: Input/output error" in said
