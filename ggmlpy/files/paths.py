"""File names found in other files: whether they lead outside the folder of the file that names them."""

from __future__ import annotations

from pathlib import PurePosixPath

__all__ = ["stays_inside"]

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
