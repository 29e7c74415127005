"""Remarks on stderr, JSON on stdout."""

from __future__ import annotations

import argparse
import sys

__all__ = ["memory_used", "print_json", "say", "say_compiling", "speak_utf8"]


def say(args: argparse.Namespace, *words: object) -> None:
    """Print on stderr, unless ``-q``."""
    if not args.quiet:
        print(*words, file=sys.stderr)


def say_compiling() -> None:
    """Why nothing seems to happen for a while."""
    from tqdm import tqdm

    tqdm.write("compiling for this processor: some seconds, the first time only", file=sys.stderr)  # above any bar


def memory_used() -> str:
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


def speak_utf8() -> None:
    """Chinese text must survive consoles that speak another encoding."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if stream is sys.stderr else "replace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
