"""Generated text for a terminal: what a model writes may be an escape sequence, and a terminal obeys those.

A piece of a vocabulary is whatever the maker of the file put there. On a pipe every byte passes; on a terminal
sequences are removed whole, and so are other control characters but new line and tab.
"""

from __future__ import annotations

import re

__all__ = ["WithoutControls"]

LONGEST = 256  # characters of a sequence that are waited for; of what is longer, the control characters go alone
_CSI = r"(?:\x1b\[|\x9b)[0-?]*[ -/]*"
_STRING = r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*"
_SEQUENCE = re.compile(rf"{_CSI}[@-~]|{_STRING}(?:\x07|\x1b\\|\x9c)|\x1b[ -/]+[0-~]|\x1b[0-OQ-WYZ\\`-~]")
_BEGUN = re.compile(rf"(?:{_CSI}|{_STRING}\x1b?|\x1b[ -/]*)\Z")


class WithoutControls:
    """Removes control sequences from a stream of whole characters, also where they arrive in pieces.

    >>> terminal = WithoutControls()
    >>> [terminal.feed(piece) for piece in (b"a\\x1b]0;ti", b"tle\\x07b", b"\\x1b[31mred\\n")]
    [b'a', b'b', b'red\\n']
    """

    def __init__(self) -> None:
        self._begun = ""

    def feed(self, data: bytes) -> bytes:
        """What of the text can be shown now."""
        from ggmlpy.files.foreign import without_controls

        text = _SEQUENCE.sub("", self._begun + data.decode("utf-8", "replace"))
        begun = _BEGUN.search(text)
        self._begun = begun[0] if begun and len(begun[0]) <= LONGEST else ""
        return without_controls(text.removesuffix(self._begun), "\n\t").encode()

    def flush(self) -> None:
        """Forget a sequence that has begun: something else is written now."""
        self._begun = ""
