"""How fast ``quantize`` is, and how much memory it takes: kernels alone, then whole processes on a random model.

    python benchmarks/bench_quantize.py                        # kernels: values a second of CPU time, one thread
    python benchmarks/bench_quantize.py --library libggml-base.so    # kernels of today beside llama.cpp's, in turns
    python benchmarks/bench_quantize.py --gigabytes 1.7        # the whole command on a random f16 file
    python benchmarks/bench_quantize.py --gigabytes 1.7 --peer ~/llama.cpp/quantize    # against a built llama.cpp
    python benchmarks/bench_quantize.py --gigabytes 1 --types Q4_0 Q4_K_M --peer llama-quantize    # today's, of GGUF

Without ``--types`` the peer is run as ``PEER IN OUT 2`` (llama.cpp of 2023-03-31), with them as ``PEER IN OUT TYPE
THREADS``. Runs are interleaved and the median ratio of CPU times is printed, because wall-clock times of a shared
machine say little. Both tools' bytes are compared, too.
"""

from __future__ import annotations

import argparse
import ctypes
import filecmp
import itertools
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
from ggmlpy.formats.eras import quantizing_era  # noqa: E402
from ggmlpy.formats.gguf_values import Value  # noqa: E402
from ggmlpy.formats.gguf_writer import write_gguf  # noqa: E402
from ggmlpy.formats.tensor_names import expected_shapes  # noqa: E402
from ggmlpy.quantizers.rows import NEED_IMPORTANCE, quantizable, quantize_rows  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, help="size of the random f16 model (none: kernels only)")
    parser.add_argument("--library", type=Path, help="a libggml-base.so to compare kernels with")
    parser.add_argument("--peer", type=Path, help="a quantize program to compare with")
    parser.add_argument("--types", nargs="+", help="quantize a random GGUF to these, instead of ggjt to q4_0")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    args = parser.parse_args()
    if args.library:
        kernels_beside(ctypes.CDLL(str(args.library)), args.repeat)
        return
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


def kernels_beside(library: ctypes.CDLL, repeat: int) -> None:
    """Both libraries' quantizers of today, one thread each: a Markdown table of MB of float32 a second."""
    print("| type | importance | llama.cpp, MB/s | here, MB/s | times as fast |\n|---|---|---|---|---|")
    importance = (np.random.default_rng(2).standard_normal(4096) ** 2 + 0.01).astype(np.float32)
    for name, weights in itertools.product(quantizable("today"), (None, importance)):
        slow, searches = name.startswith("iq"), name in ("q4_0", "q4_1", "q5_0", "q5_1") or name[-2:] == "_K"
        if name in NEED_IMPORTANCE if weights is None else not (slow or searches):
            continue
        x = (np.random.default_rng(1).standard_normal((16 if slow else 256, 4096)) * 0.02).astype(np.float32)
        peer, ours = rates(library, name, x, weights, repeat)
        words = "without" if weights is None else "with"
        print(f"| {name} | {words} | {peer:.0f} | {ours:.0f} | {ours / peer:.1f} |", flush=True)


def rates(library: ctypes.CDLL, name: str, x: np.ndarray, weights: np.ndarray | None, repeat: int) -> list[float]:
    """MB of float32 that the library, and we, quantize in a second of CPU time, the best of some turns."""
    record = quantizing_era("today").type(name)
    made = quantize_rows(x, name, "today", importance=weights)  # compiles
    theirs = np.zeros_like(made)
    source, target, columns = (None if a is None else ctypes.c_void_p(a.ctypes.data) for a in (x, theirs, weights))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_init(record.id)
    sizes = [ctypes.c_int64(n) for n in (0, *x.shape)]

    def peer() -> None:
        library.ggml_quantize_chunk(record.id, source, target, *sizes, columns)

    def ours() -> None:
        quantize_rows(x, name, "today", importance=weights)

    turns = [(cpu_time(peer), cpu_time(ours)) for _ in range(repeat)]
    if made.tobytes() != theirs.tobytes():
        raise SystemExit(f"{name}: the bytes differ")
    return [x.nbytes / min(column) / 1e6 for column in zip(*turns)]


def cpu_time(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def processes(folder: Path, args: argparse.Namespace) -> None:
    """Wall, CPU and memory of whole runs."""
    model = random_gguf(folder / "f16.gguf", args.gigabytes) if args.types else random_model(folder, args.gigabytes)
    model.read_bytes()[:1]  # into the page cache
    for kind, n in itertools.product(args.types or ["2"], args.threads):
        ours, theirs = folder / "ours", folder / "theirs"
        runs = {"ours": [sys.executable, ROOT / "cli.py", "quantize", model, ours, kind, "-q", "-t", n]}
        if args.peer:
            runs["peer"] = [args.peer, model, theirs, kind, *([n] if args.types else [])]
        figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
        for _ in range(args.repeat):
            for name, command in runs.items():
                figures[name].append(measured([str(word) for word in command]))
        print(f"{kind}, {n} thread{'s' * (n > 1)}")
        for name, rows in figures.items():
            wall, cpu, peak = (statistics.median(column) for column in zip(*rows))
            print(f"  {name:5} wall {wall:7.2f} s   cpu {cpu:7.2f} s   peak memory {peak:6.0f} MB")
        if args.peer:
            elapsed, cpu = (
                statistics.median(peer[k] / mine[k] for mine, peer in zip(*figures.values())) for k in (0, 1)
            )
            same = "the same bytes" if filecmp.cmp(ours, theirs, shallow=False) else "OTHER BYTES"
            print(f"  {cpu:.1f}x less CPU time than the peer, {elapsed:.1f}x faster by the clock; {same}", flush=True)


def measured(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MB of one process."""
    script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    script += "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime, u.ru_maxrss)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True)
    wall = time.perf_counter() - start
    cpu, peak = map(float, done.stdout.split())
    return wall, cpu, peak / 1024


def noise_of(size: int):
    """Random float16, the same 16 million again and again."""
    noise = (np.random.default_rng(0).standard_normal(1 << 24, np.float32) * 0.02).astype(np.float16)
    for start in range(0, size, len(noise)):
        yield noise[: min(len(noise), size - start)]


def random_gguf(path: Path, gigabytes: float, n_embd: int = 2048, n_ff: int = 5632, n_vocab: int = 32000) -> Path:
    """An f16 model of 1B's width with as many layers as fit."""
    per_layer = 4 * n_embd * n_embd + 3 * n_embd * n_ff
    n_layer = max(1, round((gigabytes * 1e9 / 2 - 2 * n_vocab * n_embd) / per_layer))
    numbers = {
        "block_count": n_layer, "context_length": 2048, "embedding_length": n_embd, "feed_forward_length": n_ff,
        "attention.head_count": 32, "rope.dimension_count": n_embd // 32, "vocab_size": n_vocab,
    }  # fmt: skip
    metadata = {"general.architecture": Value("string", b"llama")}
    metadata |= {f"llama.{key}": Value("u32", value) for key, value in numbers.items()}
    metadata |= {"llama.attention.layer_norm_rms_epsilon": Value("f32", 1e-5), "general.file_type": Value("u32", 1)}
    shapes = {"token_embd": (n_vocab, n_embd), "output": (n_vocab, n_embd), "output_norm": (n_embd,)}
    for i in range(n_layer):
        shapes |= {f"blk.{i}.attn_{part}": (n_embd, n_embd) for part in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_gate": (n_ff, n_embd), f"blk.{i}.ffn_up": (n_ff, n_embd)}
        shapes |= {f"blk.{i}.ffn_down": (n_embd, n_ff), f"blk.{i}.attn_norm": (n_embd,), f"blk.{i}.ffn_norm": (n_embd,)}

    def tensor(name: str, shape: tuple[int, ...]) -> OutTensor:
        if len(shape) == 2:
            return OutTensor(f"{name}.weight", TENSOR_TYPES["f16"], shape, lambda: noise_of(shape[0] * shape[1]))
        return OutTensor(f"{name}.weight", TENSOR_TYPES["f32"], shape, lambda: [np.ones(shape, np.float32)])

    write_gguf(path, metadata, [tensor(name, shape) for name, shape in shapes.items()])
    return path


def random_model(folder: Path, gigabytes: float) -> Path:
    """An f16 model of 7B's width with as many layers as fit."""
    path = folder / "f16.bin"
    n_layer = max(1, round((gigabytes * 1e9 / 2 - 2 * 32000 * 4096) / 202e6))
    hparams = ModelParams.from_header(32000, 4096, 256, 32, n_layer, 128, 1)
    tensors = []
    for name, shape in expected_shapes(hparams).items():
        size = int(np.prod(shape))
        record = TENSOR_TYPES["f16" if len(shape) == 2 else "f32"]
        ones = np.ones(shape, np.float32)
        source = (lambda size=size: noise_of(size)) if len(shape) == 2 else (lambda ones=ones: [ones])
        tensors.append(OutTensor(name, record, shape, source))
    write_model(path, "ggjt", 1, hparams, [(b"%d" % i, -float(i)) for i in range(32000)], tensors)
    return path


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
