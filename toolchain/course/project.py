"""What a project is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Difference", "Mistake", "Project"]

Answer = Callable[[Path], bytes]


@dataclass(frozen=True)
class Difference:
    """Where an output is not as it should be; never what should stand there.

    Attributes:
        words: the place, and what was found.
        hint: what to look at, where the difference itself tells it.
    """

    words: str
    hint: str = ""


@dataclass(frozen=True)
class Mistake:
    """A mistake that people make.

    Attributes:
        hint: what to read again.
        answer: what a program that makes it writes. It may raise: then no program gets that far.
    """

    hint: str
    answer: Answer


@dataclass(frozen=True)
class Project:
    """One project.

    Attributes:
        number, slug: "3" and "q4_0"; its page is docs/course/03-q4_0.md.
        title, chinese: what it is called.
        kinds: a check makes one input of each.
        make: writes an input of a kind into a directory and returns its path, a file or a directory.
        output: what an output is called.
        answer: what the output has to be, as the toolchain itself computes it.
        differ: compares an output with the answer, given the input; None if it is right.
        mistakes: in the order in which they are looked for.
        refused: kinds whose input a program has to refuse, by ending with another exit code than 0.
        watch: looks for what a program must not have done with an input; "" if all is well.
    """

    number: int
    slug: str
    title: str
    chinese: str
    kinds: tuple[str, ...]
    make: Callable[[np.random.RandomState, str, Path], Path]
    output: str
    answer: Answer
    differ: Callable[[Path, bytes, bytes], Difference | None]
    mistakes: tuple[Mistake, ...] = ()
    refused: frozenset[str] = frozenset()
    watch: Callable[[Path], str] = lambda path: ""

    @property
    def page(self) -> str:
        return f"docs/course/{self.number:02}-{self.slug}.md"

    def hint_for(self, source: Path, found: bytes) -> str:
        """The hint of the first mistake that gives this very output, where the right answer is another."""
        for mistake in self.mistakes:
            try:
                wrong = mistake.answer(source)
            except (ValueError, IndexError, OverflowError, KeyError):
                continue
            if self.differ(source, wrong, found) is None and self.differ(source, self.answer(source), wrong):
                return mistake.hint
        return ""
