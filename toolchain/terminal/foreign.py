"""Text that somebody else wrote, made safe to show: a terminal obeys control characters."""

from __future__ import annotations

import unicodedata

__all__ = ["escape"]


def escape(text: str, mark: str | None = None) -> str:
    """The text with its control characters, new lines excepted, as escapes or as ``mark``.

    >>> escape("red: \\x1b[31m"), escape("red: \\x1b[31m", "?")
    ('red: \\\\x1b[31m', 'red: ?[31m')
    """
    return "".join(c if c == "\n" or not _is_control(c) else mark or f"\\x{ord(c):02x}" for c in text)


def _is_control(character: str) -> bool:
    return unicodedata.category(character)[0] == "C"
