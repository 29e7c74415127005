"""How long it takes to verify a quantized model against its source, and how much memory, beside quantizing it.

    python benchmarks/bench_verify.py                   # 2 GB of f16, about 1 B parameters; q4_0
    python benchmarks/bench_verify.py --gigabytes 0.8 --type q5_1 --era 2023-05-19 --repeat 5

Runs are interleaved and medians printed: wall-clock times of a shared machine say little, ratios more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from bench_quantize import ROOT, measured, random_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the random f16 model (default 2)")
    parser.add_argument("--type", default="q4_0")
    parser.add_argument("--era", default="2023-03-31")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        compare(Path(folder), args)


def compare(folder: Path, args: argparse.Namespace) -> None:
    """Both commands in turn, as processes of their own."""
    model, out = random_model(folder / "f16.bin", args.gigabytes), folder / "out.bin"
    program = [sys.executable, str(ROOT / "cli.py")]
    runs = {
        "quantize": [*program, "quantize", str(model), str(out), args.type, "--era", args.era, "-q"],
        "verify": [*program, "verify", str(out), "--source", str(model), "--era", args.era, "-q"],
    }
    measured(runs["quantize"])  # compiles, and brings the model into the page cache
    measured(runs["verify"])
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
    for _ in range(args.repeat):
        for name, command in runs.items():
            figures[name].append(measured(command))
    for name, rows in figures.items():
        wall, cpu, peak = (statistics.median(column) for column in zip(*rows))
        print(f"{name:10} wall {wall:7.2f} s   cpu {cpu:7.2f} s   peak memory {peak:6.0f} MB")
    pairs = list(zip(figures["quantize"], figures["verify"]))
    wall, cpu = (statistics.median(q[i] / v[i] for q, v in pairs) for i in (0, 1))
    print(f"verify is {wall:.2f} times as fast as quantize by the clock, {cpu:.2f} times by CPU time")


if __name__ == "__main__":
    main()
