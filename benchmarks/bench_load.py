"""Opening a model and its memory:  pytest benchmarks/bench_load.py --benchmark-only

MODEL names the file (the shapes of LLaMA-7B count; see make_model.py); without it a small one is made.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from make_model import FTYPES, random_model

from ggmlpy.containers import Hparams
from llama_ref.model import Model


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    if "MODEL" in os.environ:
        return Path(os.environ["MODEL"])
    small = tmp_path_factory.mktemp("m") / "small.bin"
    random_model(small, Hparams(32000, 512, 256, 8, 4, 64, FTYPES["q4_0"]))
    return small


def test_load(benchmark, path):
    def load() -> None:
        Model.from_file(path, numerics="fast").close()

    benchmark(load)


PEAK = """
import resource, sys
from llama_ref.model import Model
with Model.from_file(sys.argv[1], numerics="fast") as model:
    for i in range(16):
        model.evaluate([i + 1], i, last_only=True)
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory(benchmark, path):
    """Loading and sixteen tokens in a process of its own: the peak of its resident memory, as a share of the file."""

    def run() -> int:
        root = Path(__file__).resolve().parent.parent
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, cwd=root, check=True
        )
        return int(done.stdout)

    peak = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["peak"] = peak
    benchmark.extra_info["of the file"] = peak / path.stat().st_size
