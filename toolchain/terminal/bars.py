"""Progress bars on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["advancing", "bytes_of", "progress_bar", "searching"]


def progress_bar(args: argparse.Namespace, total: int | None, what: str, unit: str = "B") -> Any:
    """A tqdm bar on stderr: silent with ``-q`` and when stderr is not a terminal. Use it with ``with``; call
    ``.update(n)``."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=True,
        unit_divisor=1024 if unit == "B" else 1000,
        disable=args.quiet or not sys.stderr.isatty(),
        miniters=0,  # left to itself, tqdm goes silent for seconds where work becomes slower
        file=sys.stderr,
        dynamic_ncols=True,
        leave=False,
    )


def searching(bar: Any, what: str) -> Callable[[int], object]:
    """A ``progress`` that fills the bar up to its end; called with 0, it shows that ``what`` is being done."""

    def progress(n: int) -> None:
        if bar.disable:
            return
        if not n and not bar.desc.startswith(what):
            bar.set_description(what, refresh=False)
        bar.update(max(0, min(n, bar.total - bar.n)))

    return progress


def advancing(bar: Any) -> Callable[[int, int], None]:
    """A ``progress(done, total)`` for work whose amount is known only when it begins."""

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return progress


def bytes_of(path: str) -> int:
    """How much there is to read in a file, or about so in a folder of weights."""
    if not os.path.isdir(path):
        return os.path.getsize(path) if os.path.exists(path) else 0
    entries = [entry for entry in os.scandir(path) if entry.is_file() and not entry.name.startswith("ggml")]
    return sum(entry.stat().st_size for entry in entries)
