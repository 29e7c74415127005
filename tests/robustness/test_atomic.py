"""Ctrl-C at each single step of writing a file: no half file, the old one intact."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ggmlpy.files import atomic


def write(target: Path) -> None:
    with atomic.atomic_write(target) as f:
        f.write(b"new" * 1000)


def steps_of(target: Path) -> int:
    """Lines that atomic.py executes to write a file."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename != atomic.__file__:
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        write(target)
    finally:
        sys.settrace(None)
    return count


def interrupted_at(step: int, target: Path) -> bool:
    """Write, with Ctrl-C before the ``step``-th line; False if it was over by then."""
    left = step

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != atomic.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        write(target)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.skipif(sys.gettrace() is not None, reason="another tracer is at work")
def test_ctrl_c_at_every_line(tmp_path: Path) -> None:
    n_steps = steps_of(tmp_path / "first")
    assert n_steps > 15
    for step in range(1, n_steps + 1):
        folder = tmp_path / str(step)
        folder.mkdir()
        (folder / "x.bin").write_bytes(b"old")
        assert interrupted_at(step, folder / "x.bin")
        assert (folder / "x.bin").read_bytes() in (b"old", b"new" * 1000)
        unlinking = [path.name for path in folder.iterdir() if path.name != "x.bin"]
        assert all(name.endswith(".partial") for name in unlinking)


def test_ctrl_c_while_the_file_is_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal arrives inside open(): the file is there, but nobody holds it yet."""
    import builtins

    real = builtins.open

    def open_then_interrupt(*args, **more):
        real(*args, **more).close()
        raise KeyboardInterrupt

    monkeypatch.setattr(builtins, "open", open_then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x.bin")
    assert list(tmp_path.iterdir()) == []
