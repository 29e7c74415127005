"""The shape of every verdict: a sentence, lines of text, JSON, JUnit XML, an exit code, and a table in a notebook.

A comparison that ends in "the same" or "not the same" returns a subclass of :class:`Verdict`, so that one printer shows
them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from ggmlpy.files.foreign import visible
from ggmlpy.files.html import html_columns

__all__ = ["Table", "Verdict", "junit", "markdown_table"]

Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # headings, rows


class Verdict(ABC):
    """What a comparison came to.

    A subclass gives the exit code, the sentence, and what it knows for JSON; the rest follows, or is refined.
    """

    @property
    @abstractmethod
    def exit_code(self) -> int:
        """0 if all is right, 1 if things differ, 3 if a file is bad."""

    @abstractmethod
    def sentence(self) -> str:
        """The verdict in words."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """For JSON."""

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """The details as text, without the verdict.

        Args:
            verbose: include what is as it should be.
        """
        yield from ()

    def closing(self) -> str:
        """The line after the details; "" if they say everything."""
        return self.sentence()

    def suite(self) -> str:
        """What was judged: the name of the JUnit test suite."""
        return type(self).__name__

    def cases(self) -> Mapping[str, str]:
        """JUnit test cases by name, each with what is wrong with it ("" if nothing is)."""
        return {self.suite(): self.problem()}

    def problem(self) -> str:
        """Sentence and details, or "" if all is right."""
        return "\n".join(map(visible, [self.sentence(), *self.lines()])) if self.exit_code else ""

    def junit(self) -> str:
        """JUnit XML for a CI server."""
        return junit(self.suite(), self.cases())

    def markdown(self) -> str:
        """A summary for a CI job: the sentence and the table."""
        return f"{visible(self.sentence())}\n\n{markdown_table(*self.table())}"

    def table(self) -> Table:
        """Headings and rows of what differs, for a notebook."""
        return (), ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.sentence()}>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.sentence())}</p>\n{html_columns(*self.table())}"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], n_words: int | None = None) -> str:
    """A table in Markdown; "" without rows.

    Args:
        n_words: columns of words on the left; numbers, aligned right, are in the others. By default all are words.

    >>> print(markdown_table(["tensor", "different"], [["wq", "3"]], 1), end="")
    | tensor | different |
    |---|--:|
    | wq | 3 |
    """
    if not rows:
        return ""
    left = len(headings) if n_words is None else n_words
    rule = "|---" * left + "|--:" * (len(headings) - left) + "|"
    lines = [f"| {' | '.join(map(visible, cells))} |" for cells in (headings, *rows)]
    return "\n".join([lines[0], rule, *lines[1:], ""])


def junit(suite: str, cases: Mapping[str, str]) -> str:
    """JUnit XML of test cases by name, each with what is wrong with it ("" if nothing is).

    >>> print(junit("convert", {"wq": "", "wk": "3 values differ"}))
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuite name="convert" tests="2" failures="1">
      <testcase classname="convert" name="wq"/>
      <testcase classname="convert" name="wk"><failure message="3 values differ">3 values differ</failure></testcase>
    </testsuite>
    <BLANKLINE>
    """
    name, failures = quoteattr(_legal(suite)), sum(map(bool, cases.values()))
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    lines.append(f'<testsuite name={name} tests="{len(cases)}" failures="{failures}">')
    for case, problem in cases.items():
        head = f"  <testcase classname={name} name={quoteattr(_legal(case))}"
        text = _legal(problem)
        failure = f"<failure message={quoteattr(text.partition(chr(10))[0])}>{escape(text)}</failure>"
        lines.append(f"{head}>{failure}</testcase>" if problem else f"{head}/>")
    return "\n".join([*lines, "</testsuite>", ""])


def _legal(text: str) -> str:
    """XML 1.0 knows no control characters, not even escaped."""
    return "".join(c if c in "\n\t" or (c >= " " and not "\ud800" <= c <= "\udfff") else "\ufffd" for c in text)
