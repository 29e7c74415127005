"""A campaign: tasks are handed to processes, those that die or hang are noticed, and one summary comes of it."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path

from tests.fuzz.coverage import Step
from tests.fuzz.rules import Guard, Verdict
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Bench, Input, Progress, Summary, Task, folder_of, serve

__all__ = ["MOST_GUIDED", "Fuzzer", "Worker"]

CHUNK = 1000
GUIDED_CHUNK = 250
MOST_GUIDED = 3000
GUIDED_PART = 0.2  # of the time, where that is limited
STUCK = 300.0  # seconds over one input: who waits for ever uses no processor time that could be limited
GRACE = 30.0  # seconds for the inputs in hand when the time is over


@dataclass
class Worker:
    """A process and the task that it works on."""

    number: int
    root: Path
    deadline: float
    task: Task | None = None
    has: set[str] = field(default_factory=set)  # targets whose last corpus it was sent
    seen: tuple[int, float] = (0, 0.0)  # the input that it was last seen at, and since when

    def start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.progress = Progress(context)
        shutil.rmtree(self.root, ignore_errors=True)
        arguments = (theirs, self.root, self.progress, self.deadline, self._processors())
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.has = set()

    def _processors(self) -> set[int]:
        """Two, on every machine: a reader starts as many threads, and the address space is bounded."""
        every = sorted(os.sched_getaffinity(0))
        return {every[(self.number + i) % len(every)] for i in (0, 1)}

    def take(self, task: Task, corpus: list[Input], known: set[Step]) -> None:
        self.task = task
        self.progress.at(task.start)
        self.seen = task.start, time.monotonic()
        self.connection.send((task, corpus, known))

    def hangs(self) -> bool:
        """It has been at one input for too long, or is still at one when all have ended."""
        now = time.monotonic()
        if self.progress.number != self.seen[0]:
            self.seen = self.progress.number, now
        return now - self.seen[1] > STUCK or now > self.deadline + GRACE

    def left(self) -> tuple[str, Input] | None:
        """The input that the process was at, from its folder; None while it was making one, or getting ready."""
        name = self.progress.name
        if not name:
            return None
        target, scene, file, _ = name.split("--")
        return name, Input(scene, file, (folder_of(self.root / target, scene) / file).read_bytes())


class Fuzzer:
    """A whole run.

    Args:
        shares: how many inputs of each target.
        seconds: after which it ends, with what was done until then.
        guided: inputs of a target read under the tracer, fewer where the time is limited.
    """

    def __init__(
        self,
        shares: dict[str, int],
        seed: int,
        processes: int,
        root: Path,
        guided: int = MOST_GUIDED,
        seconds: float = math.inf,
    ) -> None:
        self.shares, self.seed = shares, seed
        self.summaries = {name: Summary() for name in shares}
        self.guided = {name: min(guided, share // 10) for name, share in shares.items()}
        self.began = self.told = time.monotonic()
        self.deadline = self.began + seconds
        self.guided_until = self.began + seconds * GUIDED_PART
        self.workers = [Worker(i, root / f"w{i}", self.deadline) for i in range(processes)]
        self.done_guided = dict.fromkeys(shares, 0)
        self.busy_guided: set[str] = set()
        self.fast = self._fast_tasks()
        self.waiting: list[Task] = []  # whose target's corpus is not complete yet
        self.again: list[Task] = []

    def _fast_tasks(self) -> Iterator[Task]:
        """A piece of each target in turn, so that a run that is stopped has seen all."""
        at = dict.fromkeys(self.shares, 0)
        left = {name: share - self.guided[name] for name, share in self.shares.items()}
        rounds = max(1, max(left.values()) // CHUNK)
        for turn in range(rounds):
            for name, total in left.items():
                stop = total * (turn + 1) // rounds
                if stop > at[name]:
                    yield Task(name, "fast", self.seed, at[name], stop)
                    at[name] = stop

    def next_task(self) -> Task | None:
        now = time.monotonic()
        if now > self.deadline:
            return None
        if self.again:
            return self.again.pop()
        for name, done in self.done_guided.items():
            if now > self.guided_until:
                self.guided[name] = done
            if done < self.guided[name] and name not in self.busy_guided:
                self.busy_guided.add(name)
                stop = min(done + GUIDED_CHUNK, self.guided[name])
                self.done_guided[name] = stop
                return Task(name, "guided", self.seed, done, stop)
        return self._next_fast()

    def _next_fast(self) -> Task | None:
        """The next piece of a target whose corpus is complete."""
        ready = self.shares.keys() - self.busy_guided
        for task in self.waiting:
            if task.target in ready:
                self.waiting.remove(task)
                return task
        for task in self.fast if ready else ():
            if task.target in ready:
                return task
            self.waiting.append(task)
        return None

    def run(self) -> None:
        for worker in self.workers:
            worker.start()
        while True:
            for worker in self.workers:
                if worker.task is None and (task := self.next_task()):
                    self.hand(worker, task)
            busy = [worker for worker in self.workers if worker.task]
            if not busy:
                break
            wait([worker.connection for worker in busy], timeout=1)
            for worker in busy:
                self.hear(worker)
            self.tell()
        for worker in self.workers:
            worker.connection.send(None)
            worker.process.join()

    def hand(self, worker: Worker, task: Task) -> None:
        summary = self.summaries[task.target]
        guided = task.phase == "guided"
        corpus = self.corpus(task.target) if guided or task.target not in worker.has else []
        worker.take(task, corpus, summary.steps if guided else set())
        if not guided:
            worker.has.add(task.target)

    def corpus(self, name: str) -> list[Input]:
        """What inputs are made from: valid files twice, then what reached something new."""
        return [*self.seeds(name) * 2, *self.summaries[name].corpus]

    def seeds(self, name: str) -> list[Input]:
        if not hasattr(self, "_seeds"):
            self._seeds: dict[str, list[Input]] = {}
        if name not in self._seeds:
            with tempfile.TemporaryDirectory(dir=self.workers[0].root.parent) as folder:
                self._seeds[name] = Bench(TARGETS[name], Path(folder), Guard()).seeds
        return self._seeds[name]

    def hear(self, worker: Worker) -> None:
        """Take a worker's answer, or see that it died or hangs over an input."""
        task = worker.task
        assert task is not None
        try:
            if worker.connection.poll():
                found = worker.connection.recv()
            elif worker.hangs():
                worker.process.kill()
                found = self.bury(worker, task, "hangs")
            else:
                return
        except (EOFError, OSError):
            worker.process.join()
            found = self.bury(worker, task, f"died with {worker.process.exitcode}")
        fresh = [found.findings[where] for where in found.findings.keys() - self.summaries[task.target].findings.keys()]
        for finding in fresh:
            print(f"{task.target}: {finding.where}, {finding.examples[0][0]}", file=sys.stderr, flush=True)
        self.summaries[task.target].add(found)
        self.busy_guided.discard(task.target) if task.phase == "guided" else None
        worker.task = None

    def bury(self, worker: Worker, task: Task, where: str) -> Summary:
        """A process is gone: the input that it was at is a finding; the others of the task, whose outcomes went
        with it, are done by the next."""
        worker.process.join()
        number = worker.progress.number
        summary = Summary()
        left = worker.left() or (f"{task.target}--none--none--{number}", Input("none", "none", b""))
        if worker.progress.name or time.monotonic() < self.deadline:  # who was still getting ready is no finding
            summary.note(*left, Verdict("broken", where=where, detail=f"at input {number} of {task}"), False)
        for start, stop in ((task.start, number), (number + 1, task.stop)):
            if start < stop:
                self.again.append(replace(task, start=start, stop=stop))
        worker.start()
        return summary

    def tell(self) -> None:
        if time.monotonic() - self.told > 30:
            self.told = time.monotonic()
            done = sum(summary.inputs for summary in self.summaries.values())
            found = sum(len(summary.findings) for summary in self.summaries.values())
            rate = done / (self.told - self.began)
            print(f"{done:,} inputs, {rate:.0f} a second, {found} findings", file=sys.stderr, flush=True)
