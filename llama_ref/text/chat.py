"""Talking with an instruction model: the Alpaca template, a line editor with history, and a word of warning.

The template is the one of ``main -ins -f prompts/alpaca.txt``: the sentence below as prompt, then for each turn
``### Instruction:``, the person's text, ``### Response:``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .generate import LineSource, lines_of

__all__ = ["ALPACA_PROMPT", "edited_lines", "history_path", "instruction_warning"]

ALPACA_PROMPT = (
    b"Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
HISTORY_LENGTH = 1000

# fmt: off
NOT_FOR_INSTRUCTIONS = {
    32000: "32000 tokens are the vocabulary of the original LLaMA: unless this is an English Alpaca, it completes text "
           "and does not follow instructions",
    49953: "49953 tokens are the vocabulary of Chinese-LLaMA, which completes text and does not follow instructions; "
           "Chinese-Alpaca has 49954",
}
# fmt: on


def instruction_warning(n_vocab: int) -> str | None:
    """Why a model of this vocabulary may disappoint in a chat, None if nothing speaks against it.

    >>> instruction_warning(49954) is None
    True
    """
    return NOT_FOR_INSTRUCTIONS.get(n_vocab)


def history_path() -> Path:
    """Where the lines that a person typed are kept between chats."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "ggmlpy" / "chat_history"


@contextmanager
def edited_lines() -> Iterator[LineSource]:
    """Lines from the terminal with editing and history (readline); plain lines where there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield lines_of(sys.stdin.buffer, sys.stdout.buffer)
        return
    with _history():
        yield _ask


def _ask(prompt: bytes) -> bytes | None:
    sys.stdout.flush()
    try:
        line = input(prompt.decode("utf-8", "replace"))
    except EOFError:
        return None
    return line.encode("utf-8", "surrogateescape")


@contextmanager
def _history() -> Iterator[None]:
    try:
        import readline
    except ImportError:  # Windows has an editor of its own
        yield
        return
    path = history_path()
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LENGTH)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
