"""Running somebody's program on an input: words in braces replaced, no shell unless asked for, bounded time and output.

The program runs as the person who typed it: with their rights, in their directory. Only time and output are bounded.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ggmlpy.files.errors import UsageError

__all__ = ["Ended", "run_program", "words_of"]

LARGEST_OUTPUT = 256 << 20  # bytes of a file or of stdout; nothing that is checked here is that large
PAUSE = 0.02  # seconds between two looks at a program


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        problem: "" if it ended by itself with exit code 0; else what happened, in words.
        status: "", "failed", "timed out" or "too much".
        stdout: what it printed.
    """

    status: str = ""
    problem: str = ""
    stdout: bytes = b""


def words_of(command: str, values: Mapping[str, str], shell: bool = False) -> list[str] | str:
    """The command with everything in braces replaced: words, or one line for the shell.

    Raises:
        UsageError: a name in braces that has no value, or quotes that do not end.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UsageError(f"these cases have no {match[0]}; they have {{{'}, {'.join(sorted(values))}}}")
        return shlex.quote(values[match[1]]) if shell else values[match[1]]

    def filled(text: str) -> str:
        return re.sub(r"\{(\w+)\}", value, text)

    try:
        return filled(command) if shell else [filled(word) for word in shlex.split(command)]
    except ValueError as error:
        raise UsageError(f"the command cannot be read: {error}") from error


def run_program(
    words: list[str] | str,
    timeout: float,
    out: Path | None = None,
    largest: int = LARGEST_OUTPUT,
    memory: int | None = None,
) -> Ended:
    """Run a program to its end, or to where it has had enough time or written enough.

    Args:
        words: what :func:`words_of` made; a text goes to the shell.
        out: the file that it is to write, whose size is watched.
        largest: bytes that it may write into that file, and print.
        memory: bytes that it may hold; looked at where the system has ``/proc``.
    """
    if not words:
        return Ended("failed", "the command is empty")
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                words,
                shell=isinstance(words, str),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=os.name != "nt",
            )
        except OSError as error:
            return Ended("failed", str(error))
        status, problem = _watched(process, timeout, memory, lambda: _largest(out, (stdout, stderr)), largest)
        if status:
            return Ended(status, problem)
        if process.returncode:
            last = _tail(stderr).decode("utf-8", "replace").strip().splitlines()[-1:]
            said = "".join(f": {line}" for line in last)
            return Ended("failed", f"exit code {process.returncode}{said}")
        stdout.seek(0)
        return Ended(stdout=stdout.read())


def _watched(
    process: subprocess.Popen[bytes], timeout: float, memory: int | None, written: Callable[[], int], largest: int
) -> tuple[str, str]:
    """Wait for the end; kill it when it takes or writes too much. Status and words, both "" if it ended."""
    deadline = time.monotonic() + timeout
    try:
        while True:
            ended = process.poll() is not None
            if written() > largest:
                return "too much", f"more than {largest:,} bytes of output"
            if memory is not None and _resident(process.pid) > memory:
                return "too much", f"more than {memory:,} bytes of memory"
            if ended:
                return "", ""
            if time.monotonic() > deadline:
                return "timed out", f"after {timeout:g} s"
            time.sleep(PAUSE)
    finally:
        _end(process)


def _largest(out: Path | None, streams: tuple[BinaryIO, BinaryIO]) -> int:
    sizes = [os.fstat(stream.fileno()).st_size for stream in streams]
    if out is not None and out.is_file():
        sizes.append(out.stat().st_size)
    return max(sizes)


def _resident(pid: int) -> int:
    """The bytes of memory that a process holds; 0 where nothing tells, or it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError, AttributeError):
        return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program, and what it has started."""
    with contextlib.suppress(OSError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(stream: BinaryIO, size: int = 4096) -> bytes:
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
    return stream.read()
