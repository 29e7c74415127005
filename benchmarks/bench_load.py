"""Opening a model and its memory:  MODEL=7b.bin pytest benchmarks/bench_load.py --benchmark-only

MODEL names the file (the shapes of LLaMA-7B count; see make_model.py); without it a small one is made. Loading is all
from the path to a model that only waits for tokens: vocabulary and tensors found and checked, kernels linked, the cache
and the working memory there. Modules have been imported before, the file is in the page cache and the kernels compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.make_model import FTYPES, random_model
from ggmlpy import open_model
from ggmlpy.formats.model_params import ModelParams
from llama_ref.text.model import Model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    if "MODEL" in os.environ:
        return Path(os.environ["MODEL"])
    small = tmp_path_factory.mktemp("m") / "small.bin"
    random_model(small, ModelParams.from_header(32000, 512, 256, 8, 4, 64, FTYPES["q4_0"]))
    return small


def number_from(code: str, *arguments: str) -> float:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return float(done.stdout)


def test_open(benchmark, path):
    """Only the file: its header, the lengths of the vocabulary, and the tensors' headers."""
    benchmark(lambda: open_model(path).close())


def test_load_again(benchmark, path):
    """In a process that has loaded the model before."""
    benchmark(lambda: Model.from_file(path, numerics="fast").close())


FIRST_LOAD = """
import sys, time
import llama_ref.backends.fast
from llama_ref.text.model import Model
began = time.perf_counter()
model = Model.from_file(sys.argv[1], numerics="fast")
print(time.perf_counter() - began)
"""


def test_first_load(benchmark, path, capsys):
    """In a new process each time. The table shows the whole process, the line above it the loading."""
    seconds: list[float] = []
    benchmark.pedantic(lambda: seconds.append(number_from(FIRST_LOAD, str(path))), warmup_rounds=1, rounds=9)
    loads = sorted(1000 * s for s in seconds[1:])
    benchmark.extra_info["load, ms"] = loads
    with capsys.disabled():
        print(f"\nfirst load in a process: {loads[0]:.1f} ms at best, {loads[len(loads) // 2]:.1f} ms in the middle")


PEAK = """
import re, resource, sys
from pathlib import Path
from llama_ref.text.model import Model
with Model.from_file(sys.argv[1], numerics="fast") as model:
    for i in range(16):
        model.evaluate([i + 1], i, last_only=True)
status = Path("/proc/self/status")  # what getrusage says on Linux begins with the memory of the parent
peak = re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())[1] if status.exists() else None
print(1024 * int(peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


def test_peak_memory(benchmark, path, capsys):
    """Loading and sixteen tokens in a process of its own: the peak of its resident memory, as a share of the file."""
    peak = benchmark.pedantic(number_from, (PEAK, str(path)), rounds=1)
    benchmark.extra_info["peak"] = peak
    benchmark.extra_info["of the file"] = peak / path.stat().st_size
    with capsys.disabled():
        print(f"\npeak memory: {peak / 1e9:.2f} GB, {peak / path.stat().st_size:.3f} times the file")
