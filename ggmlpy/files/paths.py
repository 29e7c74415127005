"""File names in other files: how they are written there, and whether those found lead outside of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from .errors import UsageError

__all__ = ["refuse_directory", "refuse_overwriting", "relative_to", "stays_inside"]

LONGEST_NAME = 255  # bytes, as file systems have it


def stays_inside(name: str) -> bool:
    r"""Whether a relative path, with ``/`` between its parts, names something below a directory on every system.

    >>> [stays_inside(name) for name in ("7B/params.json", "../params.json", "/etc/passwd", "a\\b", "x" * 256)]
    [True, False, False, False, False]
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return False
    return all(len(part.encode("utf-8", "replace")) <= LONGEST_NAME for part in path.parts)


def relative_to(path: str | os.PathLike[str], home: Path) -> str:
    """A path as a file in the folder ``home`` names it: relative, with ``/`` between its parts.

    >>> relative_to("/models/7B/model.bin", Path("/models/receipts"))
    '../7B/model.bin'
    """
    return Path(os.path.relpath(Path(path).resolve(), home)).as_posix()


def refuse_overwriting(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse an output that is one of the inputs, under whatever name: what is read would be lost.

    Every command that writes follows this; symbolic and hard links are seen through.

    Raises:
        UsageError: they are the same file.
    """
    output = Path(output)
    if not output.is_file():
        return
    for source in map(Path, inputs):
        if source.is_file() and output.samefile(source):
            named = f"{output} is the input" if output == source else f"{output} is the input {source} by another name"
            raise UsageError(f"{named}: write beside it, look at the result, then rename it")


def refuse_directory(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """The same for a directory that several files are written into: with those of an input it would be nobody's.

    Raises:
        UsageError: it is one of the inputs.
    """
    output = Path(output)
    for source in (Path(path) for path in inputs if path is not None):
        if output.is_dir() and source.is_dir() and output.samefile(source):
            named = f"{output} is the input" if output == source else f"{output} is the input {source} by another name"
            raise UsageError(f"{named}: name another directory for the output")
