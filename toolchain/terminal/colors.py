"""Colors, where the person wants them."""

from __future__ import annotations

import os
import sys

from .foreign import escape

__all__ = ["on_ground", "painted", "wants_color"]

BOLD, DIM, RED, GREEN = "1", "2", "31", "32"
HEADING = "1;36"
GROUNDS = (153, 187, 183, 223, 115)  # xterm-256 pastels that black text is readable on


def wants_color() -> bool:
    """Whether stdout is a terminal, and https://no-color.org does not forbid it."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def painted(text: str, code: str) -> str:
    """The text, made safe, between an ANSI sequence and the one that ends it."""
    return f"\033[{code}m{escape(text)}\033[0m"


def on_ground(text: str, i: int) -> str:
    """The ``i``-th of several texts side by side, in black on a ground that differs from its neighbors'."""
    return painted(text, f"30;48;5;{GROUNDS[i % len(GROUNDS)]}")
