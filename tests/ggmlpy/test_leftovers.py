"""Partial files of killed runs are removed by the next run that writes the same file, and never those of a live one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.leftovers import abandoned
from toolchain.look.doctor import examine

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there, age alone tells")
ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys, time
from ggmlpy.files.atomic import atomic_write
with atomic_write(sys.argv[1]) as stream:
    stream.write(b"x" * 1000)
    stream.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def write(path: Path) -> None:
    with atomic_write(path) as stream:
        stream.write(b"whole")


def writer_of(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "writing\n"
    return process


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    process = writer_of(tmp_path / "m.bin")
    other = writer_of(tmp_path / "other.bin")
    assert not list(abandoned(tmp_path))
    write(tmp_path / "m.bin")  # both are alive
    assert len(list(tmp_path.glob(".*.partial"))) == 2
    for each in (process, other):
        each.kill()
        each.wait()
    assert len(list(abandoned(tmp_path))) == 2
    write(tmp_path / "m.bin")
    assert [path.name.split(".")[1] for path in tmp_path.glob(".*.partial")] == ["other"]
    assert (tmp_path / "m.bin").read_bytes() == b"whole"


def test_a_file_that_is_held_is_another_containers(tmp_path: Path) -> None:
    """Its process has no number here, but the lock is the same system's."""
    process = writer_of(tmp_path / "m.bin")
    (partial,) = tmp_path.glob(".*.partial")
    renamed = partial.rename(tmp_path / f".m.bin.{gone()}-0.partial")
    write(tmp_path / "m.bin")
    assert renamed.exists()
    process.kill()
    process.wait()
    write(tmp_path / "m.bin")
    assert not renamed.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing tells when a process began")
def test_a_number_that_is_used_again(tmp_path: Path) -> None:
    mine = tmp_path / f".m.bin.{os.getpid()}-99.partial"
    mine.write_bytes(b"x")
    write(tmp_path / "m.bin")
    assert mine.exists()
    long_ago = time.time() - 30 * 24 * 3600
    os.utime(mine, (long_ago, long_ago))
    write(tmp_path / "m.bin")
    assert not mine.exists()


@pytest.mark.parametrize("name", ["m.bin.1-0.partial", ".m.bin.partial", ".m.bin.x-0.partial", ".n.bin.{}-0.partial"])
def test_other_files_stay(tmp_path: Path, name: str) -> None:
    other = tmp_path / name.format(gone())
    other.write_bytes(b"x")
    write(tmp_path / "m.bin")
    assert other.exists()


def test_doctor_names_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    left = tmp_path / "deep" / f".m.bin.{gone()}-0.partial"
    left.write_bytes(b"x")
    (line,) = examine(tmp_path).leftovers
    assert str(left) in line
    assert f"rm {left}" in line
