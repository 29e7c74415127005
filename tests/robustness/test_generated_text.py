"""What a model writes cannot take over a terminal, and reaches a pipe byte for byte."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy import ModelParams
from ggmlpy.files.foreign import UNSAFE
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.writer import write_model
from tests.ggmlpy.models import write_tiny
from toolchain.terminal.console import TerminalConsole, lines_of
from toolchain.terminal.generated import WithoutControls

ROOT = Path(__file__).resolve().parents[2]


def cleaned(*pieces: bytes) -> bytes:
    terminal = WithoutControls()
    return b"".join(map(terminal.feed, pieces))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "ab"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]0;title\x1b\\b", "ab"),
        ("a\x1bPq#0\x1b\\b", "ab"),
        ("a\x1bcb", "ab"),
        ("a\x1b(0b", "ab"),
        ("a\u009b31mb", "ab"),
        ("a\u009d0;title\u009cb", "ab"),
        ("a\rb\x08c\x00d\x7fe", "abcde"),
        ("a\u202eb\u2066c\u2028d", "abcd"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b]0;never ended\nnext line", "]0;never ended\nnext line"),
        ("介绍👩‍👩‍👧北京", "介绍👩‍👩‍👧北京"),
    ],
)
def test_control_sequences_are_removed_however_they_are_cut(text: str, shown: str) -> None:
    data = text.encode()
    assert cleaned(data).decode() == shown
    out = io.BytesIO()
    console = TerminalConsole(out, lines_of(io.BytesIO(), out), without_controls=True)
    for byte in data:
        console.text(bytes([byte]))
    assert out.getvalue().decode() == shown


@given(st.lists(st.text() | st.sampled_from(["\x1b", "[", "]", "\x9b", "0;", "m", "\x07", "\\", "\n"])))
def test_no_control_character_passes(pieces: list[str]) -> None:
    shown = cleaned(*(piece.encode("utf-8", "replace") for piece in pieces)).decode()
    assert not re.findall(UNSAFE, shown.replace("\n", "").replace("\t", ""))


@given(st.lists(st.binary()))
def test_a_pipe_gets_every_byte(pieces: list[bytes]) -> None:
    out = io.BytesIO()
    console = TerminalConsole(out, lines_of(io.BytesIO(), out))
    for piece in pieces:
        console.text(piece)
    console.raw(b"")
    assert out.getvalue() == b"".join(pieces)


def test_a_sequence_without_end_does_not_swallow_the_text() -> None:
    shown = cleaned(b"\x1b]0;", *[b"word "] * 200)
    assert len(shown) > 900


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model all of whose pieces are an escape sequence."""
    hparams = ModelParams.from_header(300, 32, 32, 2, 1, 16, 0)
    made: list[OutTensor] = []
    path = tmp_path_factory.mktemp("painter") / "m.bin"
    write_tiny(path, "ggjt", 1, "f32", hparams=hparams, change=lambda tensors: made.extend(tensors) or tensors)
    write_model(path, "ggjt", 1, hparams, [(b"\x1b]0;owned\x07x", -float(i)) for i in range(300)], made)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(("option", "passes"), [((), False), (("--raw-output",), True)])
def test_on_a_terminal(painter: Path, option: tuple[str, ...], passes: bool) -> None:
    import pty

    words = [sys.executable, "cli.py", "generate", "-m", str(painter), "-n", "3", "-p", "", "-q", "-s", "1"]
    words += ["--numerics", "reference", "--ignore-eos", *option]
    main, other = pty.openpty()
    subprocess.run(words, cwd=ROOT, stdout=other, stdin=subprocess.DEVNULL, check=True)
    os.close(other)
    shown = b""
    try:
        while part := os.read(main, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(main)
    assert (b"\x1b" in shown) is passes
    assert b"x" in shown
    piped = subprocess.run(words, cwd=ROOT, capture_output=True, stdin=subprocess.DEVNULL, check=True)
    assert b"\x1b]0;owned\x07x" in piped.stdout
