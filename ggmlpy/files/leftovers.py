"""What killed runs left: ``.NAME.PID-N.partial`` files, as large as what was being written.

A partial file is abandoned when the process that made it is gone. That process holds a lock on the file while it
writes, which the system takes back when the process ends, in whatever container it ran. Where the file system knows no
locks, its number tells; a number that another process has by now belonged to one that is gone, if that other process
began after the file was last written.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["abandoned", "hold", "remove_abandoned"]

_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<process>\d{1,10})-\d+\.partial", re.DOTALL)
LONG_AGO = 24 * 3600  # seconds; where nothing tells whether a process lives


def hold(stream: BinaryIO) -> None:
    """Lock a file that is being written, until it is closed; nothing where the system cannot."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def abandoned(directory: Path, name: str | None = None) -> Iterator[Path]:
    """The partial files in a directory whose processes are gone.

    Args:
        name: only those of this file.
    """
    try:
        entries = sorted(os.listdir(directory))
    except OSError:
        return
    for entry in entries:
        match = _PARTIAL.fullmatch(entry)
        if match and name in (None, match["name"]) and _is_abandoned(directory / entry, int(match["process"])):
            yield directory / entry


def remove_abandoned(target: Path) -> None:
    """Remove what killed runs left of this file."""
    for path in abandoned(target.parent, target.name):
        with contextlib.suppress(OSError):
            path.unlink()


def _is_abandoned(path: Path, process: int) -> bool:
    try:
        status = path.lstat()
    except OSError:  # just now renamed or removed
        return False
    if not stat.S_ISREG(status.st_mode):
        return False
    written = status.st_mtime
    if os.name == "nt":  # there, a signal is no question
        return time.time() - written > LONG_AGO
    return not _lives(process, written) and not _is_held(path)


def _lives(process: int, since: float) -> bool:
    """Whether there is a process of this number that began before ``since``."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        pass
    began = _began(process)
    return began is None or began <= since + 1  # both are rounded


def _began(process: int) -> float | None:
    """When a process began, where the system tells (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        ticks = int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[19])
        running = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - running + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _is_held(path: Path) -> bool:
    """Whether a process has the lock of :func:`hold` on it."""
    try:
        import fcntl

        with open(path, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False
