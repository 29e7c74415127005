"""stdout of `generate` against that of main of 2023-03-31, byte for byte, in two builds.

``main_p2/manifest.json`` holds the digests of the published cases, ``main_p2/more.json`` whole outputs of further runs
of the same program (interaction, reverse prompts, instructions, a full context).
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "ggml" / "main_p2"
MODEL = ROOT / "tests" / "data" / "ggml" / "T1x32_main_model" / "T1x32.p2.q4_0.bin"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
MORE = json.loads((GOLDEN / "more.json").read_text())["cases"]
BUILDS = {"s": "scalar", "v2": "avx2"}
UNKNOWN_STDIN = ("interactive_r", "ins")  # the digests are known, what was typed is not


def arguments_of(command: str) -> list[str]:
    """The words of a manifest's command line; the prompt and the prefix are the values with spaces in them."""
    words, arguments = command.split(" ")[1:], []
    while words:
        option = words.pop(0)
        arguments.append(option)
        if option == "-p":
            stop = next(i for i, word in enumerate(words) if word in ("-n", "-s", "-t"))
            arguments.append(" ".join(words[:stop]))
            words = words[stop:]
        elif option == "--in-prefix":
            arguments.append(" ")  # the value is one space, which splitting took apart
            words = words[2:]
    return arguments


class Stdio:
    """stdin and stdout with the bytes beneath them, as a test can give and take them."""

    def __init__(self, data: bytes = b"") -> None:
        self.buffer = io.BytesIO(data)

    def isatty(self) -> bool:
        return False

    def flush(self) -> None:
        pass

    def write(self, text: str) -> int:
        return self.buffer.write(text.encode())


def generate(monkeypatch, arguments: list[str], stdin: bytes, build: str) -> tuple[int, bytes]:
    out = Stdio()
    monkeypatch.setattr(sys, "stdin", Stdio(stdin))
    monkeypatch.setattr(sys, "stdout", out)
    exact = ["--numerics", "exact", "--era", "2023-03-31", "--build", build]
    code = cli.main(["generate", *arguments, *exact, "-q"])
    return code, out.buffer.getvalue()


def exit_code_of(name: str) -> int:
    """``main`` ends with 1 if the prompt is too long; 1 means that compared things differ here, and 2 wrong usage."""
    return 2 if name.startswith("too_long.") else MANIFEST[name]["rc"]


@pytest.mark.parametrize("name", MANIFEST)
def test_the_published_cases(monkeypatch, name: str) -> None:
    case, build = MANIFEST[name], BUILDS[name.rpartition(".")[2]]
    arguments = arguments_of(case["cmd"])
    if "f16.bin" in arguments[1]:
        pytest.skip("the f16 model of this case is not among the golden files")
    if name.rpartition(".")[0] in UNKNOWN_STDIN:
        pytest.skip("what was typed in this case is not among the golden files; more.json has its like")
    arguments[1] = str(MODEL)
    stdin = GOLDEN / f"{name.rpartition('.')[0]}.stdin"
    code, out = generate(monkeypatch, arguments, stdin.read_bytes() if stdin.exists() else b"", build)
    assert (code, hashlib.sha256(out).hexdigest()) == (exit_code_of(name), case["stdout_sha256"])


@pytest.mark.parametrize("build", BUILDS.values())
@pytest.mark.parametrize("case", MORE, ids=lambda case: case["name"])
def test_further_runs(monkeypatch, case: dict, build: str) -> None:
    arguments = ["-m", str(MODEL), *case["arguments"]]
    code, out = generate(monkeypatch, arguments, case["stdin"].encode(), build)
    assert (code, out.hex()) == (case["exit_code"], case[build])


@pytest.mark.parametrize("name", ["plain.s", "interactive_first.v2", "color.s", "too_long.s"])
def test_as_a_program(name: str) -> None:
    case, (stem, _, build) = MANIFEST[name], name.rpartition(".")
    arguments = arguments_of(case["cmd"])
    arguments[1] = str(MODEL)
    stdin = GOLDEN / f"{stem}.stdin"
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "generate", *arguments, "--numerics", "exact", "--build", BUILDS[build]],
        input=stdin.read_bytes() if stdin.exists() else b"",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (exit_code_of(name), (GOLDEN / f"{name}.stdout").read_bytes())


def test_underscores_are_dashes(monkeypatch) -> None:
    spelled = [["--top_k", "5", "--repeat_last_n", "8"], ["--top-k", "5", "--repeat-last-n", "8"]]
    outputs = [
        generate(monkeypatch, ["-m", str(MODEL), "-p", "x", "-n", "5", "-s", "3", *each], b"", "scalar")
        for each in spelled
    ]
    assert outputs[0] == outputs[1]


def test_the_prompt_may_come_through_a_pipe(monkeypatch) -> None:
    asked = ["-m", str(MODEL), "-n", "3", "-s", "3"]
    typed = generate(monkeypatch, [*asked, "-p", "the model"], b"", "scalar")
    assert generate(monkeypatch, asked, b"the model\n", "scalar") == typed
    assert generate(monkeypatch, [*asked, "-f", "-"], b"the model\n", "scalar") == typed


def test_f_appends_to_p_and_p_replaces(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "end.txt").write_text(" model\n")
    asked = ["-m", str(MODEL), "-n", "2", "-s", "3"]
    both = generate(monkeypatch, [*asked, "-p", "the", "-f", str(tmp_path / "end.txt")], b"", "scalar")
    assert both == generate(monkeypatch, [*asked, "-p", "the model"], b"", "scalar")
    replaced = generate(monkeypatch, [*asked, "-f", str(tmp_path / "end.txt"), "-p", "the"], b"", "scalar")
    assert replaced == generate(monkeypatch, [*asked, "-p", "the"], b"", "scalar")


def test_json_has_prompt_tokens_and_reason(monkeypatch) -> None:
    code, out = generate(
        monkeypatch, ["-m", str(MODEL), "-p", "the model", "-n", "4", "-s", "42", "--json"], b"", "scalar"
    )
    record = json.loads(out)
    assert code == 0
    assert record["prompt_tokens"] == [1, 275, 304]
    assert (
        bytes.fromhex("".join(token["bytes"] for token in record["tokens"]))
        in (GOLDEN / "verbose.s.stdout").read_bytes()
    )
    assert (record["ended_by"], record["sampling"]["seed"]) == ("length", 42)


def test_the_trace_explains_every_token(monkeypatch, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    asked = ["-m", str(MODEL), "-p", "the model", "-n", "4", "-s", "42", "--trace-sampling", str(trace)]
    generate(monkeypatch, asked, b"", "scalar")
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [line["n"] for line in lines] == [0, 1, 2, 3]
    for line in lines:
        cumulative, chosen = 0.0, None
        for candidate in line["candidates"]:
            cumulative += candidate["p"]
            if chosen is None and cumulative >= line["draw"]:
                chosen = candidate["id"]
        assert chosen == line["token"]


def test_the_prompt_can_be_seen_with_its_ids(monkeypatch, capsys) -> None:
    asked = ["-m", str(MODEL), "-p", "the model\n", "-n", "1", "-s", "1"]
    generate(monkeypatch, [*asked, "--show-prompt"], b"", "scalar")
    assert "   275 -> ' the'\n   304 -> ' model'\n    13 -> '\\n'\n" in capsys.readouterr().err
    generate(monkeypatch, [*asked, "--verbose-prompt", "--keep", "2"], b"", "scalar")
    assert "static prompt based on n_keep: ' the'" in capsys.readouterr().err


def test_what_is_typed_can_be_seen_in_its_template(monkeypatch, capsys) -> None:
    asked = ["-m", str(MODEL), "-p", "a", "-n", "1", "-s", "1", "-ins", "--show-prompt"]
    generate(monkeypatch, asked, b"model\n", "scalar")
    shown = capsys.readouterr().err.split("     1 -> ''\n")[2]  # after the prompt's, the turn's beginning
    pieces = [line[11:-1] for line in shown.splitlines()]
    assert "".join(pieces).replace("\\n", "\n") == "\n\n### Instruction:\n\nmodel\n\n\n### Response:\n\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-m", "missing.bin", "-p", "x"], 3, "missing.bin"),
        (["-m", str(MODEL), "-f", "missing.txt"], 3, "missing.txt"),
        (["-m", str(MODEL), "-p", "x", "--json", "-i"], 2, "exclude each other"),
        (["-m", str(MODEL), "-p", "x", "--top_k", "-3"], 2, "top_k"),
        (["-m", str(MODEL), "-p", "x", "-s", "99999999999"], 2, "seed"),
        (["-m", str(MODEL), "-p", "x", "-b", "0"], 2, "n_batch"),
        (["-m", str(MODEL), "-p", "x", "--mtest", "-n", "600"], 2, "position 599"),
        (["-m", str(MODEL), "-p", "x " * 80, "-c", "64"], 2, "prompt is too long (162 tokens, max 60)"),
    ],
)
def test_refusals(monkeypatch, capsys, arguments: list[str], code: int, words: str) -> None:
    assert generate(monkeypatch, arguments, b"", "scalar")[0] == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["perplexity", "embedding"])
def test_other_tools_are_named_as_main_does(monkeypatch, tool: str) -> None:
    code, out = generate(monkeypatch, [f"--{tool}"], b"", "scalar")
    expected = f"\n************\nmain: please use the '{tool}' tool for {tool} calculations\n************\n\n"
    assert (code, out) == (0, expected.encode())
