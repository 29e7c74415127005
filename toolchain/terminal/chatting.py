"""A chat on a terminal: questions behind a mark, answers as they come, Ctrl-C to cut one short."""

from __future__ import annotations

from collections.abc import Callable

from ggmlpy.files.errors import UsageError
from llama_ref.text.templated import TemplatedChat

from .console import TerminalConsole

__all__ = ["talk"]

PROMPT = b"> "


def talk(chat: TemplatedChat, console: TerminalConsole, note: Callable[[str], None], *, max_tokens: int) -> int:
    """Ask and answer until the input ends; the exit code.

    Args:
        note: says something to the person, beside the text.
        max_tokens: of each answer; -1 for no limit.
    """
    while True:
        console.color("user")
        try:
            line = console.read_line(PROMPT)
        except KeyboardInterrupt:
            console.close()
            return 130
        console.color("default")
        if line is None:
            console.raw(b"\n")
            return 0
        if line.strip():
            _answer(chat, console, note, line.decode("utf-8", "replace"), max_tokens)


def _answer(
    chat: TemplatedChat, console: TerminalConsole, note: Callable[[str], None], question: str, max_tokens: int
) -> None:
    dropped = chat.dropped
    answer = chat.ask(question, max_tokens=max_tokens)
    try:
        for token in answer:
            console.text(token.bytes)
    except KeyboardInterrupt:
        answer.close()  # type: ignore[attr-defined]
    except UsageError as error:
        note(f"error: {error}")
        return
    console.raw(b"\n")
    if chat.dropped > dropped:
        note(f"note: the context is full; the first {chat.dropped} messages are no longer read")
