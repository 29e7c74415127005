"""Chat: the template, the warning, piped input; and two models side by side."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ggmlpy.files.errors import UsageError
from llama_ref.text.chat import instruction_warning
from llama_ref.text.conversation import Conversation
from llama_ref.text.sampling import SamplingOptions
from llama_ref.vocabulary.prompts import PREAMBLE, alpaca_prompt
from toolchain.commands.main import main
from toolchain.look.texts import Answer, Row, answers, as_markdown, as_text, prompts_of
from toolchain.terminal.editor import history_path
from toolchain.terminal.widths import shown_width

sys.path.insert(0, str(Path(__file__).parent))
from fake_model import FakeModel

ROOT = Path(__file__).parents[2]
T1 = ROOT / "tests" / "data" / "ggml" / "T1_quant_p2"
ROWS = [Row("你|好", [Answer("世界\nx", 3, 0.5), Answer("\x1b[31mred", 2, 0.0)])]


def cli(*arguments: str, typed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    return subprocess.run(command, input=typed, capture_output=True, check=False)


@pytest.mark.parametrize(("size", "word"), [(32000, "original LLaMA"), (49953, "Chinese-Alpaca has 49954")])
def test_a_base_model_is_warned_of(size: int, word: str) -> None:
    assert word in (instruction_warning(size) or "")


@pytest.mark.parametrize("size", [49954, 400])
def test_an_instruction_model_is_not(size: int) -> None:
    assert instruction_warning(size) is None


def test_history_has_its_place(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_path() == tmp_path / "ggmlpy" / "chat_history"


ONE = ["chat", "-m", str(T1 / "T1.q4_0.bin"), "--temp", "0", "--numerics", "exact", "-n", "5"]


class Asked(NamedTuple):
    returncode: int
    stdout: bytes
    stderr: bytes


Ask = Callable[..., Asked]


@pytest.fixture
def ask(capsysbinary) -> Ask:
    """Runs the program in this process, with nothing on standard input."""

    def run(*arguments: str) -> Asked:
        return Asked(main(list(arguments), door="python cli.py"), *capsysbinary.readouterr())

    return run


def test_a_script_gets_the_answer_and_nothing_else(ask: Ask) -> None:
    asked, piped = ask(*ONE, "你好"), cli(*ONE, typed="你好\n".encode())
    both = cli(*ONE, "你", "-", typed="好\r\n".encode())
    template = alpaca_prompt("你好")
    same = ask("generate", *ONE[1:], "-q", "-p", template).stdout.decode("utf-8", "replace")
    assert asked.returncode == piped.returncode == both.returncode == 0
    assert asked.stdout == piped.stdout
    assert both.stdout == ask(*ONE, "你\n好").stdout
    assert asked.stdout.decode() == same.removeprefix(" " + template).removesuffix("\n") + "\n"
    assert asked.stderr.decode() == "[cut after 5 tokens, as -n or /set n asked]\n"
    assert ask(*ONE, "-q", "你好").stderr == b""


def test_an_answer_as_json(ask: Ask) -> None:
    done = ask(*ONE, "你好", "--json")
    record = json.loads(done.stdout)
    assert (record["question"], record["ended_by"], record["tokens"]) == ("你好", "length", 5)
    assert record["text"] + "\n" == ask(*ONE, "你好").stdout.decode()


def test_words_in_front_and_words_that_end_an_answer(ask: Ask) -> None:
    text = json.loads(ask(*ONE, "b", "--in-prefix", "a", "--json").stdout)["text"]
    assert text + "\n" == ask(*ONE, "ab").stdout.decode()
    stopped = json.loads(ask(*ONE, "ab", "-r", text[1:3], "--json").stdout)
    assert (stopped["text"], stopped["ended_by"]) == (text[:1], "stop word")


def test_p_is_the_system_message(ask: Ask) -> None:
    shown = ask(*ONE, "-q", "--show-prompt", "-p", "hello", "hi").stderr.decode()
    read = "".join(re.findall(r"-> '(.*)'", shown))
    assert read == r" hello\n\n### Instruction:\n\nhi\n\n### Response:\n\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--mtest", "hi"], 2, "error: --mtest is an option of python cli.py generate"),
        (["--chat-template", "none", "hi"], 2, "the model has no chat template 'none'"),
        (["--keep", "3", "hi"], 0, "note: --keep is for"),
        (["hi " * 4000], 2, "error: the text is too long"),
    ],
)
def test_what_a_chat_refuses_or_notes(ask: Ask, arguments: list[str], code: int, said: str) -> None:
    done = ask(*ONE, *arguments)
    assert done.returncode == code
    assert said in done.stderr.decode()


def test_main_counts_a_turn_and_says_when_nothing_is_left() -> None:
    question = ("hello world " * 60).encode() + b"\n"
    main = cli("generate", "-ins", "-p", PREAMBLE, *ONE[1:-1], "8", typed=question)
    assert b"note: no tokens are left for an answer" in main.stderr
    assert b"a larger -n, or -n -1, leaves room" in main.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    command = [sys.executable, str(ROOT / "cli.py"), "generate", "-m", str(T1 / "T1.q4_0.bin"), "-p", "x", "-n", "2000"]
    with subprocess.Popen(
        [*command, "-q", "--numerics", "exact"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        child.stdout.close()
        assert child.stderr is not None
        assert child.stderr.read() == b""
        assert child.wait() == 0


def test_each_prompt_is_answered_for_itself() -> None:
    seeds = SamplingOptions(temp=0, repeat_penalty=1.0)
    models: list[FakeModel] = []

    def fresh() -> Conversation:
        models.append(FakeModel(lambda seen: 100 if len(seen) < 6 else 2))
        return Conversation(models[-1], seeds, "p2")

    given = answers(fresh, ["a", "b"])
    assert [answer.text for answer in given] == ["aaa", "aaa"]
    assert [model.batches[0] for model in models] == [([1, 35, 100], 0), ([1, 35, 101], 0)]


def test_prompts_stand_one_a_line() -> None:
    assert prompts_of("你好\n\n b \n".encode()) == ["你好", " b "]
    with pytest.raises(UsageError, match="one per line"):
        prompts_of(b"\n")


def test_markdown_escapes_what_would_break_the_table() -> None:
    table = as_markdown(ROWS, ["a.bin", "b.bin"])
    assert table.splitlines() == [
        "| prompt | a.bin | b.bin |",
        "|---|---|---|",
        "| 你\\|好 | 世界<br>x | \\x1b[31mred |",
    ]


def test_columns_stand_under_each_other_in_cells() -> None:
    lines = as_text(ROWS, ["a.bin", "b.bin"], width=60).splitlines()
    bars = {
        tuple(shown_width(line[:i]) for i, c in enumerate(line) if c in "|+") for line in lines if line.count("|") == 2
    }
    assert len(bars) <= 2  # the prompt itself has a bar in one line
    assert "(3 tokens, 6.0/s)" in lines[-1]


@pytest.mark.parametrize("options", [[], ["--markdown"], ["--json"]])
def test_two_models_side_by_side(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "prompts.txt").write_text("the model\n你好\n")
    both = ["-m", str(T1 / "T1.q4_0.bin"), "--compare-with", str(T1 / "T1.q4_1.bin")]
    done = cli(
        "generate", *both, "-f", str(tmp_path / "prompts.txt"), "-n", "4", "-s", "1", "--numerics", "exact", *options
    )
    assert done.returncode == 0, done.stderr.decode()
    out = done.stdout.decode()
    assert all(word in out for word in ("T1.q4_0.bin", "T1.q4_1.bin", "the model", "你好"))


def test_comparing_needs_prompts() -> None:
    done = cli("generate", "-m", str(T1 / "T1.q4_0.bin"), "--compare-with", str(T1 / "T1.q4_1.bin"))
    assert done.returncode == 2
    assert "-f prompts.txt" in done.stderr.decode()
