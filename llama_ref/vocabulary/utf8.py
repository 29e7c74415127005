"""Whole characters from a stream of byte pieces.

A token is a piece of bytes, not of text: one Chinese character may arrive as three tokens. Whoever prints each token
as it comes shows three replacement characters. :class:`Utf8Stream` holds back the start of a character until its
last byte is there, and never changes a byte: what it lets through, joined, is what went in. Bytes that cannot become
a character (a model may well produce them) pass at once.
"""

from __future__ import annotations

__all__ = ["Utf8Stream", "complete_length", "printable"]

_LONGEST_START = 3  # bytes that a four-byte character may have before it is whole


def complete_length(data: bytes) -> int:
    """How many leading bytes of ``data`` do not depend on what follows.

    The rest is the valid but unfinished start of one character (at most three bytes).

    >>> complete_length("你".encode() + b"\\xe5\\xa5"), complete_length(b"a\\xff")
    (3, 2)
    """
    for held in range(min(_LONGEST_START, len(data)), 0, -1):
        if _is_unfinished(data[-held:]):
            return len(data) - held
    return len(data)


def _is_unfinished(tail: bytes) -> bool:
    """Whether ``tail`` is the beginning of exactly one character and needs more bytes (RFC 3629, table 3-7)."""
    try:
        tail.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start == 0 and error.reason == "unexpected end of data"
    return False


def printable(data: bytes) -> str:
    """``data`` on one line: what is no text or would not show becomes an escape.

    >>> print(printable("你\\n".encode() + b"\\xe4"))
    你\\n\\xe4
    """
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Utf8Stream:
    """Lets bytes through as soon as they are whole characters.

    >>> stream = Utf8Stream()
    >>> [stream.feed(byte) for byte in (b"\\xe4", b"\\xbd", b"\\xa0!")]
    [b'', b'', b'\\xe4\\xbd\\xa0!']
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes that are ready now that ``data`` has arrived."""
        data = self._held + data
        ready = complete_length(data)
        self._held = data[ready:]
        return data[:ready]

    def flush(self) -> bytes:
        """What is still held, as it is: the stream has ended, or something else is about to be written."""
        held, self._held = self._held, b""
        return held
