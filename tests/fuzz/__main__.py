"""The command: hands tasks to processes, notices those that die, and writes what was found."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.coverage import lines_of, reached_lines
from tests.fuzz.minimise import minimise
from tests.fuzz.rules import Guard, Verdict
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Bench, Input, Summary, Task, make_input, serve

CHUNK = 1000
GUIDED_CHUNK = 250
MOST_GUIDED = 3000


@dataclass
class Worker:
    """A process and the task that it works on."""

    number: int
    root: Path
    task: Task | None = None
    has: set[str] = field(default_factory=set)  # targets whose last corpus it was sent

    def start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.progress: Any = context.RawValue("q", 0)
        shutil.rmtree(self.root, ignore_errors=True)
        self.process = context.Process(target=serve, args=(theirs, self.root, self.progress), daemon=True)
        self.process.start()
        theirs.close()
        self.has = set()


class Fuzzer:
    """A whole run."""

    def __init__(
        self, shares: dict[str, int], seed: int, processes: int, root: Path, guided: int = MOST_GUIDED
    ) -> None:
        self.shares, self.seed = shares, seed
        self.summaries = {name: Summary() for name in shares}
        self.guided = {name: min(guided, share // 10) for name, share in shares.items()}
        self.workers = [Worker(i, root / f"w{i}") for i in range(processes)]
        self.done_guided = dict.fromkeys(shares, 0)
        self.busy_guided: set[str] = set()
        self.fast = self._fast_tasks()
        self.again: list[Task] = []
        self.began = self.told = time.monotonic()

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
        if self.again:
            return self.again.pop()
        for name, done in self.done_guided.items():
            if done < self.guided[name] and name not in self.busy_guided:
                self.busy_guided.add(name)
                stop = min(done + GUIDED_CHUNK, self.guided[name])
                self.done_guided[name] = stop
                return Task(name, "guided", self.seed, done, stop)
        if self.busy_guided:
            return None  # the corpus is not complete
        return next(self.fast, None)

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
            wait([worker.connection for worker in busy], timeout=5)
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
        worker.task, worker.progress.value = task, task.start
        worker.connection.send((task, corpus, summary.steps if guided else set()))
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
        """Take a worker's answer, or see that it died over an input."""
        task = worker.task
        assert task is not None
        try:
            if not worker.connection.poll():
                return
            found = worker.connection.recv()
        except (EOFError, OSError):
            found = self.bury(worker, task)
        fresh = [found.findings[where] for where in found.findings.keys() - self.summaries[task.target].findings.keys()]
        for finding in fresh:
            print(f"{task.target}: {finding.where}, {finding.examples[0][0]}", file=sys.stderr, flush=True)
        self.summaries[task.target].add(found)
        self.busy_guided.discard(task.target) if task.phase == "guided" else None
        worker.task = None

    def bury(self, worker: Worker, task: Task) -> Summary:
        """A process died: the input that it was at is a finding; the rest of the task is done again by another."""
        worker.process.join()
        number = worker.progress.value
        summary = Summary(inputs=number - task.start)
        name, given = make_input(task, number, self.corpus(task.target))
        words = f"the process died with {worker.process.exitcode} at input {number}"
        summary.note(name, given, Verdict("broken", where=f"died with {worker.process.exitcode}", detail=words), False)
        folder = worker.root / task.target
        print(f"{task.target}: {words}; the folders are kept in {folder}.died", file=sys.stderr)
        shutil.copytree(folder, f"{folder}.died-{number}", dirs_exist_ok=True)
        if number + 1 < task.stop:
            self.again.append(Task(task.target, task.phase, task.seed, number + 1, task.stop))
        worker.start()
        return summary

    def tell(self) -> None:
        if time.monotonic() - self.told > 30:
            self.told = time.monotonic()
            done = sum(summary.inputs for summary in self.summaries.values())
            found = sum(len(summary.findings) for summary in self.summaries.values())
            rate = done / (self.told - self.began)
            print(f"{done:,} inputs, {rate:.0f} a second, {found} findings", file=sys.stderr, flush=True)

    def record(self) -> dict[str, Any]:
        """Everything as plain data."""
        total = Summary()
        for summary in self.summaries.values():
            total.add(summary)
        return {
            "inputs": total.inputs,
            "seed": self.seed,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "system": platform.platform(),
            "wall_seconds": round(time.monotonic() - self.began),
            "cpu_seconds": round(total.seconds),
            "findings": sum(len(summary.findings) for summary in self.summaries.values()),
            "targets": {name: figures(name, summary) for name, summary in self.summaries.items()},
        }


def figures(name: str, summary: Summary) -> dict[str, Any]:
    """One target's part of the record."""
    reached = reached_lines(summary.steps)
    lines = {module: lines_of(module, reached.get(module, set())) for module in TARGETS[name].modules}
    covered = {
        module: {
            "reached": len(reached.get(module, set()) & every),
            "of_functions_entered": len(entered),
            "of": len(every),
        }
        for module, (every, entered) in lines.items()
    }
    return {
        "inputs": summary.inputs,
        **{outcome: summary.outcomes[outcome] for outcome in ("accepted", "refused", "broken")},
        "messages": len(summary.messages),
        "corpus": len(summary.corpus),
        "steps": len(summary.steps),
        "lines": covered,
        "slowest_seconds": round(summary.slowest[0], 3),
        "slowest": summary.slowest[1],
        "peak_bytes": summary.peak,
        "resident_kilobytes": summary.resident,
        "cpu_seconds": round(summary.seconds, 1),
        "findings": {where: found.count for where, found in summary.findings.items()},
    }


def table(record: dict[str, Any]) -> str:
    """The figures for people."""
    head = f"{'target':<13} {'inputs':>9} {'accepted':>9} {'refused':>9} {'broken':>6} {'messages':>8} {'corpus':>6} "
    lines = [head + f"{'lines reached of functions entered':>34} {'slowest':>8} {'peak MB':>8}"]
    for name, row in record["targets"].items():
        reached = sum(item["reached"] for item in row["lines"].values())
        entered = sum(item["of_functions_entered"] for item in row["lines"].values())
        share = f"{reached:,} of {entered:,} ({reached / max(entered, 1):.0%})"
        lines.append(
            f"{name:<13} {row['inputs']:>9,} {row['accepted']:>9,} {row['refused']:>9,} {row['broken']:>6,} "
            f"{row['messages']:>8,} {row['corpus']:>6,} {share:>34} {row['slowest_seconds']:>7.3f}s "
            f"{row['peak_bytes'] / 1e6:>8.2f}"
        )
    return "\n".join(lines)


def page_table(record: dict[str, Any]) -> str:
    """The figures as docs/damaged-files.md shows them."""
    lines = ["| reader | inputs | read | refused | different refusals | slowest | peak |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|"]
    for name, row in record["targets"].items():
        cells = (f"{row['inputs']:,}", f"{row['accepted']:,}", f"{row['refused']:,}", f"{row['messages']:,}")
        costs = (f"{row['slowest_seconds']:.2f} s", f"{row['peak_bytes'] / 1e6:.1f} MB")
        lines.append(f"| {name} | {' | '.join((*cells, *costs))} |")
    return "\n".join(lines)


def keep(folder: Path, summaries: dict[str, Summary]) -> None:
    """Write the inputs that broke a rule, and a text beside each that says which."""
    folder.mkdir(parents=True, exist_ok=True)
    for summary in summaries.values():
        for found in summary.findings.values():
            for name, given in found.examples:
                (folder / name).write_bytes(given.data)
                (folder / f"{name}.txt").write_text(f"{found.where} ({found.count} times)\n{found.detail}\n")


def replay(path: Path, root: Path, shorten: bool) -> int:
    """Read one kept input again; with ``shorten`` make it as small as it goes while the same rule breaks."""
    name, scene, file, _ = path.name.split("--")
    guard = Guard()
    bench = Bench(TARGETS[name], root, guard)
    bench.warm_up()
    given = Input(scene, file, path.read_bytes())
    verdict = bench.judge(given, measure=True)
    print(f"{verdict.outcome}: {verdict.where or verdict.message} ({verdict.seconds:.2f} s, {verdict.memory:,} bytes)")
    print(verdict.detail)
    if shorten and verdict.outcome == "broken":
        small = minimise(bench, given, verdict.where)
        path.with_name(f"{path.name}.min").write_bytes(small.data)
        print(f"{len(given.data)} -> {len(small.data)} bytes: {small.data[:600]!r}")
    return int(verdict.outcome == "broken")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all, shared out by targets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", help="comma-separated; by default all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--guided", type=int, default=MOST_GUIDED, help="inputs of a target read under the tracer")
    parser.add_argument("--scratch", help="where the files lie meanwhile (default: memory, where the system has such)")
    parser.add_argument("--keep", type=Path, help="a folder for inputs that broke a rule")
    parser.add_argument("--record", type=Path, help="write the figures as JSON")
    parser.add_argument("--replay", type=Path, help="read one kept input again")
    parser.add_argument("--minimise", action="store_true", help="with --replay: shorten it")
    options = parser.parse_args()
    scratch = options.scratch or ("/dev/shm" if os.path.isdir("/dev/shm") else None)
    root = Path(tempfile.mkdtemp(prefix="fuzz-", dir=scratch))
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background processes ignore the first
        signal.signal(number, signal.default_int_handler)
    np.seterr(all="ignore")
    try:
        if options.replay:
            return replay(options.replay, root, options.minimise)
        names = options.target.split(",") if options.target else list(TARGETS)
        weights = sum(TARGETS[name].share for name in names)
        shares = {name: -(-options.count * TARGETS[name].share // weights) for name in names}
        fuzzer = Fuzzer(shares, options.seed, options.processes, root, options.guided)
        with contextlib.suppress(KeyboardInterrupt):  # what was done until then is told
            fuzzer.run()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    record = fuzzer.record()
    print(table(record))
    for name, summary in fuzzer.summaries.items():
        for found in summary.findings.values():
            print(f"\n{name}: {found.where}, {found.count} times, such as {found.examples[0][0]}\n{found.detail}")
    if options.keep:
        keep(options.keep, fuzzer.summaries)
    if options.record:
        options.record.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if record["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
