"""A file written by several threads: the same bytes for any number, whole or not at all, and no thread writes on."""

from __future__ import annotations

import errno
import io
import os
import random
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from ggmlpy.files import segments
from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import OutputError, UsageError
from ggmlpy.files.ordered import Workers
from ggmlpy.files.segments import Segment, write_segments


def bytes_in_any_order(n: int, size: int = 1000) -> tuple[bytes, list[Segment]]:
    """Segments that take some time each, and what they are together."""
    chance = random.Random(n)
    contents = [chance.randbytes(chance.randrange(size)) for _ in range(n)]

    def slowly(data: bytes) -> bytes:
        time.sleep(chance.random() / 500)
        return data

    return b"".join(contents), [Segment(len(data), partial(slowly, data)) for data in contents]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_bytes_do_not_depend_on_threads(threads: int, tmp_path: Path) -> None:
    wanted, made = bytes_in_any_order(60)
    with atomic_write(tmp_path / "x") as stream, Workers(threads) as workers:
        assert write_segments(stream, made, workers) == len(wanted)
    assert (tmp_path / "x").read_bytes() == wanted


def test_nobody_else_need_bring_threads(tmp_path: Path) -> None:
    wanted, made = bytes_in_any_order(20)
    with open(tmp_path / "x", "wb") as stream:
        write_segments(stream, made)
    assert (tmp_path / "x").read_bytes() == wanted


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_gets_them_from_first_to_last(tmp_path: Path) -> None:
    wanted, made = bytes_in_any_order(60)
    os.mkfifo(tmp_path / "pipe")
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    with atomic_write(tmp_path / "pipe") as stream, Workers(3) as workers:
        assert write_segments(stream, made, workers) == len(wanted)
    reader.join()
    assert found == [wanted]


def test_so_does_whatever_can_be_written_to() -> None:
    wanted, made = bytes_in_any_order(20)
    memory = io.BytesIO()
    write_segments(memory, made)
    assert memory.getvalue() == wanted


def test_the_system_may_have_no_way_to_write_at_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pwrite")
    monkeypatch.setattr(segments, "_sync_file_range", lambda: None)
    wanted, made = bytes_in_any_order(40)
    with open(tmp_path / "x", "wb") as stream, Workers(3) as workers:
        write_segments(stream, made, workers)
    assert (tmp_path / "x").read_bytes() == wanted


def test_it_may_write_less_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: whole(descriptor, data[:97], place))
    wanted, made = bytes_in_any_order(40)
    with open(tmp_path / "x", "wb") as stream, Workers(2) as workers:
        write_segments(stream, made, workers)
    assert (tmp_path / "x").read_bytes() == wanted


def test_late_segments_see_those_before_and_progress_goes_forward(tmp_path: Path) -> None:
    made_in, told = [], []

    def one(i: int) -> bytes:
        time.sleep(0.002 * (i % 3))
        made_in.append(i)
        return b"%3d," % i

    def sum_of(i: int) -> bytes:
        return b"%4d" % sum(number for number in made_in if number <= i)

    wanted = [Segment(4, partial(one, i), written=partial(told.append, i)) for i in range(20)]
    wanted.insert(10, Segment(4, lambda: sum_of(9), late=True))
    wanted.append(Segment(4, lambda: sum_of(19), late=True))
    with open(tmp_path / "x", "wb") as stream, Workers(4) as workers:
        write_segments(stream, wanted, workers)
    assert told == list(range(20))
    text = (tmp_path / "x").read_bytes().decode()
    assert (text[40:44], text[-4:]) == ("  45", " 190")


def test_an_error_leaves_no_thread_that_writes(tmp_path: Path) -> None:
    running, finished = threading.Event(), []

    def bad() -> bytes:
        running.wait(5)
        raise KeyError("bad")

    def slow() -> bytes:
        running.set()
        time.sleep(0.05)
        finished.append(True)
        return b"1234"

    made = [Segment(4, bad), Segment(4, slow), *(Segment(4, lambda: b"late") for _ in range(50))]
    with Workers(2) as workers, open(tmp_path / "x", "wb") as stream:
        with pytest.raises(KeyError, match="bad"):
            write_segments(stream, made, workers)
        assert finished  # what had begun was waited for, while the file is open


def test_ctrl_c_ends_it_likewise(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    made = [Segment(4, lambda: b"1234", written=interrupt if i == 5 else None) for i in range(100)]
    with Workers(2) as workers, pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "x") as stream:
        write_segments(stream, made, workers)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: memoryview, place: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="No space left on device") as caught, atomic_write(tmp_path / "x") as stream:
        write_segments(stream, [Segment(4, lambda: b"1234")])
    assert caught.value.path == str(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_segment_has_the_size_that_was_promised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tensor 'x': 4 bytes promised, 5 written"), open(tmp_path / "x", "wb") as f:
        write_segments(f, [Segment(4, lambda: b"12345", of="tensor 'x'")])


def test_no_more_is_made_than_a_few_ahead(tmp_path: Path) -> None:
    alive, most, lock = [0], [0], threading.Lock()

    def asked_for() -> object:
        for _ in range(50):
            with lock:
                alive[0] += 1
                most[0] = max(most[0], alive[0])
            yield Segment(4, lambda: b"1234", written=lambda: alive.__setitem__(0, alive[0] - 1))

    with open(tmp_path / "x", "wb") as stream, Workers(2) as workers:
        write_segments(stream, asked_for(), workers)  # type: ignore[arg-type]
    assert most[0] <= workers.ahead + 1
