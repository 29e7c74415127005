"""What all commands share: the parser, its help, and how a command is declared."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from toolchain.terminal import program

Commands = Any  # argparse's sub-parser action has no public name


class HelpFormatter(argparse.HelpFormatter):
    """Examples stay lines, for they are pasted; everything else is filled."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example:") else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """One line says what is wrong, with the name that was probably meant; the next one where help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nsee: {self.prog} --help\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            option = unknown[0].partition("=")[0]
            parser = getattr(found, "parser", self)
            known = parser._option_string_actions if option.startswith("-") else ()
            parser.error(f"no option or argument {option!r} here{_meant(option, known)}")
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            self.error(
                f"no command {value!r}" + (_meant(value, action.choices) or f"; there are {', '.join(action.choices)}")
            )
        super()._check_value(action, value)


def _meant(name: str, known: Iterable[str]) -> str:
    """ "; did you mean --temp?", or nothing."""
    from difflib import get_close_matches

    near = get_close_matches(name, [*known], n=1)
    return f"; did you mean {near[0]}?" if near else ""


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str, **more: Any
) -> argparse.ArgumentParser:
    """A sub-parser with what all commands share: ``-q``, ``-v`` and an example in its help."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="example:\n" + "\n".join(f"  {program.name()} {line}" for line in example.splitlines()),
        formatter_class=HelpFormatter,
        **more,
    )
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="no talk, no progress bar")
    volume.add_argument("-v", "--verbose", action="store_true", help="more talk; at the end time and memory")
    parser.set_defaults(run=run, parser=parser)
    return parser


def group(commands: Commands, name: str, summary: str, action: str) -> argparse.ArgumentParser:
    """A sub-parser of sub-parsers; its help leads to theirs."""
    more = f"{program.name()} {name} {action} --help explains {action} and shows an example; so for the others."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary, epilog=more)
    return parser


def _dashed(argument: str) -> str:
    """``--top_k`` is ``--top-k``; values after ``=`` stay as they are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value
