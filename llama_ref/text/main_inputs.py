"""What llama.cpp's ``main`` starts from: a prompt from options, files or stdin, and the seed of its random numbers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from ggmlpy.files.errors import MissingFileError, UsageError
from ggmlpy.formats.eras import MARCH_19, era_of

from .sampling import Mt19937

__all__ = ["random_prompt", "read_prompt", "real_seed"]

RANDOM_PROMPTS = ("So", "Once upon a time", "When", "The", "After", "If", "import", "He", "She", "They")


def read_prompt(parts: Iterable[tuple[str, str]], stdin: BinaryIO) -> bytes:
    """The prompt that ``-p`` and ``-f`` make together: ("PROMPT", text) and ("FILE", path), "-" being stdin.

    Texts and files are joined; after a file, one new line at the end is dropped, as ``main`` does.

    Raises:
        MissingFileError: a file cannot be read.
    """
    prompt = b""
    for kind, value in parts:
        if kind == "PROMPT":
            prompt += os.fsencode(value)
        else:
            prompt = (prompt + _read(value, stdin)).removesuffix(b"\n")
    return prompt


def _read(path: str, stdin: BinaryIO) -> bytes:
    try:
        return stdin.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise MissingFileError(
            f"the prompt cannot be read: {error.strerror}",
            path=path,
            next_step="check the name, or give the text with -p",
        ) from error


def real_seed(seed: int, era: str) -> int:
    """The seed that is used: the time instead of 0 (not at 2023-03-19) and of negative numbers.

    Raises:
        UsageError: it is not a 32-bit number.
    """
    if not -(2**31) <= seed < 2**31:
        raise UsageError(f"the seed must be between {-(2**31)} and {2**31 - 1}, not {seed}")
    means_time = seed < 0 if era_of(era) == MARCH_19 else seed <= 0
    return int(time.time()) if means_time else seed


def random_prompt(seed: int) -> str:
    """What ``--random-prompt`` begins with, chosen by the first draw of the seed.

    >>> random_prompt(42)
    'When'
    """
    return RANDOM_PROMPTS[Mt19937(seed).draw() % len(RANDOM_PROMPTS)]
