"""One process: makes inputs from a seed and their number, reads them under the rules, and sums up what happened."""

from __future__ import annotations

import codecs
import contextlib
import math
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.errors import FormatError, UsageError
from tests.fuzz.coverage import Step, Tracer
from tests.fuzz.damage_bytes import LARGEST, Spans
from tests.fuzz.rules import Guard, Verdict, bounded, judged
from tests.fuzz.targets import TARGETS, Target

__all__ = ["Bench", "Finding", "Input", "Progress", "Summary", "Task", "folder_of", "make_input", "serve"]

EXAMPLES = 3  # inputs kept of each finding
MEASURED = 16  # the memory of one input in so many is measured


@dataclass(frozen=True)
class Input:
    """One file of one scene, and the bytes it has this time."""

    scene: str
    file: str
    data: bytes


@dataclass(frozen=True)
class Task:
    """Inputs ``start`` to ``stop`` of a phase ("guided" or "fast")."""

    target: str
    phase: str
    seed: int
    start: int
    stop: int


@dataclass
class Finding:
    """A broken rule: which, how often, and some inputs that break it."""

    where: str
    detail: str
    count: int = 0
    examples: list[tuple[str, Input]] = field(default_factory=list)  # name of the input, input


@dataclass
class Summary:
    """What became of the inputs of a target."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")
    peak: int = 0
    seconds: float = 0.0
    resident: int = 0  # kilobytes, of the process
    corpus: list[Input] = field(default_factory=list)  # that reached something new
    steps: set[Step] = field(default_factory=set)

    def note(self, name: str, given: Input, verdict: Verdict, traced: bool) -> None:
        self.inputs += 1
        self.outcomes[verdict.outcome] += 1
        self.seconds += verdict.seconds
        self.peak = max(self.peak, verdict.memory)
        if not traced:
            self.slowest = max(self.slowest, (verdict.seconds, name))
        if verdict.message:
            self.messages[verdict.message] += 1
        if verdict.outcome == "broken":
            finding = self.findings.setdefault(verdict.where, Finding(verdict.where, verdict.detail))
            finding.count += 1
            if len(finding.examples) < EXAMPLES:
                finding.examples.append((name, given))

    def add(self, other: Summary) -> None:
        """Take in what another process, or another task, found."""
        self.inputs += other.inputs
        self.outcomes += other.outcomes
        self.messages += other.messages
        self.seconds += other.seconds
        self.slowest, self.peak = max(self.slowest, other.slowest), max(self.peak, other.peak)
        self.resident = max(self.resident, other.resident)
        self.corpus += other.corpus
        self.steps |= other.steps
        for where, found in other.findings.items():
            mine = self.findings.setdefault(where, Finding(where, found.detail))
            mine.count += found.count
            mine.examples += found.examples[: EXAMPLES - len(mine.examples)]


class Progress:
    """What a process is at, in memory that it shares with its parent, who tells from it which input ended it."""

    def __init__(self, context: Any) -> None:
        self._number, self._name = context.RawValue("q", 0), context.RawArray("c", 512)

    @property
    def number(self) -> int:
        return self._number.value

    @property
    def name(self) -> str:
        """The input's name; empty until it has been made."""
        return self._name.value.decode()

    def at(self, number: int, name: str = "") -> None:
        self._number.value, self._name.value = number, name.encode()


def make_input(task: Task, number: int, corpus: Sequence[Input], spans_of: Any = None) -> tuple[str, Input]:
    """Input ``number`` of a task and its name: the same ones give the same input.

    Arguments:
        spans_of: tells the fields of a member of the corpus by its index.
    """
    rng = random.Random(f"{task.seed} {task.target} {task.phase} {number}")
    index = rng.randrange(len(corpus))
    chosen = corpus[index]
    spans: Spans = spans_of(index) if spans_of else ()
    donors = [other.data for other in rng.sample(corpus, min(3, len(corpus))) if other.file[-4:] == chosen.file[-4:]]
    target = TARGETS[task.target]
    data = target.damage(rng, chosen.file, chosen.data, donors or [chosen.data], spans)[:LARGEST]
    return f"{task.target}--{chosen.scene}--{chosen.file}--{task.seed}-{task.phase[0]}{number}", Input(
        chosen.scene, chosen.file, data
    )


def folder_of(root: Path, scene: str) -> Path:
    return root / scene.replace(" ", "-")


class Bench:
    """Folders of valid files for one target, in which one file at a time is replaced and read."""

    def __init__(self, target: Target, root: Path, guard: Guard) -> None:
        self.target, self.root, self.guard = target, root / target.name, guard
        self.valid: dict[tuple[str, str], bytes] = {}
        self.seeds: list[Input] = []
        self._dirty: tuple[str, str] | None = None
        self._spans: dict[int, Spans] = {}
        self.corpus: Sequence[Input] = ()
        for scene, fill in target.scenes.items():
            self._prepare(scene, fill)
        self.use(self.seeds)

    def _prepare(self, scene: str, fill: Any) -> None:
        folder = self.folder(scene)
        folder.mkdir(parents=True)
        for file in fill(folder):
            data = (folder / file).read_bytes()
            self.valid[scene, file] = data
            self.seeds.append(Input(scene, file, data))
        shutil.copytree(folder, f"{folder}.valid")

    def folder(self, scene: str) -> Path:
        return folder_of(self.root, scene)

    def use(self, corpus: Sequence[Input]) -> None:
        """Make inputs from these from now on."""
        if corpus is not self.corpus:
            self.corpus, self._spans = corpus, {}

    def spans_of(self, index: int) -> Spans:
        """The fields of a member of the corpus."""
        if index not in self._spans:
            given = self.corpus[index]
            path = self.root / f"spans{Path(given.file).suffix}"
            path.write_bytes(given.data)
            self._spans[index] = self.target.spans(path)
        return self._spans[index]

    def place(self, given: Input) -> Path:
        """Put an input where its scene has the valid file; the file of the input before is valid again."""
        if self._dirty and self._dirty != (given.scene, given.file):
            scene, file = self._dirty
            (self.folder(scene) / file).write_bytes(self.valid[scene, file])
        self._dirty = given.scene, given.file
        (self.folder(given.scene) / given.file).write_bytes(given.data)
        return self.folder(given.scene)

    def judge(self, given: Input, *, measure: bool = False, tracer: Tracer | None = None) -> Verdict:
        """Read one input under the rules."""
        folder = self.place(given)
        self.guard.folder, self.guard.events = str(self.root.parent), self.target.events

        def read() -> None:
            with tracer or contextlib.nullcontext():
                self.target.read(folder, given.file)

        return judged(read, self.guard, self.target.limits, measure=measure, traced=tracer is not None)

    def warm_up(self) -> int:
        """Do once, unguarded, whatever happens only once; the number of seeds that are read without complaint."""
        read = 0
        for given in self.seeds:
            folder = self.place(given)
            if self.target.rehearse:
                self.target.rehearse(folder, given.file)
            for _ in range(2):
                with contextlib.suppress(FormatError, UsageError):
                    self.target.read(folder, given.file)
                    read += 1
        for number in range(60):
            _, given = make_input(Task(self.target.name, "warm", 0, 0, 60), number, self.corpus, self.spans_of)
            with contextlib.suppress(Exception):
                self.target.read(self.place(given), given.file)
        return read // 2

    def run(
        self,
        task: Task,
        corpus: Sequence[Input],
        known: set[Step],
        told: Callable[[int, str], None] = lambda number, name: None,
        deadline: float = math.inf,
    ) -> Summary:
        """All inputs of a task, or those until the deadline."""
        self.use(corpus or self.seeds)
        summary, tracer = Summary(), None
        if task.phase == "guided":
            tracer = Tracer(self.target.modules)
            tracer.seen = set(known)
        pool = list(self.corpus)
        for number in range(task.start, task.stop):
            if time.monotonic() > deadline:
                break
            told(number, "")
            if tracer:
                self.use(pool) if pool is not self.corpus else None
            name, given = make_input(task, number, self.corpus, self.spans_of)
            told(number, name)
            verdict = self.judge(given, measure=number % MEASURED == 0, tracer=tracer)
            summary.note(name, given, verdict, tracer is not None)
            if tracer and tracer.fresh:
                pool.append(given)
                summary.corpus.append(given)
                summary.steps |= tracer.fresh
        summary.resident = resident()
        return summary


def resident() -> int:
    """Kilobytes of memory that the process has taken at most."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(connection: Any, root: Path, progress: Progress, deadline: float, processors: set[int]) -> None:
    """Answer tasks until there is none."""
    os.sched_setaffinity(0, processors)
    os.makedirs(root, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(root)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # sentencepiece warns of odd pieces there
    os.chdir(root)  # relative names, such as those inside a directory that is removed, lie in it
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8-sig", "cp437", "idna", "latin-1"):
        codecs.lookup(encoding)  # not in the middle of an input
    warnings.simplefilter("always")
    np.seterr(all="ignore")
    guard = Guard()
    benches: dict[str, Bench] = {}
    corpora: dict[str, list[Input]] = {}
    while (asked := connection.recv()) is not None:
        task, corpus, known = asked
        if task.target not in benches:
            benches[task.target] = Bench(TARGETS[task.target], root, guard)
            benches[task.target].warm_up()
        bench = benches[task.target]
        corpora[task.target] = corpus or corpora.get(task.target) or bench.seeds
        bounded(bench.target.limits)
        connection.send(bench.run(task, corpora[task.target], known, progress.at, deadline))
