"""Text in columns: Chinese characters take two cells of a terminal, combining marks none."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from typing import TextIO

__all__ = ["aligned", "continued", "fitted", "padded", "shown_width", "terminal_width", "wrapped"]

NEVER_FIRST = "，。！？；：、”"  # Chinese punctuation does not begin a line
_WIDE = "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6"
_PARTS = re.compile(rf"\s+|[{_WIDE}][{NEVER_FIRST}]*|[^\s{_WIDE}]+")  # a line is broken between them
_COLOR = re.compile("\033\\[[0-9;]*m")
_WORDS = re.compile(r"""(?:"[^"]*"|'[^']*'|\S)+""")  # of a command
CONTINUED = " \\"


def terminal_width(stream: TextIO | None = None) -> int:
    """Cells in a line of the terminal that stdout is, or ``stream``; 100 if none is."""
    from shutil import get_terminal_size  # slow to import, and every command starts with this module

    if stream is not None and "COLUMNS" not in os.environ:
        try:
            return os.get_terminal_size(stream.fileno()).columns or 100
        except (OSError, ValueError):
            return 100
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


def fitted(line: str, width: int, program: str = "") -> list[str]:
    """A line on a terminal: broken between words where it is wider, and the rest indented.

    A word that is wider than a line stays whole, so that a path or a digest can be copied; a command of ``program``
    is continued as a shell wants it, and what comes next in a message has a line of its own.

    >>> fitted("  files  a.bin, b.bin, c.bin", 20)
    ['  files  a.bin,', '    b.bin, c.bin']
    >>> fitted("a.bin: this is cut off. Next: ggmlpy verify a.bin", 30, "ggmlpy")
    ['a.bin: this is cut off.', 'Next: ggmlpy verify a.bin']
    """
    if _visible_width(line) <= width:
        return [line]
    now, mark, after = line.partition(" Next: ")
    if mark:
        return [*fitted(now, width, program), *fitted(f"Next: {after}", width, program)]
    if program and re.match(rf"\s*(?:Next: )?{re.escape(program)} ", line) and not re.search("[,;] ", line):
        return continued(line, width)
    hanging = " " * min(len(line) - len(line.lstrip()) + 2, width // 2)
    lines = [""]
    for part in _PARTS.findall(line):
        if lines[-1].strip() and _visible_width(lines[-1] + part) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append(hanging + part.strip())
        else:
            lines[-1] += part.lstrip() if len(lines) > 1 and lines[-1] == hanging else part
    return [line for line in lines if line.strip()]


def continued(command: str, width: int) -> list[str]:
    """A shell command in lines of at most ``width`` cells, as they can be pasted; a longer word stays whole.

    >>> print(*continued('  ggmlpy generate -m m.bin -p "to be"', 24), sep="\\n")
      ggmlpy generate -m \\
          m.bin -p "to be"
    """
    indent = command[: len(command) - len(command.lstrip())]
    lines = [""]
    for word in _WORDS.findall(command):
        longer = f"{lines[-1]} {word}" if lines[-1].strip() else lines[-1] + (indent if len(lines) == 1 else "") + word
        if lines[-1].strip() and shown_width(longer + CONTINUED) > width:
            lines.append(f"{indent}    {word}")
        else:
            lines[-1] = longer
    return [line + CONTINUED for line in lines[:-1]] + lines[-1:]


def _visible_width(painted: str) -> int:
    return shown_width(_COLOR.sub("", painted))


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
