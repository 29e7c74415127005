"""Counting how often files are opened and directories listed, whatever function does it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

LOOKS = ("os.listdir", "os.scandir", "open", "glob.glob", "pathlib.Path.glob")
_seen: Counter[str] | None = None


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if _seen is not None and event in LOOKS:
        _seen[str(arguments[0])] += 1


sys.addaudithook(_record)  # cannot be removed, so it is switched by _seen


def looks_of(action: Callable[[], object]) -> dict[str, int]:
    """How often the action listed a directory or opened a file, by path."""
    global _seen
    action()  # once uncounted, for what is imported at the first time
    _seen = Counter()
    try:
        action()
        return dict(_seen)
    finally:
        _seen = None
