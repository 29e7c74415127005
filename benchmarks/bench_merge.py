"""How fast a merge is, and how much memory it takes.

    python benchmarks/bench_merge.py kernel                     # W + B @ A at 11008 x 4096, against numpy (and torch)
    python benchmarks/bench_merge.py model DIR --size 1b        # random base and adapter in DIR, every target
    python benchmarks/bench_merge.py model DIR --size 7b --targets pth

``model`` runs each merge as a process of its own and prints its wall time, processor time, peak resident memory, and
the time of a bare copy of the same bytes (read the inputs, write the output, fsync): the part of the time that is the
disk's. With --keep the random base and adapter stay in DIR for another run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ggmlpy.formats.model_params import ModelParams  # noqa: E402
from ggmlpy.formats.tensor_names import expected_shapes, meta_names, rename  # noqa: E402
from llama_ref.checkpoint import write_pth  # noqa: E402
from llama_ref.checkpoint.params import params_json  # noqa: E402
from llama_ref.vocabulary.sentencepiece_model import SentencePieceModel, parse_sentencepiece, write_sentencepiece  # noqa: E402
from lora.merging.kernels import Delta  # noqa: E402

SIZES = {
    "tiny": ModelParams(n_embd=512, n_mult=256, n_head=8, n_layer=4),
    "1b": ModelParams(n_embd=2048, n_mult=256, n_head=16, n_layer=16),
    "7b-4": ModelParams(n_embd=4096, n_mult=256, n_head=32, n_layer=4),
    "7b": ModelParams(n_embd=4096, n_mult=256, n_head=32, n_layer=32),
}
N_BASE, N_MERGED, RANK = 32000, 49953, 8
CHUNK = 1 << 24


def bench_kernel(rows: int, columns: int, rank: int, repeat: int) -> None:
    """One matrix: the kernel on one and on all processors, numpy with its BLAS, torch if it is installed."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((rows, columns), np.float32) * 0.02).astype(np.float16)
    b, a = rng.standard_normal((rows, rank)).astype("f2"), rng.standard_normal((rank, columns)).astype("f2")
    delta, scale, n = Delta.of(b, a, 4.0), np.float32(4), os.cpu_count() or 1
    parts = [(i * rows // n, (i + 1) * rows // n) for i in range(n)]
    with ThreadPoolExecutor(n) as pool:
        runs: dict[str, Callable[[], object]] = {
            "this, 1 thread": lambda: delta.add_to(weights),
            f"this, {n} threads": lambda: list(pool.map(lambda p: delta.add_to(weights[p[0] : p[1]], p[0]), parts)),
            "numpy (BLAS)": lambda: (weights.astype("f4") + (b.astype("f4") @ a.astype("f4")) * scale).astype("f2"),
        }
        runs |= _torch_runs(weights, b, a)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeat):  # interleaved, so that what else runs here hits all alike
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - started)
    ours = min(times["this, 1 thread"])
    for name, found in times.items():
        best, middle = min(found), statistics.median(found)
        print(
            f"{name:16} best {1e3 * best:7.1f} ms, median {1e3 * middle:7.1f} ms, {best / ours:5.2f} x this on 1 thread"
        )


def _torch_runs(weights: np.ndarray, b: np.ndarray, a: np.ndarray) -> dict[str, Callable[[], object]]:
    """What the original script does to one matrix."""
    try:
        import torch  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return {}
    w, left, right = (torch.from_numpy(x.copy()) for x in (weights, b, a))
    return {"torch": lambda: w.add_((left.float() @ right.float()) * 4.0)}


def make_model(folder: Path, params: ModelParams) -> tuple[Path, Path]:
    """A random base of 32000 pieces and an adapter on every matrix that grows it to 49953; made once."""
    base, adapter = folder / "base", folder / "lora"
    if (adapter / "adapter_config.json").exists():
        return base, adapter
    base.mkdir(parents=True, exist_ok=True)
    adapter.mkdir(exist_ok=True)
    shapes = expected_shapes(replace(params, n_vocab=N_BASE), meta_names(params.n_layer))
    rng = np.random.default_rng(1)
    noise = (rng.standard_normal(CHUNK // 2, np.float32) * 0.02).astype(np.float16)
    names = meta_names(params.n_layer)
    write_pth(base / "consolidated.00.pth", [(n, "float16", shapes[n], _random(shapes[n], noise, rng)) for n in names])
    (base / "params.json").write_text(params_json(params))
    write_sentencepiece(base / "tokenizer.model", _pieces(N_BASE))
    tensors = []
    for name in names:
        key, shape = "base_model.model." + rename(name, "huggingface"), shapes[name]
        if name in ("tok_embeddings.weight", "output.weight"):
            parts = {key: (N_MERGED, params.n_embd)}
        elif len(shape) == 2:
            stem = key.removesuffix("weight")
            parts = {f"{stem}lora_A.weight": (RANK, shape[1]), f"{stem}lora_B.weight": (shape[0], RANK)}
        else:
            parts = {}
        tensors += [(key, "float16", part, _random(part, noise, rng)) for key, part in parts.items()]
    write_pth(adapter / "adapter_model.bin", tensors)
    write_sentencepiece(adapter / "tokenizer.model", _pieces(N_MERGED))
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 32}))
    return base, adapter


def _random(shape: tuple[int, ...], noise: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Chunks of normal numbers: a piece of ``noise`` from a random place on, as long as needed."""
    left = int(np.prod(shape))
    while left:
        n = min(left, len(noise))
        yield np.roll(noise, int(rng.integers(len(noise))))[:n]
        left -= n


def _pieces(n: int) -> SentencePieceModel:
    """A SentencePiece model of ``n`` pieces; the first are the unknown and the control pieces."""

    def message(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + bytes([len(content)]) + content

    kinds = {0: b"\x18\x02", 1: b"\x18\x03", 2: b"\x18\x03"}
    special = ["<unk>", "<s>", "</s>"]
    texts = [special[i] if i < 3 else f"piece{i}" for i in range(n)]
    return parse_sentencepiece(
        b"".join(
            message(1, message(1, text.encode()) + b"\x15\0\0\0\0" + kinds.get(i, b"")) for i, text in enumerate(texts)
        )
    )


def bench_model(folder: Path, size: str, targets: list[str], keep: bool) -> None:
    """Each target in a process of its own, and a copy of as many bytes."""
    base, adapter = make_model(folder / size, SIZES[size])
    inputs = [base / "consolidated.00.pth", adapter / "adapter_model.bin"]
    output = folder / size / "out"
    for target in targets:
        _remove(output)
        command = [sys.executable, str(ROOT / "cli.py"), "merge", "--base", str(base), "--lora", str(adapter)]
        command += ["--output", str(output), "--output-type", target, "-q"]
        for path in inputs:
            _read(path)  # into the page cache, where it fits, for all alike
        started = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        written = sum(path.stat().st_size for path in output.iterdir()) if output.is_dir() else output.stat().st_size
        _remove(output)
        copied = _copy_time(inputs, output, written)
        processors, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
        print(
            f"{size} -> {target:12} {written / 1e9:6.2f} GB in {wall:6.1f} s ({wall / written * 1e9:5.2f} s/GB), "
            f"processors {processors:6.1f} s, peak {peak:5.0f} MB, bare copy {copied:6.1f} s ({copied / wall:4.0%})",
            flush=True,
        )
    if not keep:
        shutil.rmtree(folder / size)


def _read(path: Path) -> None:
    with open(path, "rb", buffering=0) as stream:
        while stream.read(CHUNK):
            pass


def _copy_time(inputs: list[Path], output: Path, n_bytes: int) -> float:
    """Seconds to read the inputs and write ``n_bytes`` with fsync, and nothing else."""
    started, block = time.perf_counter(), bytes(CHUNK)
    for path in inputs:
        _read(path)
    with open(output, "wb", buffering=0) as stream:
        for start in range(0, n_bytes, CHUNK):
            stream.write(block[: n_bytes - start])
        os.fsync(stream.fileno())
    elapsed = time.perf_counter() - started
    output.unlink()
    return elapsed


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    kernel = commands.add_parser("kernel")
    kernel.add_argument("--rows", type=int, default=11008)
    kernel.add_argument("--columns", type=int, default=4096)
    kernel.add_argument("--rank", type=int, default=RANK)
    kernel.add_argument("--repeat", type=int, default=15)
    model = commands.add_parser("model")
    model.add_argument("directory", type=Path)
    model.add_argument("--size", choices=SIZES, default="1b")
    model.add_argument("--targets", nargs="+", default=["pth", "huggingface", "ggml-f16", "ggml-q4_0"])
    model.add_argument("--keep", action="store_true", help="leave base and adapter for another run")
    args = parser.parse_args()
    if args.command == "kernel":
        bench_kernel(args.rows, args.columns, args.rank, args.repeat)
    else:
        bench_model(args.directory, args.size, args.targets, args.keep)


if __name__ == "__main__":
    main()
