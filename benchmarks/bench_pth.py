"""How fast .pth files open, read and write: ``python benchmarks/bench_pth.py [--size BYTES] [--repeat N]``.

* Opening: a merged 7B model of 13.8 GB with holes in place of its tensors, and a training checkpoint of 10,000 tensors.
* Reading and writing: ``--size`` bytes in one tensor, beside the same bytes through ``zlib.crc32`` alone and through
  ``write`` and ``fsync`` alone, which are what the container costs at least.

The best of ``--repeat`` runs is printed. Nothing is left on the disk.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_ref.checkpoint import open_pth, pth_size, write_pth
from tests.llama_ref.test_pth_writer import llama_7b, write_holes


def best(run: Callable[[], object], repeat: int) -> float:
    """Seconds of the fastest of ``repeat`` runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def opening(folder: Path, repeat: int) -> None:
    """Time to open a file without reading a value."""
    path = folder / "sparse.pth"
    write_holes(path, list(llama_7b(49953)), content={})
    with open_pth(path, check_crc=False) as f:
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{path.stat().st_size:,} bytes, {len(f)} tensors:", end=" ")
    seconds = best(lambda: open_pth(path, check_crc=False).close(), repeat)
    print(f"opens in {seconds * 1e3:.1f} ms; peak memory of the process {pages:,} KB")
    path.unlink()
    path = folder / "many.pth"
    write_pth(path, [(f"layers.{i}.w", "float32", (2,), [bytes(8)]) for i in range(10_000)], "2.13")
    seconds = best(lambda: open_pth(path).close(), repeat)
    print(f"10,000 tensors: opens in {seconds * 1e3:.0f} ms")


def streaming(folder: Path, size: int, repeat: int) -> None:
    """Rates of writing and reading, beside their lower bounds."""
    path = folder / "model.pth"
    piece = np.random.default_rng(1).integers(0, 256, 16 << 20, np.uint8)
    n_pieces = size // len(piece)
    shape = (n_pieces * len(piece) // 8192, 4096)

    def plain() -> None:
        with open(folder / "plain", "wb") as stream:
            for _ in range(n_pieces):
                stream.write(piece.data)
            stream.flush()
            os.fsync(stream.fileno())

    def whole(check_crc: bool) -> None:
        with open_pth(path, check_crc=check_crc) as f:
            for chunk in f["w"].chunks():
                chunk[:: 4096 // 8].sum()  # touch every page

    rates = {
        "zlib.crc32": best(lambda: [zlib.crc32(piece) for _ in range(n_pieces)], repeat),
        "write and fsync": best(plain, repeat),
        "write_pth": best(lambda: write_pth(path, [("w", "float16", shape, [piece] * n_pieces)]), repeat),
        "read, CRC checked": best(lambda: whole(True), repeat),
        "read, unchecked": best(lambda: whole(False), repeat),
    }
    assert path.stat().st_size == pth_size(path, [("w", "float16", shape)])
    for name, seconds in rates.items():
        print(f"{name:>18}: {n_pieces * len(piece) / seconds / 1e9:6.2f} GB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512 << 20)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        opening(Path(folder), options.repeat)
        streaming(Path(folder), options.size, options.repeat)


if __name__ == "__main__":
    main()
