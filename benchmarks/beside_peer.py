"""Everything that speed is measured by, in turns with llama.cpp's own benchmark, as one table.

    python benchmarks/beside_peer.py --peer build/bin/llama-bench --folder models --json result.json

Models of random weights in LLaMA-7B's shape, but with fewer layers, are made in the folder once. For each type and
number of threads ours and the peer's run in turns; the ratio is the median of those of neighbors, which other work on
the machine disturbs little. Without --peer only ours are measured. Besides: the peak of memory beside the file, the
cost of a token in a prompt of 2048 beside that in one of 128, quantizing beside reading and writing the same bytes,
and the time of a whole process that evaluates three tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.make_model import FTYPES, random_model  # noqa: E402
from ggmlpy.formats.model_params import ModelParams  # noqa: E402

TYPES = "q4_0,q4_1,q5_0,q5_1,q8_0,q2_K,q3_K,q4_K,q5_K,q6_K,iq4_nl,iq4_xs,f16,bf16"
CLI = [sys.executable, str(ROOT / "cli.py")]
PROMPT, LONG_PROMPT, GENERATED = 128, 2048, 16


#: for the commands: compiled modules are kept, as they are where nothing forbids it
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(command: list[str]) -> str:
    """What a command prints."""
    options = {"text": True, "errors": "replace", "stdin": subprocess.DEVNULL, "env": ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def ours(model: Path, threads: int, prompt: int) -> float:
    """Tokens per second: of a prompt, or generated if it has no tokens."""
    words = ["bench", "-q", "-m", str(model), "-t", str(threads), "-n", str(prompt), "-r", "1", "--json"]
    (row,) = json.loads(run([*CLI, *words]))
    return float(row["prompt" if prompt else "generate"])


def peers(peer: str, model: Path, threads: int, prompt: int) -> float:
    """The same of the peer."""
    counts = ["-p", str(prompt), "-n", "0" if prompt else str(GENERATED)]
    rows = json.loads(run([peer, "-m", str(model), "-t", str(threads), *counts, "-r", "1", "-o", "json"]))
    return float(rows[-1]["avg_ts"])


def in_turns(rounds: int, own: Callable[[], float], other: Callable[[], float] | None) -> dict[str, float]:
    """Medians of both, and of the ratios of neighbors; without another only the first."""
    if other is None:
        return {"ours": statistics.median(own() for _ in range(rounds))}
    pairs = [(own(), other()) for _ in range(rounds)]
    mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"ours": mine, "peer": theirs, "ratio": statistics.median(a / b for a, b in pairs)}


def model_of(folder: Path, kind: str, layers: int) -> Path:
    """The model of a type, made if it isn't there."""
    path = folder / f"{kind}-{layers}.gguf"
    if not path.exists():
        shape = ModelParams.from_header(32000, 4096, 256, 32, layers, 128, FTYPES[kind])
        random_model(path, shape, 3, kind, container="gguf")
    with path.open("rb", buffering=0) as stream:  # into the page cache
        while stream.read(1 << 24):
            pass
    return path


def evaluating(model: Path) -> list[str]:
    """A whole process that opens a model and evaluates three tokens."""
    return [*CLI, "logits", "-q", "-m", str(model), "--tokens", "1,5,7", "--out", str(model.with_suffix(".npy"))]


def peak_of(model: Path) -> float:
    """The largest memory of a process that evaluates, pages of the file included, in files."""
    # the child's usage alone counts: a process that has waited for nothing else asks for it
    measure = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    return int(run([sys.executable, "-c", measure, *evaluating(model)])) * 1024 / model.stat().st_size


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def of_quantizing(folder: Path, layers: int, rounds: int) -> dict[str, float]:
    """f16 to q4_0, in seconds, beside reading the one and writing as many bytes as the other, to new files."""
    source, target, copy = model_of(folder, "f16", layers), folder / "out.gguf", folder / "copy.bin"
    quantize = [*CLI, "quantize", "-q", str(source), str(target), "q4_0", "--pure"]
    shell = 'cat "$1" >/dev/null; head -c "$2" "$1" >"$3"'
    run(quantize)
    copying = ["sh", "-c", shell, "sh", str(source), str(target.stat().st_size), str(copy)]

    def seconds_of(command: list[str], result: Path) -> float:
        result.unlink(missing_ok=True)  # what is left of an earlier turn would be thrown away, or written to the disk
        return seconds(lambda: run(command))

    result = in_turns(rounds, lambda: seconds_of(quantize, target), lambda: seconds_of(copying, copy))
    for path in (target, copy):
        path.unlink()
    return {"ours": result["ours"], "copying": result["peer"], "ratio": result["ratio"]}


def processor() -> str:
    """Its name."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def table(args: argparse.Namespace, show: Callable[[dict[str, Any]], None]) -> None:
    """Measure row by row."""
    for kind in args.types.split(","):
        model = model_of(args.folder, kind, args.layers)
        for threads in map(int, args.threads.split(",")):
            for prompt in (0, PROMPT):
                other = (lambda m=model, t=threads, p=prompt: peers(args.peer, m, t, p)) if args.peer else None
                result = in_turns(args.rounds, lambda m=model, t=threads, p=prompt: ours(m, t, p), other)
                what = f"prompt of {prompt}" if prompt else "generation"
                show({"what": f"{kind} {what}", "threads": threads, "unit": "tok/s", **result})
        show({"what": f"{kind} peak memory", "unit": "files", "ours": peak_of(model)})
    model, threads = model_of(args.folder, "q4_0", args.layers), int(args.threads.split(",")[-1])
    lengths = in_turns(args.rounds, lambda: ours(model, threads, PROMPT), lambda: ours(model, threads, LONG_PROMPT))
    show({"what": f"cost of a token at {LONG_PROMPT} beside {PROMPT}", "unit": "times", "ours": lengths["ratio"]})
    first = statistics.median(seconds(lambda: run(evaluating(model))) for _ in range(args.rounds))
    show({"what": "first logits, whole process", "unit": "s", "ours": first})
    show({"what": "quantize f16 to q4_0", "unit": "s", **of_quantizing(args.folder, args.layers, args.rounds)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="LLAMA_BENCH", help="llama.cpp's llama-bench, built for this machine")
    parser.add_argument("--folder", type=Path, required=True, help="where models are made and kept")
    parser.add_argument("--types", default=TYPES, help=f"default {TYPES}")
    parser.add_argument("--threads", default="1,2", help="numbers of threads (default 1,2)")
    parser.add_argument("--layers", type=int, default=8, help="of the 32 that 7B has (default 8)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []

    def show(row: dict[str, Any]) -> None:
        rows.append(row)
        figures = "  ".join(f"{name} {value:.3g}" for name, value in row.items() if isinstance(value, float))
        print(f"{row['what']:<36} {row.get('threads', ''):>3}  {figures} {row['unit']}", flush=True)
        if args.json:
            args.json.write_text(json.dumps({"processor": processor(), "layers": args.layers, "rows": rows}, indent=1))

    print(f"{processor()}, {args.layers} layers", flush=True)
    table(args, show)


if __name__ == "__main__":
    main()
