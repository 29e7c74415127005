"""What must hold of every input, and the guards that watch it."""

from __future__ import annotations

import codecs
import os
import re
import resource
import signal
import sys
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import FormatError, UsageError

__all__ = ["Broken", "Guard", "Limits", "Verdict", "judged"]

ROOT = Path(__file__).resolve().parents[2]
OWN = (f"{ROOT}/ggmlpy", f"{ROOT}/llama_ref", f"{ROOT}/lora", f"{ROOT}/toolchain", f"{ROOT}/cli.py")
ON_FILES = {
    "open",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "os.link",
}
ON_FILES |= {
    "shutil.rmtree",
    "shutil.copyfile",
    "shutil.copymode",
    "shutil.copystat",
    "tempfile.mkdtemp",
    "tempfile.mkstemp",
}
ON_FILES |= {"os.utime", "os.chmod", "os.symlink", "shutil.move", "shutil.copytree", "pathlib.Path.glob"}
ON_FILES |= {"pathlib.Path.rglob", "pathlib.Path.walk"}
READ_ANYWHERE = (  # what doctor, report, and the number of threads need
    *("/proc/meminfo", "/proc/self/cgroup", "/sys/fs/cgroup/", os.devnull),
    f"{ROOT}/ggmlpy/look/report.html",
)
HARMLESS = {"mmap.__new__", "object.__getattr__", "object.__setattr__", "sys._getframe", "builtins.id", "array.__new__"}
HARMLESS |= {"sys.settrace"}  # our own tracer
HARMLESS |= {"fcntl.flock"}  # a lock on the file that is being written says that its process lives
for _codec in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "gb18030", "unicode_escape"):
    codecs.lookup(_codec)  # now, for Python reads a codec from its own files when it is first used


class Broken(Exception):
    """A rule that an exercise found broken by itself: a half-written file, a traceback on the screen."""


class OutOfTime(BaseException):
    """The hard limit of processor time; no reader may catch it."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one input.

    Attributes:
        seconds: of processor time (of all threads), where nothing is traced.
        hard: seconds after which it is interrupted.
        python: bytes of Python and numpy objects.
        headroom: bytes of address space beyond what the process has when it is ready.
    """

    seconds: float = 1.0
    hard: int = 20
    python: int = 32 << 20
    headroom: int = 128 << 20


@dataclass
class Verdict:
    """What became of one input: "accepted", "refused" or "broken", the message without its numbers, the cost."""

    outcome: str
    message: str = ""
    where: str = ""  # of what is broken: the exception and the last line of ours; tells findings apart
    detail: str = ""
    seconds: float = 0.0
    memory: int = 0  # peak bytes of Python objects; 0 where it was not measured


class Guard:
    """Notes every audit event that a reader of files in one folder has no business with."""

    def __init__(self) -> None:
        self.folder = ""
        self.events: frozenset[str] = frozenset()
        self.active = False
        self.seen: Counter[str] = Counter()
        sys.addaudithook(self._hook)

    def __enter__(self) -> None:
        self.active = True

    def __exit__(self, *_: object) -> None:
        self.active = False

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self.active or event in HARMLESS or event in self.events:
            return
        if event in ON_FILES and self._inside(event, arguments):
            return
        self.seen[f"{event} {str(arguments)[:100]}"] += 1

    def _inside(self, event: str, arguments: tuple) -> bool:
        """Every path among the arguments lies in the folder; a number is a file that is open already."""
        paths = [os.fsdecode(item) for item in arguments[:2] if isinstance(item, (str, bytes, os.PathLike)) and item]
        if event in ("open", "pathlib.Path.glob", "pathlib.Path.rglob"):
            paths = paths[:1]  # the second is the mode, or a pattern
        return all(os.path.abspath(path).startswith(self.folder) or path.startswith(READ_ANYWHERE) for path in paths)


def bounded(limits: Limits) -> None:
    """Let the process ask for no more address space than it has now and the headroom; interrupt what takes too long."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        size = int(stream.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + limits.headroom, hard))
    signal.signal(signal.SIGPROF, _interrupt)


def _interrupt(number: int, frame: Any) -> None:
    raise OutOfTime


def judged(
    exercise: Callable[[], object], guard: Guard, limits: Limits, *, measure: bool = False, traced: bool = False
) -> Verdict:
    """Run one exercise under all guards."""
    before = guard.seen.total()
    if measure:
        tracemalloc.start()
    # a hang inside a library that never returns to Python is ended by the system, and seen by the parent
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 3 * limits.hard, -1))
    signal.setitimer(signal.ITIMER_PROF, limits.hard)
    start = time.process_time()
    try:
        with guard:
            exercise()
        verdict = Verdict("accepted")
    except (FormatError, UsageError) as error:
        verdict = _refusal(error)
    except OutOfTime:
        verdict = Verdict("broken", where="out of time", detail=traceback.format_exc(limit=-6))
    except BaseException as error:
        verdict = Verdict("broken", where=_place(error), detail=traceback.format_exc(limit=-8)[-2000:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))
    verdict.seconds = time.process_time() - start
    if measure:
        verdict.memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if verdict.outcome != "broken":
        _judge_costs(verdict, guard, before, limits, traced or measure)
    return verdict


def _judge_costs(verdict: Verdict, guard: Guard, before: int, limits: Limits, traced: bool) -> None:
    if guard.seen.total() > before:
        events = ", ".join(list(guard.seen)[-3:])
        verdict.outcome, verdict.where, verdict.detail = "broken", f"event {events.split()[0]}", events
    elif verdict.memory > limits.python:
        verdict.outcome, verdict.where = "broken", "memory"
        verdict.detail = f"{verdict.memory:,} bytes; {verdict.message}"
    elif verdict.seconds > limits.seconds and not traced:
        verdict.outcome, verdict.where = "broken", "slow"
        verdict.detail = f"{verdict.seconds:.1f} s; {verdict.message}"


def _refusal(error: Exception) -> Verdict:
    words = str(error)
    if isinstance(error, FormatError):
        if error.path is None:
            return Verdict("broken", where=f"no path: {_masked(error.problem)}", detail=traceback.format_exc(limit=-3))
        return Verdict("refused", f"{type(error).__name__}: {_masked(error.problem)}")
    return Verdict("refused", f"{type(error).__name__}: {_masked(words)}")


def _masked(words: str) -> str:
    """A message without its numbers and names."""
    words = re.sub(r"/\S+", "PATH", words)
    words = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "TEXT", words)
    return re.sub(r"\d[\d,.]*", "N", words)[:120]


def _place(error: BaseException) -> str:
    """The exception's type and the last line of ours that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(OWN)]
    if isinstance(error, Broken):
        return f"Broken {_masked(str(error))[:60]}"
    last = own[-1] if own else frames[-1]
    return f"{type(error).__name__} at {os.path.relpath(last.filename, ROOT)}:{last.lineno}"
