"""JSON text as lines of a dump: one for each number, text or other single value, with the keys that lead to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ggmlpy.formats.fields import Cursor

from .lines import Line, line_at

__all__ = ["BETWEEN", "json_lines"]

BETWEEN = "what stands between the values of JSON"
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|[^\s{}\[\],:"]+')
MANY_CHARACTERS = 120


@dataclass
class _Level:
    """An object or an array that is being read; ``key`` and ``start`` are of the member at work."""

    path: str
    is_object: bool
    key: str = ""
    start: int = -1
    index: int = 0

    def name(self) -> str:
        """Where its next value is."""
        if not self.is_object:
            return f"{self.path}[{self.index}]"
        return f"{self.path}.{self.key}" if re.fullmatch(r"\w+", self.key) else f"{self.path}[{self.key}]"

    def begin_next(self) -> None:
        self.start, self.index = -1, self.index + 1


def json_lines(cursor: Cursor, size: int, path: str) -> Iterator[Line]:
    """The values in ``size`` bytes of JSON at the cursor, which is known to be whole.

    >>> [line.path for line in json_lines(Cursor(b'{"a": [1, {"b.c": "d"}]}'), 24, "params")]
    ['params.a[0]', 'params.a[1][b.c]']
    """
    base = cursor.offset
    text = bytes(cursor.buffer[base : base + size]).decode("latin-1")  # a character for each byte
    levels: list[_Level] = []
    for token in _TOKEN.finditer(text):
        level, start = levels[-1] if levels else None, token.start()
        if token[0] in "}]":
            levels.pop()
            if levels:
                levels[-1].begin_next()
        elif level and level.is_object and level.start < 0:
            level.key, level.start = json.loads(token[0].encode("latin-1")), start
        elif token[0] in "{[":
            levels.append(_Level(level.name() if level else path, token[0] == "{"))
        else:
            start = level.start if level and level.is_object else start
            said = token[0].encode("latin-1").decode("utf-8", "backslashreplace")
            more = f"{said[:MANY_CHARACTERS]} …" if len(said) > MANY_CHARACTERS else said
            yield line_at(cursor, base + start, token.end() - start, level.name() if level else path, more, "")
            if level:
                level.begin_next()
