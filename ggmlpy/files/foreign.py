r"""Text that somebody else wrote, made safe to show on one line.

Names of tensors, keys, values of JSON, members of archives, names of files: whoever made a file chose them. A terminal
obeys control characters, a line break begins a line that looks like the program's own, and marks of writing direction
show text in another order than it has. Such characters are shown as escapes; all others, Chinese and emoji with their
joiners included, stay as they are.

=======================  ==============================================================================================
U+0000–001F, 007F–009F   control characters (C0, DEL, C1): escape sequences, line breaks, tabs
U+2028, 2029             separators of lines and paragraphs
U+061C, 200E–200F,       marks, embeddings, overrides and isolates of writing direction
202A–202E, 2066–2069
U+00AD, 180E, 200B,      other characters without a shape: soft hyphen, zero-width space, byte order mark, annotations,
2060–2065, 206A–206F,    the language tag; joiners (U+200C, 200D) and the tags of flags do shape text, and stay
FEFF, FFF9–FFFB, E0001
U+D800–DFFF              halves of a character; Python puts bytes there that are no text in the name of a file
=======================  ==============================================================================================
"""

from __future__ import annotations

import re

__all__ = ["UNSAFE", "visible", "without_controls"]

#: one unsafe character
UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0001]"
)
_BYTES = range(0xDC80, 0xDD00)  # where "surrogateescape" puts the bytes 0x80–0xFF


def visible(text: str, keep: str = "") -> str:
    """The text with unsafe characters as escapes, except those in ``keep``.

    >>> print(visible("red: \\x1b[31m\\nok, \\u202e你好 👩\\u200d🚀"))
    red: \\x1b[31m\\nok, \\u202e你好 👩‍🚀
    """
    if text.isprintable():
        return text
    return UNSAFE.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def without_controls(text: str, keep: str = "", mark: str = "") -> str:
    """The text with ``mark`` in place of each unsafe character, except those in ``keep``.

    >>> without_controls("a\\nb\\x07", keep="\\n")
    'a\\nb'
    """
    return text if text.isprintable() else UNSAFE.sub(lambda found: found[0] if found[0] in keep else mark, text)


def _escape(character: str) -> str:
    if ord(character) in _BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
