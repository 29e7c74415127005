"""What exactness costs: tokens a second of `exact`, build by build, and of `fast`.

    python benchmarks/make_model.py 1b.bin --n-embd 2048 --n-head 16 --n-layer 22
    python benchmarks/bench_exactness.py 1b.bin

Every way computes a few tokens in turn, again and again, so that a busy machine disturbs all of them alike; the figures
are medians of processor time on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_ref.text.model import Model

WAYS = (("fast", None), ("exact", "scalar"), ("exact", "avx2"), ("exact", "avx512"), ("exact", "cmake-avx2"))


def measure(path: Path, rounds: int) -> None:
    """Print tokens a second, one by one and as a prompt of 32 tokens, and the share of `fast`."""
    models = {way: Model.from_file(path, numerics=way[0], build=way[1], n_ctx=128, n_threads=1) for way in WAYS}
    single: dict[tuple[str, str | None], list[float]] = {way: [] for way in WAYS}
    prompt: dict[tuple[str, str | None], list[float]] = {way: [] for way in WAYS}
    for model in models.values():  # compile, and touch the file once
        model.evaluate(list(range(1, 9)), 0)
        model.evaluate([9], 8)
    for _ in range(rounds):
        for way, model in models.items():
            single[way].append(sum(time_of(model, [5], 8 + i) for i in range(4)) / 4)
            prompt[way].append(time_of(model, list(range(1, 33)), 0) / 32)
    print(f"{'':20} {'one by one':>16} {'prompt of 32':>18}   (tokens/s of processor time; share of fast)")
    for way in WAYS:
        rates = [1 / np.median(times[way]) for times in (single, prompt)]
        shares = [rate * np.median(times[WAYS[0]]) for rate, times in zip(rates, (single, prompt), strict=True)]
        name = " ".join(part for part in way if part)
        print(f"{name:20} {rates[0]:9.1f} {shares[0]:6.0%} {rates[1]:11.1f} {shares[1]:6.0%}")


def time_of(model: Model, tokens: list[int], n_past: int) -> float:
    """Seconds of processor time that evaluating `tokens` takes."""
    start = time.process_time()
    model.evaluate(tokens, n_past, last_only=True)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a q4_0 model of March 2023 (ggjt v1)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    measure(args.model, args.rounds)


if __name__ == "__main__":
    main()
