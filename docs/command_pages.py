"""A hook of mkdocs: reference pages of the commands, from their parsers, and of the libraries, from docstrings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files

import ggmlpy
import llama_ref
import lora
from toolchain.commands.main import COMMANDS, build_parser
from toolchain.terminal import program

LIBRARIES = (ggmlpy, llama_ref, lora)


def on_files(files: Files, config: Any) -> Files:
    """Add ``reference/commands.md``, and a page for each library."""
    program.opened_as("ggmlpy", COMMANDS)
    pages = {"commands": "\n".join(command_lines()), **{module.__name__: library_page(module) for module in LIBRARIES}}
    for name, content in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def library_page(module: Any) -> str:
    """The front door of a library: what it exports, each with its docstring."""
    names = "\n\n".join(f"::: {module.__name__}.{name}" for name in sorted(module.__all__) if name != "__version__")
    return f"# {module.__name__}\n\n{_as_markdown(module.__doc__)}\n\n{names}\n"


def _as_markdown(docstring: str) -> str:
    """A module's docstring: its tables and references to names are those of reStructuredText."""

    def row(line: str) -> str:
        cells = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        return f"| {' | '.join(cells)} |"

    def table(match: re.Match[str]) -> str:
        return "\n".join(["| | |", "|---|---|", *map(row, match[1].splitlines())])

    docstring = re.sub(r" +# doctest: .*", "", docstring)
    return _without_roles(re.sub(r"^=+ +=+\n(.*?)\n=+ +=+$", table, docstring, flags=re.DOTALL | re.MULTILINE))


def _without_roles(text: str) -> str:
    return re.sub(r":(?:func|class|mod|meth|attr|data|exc):(?=`|<code>)", "", text)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings refer to names as Sphinx takes them."""
    return _without_roles(html)


def command_lines() -> Iterator[str]:
    """Every command: what it does, its arguments and options, and examples."""
    yield "# Commands\n\n`ggmlpy COMMAND`; in the source tree `python cli.py COMMAND`. `--help` says the same.\n"
    for name, parser in _commands(build_parser()):
        yield from _of_command(name, parser)


def _commands(parser: argparse.ArgumentParser, before: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                inner = list(_commands(below, f"{before}{name} "))
                yield from inner or [(before + name, below)]


def _of_command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {name}\n\n{_cell(parser.description or '')}\n"
    if examples := (parser.epilog or "").partition("example:\n")[2]:
        lines = "\n".join(line.strip() for line in examples.splitlines())
        yield f"```sh\n{lines}\n```\n"
    yield "| | |\n|---|---|"
    for action in parser._actions:
        if action.dest in ("help", "quiet", "verbose") or action.help == argparse.SUPPRESS:
            continue
        yield f"| {_names(action)} | {_cell(_help(action, parser))} |"
    yield ""


def _names(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    value = " ".join(value) if isinstance(value, tuple) else str(value)
    if not action.option_strings:
        return f"`{value}`"
    taken = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{option}{taken}`" for option in action.option_strings)


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
