"""The folder in which this program keeps what it can make again: compiled kernels, and the demo model.

=================  ====================================================================================================
``$GGMLPY_CACHE``  if it is set, not empty, and an absolute path
Windows            ``%LOCALAPPDATA%\\ggmlpy\\cache``
macOS              ``~/Library/Caches/ggmlpy``
elsewhere          ``$XDG_CACHE_HOME/ggmlpy``, or ``~/.cache/ggmlpy`` if it is not set; a relative path is ignored, as
                   the XDG Base Directory Specification asks
otherwise          ``ggmlpy-USER`` among the temporary files, if none of these can be written; if another user has made
                   that first, a folder of a random name for this process alone, which is removed at its end
=================  ====================================================================================================

Machine code is loaded from here, so a folder must belong to the user, and nobody else may write to it: other users'
folders and files are not used, and permission to write to the folder is withdrawn from others. A relative path would
mean another folder in every working directory, some of which other people fill.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError

__all__ = ["cache_directory", "is_own", "is_own_folder"]


def cache_directory() -> Path:
    """The user's cache: an absolute path of a folder that exists, can be written, and is private.

    Raises:
        OutputError: neither the usual folder nor one among the temporary files can be used.
    """
    for folder in itertools.chain(_usual_places(), _temporary_places()):  # the last one is made only if need be
        if _is_made(folder) and _is_private(folder):
            return folder
    raise OutputError(
        "there is no folder to keep compiled kernels and the demo model in",
        next_step="set GGMLPY_CACHE (or XDG_CACHE_HOME) to a folder of yours that can be written",
    )


def is_own_folder(folder: Path) -> bool:
    """Whether there is a folder, now at least, that belongs to the user and that nobody else may write to."""
    return _is_made(folder) and not folder.is_symlink() and _is_private(folder)


def is_own(path: Path) -> bool:
    """Whether there is a file that belongs to the user and that nobody else may write to."""
    try:
        status = path.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(status.st_mode):
        return False
    others = stat.S_IWGRP | stat.S_IWOTH
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & others)


def _usual_places() -> Iterator[Path]:
    """The named folder, or else the platform's; nothing if that would be a relative path."""
    place = _absolute("GGMLPY_CACHE") or _platform_place()
    if place.is_absolute():
        yield place


def _platform_place() -> Path:
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        return (_absolute("LOCALAPPDATA") or home / "AppData" / "Local") / "ggmlpy" / "cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "ggmlpy"
    return (_absolute("XDG_CACHE_HOME") or home / ".cache") / "ggmlpy"


def _absolute(variable: str) -> Path | None:
    """An environment variable's path; None if it is not set, empty, or relative."""
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None


def _temporary_places() -> Iterator[Path]:
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    try:
        temporary = os.path.abspath(tempfile.gettempdir())
    except OSError:  # there is none
        return
    known = Path(temporary, f"ggmlpy-{user}")
    if not known.is_symlink():  # by which others could choose a folder of the user's
        yield known
    with contextlib.suppress(OSError):
        yield _of_this_process(temporary)


@functools.cache
def _of_this_process(temporary: str) -> Path:
    folder = tempfile.mkdtemp(prefix="ggmlpy-", dir=temporary)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _is_made(folder: Path) -> bool:
    """Whether the folder exists, now at least, and can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _is_private(folder: Path) -> bool:
    """Whether the folder is the user's, and only they can write to it.

    Others can guess the name among the temporary files, and make the folder first.
    """
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    if status.st_uid != os.getuid():
        return False
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        folder.chmod(stat.S_IMODE(status.st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
    return True
