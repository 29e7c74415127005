#!/usr/bin/env python3
"""The command line: one sub-command a task. It parses, calls the library, prints, and chooses the exit code.

Exit codes: 0 fine; 1 the compared things differ; 2 wrong usage; 3 a file is bad or missing. Data goes to stdout, talk
and progress to stderr. Options may be spelled with dashes or underscores. Each sub-command is a pair of functions,
``add_NAME`` (its options) and ``run_NAME`` (its work); packages are imported inside ``run_NAME``, so that ``--help``
is instant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

PROGRAM = "python cli.py"
VERSION = "1.1.0"
Commands = Any  # argparse's sub-parser action has no public name


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _speak_utf8()
    arguments = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    args = parser.parse_args([_dashed(argument) for argument in arguments])
    from ggmlpy.errors import FormatError, UsageError

    try:
        return args.run(args)
    except UsageError as error:
        print(f"error: {error}\nsee: {PROGRAM} {args.command} --help", file=sys.stderr)
        return 2
    except FormatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to say to it
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="The Chinese-LLaMA-Alpaca toolchain in pure Python: merge, convert, quantize, verify, generate.",
        epilog=f"{PROGRAM} COMMAND --help explains a command and shows an example.",
    )
    parser.add_argument("--version", action="version", version=f"ggmlpy {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str, **more: Any
) -> argparse.ArgumentParser:
    """A sub-parser with what all commands share: ``-q``, ``-v`` and an example in its help."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="example:\n" + "\n".join(f"  {PROGRAM} {line}" for line in example.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,
    )
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="no talk, no progress bar")
    volume.add_argument("-v", "--verbose", action="store_true", help="more talk")
    parser.set_defaults(run=run)
    return parser


def progress_bar(args: argparse.Namespace, total: int, what: str, unit: str = "B") -> Any:
    """A tqdm bar on stderr: silent with ``-q`` and when stderr is not a terminal. Use it with ``with``; call
    ``.update(n)``."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=True,
        unit_divisor=1024 if unit == "B" else 1000,
        disable=args.quiet or not sys.stderr.isatty(),
        file=sys.stderr,
        dynamic_ncols=True,
        leave=False,
    )


def say(args: argparse.Namespace, *words: object) -> None:
    """Talk on stderr, unless ``-q``."""
    if not args.quiet:
        print(*words, file=sys.stderr)


def print_json(value: object) -> None:
    """One JSON document on stdout; Chinese text stays readable."""
    import json

    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def _dashed(argument: str) -> str:
    """``--top_k`` is ``--top-k``; values after ``=`` stay as they are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _speak_utf8() -> None:
    """Chinese text must survive consoles that speak another encoding."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if stream is sys.stderr else "replace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


# ---------------------------------------------------------------------------------------------------- GGML files


COMMANDS: tuple[Callable[[Commands], None], ...] = ()

if __name__ == "__main__":
    sys.exit(main())
