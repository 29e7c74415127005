"""Inputs that are files of the zoo: a program that reads what is made for a project has to read these, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toolchain.zoo.make import specimens

__all__ = ["FROM_THE_ZOO", "draw_specimen"]

FROM_THE_ZOO = "from the zoo"  # a kind of input


def draw_specimen(rng: np.random.RandomState, path: Path, *patterns: str) -> Path:
    """Write one of the files whose names fit a pattern, by chance, and return its path."""
    found = [specimen for pattern in patterns for specimen in specimens(pattern)]
    found[rng.randint(len(found))].write(path)
    return path
