"""What `pip install` puts there: the packages, their data, and a command that finds its module; Python only."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_is_complete(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        scripts = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert "ggmlpy = cli:main" in scripts
    assert "cli.py" in names
    packages = [path for name in ("ggmlpy", "llama_ref", "lora") for path in (ROOT / name).rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in packages if "__pycache__" not in path.parts}
    assert wanted - names == set()
    assert not [name for name in names if name.endswith((".so", ".pyd", ".dll", ".c"))]
