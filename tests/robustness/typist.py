"""A person at a terminal: a program in a pseudo-terminal, what is typed into it, and what it shows."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["ROOT", "Typist"]

ROOT = Path(__file__).parents[2]
PASTED = ("\x1b[200~", "\x1b[201~")  # how a terminal marks what is pasted, where it was asked to
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Typist:
    """``python cli.py ARGUMENTS`` in a terminal. Use it with ``with``.

    Attributes:
        shown: all that the program has written, without control sequences.
    """

    def __init__(self, *arguments: str, home: Path, patience: float = 30.0) -> None:
        self._patience = patience
        self._terminal, inner = pty.openpty()
        environment = os.environ | {
            "XDG_STATE_HOME": str(home),
            "TERM": "xterm",
            "COLUMNS": "80",
            "INPUTRC": os.devnull,
        }
        command = [sys.executable, str(ROOT / "cli.py"), *arguments]
        self._child = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # it becomes the session's own terminal
        )  # fmt: skip
        os.close(inner)
        self._raw = b""
        self._seen = 0

    @property
    def shown(self) -> str:
        return SEQUENCE.sub("", self._raw.decode("utf-8", "replace")).replace("\r", "")

    def type(self, text: str) -> None:
        """Type, as late as a person would: Python's input() misses a Ctrl-C between its prompt and its waiting."""
        time.sleep(0.1)
        os.write(self._terminal, text.encode())

    def paste(self, text: str) -> None:
        self.type(text.join(PASTED))

    def sees(self, words: str) -> str:
        """Wait until something new is shown that ends with these words; all the new of it."""
        deadline = time.monotonic() + self._patience
        while (found := self.shown.find(words, self._seen)) < 0:
            assert time.monotonic() < deadline, f"{words!r} is not shown: {self.shown[self._seen :]!r}"
            self._read()
        new, self._seen = self.shown[self._seen : found + len(words)], found + len(words)
        return new

    def _read(self) -> bool:
        if not select.select([self._terminal], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # the program has ended
            return False
        self._raw += data
        return bool(data)

    def ends(self) -> int:
        """Wait for the end of the program; its exit code."""
        while self._child.poll() is None and self._read():
            pass
        return self._child.wait(self._patience)

    def __enter__(self) -> Typist:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._terminal)
