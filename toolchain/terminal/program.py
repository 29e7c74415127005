"""The program's name, as the person typed it, and the commands in messages that it belongs in front of.

There are three doors: ``python cli.py`` in the source tree, ``ggmlpy`` where the wheel is installed, and ``python -m
ggmlpy``. Each door says its name to :func:`opened_as`. Everything below the commands names a command without the
program, between backticks (``run `doctor DIR` to see``), and :func:`spoken` puts the program in front.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["SOURCE_TREE", "name", "opened_as", "spoken", "spoken_within"]

SOURCE_TREE = "python cli.py"

_name = "ggmlpy"
_commands: tuple[str, ...] = ()


def opened_as(door: str, commands: Iterable[str]) -> None:
    """Remember the name of the program and the names of its commands."""
    global _name, _commands
    _name, _commands = door, tuple(commands)


def name() -> str:
    """What the person types in front of a command."""
    return _name


def spoken(text: object) -> str:
    """The text with every command between backticks as it has to be typed; other backticks stay.

    >>> opened_as("ggmlpy", ["doctor"])
    >>> spoken("run `doctor DIR`, not `rm DIR`")
    'run ggmlpy doctor DIR, not `rm DIR`'
    """
    text = str(text)
    if "`" not in text or not _commands:
        return text
    # an excerpt of a message may have lost its second backtick
    return re.sub(rf"`((?:{'|'.join(_commands)})(?![\w-])[^`]*)(?:`|$)", lambda found: f"{_name} {found[1]}", text)


def spoken_within(document: object) -> object:
    """A JSON document with :func:`spoken` applied to each text in it, keys excepted."""
    if isinstance(document, str):
        return spoken(document)
    if isinstance(document, dict):
        return {key: spoken_within(value) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [spoken_within(value) for value in document]
    return document
