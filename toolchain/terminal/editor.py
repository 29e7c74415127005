r'''Messages that a person types: with an editor and its history on a terminal, as plain lines elsewhere.

A message is a line. It goes on behind a line that ends with a backslash, and from three quotes (""") to the next three.
What is pasted is one message, however many lines it has, where the editor is GNU's readline. The history has one entry
for each message. On disk an entry is a line: a line break within it is written as ``\n``, a backslash as ``\\``.
'''

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

from .console import lines_of

__all__ = ["Editor", "Interrupted", "history_path", "message_from", "the_editor"]

HISTORY_LENGTH = 1000
QUOTES = '"""'
MORE = "... "  # the prompt of each further line


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a message was typed.

    Attributes:
        typed: what stood on the line.
    """

    def __init__(self, typed: str = "") -> None:
        self.typed = typed


class Editor(Protocol):
    """Where lines come from."""

    def line(self, prompt: str) -> str | None:
        """The next line without its end, None at the end of input.

        Raises:
            Interrupted: Ctrl-C was pressed instead.
        """

    def remember(self, message: str) -> None:
        """Put a message into the history."""


def message_from(editor: Editor, prompt: str) -> str | None:
    """The next message, which may have several lines; None at the end of input."""
    line = editor.line(prompt)
    if line is None:
        return None
    if line.lstrip().startswith(QUOTES):
        return _quoted(editor, line.lstrip().removeprefix(QUOTES))
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        lines.append(_next(editor) or "")
    return "\n".join(lines)


def _quoted(editor: Editor, line: str) -> str:
    """What stands between the quotes; the end of input closes them, too."""
    lines = []
    while QUOTES not in line:
        lines.append(line)
        after = _next(editor)
        if after is None:
            return "\n".join(lines).strip("\n")
        line = after
    return "\n".join([*lines, line.partition(QUOTES)[0]]).strip("\n")


def _next(editor: Editor) -> str | None:
    """A further line; Ctrl-C there leaves a message that has begun, not the chat."""
    try:
        return editor.line(MORE)
    except Interrupted as interrupted:
        raise Interrupted(interrupted.typed or MORE) from interrupted


class PlainLines:
    """Lines of standard input, where there is no terminal or no editor."""

    def __init__(self) -> None:
        self._read = lines_of(sys.stdin.buffer, sys.stdout.buffer)

    def line(self, prompt: str) -> str | None:
        try:
            line = self._read(prompt.encode())
        except KeyboardInterrupt as interrupt:
            raise Interrupted from interrupt
        return None if line is None else line.decode("utf-8", "replace")

    def remember(self, message: str) -> None:
        """Nothing can be called back here."""


class Readline:
    """Lines of a terminal with GNU's readline, or what stands for it."""

    def __init__(self, readline: Any) -> None:
        self._readline = readline
        readline.set_auto_history(False)  # it would remember lines, not messages
        if "libedit" not in (readline.__doc__ or ""):
            readline.parse_and_bind("set enable-bracketed-paste on")

    def line(self, prompt: str) -> str | None:
        def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
            raise Interrupted(self._readline.get_line_buffer())  # while readline still has it

        sys.stdout.flush()
        before = signal.signal(signal.SIGINT, interrupt)
        try:
            return input(prompt).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        except EOFError:
            return None
        finally:
            signal.signal(signal.SIGINT, before)

    def remember(self, message: str) -> None:
        last = self._readline.get_current_history_length()
        if not last or self._readline.get_history_item(last) != message:
            self._readline.add_history(message)


@contextmanager
def the_editor() -> Iterator[Editor]:
    """The editor of this terminal with the history of earlier chats; plain lines where there is none."""
    try:
        import readline
    except ImportError:  # Windows has an editor of its own
        readline = None  # type: ignore[assignment]
    if readline is None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield PlainLines()
        return
    path = history_path()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for entry in path.read_text(encoding="utf-8").split("\n")[-HISTORY_LENGTH - 1 : -1]:
            readline.add_history(re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], entry))
    editor = Readline(readline)
    try:
        yield editor
    finally:
        _save_history(readline, path)


def _save_history(readline: Any, path: Path) -> None:
    count = readline.get_current_history_length()
    items = [readline.get_history_item(i + 1) or "" for i in range(max(0, count - HISTORY_LENGTH), count)]
    entries = [item.replace("\\", "\\\\").replace("\n", "\\n") for item in items]
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="replace", opener=_private) as file:
            file.writelines(f"{entry}\n" for entry in entries)


def _private(name: str, flags: int) -> int:
    """What a person said is for nobody else to read."""
    return os.open(name, flags, 0o600)


def history_path() -> Path:
    """Where the messages that a person typed are kept between chats; never in the working directory."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # as the XDG Base Directory Specification asks
        state = Path(os.path.expanduser("~")) / ".local" / "state"
    return state.absolute() / "ggmlpy" / "chat_history"
