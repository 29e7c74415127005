"""Whole characters from a stream of byte pieces.

A token is a piece of bytes, not of text: one Chinese character may arrive as three tokens. Whoever prints each token
as it comes shows three replacement characters. :class:`Utf8Stream` holds back the start of a character until its
last byte is there, and never changes a byte: what it lets through, joined, is what went in. Bytes that cannot become
a character (a model may well produce them) pass at once.
"""

from __future__ import annotations

from ggmlpy.files.errors import VocabularyError

__all__ = ["Utf8Stream", "complete_length", "lenient_text", "printable"]

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


_LEADS = ((0x80, 0x00, 1), (0xE0, 0xC0, 2), (0xF0, 0xE0, 3), (0xF8, 0xF0, 4))  # mask, value, length of a character


def lenient_text(data: bytes) -> str:
    """Bytes as llama.cpp reads UTF-8: overlong forms and surrogates are characters, other faults are U+FFFD each.

    Raises:
        VocabularyError: a number above U+10FFFF, which llama.cpp gives up on.

    >>> lenient_text(b"a\\xff\\xc0\\x80"), lenient_text("你".encode()[:2])
    ('a\ufffd\\x00', '\ufffd\ufffd')
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    characters, at = [], 0
    while at < len(data):
        length = next((length for mask, value, length in _LEADS if data[at] & mask == value), 0)
        rest = data[at + 1 : at + length]
        if not length or len(rest) != length - 1 or any(byte & 0xC0 != 0x80 for byte in rest):
            characters.append("\ufffd")
            at += 1
            continue
        code_point = data[at] & (0x7F if length == 1 else 0x7F >> length)
        for byte in rest:
            code_point = code_point << 6 | byte & 0x3F
        if code_point > 0x10FFFF:
            raise VocabularyError("the text holds a number that is not a character", offset=at, found=hex(code_point))
        characters.append(chr(code_point))
        at += length
    return "".join(characters)


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
        ready = len(data) if data.isascii() else complete_length(data)
        self._held = data[ready:]
        return data[:ready]

    def flush(self) -> bytes:
        """What is still held, as it is: the stream has ended, or something else is about to be written."""
        held, self._held = self._held, b""
        return held
