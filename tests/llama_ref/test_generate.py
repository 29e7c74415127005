"""The stream of tokens, the loop of main, and conversations that are put away and taken up again."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cli
from ggmlpy.files.errors import FormatError, MissingFileError, UsageError
from llama_ref.text.conversation import Conversation
from llama_ref.text.main_inputs import random_prompt, read_prompt, real_seed
from llama_ref.text.main_loop import MainLoop, MainOptions
from llama_ref.text.main_words import timings_text
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions
from llama_ref.text.sampling_trace import trace_sampling
from llama_ref.vocabulary.tokenizer import EOS
from toolchain.terminal.console import TerminalConsole, lines_of

sys.path.insert(0, str(Path(__file__).parent))
from fake_model import FakeModel

GREEDY = SamplingOptions(temp=0, repeat_penalty=1.0)
T1 = Path(__file__).parents[1] / "data" / "ggml" / "T1_quant_p2" / "T1.q4_0.bin"


def spells(text: str, then: int = EOS):
    """After the prompt's last character, the bytes of a text one after another, then the end."""
    data = text.encode()

    def answer(seen: list[int]) -> int:
        after = len(seen) - 1 - max((i for i, token in enumerate(seen) if token == ord(":") + 3), default=0)
        return data[after] + 3 if after < len(data) else then

    return answer


def run(
    model: FakeModel, options: MainOptions, typed: bytes = b"", color: bool = False, **more
) -> tuple[MainLoop, bytes]:
    out = io.BytesIO()
    console = TerminalConsole(out, lines_of(io.BytesIO(typed), out), use_color=color)
    loop = MainLoop(Conversation(model, GREEDY, "2023-03-31", **more), options, console)
    loop.run()
    return loop, out.getvalue()


def test_tokens_have_id_bytes_text_and_logprob() -> None:
    tokens = list(Conversation(FakeModel(spells("你!")), GREEDY, "p2").say("hi:"))
    assert [token.bytes for token in tokens] == [b"\xe4", b"\xbd", b"\xa0", b"!"]
    assert [token.text for token in tokens] == ["", "", "你", "!"]
    assert [token.id for token in tokens] == [0xE4 + 3, 0xBD + 3, 0xA0 + 3, ord("!") + 3]
    assert all(-1e-6 < token.logprob <= 0 for token in tokens)


def test_the_prompt_is_read_in_batches_with_a_space_and_bos() -> None:
    model = FakeModel(spells(""))
    list(Conversation(model, GREEDY, "p2", n_batch=3).say("abcd:"))
    assert model.batches == [([1, 35, 100], 0), ([101, 102, 103], 3), ([61], 6)]


def test_a_conversation_goes_on() -> None:
    model = FakeModel(spells("ok"))
    conversation = Conversation(model, GREEDY, "p2")
    first = b"".join(token.bytes for token in conversation.say("a:"))
    second = b"".join(token.bytes for token in conversation.say("b:"))
    assert (first, second) == (b"ok", b"ok")
    assert bytes(token - 3 for token in conversation.recent if token > 2) == b" a:okb:ok"


def test_a_prompt_that_is_too_long_is_refused() -> None:
    conversation = Conversation(FakeModel(spells(""), n_ctx=8), GREEDY, "p2")
    with pytest.raises(UsageError, match=r"too long \(5 tokens, max 4\)"):
        next(conversation.say("abc"))


def test_nothing_said_nothing_continued() -> None:
    with pytest.raises(UsageError, match="say something first"):
        next(Conversation(FakeModel(spells("")), GREEDY, "p2").say())


@given(st.integers(0, 6), st.integers(9, 20), st.integers(1, 8), st.integers(1, 40))
def test_a_full_context_keeps_its_beginning_and_half_of_the_rest(n_keep: int, n_ctx: int, n_batch: int, n: int) -> None:
    model = FakeModel(lambda seen: 100 + len(seen) % 100, n_ctx=n_ctx)
    conversation = Conversation(model, GREEDY, "p2", n_batch=n_batch, n_keep=min(n_keep, 4))
    tokens = list(conversation.say([7, 8, 9, 10, 11], max_tokens=n))
    assert len(tokens) == n
    assert all(n_past + len(batch) <= n_ctx for batch, n_past in model.batches)
    kept = conversation.cache.k[0, : min(conversation.n_keep, conversation.n_past), 0, 0].astype(int).tolist()
    assert kept == [7, 8, 9, 10, 11][: len(kept)]


def test_keeping_everything_of_a_full_context_is_refused_with_advice() -> None:
    model = FakeModel(lambda seen: 100, n_ctx=10)
    with pytest.raises(UsageError, match="--keep"):
        list(Conversation(model, GREEDY, "p2", n_keep=10).say([7, 8, 9], max_tokens=20))


@pytest.mark.parametrize("sampling", [SamplingOptions(seed=5), SamplingOptions(seed=6, temp=2.0, repeat_last_n=20)])
def test_a_resumed_conversation_says_what_it_would_have_said(tmp_path: Path, sampling: SamplingOptions) -> None:
    with Model.from_file(T1, numerics="exact", n_ctx=48) as model:
        whole = [token.id for token in Conversation(model, sampling).say("the model", max_tokens=60)]
    with Model.from_file(T1, numerics="exact", n_ctx=48) as model:
        conversation = Conversation(model, sampling)
        first = [token.id for token in conversation.say("the model", max_tokens=25)]
        conversation.save(tmp_path / "talk.npz")
    with Model.from_file(T1, numerics="exact", n_ctx=48) as model:
        rest = [token.id for token in Conversation.resume(tmp_path / "talk.npz", model).say(max_tokens=35)]
    assert first + rest == whole


def test_another_model_does_not_resume_it(tmp_path: Path) -> None:
    conversation = Conversation(FakeModel(spells("ok")), GREEDY, "p2")
    list(conversation.say("a:"))
    conversation.save(tmp_path / "talk.npz")
    with pytest.raises(UsageError, match=r"another model: n_vocab, vocabulary differ"):
        Conversation.resume(tmp_path / "talk.npz", FakeModel(spells("ok"), [b"new"]))


def test_what_is_no_conversation_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(FormatError, match="not a saved conversation"):
        Conversation.resume(tmp_path / "noise.npz", FakeModel(spells("")))
    with pytest.raises(MissingFileError, match="no such saved"):
        Conversation.resume(tmp_path / "nothing.npz", FakeModel(spells("")))


def test_model_generate_is_a_stream_of_tokens() -> None:
    with Model.from_file(T1, numerics="exact") as model:
        tokens = list(model.generate("the model", max_tokens=5, sampling=SamplingOptions(seed=3)))
    assert len(tokens) == 5
    assert all(token.bytes == model.vocab[token.id] for token in tokens)


# ---------------------------------------------------------------------------------------------------- the loop


def test_instructions_are_wrapped_in_the_alpaca_template() -> None:
    model = FakeModel(lambda seen: EOS)
    turns: list[list[int]] = []
    out = io.BytesIO()
    console = TerminalConsole(out, lines_of(io.BytesIO(b"go:\n"), out))
    loop = MainLoop(Conversation(model, GREEDY, "p2"), MainOptions(instruct=True), console)
    loop.on_turn = turns.append
    loop.run()
    seen = b"".join(loop.conversation.tokenizer.piece(token) for token in turns[0])
    assert seen == b"\n\n### Instruction:\n\ngo:\n\n\n### Response:\n\n"
    assert turns[0][0] == 1  # the beginning of a sentence stands before each instruction


def test_a_backslash_continues_the_line_and_the_prefix_comes_first() -> None:
    turns: list[bytes] = []
    model = FakeModel(lambda seen: EOS)
    out = io.BytesIO()
    console = TerminalConsole(out, lines_of(io.BytesIO(b"one\\\ntwo\n"), out))
    loop = MainLoop(
        Conversation(model, GREEDY, "p2"),
        MainOptions(interactive_first=True, input_prefix=b"Me: ", n_predict=1),
        console,
    )
    loop.on_turn = lambda tokens: turns.append(loop.conversation.tokenizer.decode(tokens))
    loop.run()
    assert turns == [b"Me: one\ntwo\n"]
    assert out.getvalue().startswith(b" Me: ")


def test_a_whole_character_goes_out_at_once() -> None:
    writes: list[bytes] = []

    class Recorder(io.BytesIO):
        def write(self, data) -> int:
            writes.append(bytes(data))
            return len(data)

    console = TerminalConsole(Recorder(), lambda prompt: None)
    loop = MainLoop(Conversation(FakeModel(spells("你好")), GREEDY, "p2"), MainOptions(prompt=b"a:"), console)
    loop.run()
    assert [data.decode() for data in writes if data] == [" a:", "你", "好"]


def test_an_unfinished_character_at_the_end_goes_out_as_it_is() -> None:
    _, out = run(FakeModel(spells("你")), MainOptions(prompt=b"a:", n_predict=2))
    assert out == b" a:\xe4\xbd"


def test_colours_are_sent_only_when_they_change() -> None:
    _, out = run(FakeModel(spells("xyz")), MainOptions(prompt=b"a long prompt in several batches:"), color=True)
    assert out == b"\x1b[33m a long prompt in several batches:\x1b[0mxyz"


def test_the_end_of_text_is_noted_and_ends_it() -> None:
    notes: list[str] = []
    out = io.BytesIO()
    console = TerminalConsole(out, lines_of(io.BytesIO(), out))
    loop = MainLoop(Conversation(FakeModel(spells("x")), GREEDY, "p2"), MainOptions(prompt=b":"), console, notes.append)
    loop.run()
    assert (loop.ended_by, notes) == ("end of text", [" [end of text]"])


def test_the_first_interrupt_gives_the_turn_the_second_quits() -> None:
    def answer(seen: list[int]) -> int:
        if len(seen) in (12, 20):
            os.kill(os.getpid(), signal.SIGINT)
        return 100

    out = io.BytesIO()
    asked: list[bytes] = []

    def ask(prompt: bytes) -> bytes | None:
        asked.append(prompt)
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGINT)  # while the person is typing
        return b"go on"

    model = FakeModel(answer)
    loop = MainLoop(
        Conversation(model, GREEDY, "p2"), MainOptions(prompt=b"abc", interactive=True), TerminalConsole(out, ask)
    )
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert len(asked) == 2
    assert b"\n" in out.getvalue()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_closed_console_is_left_uncoloured_at_the_start_of_a_line() -> None:
    out = io.BytesIO()
    console = TerminalConsole(out, lambda prompt: None, use_color=True)
    console.color("user")
    console.text(b"\xe4")
    console.close()
    assert out.getvalue() == b"\x1b[1m\x1b[32m\xe4\x1b[0m\n"


def test_failing_to_tokenize_is_said_on_stdout_as_in_march() -> None:
    model = FakeModel(lambda seen: EOS)
    model.vocab[:] = [b"?", b"", b"", b"a", *[b""] * 255]
    out = io.BytesIO()
    MainLoop(
        Conversation(model, GREEDY, "p0"), MainOptions(prompt=b"xa"), TerminalConsole(out, lambda prompt: None)
    ).run()
    assert out.getvalue() == b"failed to tokenize string!\na"


# ---------------------------------------------------------------------------------------------------- small parts


def test_prompts_are_joined_and_files_lose_one_new_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"A\n\n")
    parts = [("PROMPT", "p"), ("FILE", str(tmp_path / "a")), ("FILE", "-")]
    assert read_prompt(parts, io.BytesIO("你\n".encode())) == "pA\n你".encode()


def test_the_seed_that_is_used() -> None:
    assert real_seed(7, "p2") == 7
    assert real_seed(0, "p0") == 0
    assert real_seed(0, "p2") > 1_600_000_000
    with pytest.raises(UsageError, match="between"):
        real_seed(2**31, "p2")


def test_random_prompts_follow_the_seed() -> None:
    assert {random_prompt(seed) for seed in range(200)} == {
        "So", "Once upon a time", "When", "The", "After", "If", "import", "He", "She", "They"
    }  # fmt: skip


def test_timings_are_rates() -> None:
    conversation = Conversation(FakeModel(spells("abc")), GREEDY, "p2")
    list(conversation.say("x:"))
    text = timings_text(0.5, conversation.timings, 2.0)
    assert [line.split()[1] for line in text.splitlines()] == ["load", "prompt", "generation", "sampling", "total"]
    assert conversation.timings.prompt_tokens == 4
    assert conversation.timings.generation_tokens == 3


def test_nan_in_a_trace_is_null(tmp_path: Path) -> None:
    from llama_ref.text.sampling import Sample

    with trace_sampling(str(tmp_path / "t"), [b"a", b"b"]) as trace:
        assert trace is not None
        trace(Sample(0, np.array([0, 1]), np.array([np.nan, 1.0]), 0.5), np.array([np.inf, 1.0]))
    assert '"logit": null, "p": null' in (tmp_path / "t").read_text()


ENCODED = [("utf-16", "UTF-16"), ("gb18030", "GBK or GB18030"), ("utf-8-sig", "byte order mark")]


@pytest.mark.parametrize(("encoding", "words"), ENCODED)
def test_a_prompt_in_another_encoding_is_told_and_taken_as_it_is(encoding, words, tmp_path):
    (tmp_path / "p.txt").write_bytes("介绍北京".encode(encoding))
    told: list[str] = []
    assert read_prompt([("FILE", str(tmp_path / "p.txt"))], io.BytesIO(), told.append) == "介绍北京".encode(encoding)
    (warning,) = told
    assert warning.startswith("warning: ")
    assert words in warning


@pytest.mark.parametrize("command", ["perplexity", "tokenize"])
def test_other_texts_in_another_encoding_are_told(command, data, tmp_path, capsys, monkeypatch):
    model = str(data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin")
    text = ("hello world " * 40).encode("utf-16")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    arguments = {"perplexity": ["-f", "-", "-c", "16"], "tokenize": ["-"]}[command]
    cli.main([command, "-m", model, *arguments])
    assert "warning: standard input: the text is UTF-16, not UTF-8" in capsys.readouterr().err


def test_the_alpaca_prompt_is_known_where_its_file_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    parts = [("FILE", "./prompts/alpaca.txt")]
    assert read_prompt(parts, io.BytesIO(), told.append).startswith(b"Below is an instruction that describes a task.")
    assert told == ["note: ./prompts/alpaca.txt is not here: its text is known and was taken"]
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "alpaca.txt").write_text("Mine.\n")
    assert read_prompt(parts, io.BytesIO()) == b"Mine."
