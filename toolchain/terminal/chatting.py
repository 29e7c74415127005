"""A chat on a terminal: messages behind a mark, answers as they come, and commands that begin with a slash.

Ctrl-C ends an answer, or empties the line that is being typed; at an empty line, twice leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ggmlpy.files.errors import FormatError, UsageError
from llama_ref.text.chat_session import ChatSession

from . import program
from .chat_commands import Leave, Settings, obey
from .console import TerminalConsole
from .editor import Editor, Interrupted, message_from
from .talk import remark

__all__ = ["say_if_cut", "show", "talk"]

PROMPT = "> "
CUT = {  # why an answer is not whole
    "length": "[cut after {made} tokens, as -n or /set n asked]",
    "context": "[cut: the context of {n_ctx} tokens is full; -c N makes room for more]",
}


def talk(
    session: ChatSession,
    console: TerminalConsole,
    editor: Editor,
    note: Callable[[str], None],
    *,
    max_tokens: int,
    prefix: str = "",
) -> int:
    """Ask and answer until the person leaves; the exit code.

    Args:
        note: says something to a person who wants to hear of it.
        max_tokens: of each answer; -1: as many as the context holds.
        prefix: put in front of each message.
    """
    settings = Settings(session, max_tokens)
    interrupts = 0
    while True:
        try:
            message = _message(console, editor)
        except Interrupted as interrupted:
            interrupts = 0 if interrupted.typed else interrupts + 1
            console.close()
            if interrupts == 2:
                return 130
            if interrupts:
                remark("to leave: Ctrl-C once more, Ctrl-D, or /bye")
            continue
        interrupts = 0
        if message is None:
            console.raw(b"\n")
            return 0
        try:
            answer = obey(message, settings, prefix)
            if answer is not None:
                show(answer, session, console, note)
        except Leave:
            return 0
        except (UsageError, FormatError) as error:
            remark(f"error: {program.spoken(error)}")


def _message(console: TerminalConsole, editor: Editor) -> str | None:
    """What the person says next, in the person's color."""
    console.color("user")
    console.raw(b"")
    try:
        message = message_from(editor, PROMPT)
    finally:
        console.color("default")
    if message is not None and message.strip():
        editor.remember(message)
    return message


def show(answer: Iterator[str], session: ChatSession, console: TerminalConsole, note: Callable[[str], None]) -> None:
    """The answer as it comes, and a word if it is cut or if something was left out for it; Ctrl-C ends it."""
    dropped = session.dropped
    try:
        for piece in answer:
            console.text(piece.encode("utf-8", "replace"))
    except KeyboardInterrupt:
        answer.close()  # type: ignore[attr-defined]
    console.raw(b"\n")
    say_if_cut(session, note)
    if session.dropped > dropped:
        note(f"[the context is full: the first {session.dropped} messages are no longer read]")


def say_if_cut(session: ChatSession, note: Callable[[str], None]) -> None:
    """Why the last answer is not whole."""
    if words := CUT.get(session.ended_by):
        note(words.format(made=session.made, n_ctx=session.conversation.model.n_ctx))
