"""A person in a chat: keys, commands, messages of several lines, and answers that are cut, in a pseudo-terminal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("pty")
pytest.importorskip("readline")
from .typist import ROOT, Typist

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals here")
MODEL = str(ROOT / "tests" / "data" / "ggml" / "T1_quant_p2" / "T1.q4_0.bin")
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"


def chat(home: Path, *options: str) -> Typist:
    return Typist("chat", "-m", MODEL, "--temp", "0", "--numerics", "exact", *options, home=home)


def test_the_keys(tmp_path: Path) -> None:
    with chat(tmp_path, "-n", "3", "-c", "512") as person:
        assert "T1.q4_0.bin, asked in Alpaca's template\nSend a message. /help lists" in person.sees("> ")
        person.type("\r")
        person.type("half a line")
        person.sees("half a line")
        person.type(CTRL_C)
        assert "leave" not in person.sees("> ")  # the line was cleared, and that is all
        person.type(CTRL_C)
        assert "to leave: Ctrl-C once more, Ctrl-D, or /bye" in person.sees("\n> ")
        person.type("你好\r")
        answer = person.sees("\n> ")
        assert "[cut after 3 tokens" in answer
        person.type(CTRL_C)
        person.sees("to leave:")  # an answer lies between: the first Ctrl-C counts anew
        person.sees("> ")
        person.type(CTRL_C)
        assert person.ends() == 130


def test_messages_of_several_lines_are_one_message_and_one_entry(tmp_path: Path) -> None:
    with chat(tmp_path, "-n", "2", "-c", "512", "--show-prompt", "-q") as person:
        person.sees("> ")
        person.paste("一\n二")
        person.type("\r")
        assert person.sees("\n> ").count("as the model sees it") == 1
        person.type("three\\\r")
        person.sees("... ")
        person.type("four\r")
        person.sees("\n> ")
        person.type('"""five\r')
        person.sees("... ")
        person.type('six"""\r')
        person.sees("\n> ")
        person.type(UP)
        person.sees("six")
        person.type(CTRL_C)
        person.sees("> ")
        person.type(CTRL_D)
        assert person.ends() == 0
        assert person.shown.count("as the model sees it") == 3
    assert (tmp_path / "ggmlpy" / "chat_history").read_text().splitlines() == ["一\\n二", "three\\nfour", "five\\nsix"]


def test_commands_and_a_text_that_is_too_long(tmp_path: Path) -> None:
    saved = tmp_path / "saved chat.json"
    with chat(tmp_path, "-n", "4", "-c", "192") as person:
        person.sees("> ")
        for typed, expected in (
            ("/help", "/set NAME VALUE"),
            ("long " * 300, "error: the text is too long"),
            ("/regen", "error: nothing has been asked yet"),
            ("hello", "[cut after 4 tokens"),
            ("/regen", "[cut after 4 tokens"),
            (f'/save "{saved}"', "[saved;"),
            ("/clear", "[a new conversation]"),
            (f'/load "{saved}"', "[2 messages]"),
            (f"/save {MODEL}", "is no saved chat"),
            ("/load", "error: /load takes the name of one file"),
            ("/system 请简短", "[from now on"),
            ("/set temp 0.5", ""),
            ("/set --n=2", ""),
            ("/set", "top_k 40"),
            ("again", "[cut after 2 tokens"),
            ("/set temp hot", "error: temp is a number, not 'hot'"),
            ("/set top_k -1", "error: top_k must be 0 or more"),
            ("/what", "error: no command /what: see /help"),
        ):
            person.type(f"{typed}\r")
            assert expected in " ".join(person.sees("\n> ").split()), typed
        person.type("exit\r")
        assert person.ends() == 0


def test_ctrl_c_ends_an_answer_and_the_chat_goes_on(tmp_path: Path) -> None:
    with chat(tmp_path, "-c", "2048", "--ignore-eos", "-q") as person:
        person.sees("> ")
        person.type("go\r\n")
        person.sees("go\n")
        person.type(CTRL_C)
        assert "[cut" not in person.sees("\n> ")
        person.type("/bye\r")
        assert person.ends() == 0
