"""Texts of bounded length: what is named may be a device or a pipe without end."""

from __future__ import annotations

import os
from typing import IO, AnyStr

from .errors import FormatError

__all__ = ["LARGEST_PROMPT", "LARGEST_TEXT", "first_lines", "read_bounded", "read_stream"]

LARGEST_PROMPT = 16 << 20  # bytes; a context holds some thousand tokens of a few bytes
LARGEST_TEXT = 256 << 20  # of a text to measure; the largest in use, enwik8, has 100 MB


def read_bounded(path: str | os.PathLike[str], most: int) -> bytes:
    """The bytes of a file, a pipe or a device.

    Raises:
        OSError: it cannot be read.
        FormatError: there are more than ``most`` bytes.
    """
    with open(path, "rb") as stream:
        return read_stream(stream, most, path)


def read_stream(stream: IO[AnyStr], most: int, name: str | os.PathLike[str] = "standard input") -> AnyStr:
    """What is left of a stream; raises as :func:`read_bounded` does."""
    data = stream.read(most + 1)
    if len(data) > most:
        raise FormatError(
            "is too large for a text",
            path=name,
            expected=f"at most {most:,} bytes",
            cause="this is not the text, or a device without end",
            next_step="check the name, or cut the text into parts",
        )
    return data


def first_lines(path: str | os.PathLike[str], most: int = 1 << 16) -> bytes:
    """The whole lines at the beginning of a file, by which its encoding is judged; of one long line, nothing.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        data = stream.read(most)
        return data if not stream.read(1) else data[: data.rfind(b"\n") + 1]
