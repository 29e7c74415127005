"""A generation on a terminal: text that appears by whole characters, colors, and the lines that a person types."""

from __future__ import annotations

import os
from typing import BinaryIO, Protocol

from ggmlpy.files.texts import unreadable
from llama_ref.vocabulary.utf8 import Utf8Stream

from .generated import WithoutControls

__all__ = ["LineSource", "TerminalConsole", "lines_of"]

COLORS = {"default": b"\x1b[0m", "prompt": b"\x1b[33m", "user": b"\x1b[1m\x1b[32m"}


class LineSource(Protocol):
    """Where a person's lines come from."""

    def __call__(self, prompt: bytes) -> bytes | None:
        """The next line without its end, None at the end of input. ``prompt`` has been written already."""
        ...


class TerminalConsole:
    """stdout of a generation: whole characters are let through as soon as they are complete.

    No byte is changed, unless control sequences are to be removed from what the model writes.

    Args:
        out: a binary stream.
        read_line: asks for a line of user input; by default, nobody types.
        use_color: send ANSI colors.
        without_controls: remove control sequences from text; for terminals.
    """

    def __init__(
        self,
        out: BinaryIO,
        read_line: LineSource = lambda prompt: None,
        *,
        use_color: bool = False,
        without_controls: bool = False,
    ) -> None:
        self._out = out
        self._read_line = read_line
        self._use_color = use_color
        self._color = "default"
        self._stream = Utf8Stream()
        self._cleaner = WithoutControls() if without_controls else None

    def text(self, data: bytes) -> None:
        """Generated text, held back to whole characters."""
        ready = self._stream.feed(data)
        self._out.write(self._cleaner.feed(ready) if self._cleaner else ready)
        self._out.flush()

    def raw(self, data: bytes) -> None:
        """Anything else: what is held goes out first."""
        held = self._stream.flush()
        if self._cleaner:
            held = self._cleaner.feed(held)
            self._cleaner.flush()
        self._out.write(held + data)
        self._out.flush()

    def color(self, name: str) -> None:
        """Switch to "default", "prompt" or "user"; sent only if it changes."""
        if self._use_color and name != self._color:
            self.raw(COLORS[name])
        self._color = name

    def close(self) -> None:
        """Leave a terminal as it was found: at the start of a line, in the default color."""
        self.color("default")
        self.raw(b"\n")

    def read_line(self, prompt: bytes) -> bytes | None:
        """Show ``prompt`` and wait for a line."""
        self.raw(b"")
        return self._read_line(prompt)


def lines_of(stream: BinaryIO, out: BinaryIO) -> LineSource:
    """Lines of a binary stream; the end of the file may end the last one."""

    def read_line(prompt: bytes) -> bytes | None:
        out.write(prompt)
        out.flush()
        try:
            line = stream.readline()
        except OSError as error:
            raise unreadable(error) from error
        return line.removesuffix(os.linesep.encode()).removesuffix(b"\n") if line else None

    return read_line
