"""zoo: a tiny file of every kind, and a broken one for every complaint."""

from __future__ import annotations

import argparse

from toolchain.terminal.bars import advancing, progress_bar
from toolchain.terminal.talk import say

from .options import Commands, command


def add_zoo(commands: Commands) -> None:
    parser = command(
        commands,
        "zoo",
        run_zoo,
        "Make a tiny file of every container, type and era, and a broken one for every error message.",
        "zoo animals\nzoo animals --match 'broken/gguf/*'",
    )
    parser.add_argument("directory", metavar="DIR", help="new or empty; README.md in it tells each file's story")
    parser.add_argument(
        "--match", default="*", metavar="PATTERN", help="only files whose names fit this pattern: 'models/ggjt1/*'"
    )


def run_zoo(args: argparse.Namespace) -> int:
    from toolchain.zoo.make import make_zoo

    with progress_bar(args, 0, "make", "file") as bar:
        zoo = make_zoo(args.directory, args.match, progress=advancing(bar))
    say(args, f"{args.directory}: {len(zoo.specimens)} files and directories, {zoo.n_broken} of them broken; README.md")
    return 0
