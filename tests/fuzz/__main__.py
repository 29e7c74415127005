"""Read damaged files and tell what breaks a rule; see the package for what is read and what must hold.

Runs from a checkout that is not installed, on Linux, with numpy, numba, sentencepiece, safetensors, regex, jinja2,
hypothesis, and pytest; a reader that needs another package is left out by name where that is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.processors import available_processors
from tests.fuzz.campaign import MOST_GUIDED, Fuzzer
from tests.fuzz.coverage import lines_of, reached_lines
from tests.fuzz.minimise import minimise
from tests.fuzz.rules import Guard
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Bench, Input, Summary

COUNT = 100_000
ROOMY = 2 << 30  # bytes of memory that must be free to put the files there


def record_of(fuzzer: Fuzzer, left_out: dict[str, str]) -> dict[str, Any]:
    """Everything as plain data."""
    total = Summary()
    for summary in fuzzer.summaries.values():
        total.add(summary)
    return {
        "inputs": total.inputs,
        "seed": fuzzer.seed,
        "processes": len(fuzzer.workers),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": platform.platform(),
        "wall_seconds": round(time.monotonic() - fuzzer.began),
        "cpu_seconds": round(total.seconds),
        "findings": sum(len(summary.findings) for summary in fuzzer.summaries.values()),
        "left_out": left_out,
        "targets": {name: figures(name, summary) for name, summary in fuzzer.summaries.items()},
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


def scratch_folder(asked: str | None) -> str | None:
    """Where the files lie meanwhile."""
    memory = "/dev/shm"
    if asked or not os.path.isdir(memory):
        return asked
    return memory if shutil.disk_usage(memory).free > ROOMY else None


def chosen(asked: str | None, parser: argparse.ArgumentParser) -> tuple[list[str], dict[str, str]]:
    """The targets to read, and those left out with the package that each lacks."""
    names = asked.split(",") if asked else list(TARGETS)
    if unknown := ", ".join(name for name in names if name not in TARGETS):
        parser.error(f"no target is named {unknown}; there are {', '.join(TARGETS)}")
    lacking = {name: [need for need in TARGETS[name].needs if not find_spec(need)] for name in names}
    left_out = {name: ", ".join(needs) for name, needs in lacking.items() if needs}
    for name, needs in left_out.items():
        print(f"left out: {name}, which needs {needs}", file=sys.stderr)
    if len(left_out) == len(names):
        parser.error("nothing is left to read")
    return [name for name in names if name not in left_out], left_out


def parsed() -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, help=f"inputs in all, shared out by targets (default: {COUNT:,})")
    parser.add_argument(
        "--seconds", type=float, help="end after so long with what was done; without --count, only then"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", help="comma-separated; by default all")
    parser.add_argument("--processes", type=int, default=available_processors(), help="default: one per processor")
    parser.add_argument("--guided", type=int, default=MOST_GUIDED, help="inputs of a target read under the tracer")
    parser.add_argument("--scratch", help="where the files lie meanwhile (default: memory, where that has room)")
    parser.add_argument("--keep", type=Path, help="a folder for inputs that broke a rule")
    parser.add_argument("--record", type=Path, help="write the figures as JSON")
    parser.add_argument("--replay", type=Path, help="read one kept input again")
    parser.add_argument("--minimise", action="store_true", help="with --replay: shorten it")
    return parser.parse_args(), parser


def main() -> int:
    options, parser = parsed()
    root = Path(tempfile.mkdtemp(prefix="fuzz-", dir=scratch_folder(options.scratch)))
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background processes ignore the first
        signal.signal(number, signal.default_int_handler)
    np.seterr(all="ignore")
    try:
        if options.replay:
            return replay(options.replay, root, options.minimise)
        names, left_out = chosen(options.target, parser)
        weights = sum(TARGETS[name].share for name in names)
        count = options.count or (10**9 if options.seconds else COUNT)
        shares = {name: -(-count * TARGETS[name].share // weights) for name in names}
        fuzzer = Fuzzer(shares, options.seed, options.processes, root, options.guided, options.seconds or math.inf)
        with contextlib.suppress(KeyboardInterrupt):  # what was done until then is told
            fuzzer.run()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    record = record_of(fuzzer, left_out)
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
