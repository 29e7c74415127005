"""Progress bars, remarks on stderr, JSON on stdout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any


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


def say(args: argparse.Namespace, *words: object) -> None:
    """Talk on stderr, unless ``-q``."""
    if not args.quiet:
        print(*words, file=sys.stderr)


def _say_compiling() -> None:
    from tqdm import tqdm

    tqdm.write("compiling for this processor: some seconds, the first time only", file=sys.stderr)  # above any bar


def _memory_used() -> str:
    """ ", at most 120 MB of memory", where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f", at most {most / 1e6:,.0f} MB of memory, mapped files included"


def print_json(value: object) -> None:
    """One JSON document on stdout; Chinese text stays readable."""
    import json

    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def _speak_utf8() -> None:
    """Chinese text must survive consoles that speak another encoding."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if stream is sys.stderr else "replace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
