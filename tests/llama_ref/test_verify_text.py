"""Whose text is this: what main wrote is recognised as its build's; where another text parts is told."""

from __future__ import annotations

import json

import pytest

import cli
from ggmlpy.files.errors import FormatError
from llama_ref.text.main_loop import MainOptions
from llama_ref.text.sampling import SamplingOptions
from tests.llama_ref.test_main_p2 import BUILDS, GOLDEN, MANIFEST, MODEL, MORE, arguments_of
from toolchain.verify.text import TextRequest, verify_text

NAMES = [name for name in MANIFEST if (GOLDEN / f"{name}.stdout").exists() and MANIFEST[name]["rc"] == 0]


def asked(name: str) -> list[str]:
    """The options of a golden case, for ``verify --text``."""
    arguments = arguments_of(MANIFEST[name]["cmd"])
    arguments[1] = str(MODEL)
    stdin = GOLDEN / f"{name.rpartition('.')[0]}.stdin"
    return [*arguments, "-q", *(["--stdin", str(stdin)] if stdin.exists() else [])]


@pytest.mark.parametrize("name", NAMES)
def test_golden_texts_are_recognised(name, capsys):
    command = ["verify", "--text", str(GOLDEN / f"{name}.stdout"), *asked(name), "--era", "2023-03-31", "--json"]
    if not name.startswith(("plain", "color")):  # the others take long
        command += ["--build", BUILDS[name.rpartition(".")[2]], "--memory-f16"]
    assert cli.main(command) == 0
    record = json.loads(capsys.readouterr().out)
    identical = [way["way"] for way in record["ways"] if way["status"] == "identical"]
    assert any(f"2023-03-31 {BUILDS[name.rpartition('.')[2]]}, f16 cache" in way for way in identical)


def test_every_era_is_tried(capsys):
    assert cli.main(["verify", "--text", str(GOLDEN / "plain.s.stdout"), *asked("plain.s")]) == 0
    assert capsys.readouterr().out == (
        "text: identical to what main writes: 2023-03-31 scalar, f16 cache, any batches\n"
    )


@pytest.mark.parametrize("case", [case for case in MORE if case["name"] in ("chinese", "instruct")], ids=str)
def test_conversations_are_recognised(case, tmp_path, capsys):
    (tmp_path / "out.txt").write_bytes(bytes.fromhex(case["avx2"]))
    (tmp_path / "in.txt").write_bytes(case["stdin"].encode())
    files = ["--text", str(tmp_path / "out.txt"), "--stdin", str(tmp_path / "in.txt"), "--build", "avx2"]
    arguments = ["verify", *files, "-m", str(MODEL), *case["arguments"], "--era", "2023-03-31", "-q"]
    assert cli.main(arguments) == 0
    assert "2023-03-31 avx2" in capsys.readouterr().out


REQUEST = TextRequest(MainOptions(prompt=b"Hello World", n_predict=40), SamplingOptions(seed=42), memory_f32=False)
PLAIN = GOLDEN / "plain.s.stdout"


def outcome(text: bytes, tmp_path, request: TextRequest = REQUEST, build: str = "scalar"):
    (tmp_path / "text").write_bytes(text)
    report = verify_text(tmp_path / "text", MODEL, request, era="2023-03-31", build=build)
    assert report.exit_code == int(report.outcomes[0].status != "identical")
    return report.outcomes[0]


def test_another_build_s_text_parts_at_a_token(tmp_path):
    parted = outcome(PLAIN.read_bytes(), tmp_path, build="avx2")
    theirs = (GOLDEN / "plain.v2.stdout").read_bytes()
    assert parted.status == "parts"
    assert theirs.startswith(PLAIN.read_bytes()[: parted.matching] + parted.written)
    assert 0 < parted.n_tokens <= 40
    assert parted.candidates[0].probability >= parted.candidates[-1].probability
    assert "expected" in parted.words()


def test_another_seed_parts_among_the_first_candidates(tmp_path):
    other = TextRequest(REQUEST.options, SamplingOptions(seed=43), memory_f32=False)
    parted = outcome(PLAIN.read_bytes(), tmp_path, other)
    assert parted.status == "parts"
    assert parted.found_rank is not None
    assert 1 <= parted.found_rank <= 40


def test_another_prompt_parts_in_the_prompt(tmp_path):
    other = TextRequest(MainOptions(prompt=b"Hello world"), SamplingOptions(seed=42), memory_f32=False)
    parted = outcome(PLAIN.read_bytes(), tmp_path, other)
    assert (parted.n_tokens, parted.matching) == (0, len(b" Hello "))
    assert "the prompt" in parted.words()


def test_shorter_and_longer_texts_are_told(tmp_path):
    text = PLAIN.read_bytes()
    assert outcome(text, tmp_path).status == "identical"
    assert outcome(text[:-3], tmp_path).status == "prefix"
    longer = outcome(text + b"\n", tmp_path)
    assert (longer.status, longer.found) == ("longer", b"\n")
    assert outcome(b"", tmp_path).status == "prefix"


def test_bad_requests_are_refused(tmp_path, capsys):
    with pytest.raises(FormatError, match="cannot read the text"):
        verify_text(tmp_path / "missing", MODEL, REQUEST)
    assert cli.main(["verify", "--text", str(PLAIN), "-m", str(MODEL), "-p", "x", "-q"]) == 2
    assert "--seed" in capsys.readouterr().err
    assert cli.main(["verify", "--text", str(PLAIN), "-m", str(MODEL), "-p", "x", "-s", "1", "--draft", "8", "-q"]) == 2
    assert "main wrote, which had no drafts" in capsys.readouterr().err
    assert cli.main(["verify", "--text", str(PLAIN), "-p", "x", "-s", "1", "-q"]) == 2
    assert "--model" in capsys.readouterr().err


def test_the_command_shows_the_candidates(capsys):
    assert cli.main(["verify", "--text", str(PLAIN), *asked("plain.s"), "--build", "avx2", "--era", "2023-03-31"]) == 1
    out = capsys.readouterr().out
    assert "candidates at generated token" in out
    assert "follow" in out
