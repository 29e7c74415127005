"""What writing a model costs beside reading and writing the same bytes, and how it would scale on more processors.

    python benchmarks/bench_writing.py F16.gguf                 # quantize to q4_0: 1 and 2 threads, in turns
    python benchmarks/bench_writing.py F16.gguf --type q6_K --threads 1 4 16
    python benchmarks/bench_writing.py F16.gguf --simulate      # 1 to 64 threads, on any machine

Beside each run, in the same turn: ``cat IN >/dev/null; head -c SIZE IN >OUT``, which computes nothing and leaves the
disk for later; ours ends when the disk has everything. Processor time tells more than elapsed time on a shared machine.

The simulation is the program itself, with one thing replaced: what a thread does for a segment outside the interpreter
(reading, quantizing, writing) is a sleep of the time that it was measured to take. Sleeping threads need no processors,
so two show what 64 would do; what remains real is everything that could hold them up: the interpreter's lock, the
order in which segments are asked for, and the one thread that takes the results. Memory and disk are not simulated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ggmlpy.files import segments  # noqa: E402
from ggmlpy.quantizers import gguf_file  # noqa: E402
from ggmlpy.quantizers.gguf_plan import GgufOptions  # noqa: E402
from ggmlpy.quantizers.whole_file import quantize_file  # noqa: E402

Figures = dict[str, float]


def process(command: list[str]) -> Figures:
    """Elapsed and processor seconds, and peak memory in MB, of a process."""
    began = time.perf_counter()
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(started.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    processors = usage.ru_utime + usage.ru_stime
    return {"elapsed": time.perf_counter() - began, "processors": processors, "MB": usage.ru_maxrss / 1024}


def in_turns(source: Path, kind: str, threads: list[int], rounds: int, folder: Path) -> dict[str, Figures]:
    """Medians of each way, and of its ratio to copying in the same turn."""
    out, runs = folder / "out.gguf", dict[str, list[Figures]]()
    quantize = [sys.executable, str(ROOT / "cli.py"), "quantize", "-q", str(source), str(out), kind, "--pure"]
    subprocess.run(quantize, check=True)
    size = out.stat().st_size
    out.unlink()
    ways = {"cat and head": ["sh", "-c", f'cat "{source}" >/dev/null; head -c {size} "{source}" >"{out}"']}
    ways |= {f"{t} threads": [*quantize, "-t", str(t)] for t in threads}
    for _ in range(rounds):
        for name, command in ways.items():
            runs.setdefault(name, []).append(process(command))
            out.unlink()
    copies = runs["cat and head"]
    found = {}
    for name, taken in runs.items():
        found[name] = {key: statistics.median(run[key] for run in taken) for key in taken[0]}
        for key in ("elapsed", "processors"):
            ratios = [run[key] / copy[key] for run, copy in zip(taken, copies, strict=True)]
            found[name][f"{key} / copying"] = statistics.median(ratios)
    return found


def once(source: Path, out: Path, kind: str, threads: int) -> float:
    began = time.perf_counter()
    quantize_file(source, out, kind, threads=threads, options=GgufOptions(pure=True))
    elapsed = time.perf_counter() - began
    out.unlink(missing_ok=True)
    return elapsed


def simulated(source: Path, kind: str, threads: list[int], folder: Path) -> dict[str, Figures]:
    """Seconds with each number of threads if there were as many processors."""
    out, made, spent, wrote = folder / "out.gguf", gguf_file._made_rows, [0, 0.0], [0, 0.0]
    write = os.pwrite

    def timed(counts: list[Any], work: Any, *args: Any) -> Any:
        began = time.thread_time()
        try:
            return work(*args)
        finally:
            counts[0], counts[1] = counts[0] + 1, counts[1] + time.thread_time() - began

    gguf_file._made_rows = lambda *args: timed(spent, made, *args)
    os.pwrite = lambda *args: timed(wrote, write, *args)
    main = time.thread_time()
    once(source, out, kind, 1)
    serial = time.thread_time() - main
    each, write_each = spent[1] / spent[0], wrote[1] / wrote[0]
    shape: dict[tuple[Any, ...], Any] = {}

    def asleep(planned: Any, era: Any, start: int, stop: int) -> Any:
        time.sleep(each)
        key = (planned.target, planned.source.shape[-1], stop - start)
        if key not in shape:
            shape[key] = made(planned, era, start, stop)
        return shape[key]

    def written(_descriptor: int, data: memoryview, _place: int) -> int:
        time.sleep(write_each)
        return len(data)

    gguf_file._made_rows, os.pwrite = asleep, written
    segments._begin_writeback = lambda *_: None
    once(source, out, kind, 1)  # the shapes are known then
    found = {f"{t} threads": {"elapsed": once(source, out, kind, t)} for t in threads}
    first = found[f"{threads[0]} threads"]["elapsed"]
    for t in threads:
        row = found[f"{t} threads"]
        row["times as fast"] = first / row["elapsed"]
        row["of the ideal"] = row["times as fast"] / t * threads[0]
    parallel = spent[1] + wrote[1]
    found["one thread, really"] = {
        "serial seconds": serial,
        "parallel": parallel,
        "share": serial / (serial + parallel),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="an f16 GGUF file")
    parser.add_argument("--type", default="q4_0")
    parser.add_argument("--threads", type=int, nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where files are written (default: a temporary folder)")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if args.simulate:
            found = simulated(args.source, args.type, args.threads or [1, 2, 4, 8, 16, 32, 64], Path(folder))
        else:
            found = in_turns(args.source, args.type, args.threads or [1, 2], args.rounds, Path(folder))
    for name, figures in found.items():
        print(f"{name:20}", "  ".join(f"{key} {value:7.3f}" for key, value in figures.items()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
