"""Chat: the template, the warning, piped input; and two models side by side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ggmlpy.files.errors import UsageError
from llama_ref.text.chat import instruction_warning
from llama_ref.text.conversation import Conversation
from llama_ref.text.sampling import SamplingOptions
from llama_ref.vocabulary.prompts import PREAMBLE
from toolchain.look.texts import Answer, Row, answers, as_markdown, as_text, prompts_of
from toolchain.terminal.console import history_path
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


def test_chat_is_instruct_with_the_alpaca_prompt() -> None:
    model, common = str(T1 / "T1.q4_0.bin"), ["-n", "5", "-s", "3", "-q", "--numerics", "exact"]
    chat = cli("chat", "-m", model, *common, typed="你好\n".encode())
    same = cli("generate", "-ins", "-p", PREAMBLE, "-m", model, *common, typed="你好\n".encode())
    assert chat.returncode == 0
    assert chat.stdout == same.stdout
    assert chat.stdout.startswith(b" " + PREAMBLE.encode() + b"\n> ")


def test_a_question_longer_than_an_answer_is_answered() -> None:
    """main takes a turn's tokens off -n, and then has none for the answer; chat does so only where -n was typed."""
    model, question = str(T1 / "T1.q4_0.bin"), ("hello world " * 60).encode() + b"\n"
    common = ["-m", model, "-s", "3", "--temp", "0", "--numerics", "exact"]
    chat, strict = cli("chat", *common, typed=question), cli("chat", *common, "-n", "8", typed=question)
    strict_main = cli("generate", "-ins", "-p", PREAMBLE, *common, "-n", "8", typed=question)
    assert len(chat.stdout) > len(strict.stdout)
    assert b"no tokens are left for an answer" not in chat.stderr
    assert strict.stdout == strict_main.stdout
    for run in (strict, strict_main):
        assert b"note: no tokens are left for an answer" in run.stderr
        assert b"a larger -n, or -n -1, leaves room" in run.stderr


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
