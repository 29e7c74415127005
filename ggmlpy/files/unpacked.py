"""Files that were unpacked, or made, among the system's temporary files, under the name that a person knows.

Readers work on such a file as on any other; errors and notes name the archive and its member, as
``lora.zip!a/config.json``, and a command in a next step takes the archive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["archive_for", "shown", "shown_as"]

_SOURCES: dict[str, tuple[str, Mapping[str, str]]] = {}  # folder -> the archive, and the names there of the files


@contextmanager
def shown_as(
    folder: str | os.PathLike[str], archive: str | os.PathLike[str], names: Mapping[str, str]
) -> Iterator[None]:
    """Name the files of a temporary folder after what they come from, as long as they are there.

    Args:
        names: of a file in the folder -> inside the archive; a file without one is the archive itself.

    >>> with shown_as("there", "lora.zip", {"config.json": "a/config.json"}):
    ...     shown("there/config.json"), shown("there/other"), shown("other"), archive_for("see there/config.json!")
    ('lora.zip!a/config.json', 'lora.zip', 'other', 'see lora.zip!')
    """
    _SOURCES[os.fspath(folder)] = os.fspath(archive), names
    try:
        yield
    finally:
        del _SOURCES[os.fspath(folder)]


def shown(path: str | os.PathLike[str]) -> str:
    """A path as a person knows it."""
    folder, name = os.path.split(os.fspath(path))
    if folder not in _SOURCES:
        return os.fspath(path)
    archive, names = _SOURCES[folder]
    return f"{archive}!{names[name]}" if name in names else archive


def archive_for(text: str) -> str:
    """A text with the archives in place of what was unpacked from them."""
    for folder, (archive, names) in list(_SOURCES.items()):
        for name in names:
            text = text.replace(os.path.join(folder, name), archive)
        text = text.replace(folder, archive)
    return text
