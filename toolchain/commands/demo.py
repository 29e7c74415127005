"""demo: the whole story on a tiny model."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from toolchain.terminal import program
from toolchain.terminal.columns import _columns, _padded, _wrapped
from toolchain.terminal.talk import print_json, say

from .options import Commands, command


def add_demo(commands: Commands) -> None:
    parser = command(
        commands,
        "demo",
        run_demo,
        "The whole story on the embedded demo model: verify, merge, convert, quantize, before and after.",
        "demo\ndemo --output files",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="keep what is made (default: a temporary folder)")
    parser.add_argument("--all", action="store_true", help="all ten prompts")
    parser.add_argument("--json", action="store_true", help="the figures and answers as JSON on stdout")


def run_demo(args: argparse.Namespace) -> int:
    import tempfile
    from contextlib import nullcontext

    from toolchain.demo.story import copy_inputs, tell

    folder = nullcontext(args.output) if args.output else tempfile.TemporaryDirectory(prefix="ggmlpy-demo-")
    teller = _Teller(args)
    with folder as name:
        story = tell(name, teller, every_prompt=args.all)
        if args.output:
            copy_inputs(args.output)
            say(
                args,
                f"{args.output}: all files; with the name files, {program.name()} COMMAND --help has examples of them",
            )
    if args.json:
        print_json(story)
    return 0


class _Teller:
    """Prints the demo's story: headings, tables and texts, in colour on a terminal."""

    def __init__(self, args: argparse.Namespace) -> None:
        import shutil

        self.silent, self.n = args.json, 0
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.width = min(100, shutil.get_terminal_size((100, 24)).columns)

    def heading(self, title: str, why: str) -> None:
        import textwrap

        self.n += 1
        if not self.silent:
            print(f"\n{self.paint('1;36', f'{self.n}  {title}')}")
            print(self.paint("2", textwrap.fill(why, self.width, initial_indent="   ", subsequent_indent="   ")))

    def line(self, text: str) -> None:
        self.put(program.spoken(text))

    def put(self, text: str) -> None:
        """A line as it stands: a model wrote it."""
        if not self.silent:
            print("   " + text, flush=True)

    def good(self, text: str) -> None:
        self.line(f"{self.paint('32', '✓')} {text}")

    def table(self, rows: list[tuple[str, ...]]) -> None:
        """The first row is a heading; all columns but the first are right-aligned."""
        widths = [max(_columns(row[i]) for row in rows) for i in range(len(rows[0]))]
        for number, row in enumerate(rows):
            cells = [_padded(cell, width, left=not i) for i, (cell, width) in enumerate(zip(row, widths))]
            self.line(self.paint("2", "  ".join(cells)) if not number else "  ".join(cells))

    def tokens(self, pieces: Sequence[str]) -> None:
        """Tokens side by side, each on its own background, or between bars; bytes in hexadecimal."""
        backgrounds, line, room = (153, 187, 183, 223, 115), "", self.width - 4
        for i, piece in enumerate(pieces):
            shown = piece[3:5] if piece.startswith("<0x") else piece
            if room < _columns(shown) + 1:
                self.put(line)
                line, room = "", self.width - 4
            room -= _columns(shown) + (0 if self.colour else 1)
            line += self.paint(f"30;48;5;{backgrounds[i % 5]}", shown) if self.colour else f"|{shown}"
        self.put(line)

    def speech(self, who: str, text: str, colour: str) -> None:
        """A speaker, and what was said, wrapped by the columns that Chinese characters take."""
        for i, line in enumerate(_wrapped(text, self.width - 13)):
            self.put(f"{self.paint(colour, _padded(who if not i else '', 8, left=True))} {line}")

    def paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour else text
