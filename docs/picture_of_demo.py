"""Draws what `python cli.py demo` prints as docs/img/demo.svg, for the README.

python -m docs.picture_of_demo
"""

from __future__ import annotations

import contextlib
import html
import io
import itertools
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMN, LINE, COLUMNS = 7.8, 18, 58  # on a phone a column is still six pixels wide
CHAPTERS = {"2": 2, "3": 1, "5": 3}  # and how many of their paragraphs


def printed() -> list[str]:
    """The demo's lines, without colours, and without the seconds that differ each time."""
    sys.path.insert(0, str(ROOT))
    import cli

    os.environ["COLUMNS"] = str(COLUMNS - 4)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(["demo", "-q"])
    return re.sub(r" \(\d+\.\d s\)$", "", out.getvalue(), flags=re.MULTILINE).splitlines()


def chosen(lines: list[str]) -> list[str]:
    """The chapters that tell the story in one picture, and of those the first paragraphs."""
    shown = []
    for chapter in re.split(r"\n+(?=\d  )", "\n".join(["", *lines])):
        paragraphs = re.split(r"\n *\n", chapter)
        shown += ["\n\n".join(paragraphs[: CHAPTERS[chapter[0]]])] if chapter[:1] in CHAPTERS else []
    return "\n\n".join(shown).splitlines()


def runs(line: str) -> Iterator[tuple[int, int, str]]:
    """Start, width in columns, and text of each stretch of narrow or of wide characters."""
    column = 0
    for wide, group in itertools.groupby(line, lambda c: unicodedata.east_asian_width(c) in "WF"):
        text = "".join(group)
        width = len(text) * (2 if wide else 1)
        yield column, width, text
        column += width


def style_of(line: str, before: str) -> str:
    """heading, good, answer, normal; an answer goes on until an empty line."""
    word = line.split()[0] if line.split() else ""
    if re.match(r"\d  ", line):
        return "h"
    answer = line.startswith("   after    ") or (before == "a" and line.startswith(" " * 12))
    return "g" if word == "✓" else "a" if answer else "n"


def draw(lines: list[str]) -> str:
    """A terminal as an SVG picture."""
    width, height = COLUMNS * COLUMN + 32, (len(lines) + 2) * LINE + 42
    parts, kind = [], "p"
    for number, line in enumerate(["$ python cli.py demo", "", *lines]):
        y = 44 + number * LINE
        kind = style_of(line, kind) if number else "p"
        for column, columns, text in runs(line):
            if text.strip():
                lead = len(text) - len(text.lstrip())
                x, span = 16 + (column + lead) * COLUMN, (columns - lead) * COLUMN
                parts.append(
                    f'<text x="{x:.1f}" y="{y}" textLength="{span:.1f}" lengthAdjust="spacingAndGlyphs" class="{kind}">'
                    f"{html.escape(text.lstrip())}</text>"
                )
    style = "text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre}"
    style += ".n{fill:#d5dbe3}.h{fill:#6fd3e3;font-weight:700}.g{fill:#8fd694}.a{fill:#f4d58d}.p{fill:#fff}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" role="img" '
        f'aria-label="What python cli.py demo prints"><style>{style}</style>'
        f'<rect width="100%" height="100%" rx="8" fill="#1c2129"/><circle cx="20" cy="16" r="5" fill="#e06c75"/>'
        f'<circle cx="38" cy="16" r="5" fill="#e5c07b"/><circle cx="56" cy="16" r="5" fill="#98c379"/>'
        f"{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    (ROOT / "docs" / "img" / "demo.svg").write_text(draw(chosen(printed())), "utf-8")
