"""Runs commands of ours in processes of their own, quickly: one process imports everything, and forks for each command.

Started as a program it reads JSON lines: ``{"argv", "cwd", "out", "largest"}`` forks, and answers with the child's
number; ``{"wait": number}`` answers with its exit code (negative: the signal that ended it).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Child:
    """A command that runs."""

    nursery: Nursery
    pid: int
    out: Path

    def wait(self) -> int:
        """Its exit code, as the shell tells it; minus the signal that killed it."""
        return self.nursery.ask(wait=self.pid)

    def kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def said(self) -> str:
        """Stdout and stderr together."""
        return self.out.read_text("utf-8", "replace")


class Nursery:
    """Forks children that run commands."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.robustness.nursery"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.count = 0

    def ask(self, **request: object) -> int:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, argv: list[str], cwd: Path, largest: int | None = None) -> Child:
        """Start a command in a folder; no file may grow beyond ``largest`` bytes."""
        self.count += 1
        out = cwd.parent / f"{cwd.name}-{self.count}.out"
        child = Child(self, self.ask(argv=argv, cwd=str(cwd), out=str(out), largest=largest), out)
        assert until(out.exists), "the child never began"
        return child

    def run(self, argv: list[str], cwd: Path, largest: int | None = None) -> tuple[int, str]:
        child = self.start(argv, cwd, largest)
        return child.wait(), child.said

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


def _text_stream(number: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO(number, "w" if number else "r", closefd=False), "utf-8", write_through=True)


def _child(request: dict) -> None:
    import resource

    import cli

    os.chdir(request["cwd"])
    if request["largest"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"], request["largest"]))
    begun = os.open(request["out"] + ".part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (begun, 1), (begun, 2)):
        os.dup2(source, target)
    sys.stdin, sys.stdout, sys.stderr = map(_text_stream, range(3))
    code = 70
    try:
        os.rename(request["out"] + ".part", request["out"])  # from now on the test may send signals
        code = cli.main(request["argv"])
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def main() -> None:
    """Import what the commands import, then fork a child a line."""
    for module in (
        "cli",
        "ggmlpy.quantizers.migration",
        "ggmlpy.quantizers.whole_file",
        "llama_ref.conversion.checkpoints",
        "lora.merging.merge",
    ):
        importlib.import_module(module)
    ended: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            while request["wait"] not in ended:
                pid, status = os.wait()
                ended[pid] = os.waitstatus_to_exitcode(status)
            print(ended.pop(request["wait"]), flush=True)
            continue
        pid = os.fork()
        if not pid:
            _child(request)
        print(pid, flush=True)


if __name__ == "__main__":
    main()


def until(condition, seconds: float = 5.0) -> bool:
    """Wait for a condition, a millisecond at a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.001)
    return False
