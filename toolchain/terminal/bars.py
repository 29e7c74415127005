"""Progress bars on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from .foreign import one_line

__all__ = ["CompilingLine", "advancing", "bytes_of", "progress_bar", "searching"]


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


class CompilingLine:
    """A watcher of compiling (see `ggmlpy.machine.compiling`): why nothing seems to happen for a while.

    A line that stays says it once; below it, a line counts functions and seconds while they are compiled.
    """

    def __init__(self) -> None:
        self._n = 0
        self._bar: Any = None

    def __call__(self, name: str) -> None:
        """``name`` is compiled now; with "", nothing is any more."""
        if not name:
            self._bar.close()
            self._bar = None
            return
        if not self._n:
            _say_compiling()
        if self._bar is None:
            self._bar = _line_of_compiling()
        self._n += 1
        self._bar.set_description_str(f"compiling {name}: {self._n} functions")


def _say_compiling() -> None:
    from tqdm import tqdm

    from ggmlpy.files.caches import cache_directory
    from ggmlpy.files.errors import OutputError

    try:
        kept = f"once, up to a minute; kept in {one_line(cache_directory())}"
    except OutputError:
        kept = "up to a minute, each time: GGMLPY_CACHE can name a folder to keep it in"
    tqdm.write(f"compiling for this processor, {kept}", file=sys.stderr)  # above any bar


def _line_of_compiling() -> Any:
    from tqdm import tqdm

    return tqdm(bar_format="{desc} [{elapsed}]", file=sys.stderr, dynamic_ncols=True, leave=False, mininterval=0)


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
