"""Texts at which an answer ends, found in a text that arrives in pieces."""

from __future__ import annotations

__all__ = ["StopWords"]


class StopWords:
    """Cuts an answer at the first of some texts, and holds back what may be the beginning of one.

    >>> words = StopWords(("END",))
    >>> words.feed("abE"), words.feed("N"), words.feed("x"), words.feed("..END!"), words.found
    ('ab', '', 'ENx', '..', True)
    """

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = tuple(word for word in words if word)
        self.held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What may be shown now; sets ``found`` at a stop word."""
        if not self.words:
            return text
        text = self.held + text
        places = [place for place in map(text.find, self.words) if place >= 0]
        if places:
            self.found, self.held = True, ""
            return text[: min(places)]
        keep = max((_begun(text, word) for word in self.words), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, when the answer ends otherwise."""
        text, self.held = self.held, ""
        return text


def _begun(text: str, word: str) -> int:
    """How many characters at the end of a text are the beginning of a word."""
    return next((n for n in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:n])), 0)
