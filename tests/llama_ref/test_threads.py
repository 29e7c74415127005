"""Barriers, the handing out of work, and threads that can be interrupted."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llama_ref.arithmetic.fast.threads import BARRIER_BYTES, LINE, Team, make_barrier, make_take


@pytest.fixture(scope="module")
def rounds():
    """The compiled function rounds(memory, table, thread, n_threads, n): see the test."""
    from numba import njit, types

    from ggmlpy.machine.vectors import load_i64, store_i64

    barrier = make_barrier()

    @njit(types.int64(*[types.int64] * 5), nogil=True, error_model="numpy")
    def rounds(memory, table, thread, n_threads, n):
        wrong = 0
        for i in range(n):
            store_i64(table + 64 * thread, i)
            barrier(memory, n_threads)
            for other in range(n_threads):
                wrong += load_i64(table + 64 * other) != i
            barrier(memory, n_threads)
        return wrong

    return rounds


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_nobody_passes_a_barrier_before_all_have_come(rounds, n_threads):
    """More threads than processors too: the others sleep until the last has had its turn."""
    memory, table = np.zeros(BARRIER_BYTES // 8, np.int64), np.zeros(8 * n_threads, np.int64)
    wrong = []
    team = Team(n_threads)
    team.run(lambda i: wrong.append(rounds(memory.ctypes.data, table.ctypes.data, i, n_threads, 300)))
    team.close()
    assert wrong == [0] * n_threads


def test_every_unit_of_work_is_taken_once_own_share_first():
    from numba import njit, types

    take = make_take()

    @njit(types.int64(*[types.int64] * 5))
    def taken(counters, cancel, thread, n_threads, n):
        return take(counters, cancel, thread, n_threads, n)

    counters, cancel = np.zeros(3 * LINE // 8, np.int64), np.zeros(1, np.int64)
    where = counters.ctypes.data, cancel.ctypes.data
    order = [taken(*where, 1, 3, 10) for _ in range(11)]
    assert order[:4] == [3, 4, 5, 6]  # the middle third of ten
    assert sorted(order[:10]) == list(range(10))
    assert order[10] == -1
    counters[:], cancel[:] = 0, 1
    assert taken(*where, 0, 3, 10) == -1


def test_a_team_runs_its_threads_at_the_same_time_and_again():
    meeting = threading.Barrier(3, timeout=20)
    team = Team(3)
    for _ in range(20):
        team.run(lambda i: meeting.wait())
    team.close()


def test_an_interrupted_wait_cancels_and_still_waits_for_the_threads(monkeypatch):
    team, stop, ended = Team(2), threading.Event(), []

    def work(i):
        assert stop.wait(20)
        ended.append(i)

    news, errors = team._news, iter([KeyboardInterrupt])

    class Interrupted:
        put = news.put

        def get(self, timeout):
            for error in errors:
                raise error
            return news.get(timeout=timeout)

    monkeypatch.setattr(team, "_news", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        team.run(work, cancel=stop.set)
    assert sorted(ended) == [0, 1]


def test_the_processor_can_be_offered():
    """What compiled code calls where there is no futex."""
    from llama_ref.arithmetic.fast.threads import offer_processor_address

    assert ctypes.CFUNCTYPE(ctypes.c_int)(offer_processor_address())() in (0, 1)


def test_an_interruption_never_finds_a_job_half_given():
    """Once, a Ctrl-C between two threads' queues left the first waiting at a barrier for the second, for ever."""
    import random
    import signal

    team, barrier, stopped = Team(2), threading.Barrier(2), []

    def work(thread: int) -> None:
        for _ in range(5):
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait(1.0)
            if stopped:
                return

    def cancel() -> None:
        stopped.append(True)
        barrier.abort()

    def run_for_ever(timer: threading.Timer) -> None:
        timer.start()
        while True:
            team.run(work, cancel)

    rng, end, interruptions = random.Random(0), time.monotonic() + 1.5, 0
    while time.monotonic() < end:
        stopped.clear()
        barrier.reset()
        timer = threading.Timer(rng.random() * 0.003, signal.raise_signal, [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            run_for_ever(timer)
        timer.join()
        interruptions += 1
    team.close()
    assert interruptions > 10


def in_another_thread(do):
    """What a function gives that another than the main thread calls."""
    with ThreadPoolExecutor(1, thread_name_prefix="caller") as pool:
        return pool.submit(do).result()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_caller_that_nobody_interrupts_does_a_share_itself(n_threads):
    team, who, together = Team(n_threads), {}, threading.Barrier(n_threads)

    def work(index):
        together.wait()  # all at the same time
        who[index] = threading.current_thread().name

    in_another_thread(lambda: team.run(work))
    assert [who[index][:6] for index in range(n_threads)] == ["caller", *["llama-"] * (n_threads - 1)]
    team.run(work)  # and the main thread only waits, as ever
    assert [who[index] for index in range(n_threads)] == [f"llama-{index}" for index in range(n_threads)]
    team.close()


def test_what_goes_wrong_in_that_share_is_raised_when_the_others_have_ended():
    team, ended = Team(2), []

    def work(index):
        if index == 0:
            raise ValueError("of the first")
        time.sleep(0.05)
        ended.append(index)

    with pytest.raises(ValueError, match="of the first"):
        in_another_thread(lambda: team.run(work))
    assert ended == [1]
    team.close()
