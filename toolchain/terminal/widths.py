"""Text in columns: Chinese characters take two cells of a terminal, combining marks none."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["aligned", "padded", "shown_width", "terminal_width", "wrapped"]

NEVER_FIRST = "，。！？；：、”"  # Chinese punctuation does not begin a line


def terminal_width() -> int:
    """Cells in a line of the terminal, or 100."""
    from shutil import get_terminal_size  # slow to import, and every command starts with this module

    return get_terminal_size((100, 24)).columns


def shown_width(text: str) -> int:
    """Cells that a text takes on a terminal.

    >>> shown_width("a你"), shown_width("e\\u0301")
    (3, 1)
    """
    return sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, width: int, *, right: bool = False) -> str:
    """The text in ``width`` cells, with spaces after it, or before it to align it to the right."""
    space = " " * max(0, width - shown_width(text))
    return space + text if right else text + space


def wrapped(text: str, width: int, *, at_words: bool = False) -> list[str]:
    """Lines of at most ``width`` cells.

    Args:
        at_words: break between words, or anywhere in Chinese but in front of its punctuation, which may stand out by a
            character. Otherwise, break anywhere.

    >>> wrapped("to be or not", 8), wrapped("to be or not", 8, at_words=True)
    (['to be or', ' not'], ['to be or', 'not'])
    """
    return [line for paragraph in text.split("\n") for line in _broken(paragraph, width, at_words)]


def _broken(paragraph: str, width: int, at_words: bool) -> list[str]:
    lines, line, used = [], "", 0
    for character in paragraph:
        line += character
        used += _cells(character)
        if used > width and not (at_words and character in NEVER_FIRST):
            head, _, begun = line.rpartition(" ") if at_words else ("", "", "")
            full, line = (head, begun) if head and begun.isascii() else (line[:-1], character)
            lines.append(full)
            used = shown_width(line)
    return [*lines, line]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines: the first column is left-aligned, the others right-aligned.

    >>> aligned([("file", "bytes"), ("模型", "7")])
    ['file  bytes', '模型      7']
    """
    widths = [max(map(shown_width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(padded(cell, width, right=i > 0) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
