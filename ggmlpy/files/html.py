"""Small tables for notebooks: what ``_repr_html_`` returns. Texts come from files, so all of them are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["html_columns", "html_table"]

MOST_ROWS = 50  # of a table in columns


def html_table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and values under a title.

    >>> html_table("m.bin", [("format", "<ggjt v1>")])
    '<table><caption>m.bin</caption><tr><th>format</th><td>&lt;ggjt v1&gt;</td></tr></table>'
    """
    lines = (f"<tr><th>{_escaped(name)}</th><td>{_escaped(str(value))}</td></tr>" for name, value in rows)
    return f"<table><caption>{_escaped(title)}</caption>{''.join(lines)}</table>"


def html_columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with headings on top, cut after :data:`MOST_ROWS` rows; "" if there are none.

    >>> html_columns(["piece"], [["<s>"]])
    '<table><tr><th>piece</th></tr><tr><td>&lt;s&gt;</td></tr></table>'
    """
    if not rows:
        return ""
    more = [[f"… and {len(rows) - MOST_ROWS:,} more"]] if len(rows) > MOST_ROWS else []
    return f"<table>{_row('th', headings)}{''.join(_row('td', cells) for cells in [*rows[:MOST_ROWS], *more])}</table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_escaped(cell)}</{tag}>" for cell in cells) + "</tr>"


def _escaped(text: str) -> str:
    from html import escape  # only notebooks need it; importing it takes 1 ms of every start

    return escape(text)
