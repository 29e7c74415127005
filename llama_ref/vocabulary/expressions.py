r"""Regular expressions that cut texts, read the way their own programs read them, whatever Python's Unicode is.

An expression is compiled in three steps. Its sets of characters (``\p{L}``, ``[^\r\n]``, a literal) become sets of
code points (:mod:`.character_sets`). Those divide Unicode into an alphabet of a few letters. The expression is
rewritten over that alphabet and run on the text written in it: one byte per character, and sets of a few letters
instead of thousands of ranges.

==========  ===================================  =====================================================================
dialect     programs                             differences
==========  ===================================  =====================================================================
ONIGURUMA   Hugging Face's ``tokenizers``        Unicode 16.0; ``$`` is the end of any line
LLAMA_CPP   llama.cpp, with C++'s std::regex     Unicode 15.1; ``\d``, ``\w`` are ASCII; any case of letter is
                                                 ``\p{L}``; ``~`` is not a symbol; white space beyond ASCII counts as
                                                 U+000B, so that no literal matches it
==========  ===================================  =====================================================================

>>> expression(r"\p{N}{1,3}|\p{L}+", LLAMA_CPP).cut("abc1234 é٣")
['abc', '123', '4', ' ', 'é', '٣']
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex

from ggmlpy.files.errors import FormatError, UnsupportedError

from . import character_sets as sets
from .character_sets import WHITE_SPACE, CharacterSet, one_of, span, union

__all__ = ["LLAMA_CPP", "ONIGURUMA", "Dialect", "Expression", "expression"]

CIRCLED_LETTERS = union(span(0x24B6, 0x24E9), *(span(first, first + 25) for first in (0x1F130, 0x1F150, 0x1F170)))
SECONDS = 20.0  # of processor time for one text: an expression that tries everything would never end


@dataclass(frozen=True)
class Dialect:
    """How a program reads an expression.

    Attributes:
        unicode: the version of Unicode whose categories it knows.
        ascii: whether ``\\d``, ``\\w`` and ``\\b`` mean ASCII alone, and ``\\p{Lu}`` any letter.
    """

    unicode: str
    ascii: bool

    def named(self, name: str) -> CharacterSet:
        r"""The set ``\p{name}``.

        Raises:
            KeyError: no such category.
        """
        if self.ascii and name in ("Lu", "Ll", "Lt", "Lm", "Lo"):
            name = "L"
        if name == sets.HAN:
            return sets.script_han()
        found = sets.category(name, self.unicode)
        return sets.intersection(found, sets.inverted(one_of("~"))) if self.ascii and name == "S" else found

    def letter(self, letter: str) -> CharacterSet:
        r"""The set ``\s``, ``\d`` or ``\w``."""
        if letter == "s":
            return WHITE_SPACE
        if self.ascii:
            digits = span(48, 57)
            return digits if letter == "d" else union(digits, span(65, 90), span(97, 122), one_of("_"))
        digits = self.named("Nd")
        return digits if letter == "d" else union(*map(self.named, ("L", "M", "Nl", "Pc")), digits, CIRCLED_LETTERS)


ONIGURUMA = Dialect("16.0", ascii=False)
LLAMA_CPP = Dialect("15.1", ascii=True)


class Expression:
    """A compiled expression."""

    def __init__(self, source: str, dialect: Dialect) -> None:
        self._source = source
        parts = _Reader(source, dialect).parts
        self._table, letters = sets.alphabet_of([part for part in parts if not isinstance(part, str)])
        if dialect.ascii:
            beyond = sets.intersection(WHITE_SPACE, span(0x80, sets.CODE_POINTS - 1))
            for start, stop in beyond.reshape(-1, 2).tolist():
                self._table[start:stop] = self._table[0x0B]
        each = iter(letters)
        written = "".join(part if isinstance(part, str) else _written(next(each)) for part in parts)
        try:
            self._compiled = regex.compile(written, regex.VERSION0)
        except (regex.error, RecursionError) as error:
            raise _unreadable(source, str(error)) from error

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where it matches, one match after another."""
        code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        letters = self._table[code_points].tobytes().decode("latin-1")
        try:
            for found in self._compiled.finditer(letters, timeout=SECONDS):
                yield found.span()
        except TimeoutError as error:
            raise UnsupportedError(
                "an expression takes too long on this text", field=self._source[:80], expected=f"{SECONDS:g} seconds"
            ) from error

    def cut(self, text: str) -> list[str]:
        """The text in pieces: the matches, and what is left between them."""
        pieces, done = [], 0
        for start, stop in self.spans(text):
            if start > done:
                pieces.append(text[done:start])
            if stop > start:
                pieces.append(text[start:stop])
            done = stop
        if done < len(text):
            pieces.append(text[done:])
        return pieces


@lru_cache(maxsize=64)
def expression(source: str, dialect: Dialect) -> Expression:
    """Compile an expression.

    Raises:
        FormatError: it cannot be read.
        UnsupportedError: it uses something that has no meaning over an alphabet (a reference to a group).
    """
    return Expression(source, dialect)


def _written(letters: list[str]) -> str:
    """A set of letters as an expression."""
    if not letters:
        return "(?!)"
    return "[" + "".join(f"\\x{ord(letter):02x}" for letter in letters) + "]"


def _unreadable(source: str, why: str) -> FormatError:
    return FormatError("a regular expression cannot be read", field=source[:80], cause=why[:120])


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b", "0": "\0"}
_QUANTIFIER = re.compile(r"(?:[*+?]|\{\d*,?\d*\})")
_GROUP = re.compile(r"\?(?:([imx]*)(?:-([imx]+))?([:)])|(=|!|<=|<!|>)|<\w+>|P<\w+>)")
_NUMBERED = re.compile(r"x\{([0-9A-Fa-f]{1,6})\}|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})")
_PROPERTY = re.compile(r"([pP])\{(\^?)(\w+)\}")
_POSIX = re.compile(r":(\^?)(\w+):\]")
_CLASSES = {
    **{"alpha": ("L", "M", "Nl"), "digit": ("Nd",), "alnum": ("L", "M", "Nl", "Nd"), "punct": ("P", "S")},
    **{"upper": ("Lu",), "lower": ("Ll",), "space": ("Z",)},
}
LONGEST_CASED = 1024  # characters of a range whose other cases are looked up
_OTHER_CASES = {"s": "ſ", "k": "\u212a", "S": "ſ", "K": "\u212a"}  # beside lower and upper


class _Reader:
    """An expression as a list of parts: sets of characters, and what stands between them as it is."""

    def __init__(self, source: str, dialect: Dialect) -> None:
        self.source, self.dialect = source, dialect
        self.at = 0
        self.parts: list[str | CharacterSet] = []
        self._groups: list[tuple[int, bool]] = []  # where each open group began, and whether case counted outside
        self._any_case = False
        self._atom = 0  # where the last atom begins in the parts: what a quantifier repeats
        while self.at < len(source):
            self._read_part()

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.source, self.at)
        if found:
            self.at = found.end()
        return found

    def _next(self) -> str:
        if self.at >= len(self.source):
            raise _unreadable(self.source, "it ends too early")
        self.at += 1
        return self.source[self.at - 1]

    def _add_set(self, members: CharacterSet) -> None:
        self._atom = len(self.parts)
        self.parts.append(members)

    def _read_part(self) -> None:
        quantifier = self._match(_QUANTIFIER)
        if quantifier and quantifier[0] != "{}":
            self._quantify(quantifier[0])
            return
        character = self._next()
        if character == "(":
            self._open_group()
        elif character == ")":
            self._close_group()
        elif character == "|":
            self.parts.append(character)
        elif character in "^$":
            self._line_end(at_end=character == "$")
        elif character == ".":
            self._add_set(sets.inverted(one_of("\n")))
        elif character == "[":
            self._add_set(self._set())
        elif character == "\\":
            self._escape()
        else:
            self._add_set(self._cased(character))

    def _quantify(self, quantifier: str) -> None:
        follows = self.source[self.at : self.at + 1]
        if quantifier[0] == "{" and follows == "+":  # Oniguruma: the repetition, repeated; elsewhere possessive
            self.at += 1
            self.parts[self._atom : self._atom] = ["(?:"]
            self.parts.append(f"{quantifier})+")
        elif follows and follows in "?+":
            self.at += 1
            self.parts.append(quantifier + follows)
        else:
            self.parts.append(quantifier)

    def _open_group(self) -> None:
        outside = self._any_case
        found = self._match(_GROUP)
        if found and found[3]:
            on, off = found[1] or "", found[2] or ""
            self._any_case = ("i" in on or self._any_case) and "i" not in off
            if set(on + off) - {"i"}:
                raise UnsupportedError("a regular expression has options", field=self.source[:80], found=found[0])
            if found[3] == ")":
                return  # to the end of the group around it
        self._groups.append((len(self.parts), outside))
        self.parts.append(f"(?{found[4]}" if found and found[4] else "(?:")

    def _close_group(self) -> None:
        if not self._groups:
            raise _unreadable(self.source, "a parenthesis too many")
        self._atom, self._any_case = self._groups.pop()
        self.parts.append(")")

    def _escape(self) -> None:
        if self.source[self.at : self.at + 1] in ("b", "B"):
            self._boundary(self._next() == "B")
        elif self.source[self.at : self.at + 1] in ("A", "z", "Z"):
            self.parts.append({"A": r"\A", "z": r"\Z", "Z": r"(?=\Z)"}[self._next()])
        else:
            self._add_set(self._escaped())

    def _line_end(self, *, at_end: bool) -> None:
        """Of any line in Ruby's syntax, which Oniguruma reads; of the text in C++'s."""
        newline = one_of("" if self.dialect.ascii else "\n")
        self.parts += ["(?:(?=", newline, r")|\Z)"] if at_end else ["(?:(?<=", newline, r")|\A)"]

    def _boundary(self, not_there: bool) -> None:
        word = self.dialect.letter("w")
        first, second = ("(?<=", "(?<!") if not_there else ("(?<!", "(?<=")
        for before, after, end in ((first, "(?=", ")|"), (second, "(?!", "))")):
            self.parts += ["(?:" if end == ")|" else "", before, word, ")", after, word, end]

    def _escaped(self) -> CharacterSet:
        """What a backslash begins: a property, a class, a character by its number, or a character itself."""
        if found := self._match(_PROPERTY):
            try:
                members = self.dialect.named(found[3])
            except KeyError as error:
                raise UnsupportedError("an unknown property", field=self.source[:80], found=found[0]) from error
            return sets.inverted(members) if (found[1] == "P") != (found[2] == "^") else members
        if found := self._match(_NUMBERED):
            number = int(found[1] or found[2] or found[3], 16)
            if number >= sets.CODE_POINTS:
                raise _unreadable(self.source, f"no character has the number {number:#x}")
            return self._cased(chr(number))
        character = self._next()
        if character.lower() in ("s", "d", "w"):
            members = self.dialect.letter(character.lower())
            return sets.inverted(members) if character.isupper() else members
        if character in _CONTROLS:
            return one_of(_CONTROLS[character])
        if character.isascii() and character.isalnum():
            raise UnsupportedError("not understood in an expression", field=self.source[:80], found="\\" + character)
        return self._cased(character)

    def _cased(self, character: str) -> CharacterSet:
        if not self._any_case:
            return one_of(character)
        same = {character, character.lower(), character.upper(), *_OTHER_CASES.get(character, "")}
        return one_of("".join(each for each in sorted(same) if len(each) == 1))

    def _set(self) -> CharacterSet:
        """From behind a bracket to its end: characters, ranges, classes, sets in sets, and ``&&``."""
        without = self.source[self.at : self.at + 1] == "^"
        self.at += without
        halves: list[list[CharacterSet]] = [[]]
        first = self.at
        while (character := self._next()) != "]" or self.at == first + 1:
            if character == "[" and (posix := self._match(_POSIX)):
                halves[-1].append(self._posix(posix[2], bool(posix[1])))
            elif character == "[":
                halves[-1].append(self._set())
            elif character == "&" and self.source[self.at : self.at + 1] == "&":
                self.at += 1
                halves.append([])
            else:
                halves[-1].append(self._range(character))
        members = sets.intersection(*(union(*half) for half in halves))
        return sets.inverted(members) if without else members

    def _posix(self, name: str, without: bool) -> CharacterSet:
        categories = _CLASSES.get(name)
        if categories is None:
            raise UnsupportedError("an unknown class", field=self.source[:80], found=f"[:{name}:]")
        members = WHITE_SPACE if name == "space" else union(*map(self.dialect.named, categories))
        return sets.inverted(members) if without else members

    def _range(self, character: str) -> CharacterSet:
        """A character or class of a set, or a range that begins with it."""
        begin = self._member(character)
        is_range = self.source[self.at : self.at + 1] == "-" and self.source[self.at + 1 : self.at + 2] not in ("]", "")
        if is_range and len(begin) == 2 and begin[1] - begin[0] == 1:
            self.at += 1
            end = self._member(self._next())
            if len(end) != 2 or end[0] < begin[0] or end[1] - end[0] != 1:
                raise _unreadable(self.source, "a range without order")
            begin = span(int(begin[0]), int(end[0]))
        if self._any_case and len(begin) == 2 and begin[1] - begin[0] <= LONGEST_CASED:
            return union(*(self._cased(chr(each)) for each in range(int(begin[0]), int(begin[1]))))
        return begin

    def _member(self, character: str) -> CharacterSet:
        """One character or class, in the case in which it stands."""
        any_case, self._any_case = self._any_case, False
        try:
            return self._escaped() if character == "\\" else one_of(character)
        finally:
            self._any_case = any_case
