"""completion: what a shell needs to complete commands, options and file names, made from the parsers."""

from __future__ import annotations

import argparse
from typing import Any

from toolchain.terminal import program
from toolchain.terminal.talk import put_text

from .downloads import INPUTS
from .options import Commands, command

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


def add_completion(commands: Commands) -> None:
    parser = command(
        commands,
        "completion",
        run_completion,
        "Print a shell's completion of commands, options and file names. Needs: pip install '.[completion]'",
        "completion bash > ~/.local/share/bash-completion/completions/ggmlpy\n"
        "completion zsh > ~/.zfunc/_ggmlpy\n"
        "completion fish > ~/.config/fish/completions/ggmlpy.fish",
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run_completion(args: argparse.Namespace) -> int:
    import shtab

    from .main import COMMANDS, build_parser

    program.opened_as("ggmlpy", COMMANDS)  # shells complete a command that they can look up, not "python cli.py"
    parser = build_parser()
    _complete_files(parser, shtab.FILE)
    put_text(shtab.complete(parser, args.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser, files: Any) -> None:
    """Arguments that name files are completed as such, in this parser and in those of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete_files(below, files)
        elif action.dest in INPUTS or getattr(action, "writes", False):
            action.complete = files  # type: ignore[attr-defined]
