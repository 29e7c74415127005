"""Touching pages beforehand: all of the file, in the background, until nobody wants it any more."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from ggmlpy import open_model
from ggmlpy.files import mapping as touch
from tests.ggmlpy.models import write_tiny


def touching_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "touch"]


class Recorded:
    """A buffer that notes which parts of it are read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: list[slice] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> Recorded:
        self.parts.append(part)
        return self

    def max(self) -> None:
        time.sleep(0.01)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Seven thousand bytes that look like a large file."""
    monkeypatch.setattr(touch, "SMALL", 1000)
    monkeypatch.setattr(touch, "CHUNK", 3000)
    monkeypatch.setattr(touch.np, "frombuffer", lambda buffer, dtype: buffer)
    return Recorded(7000)


def test_a_large_file_is_touched_to_its_end(pages: Recorded) -> None:
    touch.Touching([pages])
    for thread in touching_threads():
        thread.join()
    assert [(part.start, part.stop, part.step) for part in pages.parts] == [
        (start, start + 3000, touch.STEP) for start in (0, 3000, 6000)
    ]


def test_it_stops_when_nobody_wants_it_any_more(pages: Recorded) -> None:
    touching = touch.Touching([pages])
    touching.stop()
    for thread in touching_threads():
        thread.join()
    assert len(pages.parts) < 3


@pytest.mark.parametrize("memory", [0, 13_999])
def test_a_file_of_more_than_half_the_memory_is_left_alone(
    pages: Recorded, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(touch, "physical_memory", lambda: memory)
    touch.Touching([pages])
    assert touching_threads() == []
    assert pages.parts == []


def test_a_closed_model_is_no_longer_touched(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []
    monkeypatch.setattr(touch.Touching, "stop", lambda self: stopped.append(self))
    with open_model(write_tiny(tmp_path / "m.bin")) as model:
        model.touch_ahead()
        model.touch_ahead()
        assert touching_threads() == []  # too small
    assert len(stopped) == 1


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


@pytest.mark.skipif(not LARGE_PAGES.exists(), reason="this system has no large pages to ask for")
def test_large_pages_are_asked_for_where_a_model_is_read_whole(tmp_path) -> None:
    def flags() -> list[str]:
        """Of the memory that is the file: "hg" says that large pages were asked for."""
        text = Path("/proc/self/smaps").read_text()
        return re.findall(rf"{re.escape(str(path))}\n(?:.*\n)*?VmFlags: (.*)", text)

    path = write_tiny(tmp_path / "m.bin")
    with open_model(path) as model:
        assert [" hg" in found for found in flags()] == [False]
        model.touch_ahead()
        assert [" hg" in found for found in flags()] == [True]
