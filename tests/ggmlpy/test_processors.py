"""Processors to use: those that the process is bound to, and no more than its container may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ggmlpy.files import processors
from ggmlpy.files.processors import available_processors

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight processors whose cgroups are files of the test."""
    monkeypatch.setattr(processors, "_in_affinity", lambda: 8)
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
        ("x y", 8),
        ("100000 0", 8),
        ("100000", 8),
    ],
)
def test_version_2(root: Path, limit: str, expected: int) -> None:
    put(root / "proc/self/cgroup", "0::/\n")
    put(root / "sys/fs/cgroup/cpu.max", limit + "\n")
    assert available_processors(root) == expected


def test_version_2_is_limited_by_its_ancestors(root: Path) -> None:
    put(root / "proc/self/cgroup", "0::/kubepods/pod1/container\n")
    put(root / "sys/fs/cgroup/kubepods/pod1/container/cpu.max", "max 100000\n")
    put(root / "sys/fs/cgroup/kubepods/pod1/cpu.max", "300000 100000\n")
    put(root / "sys/fs/cgroup/kubepods/cpu.max", "600000 100000\n")
    assert available_processors(root) == 3


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("250000", 3), ("0", 8)])
@pytest.mark.parametrize("folder", ["docker/abc", "."])
def test_version_1(root: Path, folder: str, quota: str, expected: int) -> None:
    put(root / "proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/system.slice\n")
    put(root / "sys/fs/cgroup/cpu,cpuacct" / folder / "cpu.cfs_quota_us", quota)
    put(root / "sys/fs/cgroup/cpu,cpuacct" / folder / "cpu.cfs_period_us", "100000\n")
    assert available_processors(root) == expected


@pytest.mark.parametrize("lines", ["", "0::relative\n", "0::/../../etc\n", "garbage\n", "::\n\n", "\udcff:cpu:/\n"])
def test_what_makes_no_sense_limits_nothing(root: Path, lines: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_bytes(lines.encode("utf-8", "surrogateescape"))
    assert available_processors(root) == 8


def test_another_system_has_no_such_files(root: Path) -> None:
    assert available_processors(root) == 8


SCRIPT = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from ggmlpy.files.ordered import Workers
from ggmlpy.files.processors import available_processors
from llama_ref.arithmetic.fast import backend
from llama_ref.text.model import Model
import sys
backend.BYTES_A_THREAD = 1  # however small the model is
counts = [available_processors(), Workers().n_threads]
for numerics in ("exact", "fast"):
    counts.append(Model.from_file(sys.argv[1], numerics=numerics).backend.n_threads)
print(counts)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to processors")
def test_a_process_bound_to_one_processor_starts_one_thread_everywhere(tmp_path: Path) -> None:
    from tests.ggmlpy.models import write_tiny

    path = write_tiny(tmp_path / "m.bin")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.stdout.split("\n")[0] == "[1, 1, 1, 1]", run.stderr
