"""How fast ``quantize`` is, and how much memory it takes: kernels alone, then whole processes on a random model.

    python benchmarks/bench_quantize.py                        # kernels: values a second of CPU time, one thread
    python benchmarks/bench_quantize.py --gigabytes 1.7        # the whole command on a random f16 file
    python benchmarks/bench_quantize.py --gigabytes 1.7 --peer ~/llama.cpp/quantize    # against a built llama.cpp

The peer is run as ``PEER IN OUT 2`` (llama.cpp of 2023-03-31). Runs are interleaved and the median ratio of CPU times
is printed, because wall-clock times of a shared machine say little.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ggmlpy import ERAS, TENSOR_TYPES, ModelParams, OutTensor, write_model  # noqa: E402
from ggmlpy.formats.tensor_names import expected_shapes  # noqa: E402
from ggmlpy.quantizers.rows import quantizable, quantize_rows  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, help="size of the random f16 model (none: kernels only)")
    parser.add_argument("--peer", type=Path, help="a quantize program of 2023-03-31 to compare with")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    args = parser.parse_args()
    if args.gigabytes is None:
        kernels()
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        processes(Path(folder), args)


def kernels(n: int = 1 << 22) -> None:
    """Values a second of each quantizer on f16 rows of 4096."""
    x = (np.random.default_rng(0).standard_normal((n // 4096, 4096)) * 0.02).astype(np.float16)
    for era in ERAS.values():
        for name in quantizable(era):
            quantize_rows(x[:1], name, era)  # compiles
            best = min(cpu_time(lambda name=name, era=era: quantize_rows(x, name, era)) for _ in range(5))
            print(f"{era.date} {name:5} {n / best / 1e6:8.0f} M values/s")


def cpu_time(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def processes(folder: Path, args: argparse.Namespace) -> None:
    """Wall, CPU and memory of whole runs."""
    model = random_model(folder / "f16.bin", args.gigabytes)
    out = folder / "q4_0.bin"
    runs = {
        f"ours -t {n}": [sys.executable, ROOT / "cli.py", "quantize", model, out, "2", "-q", "-t", n]
        for n in args.threads
    }
    if args.peer:
        runs["peer"] = [args.peer, model, out, "2"]
    model.read_bytes()[:1]  # into the page cache
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
    for _ in range(args.repeat):
        for name, command in runs.items():
            figures[name].append(measured([str(word) for word in command]))
            out.unlink()
    for name, rows in figures.items():
        wall, cpu, peak = (statistics.median(column) for column in zip(*rows))
        print(f"{name:10} wall {wall:7.2f} s   cpu {cpu:7.2f} s   peak memory {peak:6.0f} MB")
        if args.peer and name != "peer":
            ratio = statistics.median(p[1] / o[1] for o, p in zip(rows, figures["peer"]))
            elapsed = statistics.median(p[0] / o[0] for o, p in zip(rows, figures["peer"]))
            print(f"{'':10} {ratio:.1f}x less CPU time than the peer, {elapsed:.1f}x faster by the clock")


def measured(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MB of one process."""
    script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    script += "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime, u.ru_maxrss)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True)
    wall = time.perf_counter() - start
    cpu, peak = map(float, done.stdout.split())
    return wall, cpu, peak / 1024


def random_model(path: Path, gigabytes: float) -> Path:
    """An f16 model of 7B's width with as many layers as fit."""
    n_layer = max(1, round((gigabytes * 1e9 / 2 - 2 * 32000 * 4096) / 202e6))
    hparams = ModelParams.from_header(32000, 4096, 256, 32, n_layer, 128, 1)
    noise = (np.random.default_rng(0).standard_normal(1 << 24) * 0.02).astype(np.float16)

    def chunks(size: int):
        for start in range(0, size, len(noise)):
            yield noise[: min(len(noise), size - start)]

    tensors = []
    for name, shape in expected_shapes(hparams).items():
        size = int(np.prod(shape))
        record = TENSOR_TYPES["f16" if len(shape) == 2 else "f32"]
        ones = np.ones(shape, np.float32)
        source = (lambda size=size: chunks(size)) if len(shape) == 2 else (lambda ones=ones: [ones])
        tensors.append(OutTensor(name, record, shape, source))
    write_model(path, "ggjt", 1, hparams, [(b"%d" % i, -float(i)) for i in range(32000)], tensors)
    return path


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
