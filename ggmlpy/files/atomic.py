"""Writing a file so that its final name holds either the old content or the finished new one, never a part.

The bytes go to a temporary file beside the target (same file system), are flushed to the disk, and the temporary name
is then renamed over the target. A process killed on the way leaves at most a ``*.partial`` file, and the next one that
writes the same target removes it (see :mod:`ggmlpy.files.leftovers`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import DiskSpaceError, OutputError
from .leftovers import hold, remove_abandoned

__all__ = ["atomic_write", "require_space", "writing"]

_SERIAL = itertools.count()


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, size: int | None = None, private: bool = False) -> Iterator[BinaryIO]:
    """Open ``path`` for writing in binary; the file appears under its name only if the block ends without an error.

    Arguments:
        path: the target. A symbolic link is followed. A device (``/dev/null``, a pipe) is written directly.
        size: bytes that will be written, if known: checked against the free disk space before anything is created.

        private: only the user may read and write the file, whatever the process's mask says.

    Raises:
        DiskSpaceError: fewer than ``size`` bytes are free.
        OutputError: the directory is missing or not writable, the disk is full, or the rename failed.

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "x.bin"
    >>> with atomic_write(target) as f:
    ...     _ = f.write(b"abc")
    >>> target.read_bytes()
    b'abc'
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OutputError("is a directory, not a file to write", path=path, next_step="name a file inside it")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        with open(target, "wb") as device:
            yield device
        return
    remove_abandoned(target)
    if size is not None:
        require_space(target, size)
    partial = target.with_name(f".{target.name}.{os.getpid()}-{next(_SERIAL)}.partial")
    done = False
    try:
        # inside: Ctrl-C may come when the file is made, but not yet known here
        with open(partial, "xb", opener=_open_private if private else None) as stream:
            hold(stream)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
        done = True
        _sync_directory(target.parent)
    except OSError as error:
        if error.filename not in (None, str(partial)):
            raise  # the caller's own trouble with another file
        raise _output_error(error, path) from error
    finally:
        if not done:
            with contextlib.suppress(OSError):
                partial.unlink()


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Around whatever writes a file that grows where it is: the system's errors name it, and say what to do.

    Raises:
        OutputError: the disk is full, or the file can't be written.
    """
    try:
        yield
    except OSError as error:
        raise _output_error(error, path) from error


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def require_space(path: str | os.PathLike[str], size: int) -> None:
    """Raise :class:`DiskSpaceError` unless ``size`` bytes are free where ``path`` will be written."""
    directory = Path(os.path.realpath(path)).parent
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if size > free:
        raise DiskSpaceError(
            "not enough disk space",
            path=path,
            expected=f"{size:,} bytes free",
            found=f"{free:,}",
            next_step=f"free {size - free:,} bytes in {directory} or write to another disk",
        )


def _sync_directory(directory: Path) -> None:
    """Make the rename itself durable, where the platform lets a directory be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _output_error(error: OSError, path: str | os.PathLike[str]) -> OutputError:
    advice = {
        "FileNotFoundError": "create the directory first",
        "PermissionError": "choose a directory that you may write to",
    }.get(type(error).__name__, "check the disk and its free space, then run the command again")
    return OutputError(f"cannot write: {error.strerror or error}", path=path, next_step=advice)
