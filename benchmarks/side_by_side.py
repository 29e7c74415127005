"""Compare two programs on this machine: run them in turns, A B A B …, and give the median of the ratios of neighbours.

    python benchmarks/side_by_side.py --rounds 5 \\
        -a 'python cli.py bench -q -m 7b.bin -t 2 -n 0 --json' --pattern-a '"generate": ([0-9.]+)' \\
        -b './main -m 7b.bin -t 2 -n 32 -p x'  --pattern-b 'eval time .*?([0-9.]+) ms per run' --inverse-b

A pattern is a regular expression whose first group is a number in what the program prints (on either stream); the last
match counts. --inverse-a, --inverse-b: the number is a time (in ms), so 1000 / it is compared. Without a pattern the
time that the command takes counts, inverted. Taking turns makes the ratio robust where other work shares the machine;
--warm FILE reads a file once before the start, so that neither pays for the disk.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import subprocess
import sys
import time


def speed(command: str, pattern: str | None, inverse: bool) -> float:
    """Run a command and return how fast it was: larger is better."""
    start = time.perf_counter()
    run = subprocess.run(
        shlex.split(command), capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
    )
    took = time.perf_counter() - start
    if run.returncode:
        sys.exit(f"{command}\nended with code {run.returncode}:\n{run.stderr[-2000:]}")
    if pattern is None:
        return 1 / took
    found = re.findall(pattern, run.stdout + run.stderr)
    if not found:
        sys.exit(f"{command}\nprints nothing that matches {pattern!r}:\n{(run.stdout + run.stderr)[-2000:]}")
    number = float(found[-1])
    return 1000 / number if inverse else number


def warm(path: str) -> None:
    """Bring a file into the page cache."""
    with open(path, "rb", buffering=0) as stream:
        while stream.read(1 << 24):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-a", required=True, metavar="COMMAND")
    parser.add_argument("-b", required=True, metavar="COMMAND")
    parser.add_argument("--pattern-a", metavar="REGEX")
    parser.add_argument("--pattern-b", metavar="REGEX")
    parser.add_argument("--inverse-a", action="store_true")
    parser.add_argument("--inverse-b", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", metavar="FILE")
    args = parser.parse_args()
    if args.warm:
        warm(args.warm)
    a_all, b_all = [], []
    for i in range(args.rounds):
        a_all.append(speed(args.a, args.pattern_a, args.inverse_a))
        b_all.append(speed(args.b, args.pattern_b, args.inverse_b))
        print(f"round {i + 1}: A {a_all[-1]:.3f}  B {b_all[-1]:.3f}  A/B {a_all[-1] / b_all[-1]:.3f}", flush=True)
    ratios = sorted(a / b for a, b in zip(a_all, b_all))
    print(f"median:  A {statistics.median(a_all):.3f}  B {statistics.median(b_all):.3f}")
    print(f"median of ratios A/B: {statistics.median(ratios):.3f}  (from {ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
