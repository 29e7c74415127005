"""What llama.cpp's ``main`` starts from: a prompt from options, files or stdin, the seed, and what each era assumes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ggmlpy.files.encodings import encoding_doubt
from ggmlpy.files.errors import MissingFileError, UsageError
from ggmlpy.files.texts import LARGEST_PROMPT, read_bounded, read_stream
from ggmlpy.formats.eras import MARCH_19, Era, era_of
from llama_ref.vocabulary.prompts import PREAMBLE

from .sampling import Mt19937

__all__ = ["EraDefaults", "era_defaults", "prompt_batch", "random_prompt", "read_prompt", "real_seed"]

ALPACA_FILE = ("prompts", "alpaca.txt")
RANDOM_PROMPTS = ("So", "Once upon a time", "When", "The", "After", "If", "import", "He", "She", "They")


def read_prompt(
    parts: Iterable[tuple[str, str]], stdin: BinaryIO, tell: Callable[[str], object] = lambda note: None
) -> bytes:
    """The prompt that ``-p`` and ``-f`` make together: ("PROMPT", text) and ("FILE", path), "-" being stdin.

    Texts and files are joined; after a file, one new line at the end is dropped, as ``main`` does. Bytes are taken as
    they are. llama.cpp's ``prompts/alpaca.txt`` need not be there: its text is known.

    Args:
        tell: called with what the user should know: a file that is not UTF-8, or that was not needed.

    Raises:
        MissingFileError: a file cannot be read.
        FormatError: there is more than 16 MB of it.
    """
    prompt = b""
    for kind, value in parts:
        if kind == "PROMPT":
            prompt += os.fsencode(value)
        else:
            data = _read(value, stdin, tell)
            if doubt := encoding_doubt(data):
                tell(f"warning: {'standard input' if value == '-' else value}: {doubt}")
            prompt = (prompt + data).removesuffix(b"\n")
    return prompt


def _read(path: str, stdin: BinaryIO, tell: Callable[[str], object]) -> bytes:
    if Path(path).parts[-2:] == ALPACA_FILE and not os.path.exists(path):
        tell(f"note: {path} is not here: its text is known and was taken")
        return PREAMBLE.encode()
    try:
        return read_stream(stdin, LARGEST_PROMPT) if path == "-" else read_bounded(path, LARGEST_PROMPT)
    except OSError as error:
        raise MissingFileError(
            f"the prompt cannot be read: {error.strerror}",
            path=path,
            next_step="check the name, or give the text with -p",
        ) from error


@dataclass(frozen=True)
class EraDefaults:
    """What ``main`` of an era does by default.

    Attributes:
        repeat_penalty: makes the last tokens less likely.
        memory_f32: keys and values are kept in float32, not in float16.
        zero_is_a_seed: the seed 0 is a number like any other, not the clock.
    """

    repeat_penalty: float
    memory_f32: bool
    zero_is_a_seed: bool


def era_defaults(era: str | Era) -> EraDefaults:
    """The defaults that differ from era to era (utils.h of da5303c1e, examples/common.h later).

    >>> era_defaults("2023-03-19").repeat_penalty, era_defaults("2023-03-31").repeat_penalty
    (1.3, 1.1)
    """
    first = era_of(era) == MARCH_19
    return EraDefaults(1.30 if first else 1.10, memory_f32=first, zero_is_a_seed=first)


def prompt_batch(numerics: str) -> int:
    """How many tokens of a prompt are evaluated together: 8, as ``main`` does, or more where the result is the same."""
    return 128 if numerics == "fast" else 8


def real_seed(seed: int, era: str | Era) -> int:
    """The seed that is used: the time instead of 0 (not at 2023-03-19) and of negative numbers.

    Raises:
        UsageError: it is not a 32-bit number.
    """
    if not -(2**31) <= seed < 2**31:
        raise UsageError(f"the seed must be between {-(2**31)} and {2**31 - 1}, not {seed}")
    means_time = seed < 0 or (seed == 0 and not era_defaults(era).zero_is_a_seed)
    return int(time.time()) if means_time else seed


def random_prompt(seed: int) -> str:
    """What ``--random-prompt`` begins with, chosen by the first draw of the seed.

    >>> random_prompt(42)
    'When'
    """
    return RANDOM_PROMPTS[Mt19937(seed).draw() % len(RANDOM_PROMPTS)]
