"""How the demo's story appears on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from toolchain.terminal.colors import BOLD, DIM, GREEN, HEADING, RED, on_ground, painted, wants_color
from toolchain.terminal.foreign import escape, one_line
from toolchain.terminal.program import spoken
from toolchain.terminal.talk import put_painted
from toolchain.terminal.widths import aligned, padded, shown_width, terminal_width, wrapped

__all__ = ["Teller"]

MARGIN = "   "
SPEAKERS = {"prompt": BOLD, "before": RED, "after": GREEN}


class Teller:
    """Prints the story: headings, tables and texts, in color on a terminal.

    Args:
        silent: print nothing.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.silent, self.n_chapters = silent, 0
        self.color = wants_color()
        self.width = min(100, terminal_width())

    def heading(self, title: str, why: str) -> None:
        """A numbered chapter, and what it is about."""
        self.n_chapters += 1
        if not self.silent:
            put_painted(f"\n{self._paint(f'{self.n_chapters}  {title}', HEADING)}")
            words = textwrap.fill(why, self.width, initial_indent=MARGIN, subsequent_indent=MARGIN)
            put_painted(self._paint(words, DIM))

    def line(self, text: str) -> None:
        """A line of the program's own; commands between backticks appear as they have to be typed."""
        self._put(one_line(spoken(text)))

    def good(self, text: str) -> None:
        """Something that succeeded."""
        self._put(f"{self._paint('✓', GREEN)} {one_line(spoken(text))}")

    def table(self, rows: list[tuple[str, ...]]) -> None:
        """The first row is a heading; all columns but the first are right-aligned."""
        heading, *lines = aligned(rows)
        self._put(self._paint(heading, DIM))
        for line in lines:
            self._put(one_line(line))

    def tokens(self, pieces: Sequence[str]) -> None:
        """Tokens side by side, each on its own ground, or between bars; bytes in hexadecimal."""
        line, room = "", self.width - 4
        for i, piece in enumerate(pieces):
            shown = piece[3:5] if piece.startswith("<0x") else piece
            if room < shown_width(shown) + 1:
                self._put(line)
                line, room = "", self.width - 4
            room -= shown_width(shown) + (0 if self.color else 1)
            line += on_ground(shown, i) if self.color else f"|{shown}"
        self._put(line)

    def speech(self, who: str, text: str) -> None:
        """One of :data:`SPEAKERS`, and what was said."""
        said = escape(text, "\ufffd") or "(nothing)"
        for i, line in enumerate(wrapped(said, self.width - 13, at_words=True)):
            self._put(f"{self._paint(padded('' if i else who, 8), SPEAKERS[who])} {line}")

    def _put(self, text: str) -> None:
        if not self.silent:
            put_painted(MARGIN + text, flush=True)

    def _paint(self, text: str, code: str) -> str:
        return painted(text, code) if self.color else text
