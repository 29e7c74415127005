"""Widths of text in columns: Chinese characters take two."""

from __future__ import annotations

import unicodedata


def _columns(text: str) -> int:
    """Columns that a text takes on a terminal: Chinese characters take two."""
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _padded(text: str, width: int, *, left: bool) -> str:
    space = " " * max(0, width - _columns(text))
    return text + space if left else space + text


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of about ``width`` columns: cut between words, or anywhere in Chinese but in front of its punctuation."""
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for character in paragraph:
            line += character
            if _columns(line) > width and character not in "，。！？；：、”":
                head, _, tail = line.rpartition(" ")
                full, line = (head, tail) if head and tail.isascii() else (line[:-1], character)
                lines.append(full)
        lines.append(line)
    return lines


def shown_width(text: str) -> int:
    """Cells that a text takes on a terminal.

    >>> shown_width("a你")
    3
    """
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` cells, broken anywhere: Chinese has no spaces to break at."""
    lines = []
    for paragraph in text.split("\n"):
        line, used = "", 0
        for character in paragraph:
            if used + _cells(character) > width:
                lines.append(line)
                line, used = "", 0
            line += character
            used += _cells(character)
        lines.append(line)
    return lines


def _pad(text: str, width: int) -> str:
    return text + " " * (width - shown_width(text))
