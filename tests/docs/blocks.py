"""Code blocks of Markdown pages, and how they are run.

A line before a block says how it runs. ``<!-- in: SCENE -->``: in a folder that ``scenes.SCENE`` fills; the blocks
that follow with ``<!-- in: the same -->`` go on in that folder. ``<!-- after: PYTHON -->``: after these statements.
``<!-- from: FILE -->``: it is a quotation, and must stand in that file. What is run how:

- ``python``: the blocks of a page run one after the other in one namespace, each in its folder, or an empty one.
- ``pycon``: the same for sessions with ``>>>``; what they print is compared.
- ``console``: each ``$ python cli.py …`` is run; the lines below it are what it prints, on stdout and stderr together,
  wrapped as one likes; ``…`` stands for anything, and lines may be left out where an ``…`` line says so.
- ``sh``: commands of ours are run where a scene is named; elsewhere they are parsed, so that no option can rot.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cli
from toolchain.commands.main import build_parser
from toolchain.commands.options import dashed

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("**/*.md"))]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<how>in|after|from): (?P<what>[^\n]+?) -->\n+)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_OURS = re.compile(r"^(?:python cli\.py|ggmlpy) ")


@dataclass(frozen=True)
class Block:
    """A code block: its page, line, language, content, and how it runs: in a scene, after statements, from a file."""

    page: Path
    line: int
    language: str
    code: str
    how: dict[str, str]

    @property
    def scene(self) -> str | None:
        return self.how.get("in")

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All code blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, m.start("code")), m["language"], m["code"], {m["how"]: m["what"]})
        for m in _BLOCK.finditer(text)
    ]


def commands_of(text: str) -> Iterator[list[str]]:
    """The arguments of each command of ours in a shell text: continued lines are joined, comments dropped.

    >>> list(commands_of("python cli.py merge --base a \\\\\\n  --output b   # a comment"))
    [['merge', '--base', 'a', '--output', 'b']]
    """
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\s|;\s", line):
            if _OURS.match(part.strip()):
                words = shlex.split(_OURS.sub("", part.strip()), comments=True)
                yield words[: words.index(">")] if ">" in words else words


def parse(arguments: list[str]) -> None:
    """Parse a command as the command line does; SystemExit(2) if it is wrong."""
    build_parser().parse_args([dashed(argument) for argument in arguments])


def run(arguments: list[str]) -> tuple[int, str]:
    """Run a command in the current folder: its exit code, and what it said on stdout and stderr."""
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        old = sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(), "utf-8")
        try:
            code = cli.main(arguments)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        finally:
            sys.stdin = old
    return code, stream.buffer.getvalue().decode("utf-8", "replace")


def sessions_of(code: str) -> Iterator[tuple[str, str]]:
    """Commands of a console block, each with what it prints."""
    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        command, _, printed = part.replace("\\\n", " ").partition("\n")
        yield command, printed


def matches(printed: str, shown: str) -> bool:
    """Is ``shown``, in which … stands for anything, what was printed? White space does not count.

    >>> matches("error: a.bin: bad   magic, found 7", "error: … bad magic, …")
    True
    """
    pieces = [re.escape(_folded(piece)) for piece in shown.split("…")]
    return re.fullmatch(".*?".join(pieces), _folded(printed), re.DOTALL) is not None


def _folded(text: str) -> str:
    text = re.sub(r"\s+", "", text)
    return text.replace("\\", "/") if os.name == "nt" else text
