"""Small tables for notebooks: what ``_repr_html_`` returns. Texts come from files, so all of them are escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["html_table"]


def html_table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and values under a title.

    >>> html_table("m.bin", [("format", "<ggjt v1>")])
    '<table><caption>m.bin</caption><tr><th>format</th><td>&lt;ggjt v1&gt;</td></tr></table>'
    """
    lines = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows)
    return f"<table><caption>{html.escape(title)}</caption>{''.join(lines)}</table>"
