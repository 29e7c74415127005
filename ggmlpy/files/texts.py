"""Texts of bounded length: what is named may be a device or a pipe without end."""

from __future__ import annotations

import os
from typing import IO, AnyStr

from .errors import FormatError, MissingFileError

__all__ = [
    "LARGEST_PROMPT",
    "LARGEST_TEXT",
    "STANDARD_INPUT",
    "first_lines",
    "read_bounded",
    "read_stream",
    "unreadable",
]

STANDARD_INPUT = "standard input"

LARGEST_PROMPT = 16 << 20  # bytes; a context holds some thousand tokens of a few bytes
LARGEST_TEXT = 256 << 20  # of a text to measure; the largest in use, enwik8, has 100 MB


def read_bounded(path: str | os.PathLike[str], most: int) -> bytes:
    """The bytes of a file, a pipe or a device.

    Raises:
        OSError: it cannot be opened.
        FormatError: there are more than ``most`` bytes, or the device fails.
    """
    with open(path, "rb") as stream:
        return read_stream(stream, most, path)


def read_stream(stream: IO[AnyStr], most: int, name: str | os.PathLike[str] = STANDARD_INPUT) -> AnyStr:
    """What is left of a stream; raises as :func:`read_bounded` does."""
    try:
        data = stream.read(most + 1)
    except OSError as error:
        raise unreadable(error, name) from error
    if len(data) > most:
        raise FormatError(
            "is too large for a text",
            path=name,
            expected=f"at most {most:,} bytes",
            cause="this is not the text, or a device without end",
            next_step="check the name, or cut the text into parts",
        )
    return data


def unreadable(error: OSError, name: str | os.PathLike[str] = STANDARD_INPUT) -> FormatError:
    """What became of reading an open stream."""
    return MissingFileError(
        f"cannot be read: {error.strerror or error}",
        path=name,
        next_step="check the device, or give the text in a file",
    )


def first_lines(path: str | os.PathLike[str], most: int = 1 << 16) -> bytes:
    """The whole lines at the beginning of a file, by which its encoding is judged; of one long line, nothing.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        data = stream.read(most)
        return data if not stream.read(1) else data[: data.rfind(b"\n") + 1]
