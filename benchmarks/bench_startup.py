"""From nothing to the first token:  MODEL=7b.bin pytest benchmarks/bench_startup.py --benchmark-only

Each round is a process of its own, with the kernels compiled before and the file in the page cache. MODEL names the
file; without it a small one is made. The other rounds time what should cost almost nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench_load import path  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parent.parent
FIRST_TOKEN = """
import sys
from llama_ref.text.model import Model
with Model.from_file(sys.argv[1], numerics="fast") as model:
    model.evaluate([1], 0, last_only=True)
    assert "numba" not in sys.modules
"""
#: with compiled modules kept, as Python does if not told otherwise
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, env=ENVIRONMENT)


def test_python(benchmark):
    benchmark.pedantic(run, ("-c", "pass"), warmup_rounds=1, rounds=7)


def test_python_and_numpy(benchmark):
    benchmark.pedantic(run, ("-c", "import numpy"), warmup_rounds=1, rounds=7)


def test_first_token_of_the_library(benchmark, path):  # noqa: F811
    benchmark.pedantic(run, ("-c", FIRST_TOKEN, str(path)), warmup_rounds=1, rounds=7)


def test_first_token_of_generate(benchmark, path):  # noqa: F811
    """A prompt of three tokens: the beginning, a space, and a letter."""
    command = ("cli.py", "generate", "-m", str(path), "-p", "a", "-n", "1", "-q")
    benchmark.pedantic(run, command, warmup_rounds=1, rounds=9)


@pytest.mark.parametrize("arguments", [("--help",), ("generate", "--help")], ids=" ".join)
def test_help(benchmark, arguments):
    benchmark.pedantic(run, ("cli.py", *arguments), warmup_rounds=1, rounds=7)


def test_inspect(benchmark, path):  # noqa: F811
    benchmark.pedantic(run, ("cli.py", "inspect", str(path)), warmup_rounds=1, rounds=7)
