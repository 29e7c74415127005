"""The first use on a machine compiles; a person at a terminal is told, once, and only when it is so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
