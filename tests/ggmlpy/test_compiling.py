"""The first use on a machine compiles; a person at a terminal is told, once, and only when it is so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest

from ggmlpy.machine import kernels

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
from ggmlpy.machine.compiling import announce_with
announce_with(lambda: print("compiling"))
from ggmlpy.quantizers.classic import quantize_rows
import numpy as np
print(len(quantize_rows(np.zeros(32, np.float32), "q4_0", "2023-03-31")))
"""


def test_compiling_is_announced_once_and_loading_is_not(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    said = [
        subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert said[0].stdout.split() == ["compiling", "20"]
    assert said[1].stdout.split() == ["20"]


def cache_of_a_kernel(monkeypatch: pytest.MonkeyPatch, folder: Path, stamp: str) -> Any:
    """Numba's cache of one kernel as a process sees it whose sources have this stamp."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    monkeypatch.setattr(kernels, "source_digest", lambda folder: stamp)
    return kernels.kernel(lambda x: x)._cache._cache_file


def test_no_process_loads_what_another_is_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tests that quantized q3_K at the same time after an update once got the code of q2_K."""
    cache_of_a_kernel(monkeypatch, tmp_path, "old sources").save("q2_K", "old code of q2_K")
    writer, reader = (cache_of_a_kernel(monkeypatch, tmp_path, "new sources") for _ in range(2))
    seen, write = [], writer._save_data

    def watched(name: str, data: str) -> None:
        seen.append(reader.load("q3_K"))
        write(name, data)
        seen.append(reader.load("q3_K"))

    writer._save_data = watched
    writer.save("q3_K", "code of q3_K")
    assert set(seen) <= {None, "code of q3_K"}
    assert reader.load("q3_K") == "code of q3_K"
    assert len(list(tmp_path.rglob("*.nbc"))) == 1  # the old code is gone


def test_two_processes_that_save_at_once_keep_their_code_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (cache_of_a_kernel(monkeypatch, tmp_path, "sources") for _ in range(2))
    first._load_index = dict  # both have looked before either has saved
    write = second._save_data

    def late(name: str, data: str) -> None:
        first.save("q3_K", "code of q3_K")
        write(name, data)

    second._save_data = late
    second.save("q2_K", "code of q2_K")
    reader = cache_of_a_kernel(monkeypatch, tmp_path, "sources")
    assert reader.load("q3_K") in (None, "code of q3_K")
    assert reader.load("q2_K") in (None, "code of q2_K")
