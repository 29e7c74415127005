"""Which modules a key of ``rank_pattern`` or ``alpha_pattern`` means, found in time that grows with the name alone.

PEFT's rule: a key is a regular expression for the whole name of a module or for its end behind a dot,
``re.match(rf"(.*\\.)?({key})$", module)``. Keys come from strangers, and Python's engine tries one alternative after
another: ``.?.?.?…!`` doubles its time with every ``.?``. Here the keys become an automaton whose states are all alive
at once (K. Thompson, Regular Expression Search Algorithm, CACM 11(6), 1968), so each character is looked at once::

    literal  \\.  .  \\d \\w \\s \\D \\W \\S  [a-z_]  [^0-9]  (…)  (?:…)  (?P<name>…)  a|b
    * + ? {m} {m,n}  ^ $ \\A \\Z \\b \\B

Lazy quantifiers find the same modules as greedy ones. What looks back or ahead (``\\1``, ``(?=``) or changes what
other characters mean (``(?i)``) is refused.

Source: peft 0.14 ``utils/other.py`` (get_pattern_key); Python ``re``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["ModulePatterns"]

LARGEST_KEY = 4096  # characters of a key; a list of names in one key may be long
LARGEST_AUTOMATON = 1 << 16  # states of all keys; a key per matrix of 80 layers needs half; {m,n} is written n times
LARGEST_WORK = 2 << 20  # states looked at for all modules: about two seconds; such a list of keys takes a quarter
DEEPEST = 50  # groups in groups

Test = Callable[[str], bool]
Fragment = Callable[[int], int]  # the state that goes on -> the state that begins


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


CLASSES: dict[str, Test] = {
    "d": str.isdecimal,
    "D": lambda char: not char.isdecimal(),
    "w": _is_word,
    "W": lambda char: not _is_word(char),
    "s": str.isspace,
    "S": lambda char: not char.isspace(),
}
CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
# (character before or "", character behind or "") -> whether the place between them is meant
ANCHORS: dict[str, Callable[[str, str], bool]] = {
    "^": lambda before, behind: not before,
    "A": lambda before, behind: not before,
    "$": lambda before, behind: not behind,
    "Z": lambda before, behind: not behind,
    "b": lambda before, behind: (bool(before) and _is_word(before)) != (bool(behind) and _is_word(behind)),
    "B": lambda before, behind: (bool(before) and _is_word(before)) == (bool(behind) and _is_word(behind)),
}


@dataclass(frozen=True)
class _State:
    """Goes on by a character that passes ``test``; without one to ``next`` and ``other``, if ``anchor`` holds there."""

    next: int
    test: Test | None = None
    anchor: Callable[[str, str], bool] | None = None
    other: int = -1


class ModulePatterns:
    """The keys of one table, in their order, as one automaton; what follows on a state is worked out once.

    >>> patterns = ModulePatterns([r"layers\\.(0|1)\\..*_proj", "down_proj"])
    >>> [patterns.first(f"model.layers.{layer}.mlp.down_proj") for layer in (0, 2)], patterns.first("model.norm")
    ([0, 1], None)

    Raises:
        ValueError: a key is no regular expression, too large, or looks back or ahead.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._states: list[_State] = []
        self._ends: dict[int, int] = {}  # state that ends a key -> which key
        starts = [self._compile(key, number) for number, key in enumerate(keys)]
        self._core_of: dict[frozenset[int], int] = {}
        self._cores: list[frozenset[int]] = []
        self._next: dict[tuple[int, str, str], int | None] = {}
        self._work = 0
        self._start = self._number(frozenset((*starts, self._behind_a_dot(starts))))

    def first(self, module: str) -> int | None:
        """Which key means this module: the first one that does, or None.

        Raises:
            ValueError: the keys keep too many alternatives alive for names like these.
        """
        core, before = self._start, ""
        for behind in (*module, ""):
            known = (core, before, behind)
            if known not in self._next:
                self._next[known] = self._step(*known)
            core, before = self._next[known] or 0, behind
        return self._next[known]

    def _compile(self, key: str, number: int) -> int:
        parser = _Parser(key, self._states)
        end = parser.add(_State(-1))
        self._ends[end] = number
        return parser.parse()(end)

    def _behind_a_dot(self, starts: Sequence[int]) -> int:
        """The ``(.*\\.)?`` in front of all keys: any characters, a dot, and there each key begins."""
        add = _Parser("", self._states).add
        begin = functools.reduce(lambda other, start: add(_State(start, other=other)), starts, -1)
        dot = add(_State(begin, test=".".__eq__))
        again = add(_State(len(self._states) + 1, test=_not_newline))
        return add(_State(again, other=dot))

    def _step(self, core: int, before: str, behind: str) -> int | None:
        """The states behind a character; at the end of a name the key that is found."""
        reached = self._closure(self._cores[core], before, behind)
        if not behind:
            return min((self._ends[i] for i in reached if i in self._ends), default=None)
        states = (self._states[i] for i in reached)
        return self._number(frozenset(s.next for s in states if s.test is not None and s.test(behind)))

    def _closure(self, core: frozenset[int], before: str, behind: str) -> set[int]:
        """All states that are reached from these without a character."""
        seen, todo = set(core), list(core)
        while todo:
            state = self._states[todo.pop()]
            if state.test is None and (state.anchor is None or state.anchor(before, behind)):
                new = [i for i in (state.next, state.other) if i >= 0 and i not in seen]
                seen.update(new)
                todo += new
        self._work += len(seen)
        if self._work > LARGEST_WORK:
            raise ValueError("too complicated: too many ways to match the names of modules")
        return seen

    def _number(self, core: frozenset[int]) -> int:
        number = self._core_of.setdefault(core, len(self._cores))
        if number == len(self._cores):
            self._cores.append(core)
        return number


def _not_newline(char: str) -> bool:
    return char != "\n"


class _Parser:
    """A pattern as nested fragments: each is built in front of the state that goes on behind it."""

    def __init__(self, text: str, states: list[_State]) -> None:
        self.text, self.at, self.depth, self.states = text, 0, 0, states

    def parse(self) -> Fragment:
        """The whole pattern."""
        if len(self.text) > LARGEST_KEY:
            raise ValueError(f"{len(self.text):,} characters; at most {LARGEST_KEY:,} are read")
        fragment = self.alternatives()
        if self.at < len(self.text):
            raise self.refuse(") without (")
        return fragment

    def add(self, state: _State) -> int:
        if len(self.states) >= LARGEST_AUTOMATON:
            raise ValueError(f"too complicated: {self.text[:80]!r}")
        self.states.append(state)
        return len(self.states) - 1

    def refuse(self, problem: str) -> ValueError:
        return ValueError(f"{self.text[:80]!r}: {problem} at position {self.at}")

    def take(self, wanted: str) -> bool:
        """Whether the text goes on with this; then it is behind it."""
        found = self.text.startswith(wanted, self.at)
        self.at += len(wanted) * found
        return found

    def alternatives(self) -> Fragment:
        """``a|b|c``."""
        branches = [self.sequence()]
        while self.take("|"):
            branches.append(self.sequence())
        if len(branches) == 1:
            return branches[0]
        return lambda after: functools.reduce(
            lambda other, branch: self.add(_State(branch(after), other=other)), branches[1:], branches[0](after)
        )

    def sequence(self) -> Fragment:
        """Pieces one behind the other, up to ``|``, ``)`` or the end."""
        parts = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            parts.append(self.piece())
        return lambda after: functools.reduce(lambda state, part: part(state), reversed(parts), after)

    def piece(self) -> Fragment:
        """One item and how often it comes."""
        is_anchor = self.text[self.at] in "^$" or self.text[self.at : self.at + 2] in (r"\A", r"\Z", r"\b", r"\B")
        item = self.item()
        bounds = self.quantifier()
        if bounds is None:
            return item
        if is_anchor:
            raise self.refuse("nothing to repeat")
        if self.take("+"):
            raise self.refuse("a possessive quantifier is not supported")
        self.take("?")  # lazy
        if self.quantifier() is not None:
            raise self.refuse("a repeated repetition")
        return self.repeated(item, *bounds)

    def quantifier(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(sign):
                return bounds
        match = re.compile(r"\{(\d{0,6})(,?)(\d{0,6})\}").match(self.text, self.at)
        if match is None or not any(match.groups()):
            return None
        self.at = match.end()
        low = int(match[1] or 0)
        high = low if not match[2] else int(match[3]) if match[3] else None
        if high is not None and high < low:
            raise self.refuse("a repetition whose bounds are the wrong way round")
        return low, high

    def repeated(self, item: Fragment, low: int, high: int | None) -> Fragment:
        def build(after: int) -> int:
            state = after
            if high is None:
                state = self.add(_State(after, other=after))
                self.states[state] = _State(item(state), other=after)
            for _ in range((high or low) - low):
                state = self.add(_State(item(state), other=after))
            for _ in range(low):
                state = self.add(_State(item(state)))
            return state

        return build

    def item(self) -> Fragment:
        """A character, a class, an anchor or a group."""
        char = self.text[self.at]
        if char in "*+?":
            raise self.refuse("nothing to repeat")
        self.at += 1
        if char == "(":
            return self.group()
        if char == "[":
            return self.one_of(self.char_class())
        if char == ".":
            return self.one_of(_not_newline)
        if char in "^$":
            return self.anchor(char)
        if char == "\\":
            return self.escape()
        return self.one_of(char.__eq__)

    def one_of(self, test: Test) -> Fragment:
        return lambda after: self.add(_State(after, test=test))

    def anchor(self, sign: str) -> Fragment:
        return lambda after: self.add(_State(after, anchor=ANCHORS[sign]))

    def group(self) -> Fragment:
        name = re.compile(r"\?P<\w+>").match(self.text, self.at)
        if name:
            self.at = name.end()
        elif not self.take("?:") and self.take("?"):
            raise self.refuse("(? other than (?: is not supported")
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.refuse("too many groups in groups")
        inner = self.alternatives()
        self.depth -= 1
        if not self.take(")"):
            raise self.refuse("( without )")
        return inner

    def escape(self) -> Fragment:
        sign = self.text[self.at : self.at + 1]
        if sign in tuple("AZbB"):
            self.at += 1
            return self.anchor(sign)
        return self.one_of(self.escaped())

    def escaped(self) -> Test:
        """Behind a backslash: a class, a control character or the character itself."""
        sign = self.text[self.at : self.at + 1]
        if sign in CLASSES:
            self.at += 1
            return CLASSES[sign]
        if not sign or (sign.isalnum() and sign.isascii() and sign not in CONTROLS):
            raise self.refuse(f"\\{sign} is not supported")
        self.at += 1
        return CONTROLS.get(sign, sign).__eq__

    def char_class(self) -> Test:
        """Behind ``[``: single characters, ranges and classes."""
        negated = self.take("^")
        tests = [*self._first_bracket()]
        while not self.take("]"):
            if self.at >= len(self.text):
                raise self.refuse("[ without ]")
            tests.append(self._range())
        return lambda char: any(test(char) for test in tests) != negated

    def _first_bracket(self) -> Iterator[Test]:
        if self.take("]"):
            yield "]".__eq__

    def _range(self) -> Test:
        low = self._class_character()
        if callable(low):
            return low
        following = self.text[self.at + 1 : self.at + 2]
        if self.text[self.at : self.at + 1] != "-" or following in ("]", ""):
            return low.__eq__
        self.at += 1
        high = self._class_character()
        if callable(high) or high < low:
            raise self.refuse("a range whose ends are the wrong way round")
        return lambda char: low <= char <= high

    def _class_character(self) -> str | Test:
        char = self.text[self.at]
        self.at += 1
        if char != "\\":
            return char
        sign = self.text[self.at : self.at + 1]
        test = self.escaped()
        return test if sign in CLASSES else CONTROLS.get(sign, sign)
