"""Results on stdout, remarks and errors on stderr, JSON on stdout: all that a command prints goes through here.

What is printed may come from a file, and then it is somebody else's: a line stays one line, and no control character
reaches the terminal (see :mod:`ggmlpy.files.foreign`).
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TextIO

from . import program
from .foreign import escape, one_line, safe_json, visible_json
from .widths import fitted, terminal_width

__all__ = [
    "complain",
    "in_terminal",
    "memory_used",
    "print_json",
    "put",
    "put_json",
    "put_painted",
    "put_text",
    "remark",
    "remark_text",
    "say",
    "say_text",
    "speak_utf8",
    "warn_of_encoding",
    "warn_of_values",
]


def put(*lines: object, end: str = "\n", flush: bool = False) -> None:
    """Print lines of a result on stdout; a line break within one is shown as an escape.

    >>> put("a", "b\\nc")
    a
    b\\nc
    """
    for line in lines:
        print(in_terminal(one_line(line), sys.stdout) if end == "\n" else one_line(line), end=end, flush=flush)


def put_text(text: object, end: str = "\n") -> None:
    """Print a text of several lines on stdout, where nothing of a file can begin a line."""
    print(escape(text), end=end)


def put_painted(line: str, flush: bool = False) -> None:
    """Print what :mod:`toolchain.terminal.colors` painted, which made each part of it safe."""
    print(in_terminal(line, sys.stdout), flush=flush)


def in_terminal(line: str, stream: TextIO) -> str:
    """A line as it fits a stream: broken between words where that is a terminal; elsewhere it is what programs read."""
    return "\n".join(fitted(line, terminal_width(stream), program.name())) if stream.isatty() else line


def complain(problem: object) -> None:
    """Print an error on stderr, in one line."""
    remark(f"error: {problem}")


def remark(text: object) -> None:
    """Print a line on stderr."""
    print(in_terminal(one_line(text), sys.stderr), file=sys.stderr)


def remark_text(text: object) -> None:
    """Print a text of several lines on stderr."""
    for line in escape(text).split("\n"):
        print(in_terminal(line, sys.stderr), file=sys.stderr)


def say(args: argparse.Namespace, *words: object) -> None:
    """Print a line on stderr, unless ``-q``."""
    if not args.quiet:
        remark(" ".join(map(str, words)))


def say_text(args: argparse.Namespace, text: object) -> None:
    """Print a text of several lines on stderr, unless ``-q``."""
    if not args.quiet:
        remark_text(text)


def warn_of_encoding(args: argparse.Namespace, name: str, data: bytes) -> None:
    """Say that a text seems not to be UTF-8: its bytes are used as they are."""
    from ggmlpy.files.encodings import encoding_doubt

    if doubt := encoding_doubt(data):
        say(args, f"warning: {'standard input' if name == '-' else name}: {doubt}")


def warn_of_values(args: argparse.Namespace, *paths: object) -> None:
    """Say of models that were written that some of their values are NaN or infinite."""
    from toolchain.look.values import warnings_of

    for warning in [] if args.quiet else warnings_of(*map(str, paths)):
        say(args, f"warning: {warning}")


def memory_used() -> str:
    """ ", at most 120 MB of memory", where the system tells; and how much of it is the libraries' own code."""
    most, code = _most_memory(), _library_code()
    if not most:
        return ""
    beside = f", {code / 1e6:,.0f} MB of it code of libraries" if code else ""
    return f", at most {most / 1e6:,.0f} MB of memory, mapped files included{beside}"


def _most_memory() -> int:
    """The most bytes that this process has had in memory, 0 where the system does not tell.

    Linux says it in ``VmHWM``; ``ru_maxrss`` there begins with what the parent had when it started us.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _library_code() -> int:
    """The bytes of executable files in memory, libraries above all; 0 where the system does not tell.

    One library takes a few megabytes or seventy, as the system happens to hold the file in pieces small or large.
    """
    held: dict[str, int] = {}
    programs, file = set(), ""
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                words = line.split(maxsplit=5)
                if "-" in words[0]:  # address range, permissions, offset, device, inode, file
                    file = words[5] if len(words) > 5 else ""
                    if "x" in words[1] and file.startswith("/"):
                        programs.add(file)
                elif words[0] == "Rss:":
                    held[file] = held.get(file, 0) + int(words[1]) * 1024
    except OSError:
        return 0
    return sum(held.get(file, 0) for file in programs)


def put_json(text: str) -> None:
    """Print JSON that is written already on stdout."""
    print(visible_json(text), end="")


def print_json(value: object) -> None:
    """One JSON document on stdout; Chinese text stays readable."""
    print(safe_json(value))


def speak_utf8() -> None:
    """Chinese text must survive consoles that speak another encoding; and a stream that is closed is an empty one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 it stays open
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if stream is sys.stderr else "replace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
