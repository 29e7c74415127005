"""Where no home can be written, as in containers and for services, the cache is among the temporary files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lora.test_merge import inputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="homes are named otherwise there")
def test_commands_that_compile_and_keep_work_without_a_home(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    unset = ("GGMLPY_CACHE", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "XDG_STATE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path / "tmp")}
    base, (adapter,) = inputs(data, "v11-llama")
    for command in (
        ("merge", "--base", base, "--lora", adapter, "--output", tmp_path / "merged"),
        ("chat", "-q"),  # with the demo model, which is kept
        ("chat", "-q"),
    ):
        words = [sys.executable, "-B", str(ROOT / "cli.py"), *map(str, command)]
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, input="")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    (cache,) = (tmp_path / "tmp").glob("ggmlpy-*")
    assert cache.name == f"ggmlpy-{os.getuid()}"
    assert list(cache.rglob("*.nbc"))
