"""How evaluation, ``quantize`` and ``merge`` gain from threads, on the machine at hand.

    python benchmarks/many_threads.py models                        # 1, 4, 8 … threads, a few minutes
    python benchmarks/many_threads.py models --seconds 150 --types q4_0,f16

Models of random weights in LLaMA-7B's shape with eight layers, and a base with an adapter, are made in the folder once.
A line is printed as soon as it is known. No row is begun after --seconds. `share` is the part of what the machine's
memory delivers that generation uses, `of peak` the part of its multiplications that a prompt uses.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.beside_peer import CLI, model_of, processor, run, seconds  # noqa: E402

if TYPE_CHECKING:
    from llama_ref.text.model import Model

LAYERS, PROMPT, TEXTS = 8, 128, (1, 2, 4, 8, 16, 32)


def numbers_of_threads() -> list[int]:
    """1, 4, 8, 16 … and all."""
    n = len(os.sched_getaffinity(0))
    return sorted({1, *(t for t in (4, 8, 16, 32, 64) if t < n), n})


def evaluation(model: Path, threads: int) -> str:
    """What ``bench`` says."""
    words = ["bench", "-q", "-m", str(model), "-t", str(threads), "-n", str(PROMPT), "-r", "2", "--json"]
    (row,) = json.loads(run([*CLI, *words]))
    busiest = max(row["types"], key=lambda of_type: of_type["n_bytes"])
    return (
        f"generation {row['generate']:7.2f} tok/s, share {row['share']:4.0%} of {row['limit'] / 1e9:5.1f} GB/s, "
        f"prompt {row['prompt']:7.1f} tok/s, {busiest['multiply_share']:4.0%} of peak"
    )


def several_texts(path: Path, threads: int) -> str:
    """Milliseconds of a pass over the weights that evaluates the next token of each of some texts."""
    from llama_ref.text.model import Model

    with Model.from_file(path, numerics="fast", n_ctx=64, n_threads=threads) as model:
        times = [pass_of(model, n) for n in TEXTS]
    gains = ", ".join(f"{n}: {1e3 * t:.1f} ({n * times[0] / t:.1f} x)" for n, t in zip(TEXTS, times))
    return f"ms a pass, and tokens beside one text's: {gains}"


def pass_of(model: Model, n: int) -> float:
    steps = [(1, 0, model.new_cache()) for _ in range(n)]
    return statistics.median([seconds(lambda: model.evaluate_each(steps)) for _ in range(6)][1:])


def quantizing(source: Path, threads: int) -> str:
    target = source.with_name("out.gguf")
    words = ["quantize", "-q", str(source), str(target), "q4_0", "--pure", "-t", str(threads)]
    elapsed = min(seconds(lambda: run([*CLI, *words])) for _ in range(2))
    size = target.stat().st_size
    target.unlink()
    return f"{elapsed:6.2f} s for {source.stat().st_size / 1e9:.2f} GB to {size / 1e9:.2f} GB"


def copying(source: Path, size: int) -> str:
    """Reading the source and writing as many bytes as a q4_0 file has."""
    target = source.with_name("copy.bin")
    shell = 'cat "$1" >/dev/null; head -c "$2" "$1" >"$3"'
    elapsed = min(
        seconds(lambda: subprocess.run(["sh", "-c", shell, "sh", source, str(size), target], check=True))
        for _ in range(2)
    )
    target.unlink()
    return f"{elapsed:6.2f} s for {source.stat().st_size / 1e9:.2f} GB read and {size / 1e9:.2f} GB written"


def merging(folder: Path, threads: int) -> str:
    from benchmarks.bench_merge import SIZES, make_model

    base, adapter = make_model(folder / "1b", SIZES["1b"])
    output = folder / "merged"
    words = ["merge", "-q", "--base", str(base), "--lora", str(adapter), "--output", str(output), "--force"]
    elapsed = min(seconds(lambda: run([*CLI, *words, "-t", str(threads)])) for _ in range(2))
    return f"{elapsed:6.2f} s for {sum(p.stat().st_size for p in output.iterdir()) / 1e9:.2f} GB written"


def rows(folder: Path, types: list[str]) -> Iterator[tuple[str, Callable[[], str]]]:
    """What is measured, the most telling first."""
    threads = numbers_of_threads()
    with ProcessPoolExecutor(min(len(types) + 1, threads[-1])) as pool:
        of = dict(zip(types, pool.map(model_of, [folder] * len(types), types, [LAYERS] * len(types))))
    for kind in types:
        for t in threads:
            yield f"{kind}, {t} threads", lambda m=of[kind], t=t: evaluation(m, t)
    for kind in types:
        for t in (1, threads[-1]):
            yield f"{kind}, {t} threads, several texts", lambda m=of[kind], t=t: several_texts(m, t)
    for t in threads:
        yield f"quantize to q4_0, {t} threads", lambda t=t: quantizing(model_of(folder, "f16", LAYERS), t)
    size = model_of(folder, "q4_0", LAYERS).stat().st_size
    yield "reading and writing as much", lambda: copying(model_of(folder, "f16", LAYERS), size)
    for t in threads:
        yield f"merge of 1B, {t} threads", lambda t=t: merging(folder, t)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where models are made and kept")
    parser.add_argument("--types", default="q4_0,q4_K,q8_0,f16,q6_K", help="default q4_0,q4_K,q8_0,f16,q6_K")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no row after so long")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    print(f"{processor()}, {numbers_of_threads()[-1]} processors", flush=True)
    for what, measure in rows(args.folder, args.types.split(",")):
        if time.perf_counter() - began > args.seconds:
            print(f"{what:<34} not measured: out of time", flush=True)
        else:
            print(f"{what:<34} {measure()}", flush=True)


if __name__ == "__main__":
    main()
