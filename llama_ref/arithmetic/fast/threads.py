"""Threads for the fast backend: compiled code that waits for each other, and a Python that can still be interrupted.

Each thread makes one call of compiled code for a whole token, without Python's lock. Inside, the work is cut into
phases (a matrix product, the attention …) that need each other's results, so the threads meet at a *barrier* between
them: about five times per layer. Within a phase `take` hands out the units of work: each thread first takes the units
of its own contiguous share, in order, so that the processor's prefetcher sees one long stream, and then helps the
others.

A barrier looks about two hundred times whether the others have come, which costs a fraction of a microsecond, and then
goes to sleep (a *futex*, on Linux; elsewhere it offers its processor to others). So a thread whose processor was taken
away by another program delays the rest, but nobody burns a processor waiting for it.

The result of a unit of work does not depend on who does it; neither do the results of an evaluation.
"""

from __future__ import annotations

import collections
import contextlib
import operator
import platform
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Team", "make_barrier", "make_take"]

SPINS = 200
LINE = 64  # bytes of a cache line: counters of different threads are kept apart by as much
ARRIVED, GENERATION, SLEEPERS = 0, LINE, 2 * LINE  # offsets in the memory of a barrier
BARRIER_BYTES = 3 * LINE


def futex_number() -> int | None:
    """The number of the futex system call, or None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    return {"x86_64": 202, "aarch64": 98}.get(platform.machine())


def make_waiting() -> tuple[Any, Any]:
    """The operations sleep_while(address, value) and wake(address), for compiled code."""
    from llvmlite import ir

    from ggmlpy.machine.vectors import I64, address, at, call, integer, nothing, op

    number = futex_number()
    wait_private, wake_private, everybody = 128, 129, 0x7FFFFFFF

    def system_call(b: ir.IRBuilder, *arguments: Any) -> None:
        kind = ir.FunctionType(I64, [I64], var_arg=True)
        function = b.module.globals.get("syscall") or ir.Function(b.module, kind, "syscall")
        b.call(function, [a if not isinstance(a, int) else I64(a) for a in arguments])

    @op(nothing, address, integer)
    def sleep_while(b: ir.IRBuilder, word: Any, value: Any) -> None:
        """Return when `wake` is called or the low 32 bits at `word` are no longer those of `value`."""
        if number is not None:
            system_call(b, number, word, wait_private, value, 0, 0, 0)
        else:
            call(b, "llama_offer_processor", ir.IntType(32), [])

    @op(nothing, address)
    def wake(b: ir.IRBuilder, word: Any) -> None:
        if number is not None:
            system_call(b, number, at(b, word, 0), wake_private, everybody, 0, 0, 0)

    return sleep_while, wake


def make_barrier() -> Any:
    """The compiled function barrier(memory, n_threads): returns when n_threads threads have called it."""
    from ggmlpy.machine.kernels import compiled
    from ggmlpy.machine.vectors import fetch_add, load_shared, pause, store_shared

    sleep_while, wake = make_waiting()

    @compiled
    def barrier(memory, n_threads):
        if n_threads == 1:
            return
        generation = load_shared(memory + GENERATION)
        if fetch_add(memory + ARRIVED, 1) == n_threads - 1:
            store_shared(memory + ARRIVED, 0)
            store_shared(memory + GENERATION, generation + 1)
            if load_shared(memory + SLEEPERS) > 0:
                wake(memory + GENERATION)
            return
        for _ in range(SPINS):
            if load_shared(memory + GENERATION) != generation:
                return
            pause()
        fetch_add(memory + SLEEPERS, 1)
        while load_shared(memory + GENERATION) == generation:
            sleep_while(memory + GENERATION, generation)
        fetch_add(memory + SLEEPERS, -1)

    return barrier


def make_take() -> Any:
    """The compiled function take(counters, cancel, thread, n_threads, n): the number of a unit of work, or -1.

    `counters` are n_threads counters a `LINE` apart, at 0 before the phase; `cancel` is the address of a flag: once it
    is set there is no work left anywhere, so an interrupted evaluation runs through its remaining phases in no time.
    """
    from ggmlpy.machine.kernels import compiled
    from ggmlpy.machine.vectors import fetch_add, load_shared

    @compiled
    def take(counters, cancel, thread, n_threads, n):
        if load_shared(cancel) != 0:
            return -1
        for other in range(n_threads):
            owner = (thread + other) % n_threads
            first, last = owner * n // n_threads, (owner + 1) * n // n_threads
            unit = first + fetch_add(counters + LINE * owner, 1)
            if unit < last:
                return unit
        return -1

    return take


def offer_processor_address() -> int:
    """The address of the C function that lets another thread run, for platforms without a futex."""
    import ctypes

    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread  # type: ignore[attr-defined]
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


Job = tuple[Callable[[int], Any], list[int]]  # what to call, and where to sign when it has returned


class Team:
    """Threads that wait to run a function each, side by side.

    The main thread only waits when it calls, so that Ctrl-C reaches it at once. Any other does a share itself: to wake
    a thread and to be woken by it takes longer than a small model's token.

    >>> seen = []
    >>> team = Team(2)
    >>> team.run(seen.append)
    >>> sorted(seen)
    [0, 1]
    >>> team.close()
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self.forget()

    def forget(self) -> None:
        """Begin without threads, as a forked child does: those of its parent are not in it."""
        self._queues: list[queue.SimpleQueue[Job | None]] = []
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run(self, function: Callable[[int], Any], cancel: Callable[[], None] | None = None) -> None:
        """Call function(thread) for thread = 0 … n_threads-1, each in its own thread, and wait for all of them.

        If the wait is interrupted, `cancel` is called, the threads are waited for, and the interruption goes on.
        """
        if threading.current_thread() is not threading.main_thread():
            self._share(function)
            return
        self._start()
        done: list[int] = []
        sent: queue.SimpleQueue[Job] = queue.SimpleQueue()
        give = operator.methodcaller("put", (function, done))
        try:
            # one call into C: an interruption comes before it or after it, never when only some threads have the job
            collections.deque(map(give, [*self._queues, sent]), maxlen=0)
            self._wait_for(done)
        except BaseException:
            if cancel is not None:
                cancel()
            if not sent.empty():
                self._wait_for(done)
            raise

    def _share(self, function: Callable[[int], Any]) -> None:
        """The same where no interruption comes: the caller is thread 0."""
        self._start()
        done: list[int] = []
        for line in self._queues[1:]:
            line.put((function, done))
        try:
            function(0)
        finally:
            done.append(0)
            self._wait_for(done)

    def _wait_for(self, done: list[int]) -> None:
        """Until each thread is on the list. News only end the sleep: losing one costs a tenth of a second."""
        while len(done) < self.n_threads:
            with contextlib.suppress(queue.Empty):
                self._news.get(timeout=0.1)

    def close(self) -> None:
        """Let the threads end."""
        for line in self._queues:
            line.put(None)
        self._queues = []

    def _start(self) -> None:
        while len(self._queues) < self.n_threads:
            line: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
            index = len(self._queues)
            threading.Thread(target=self._work, args=(line, index), name=f"llama-{index}", daemon=True).start()
            self._queues.append(line)

    def _work(self, line: queue.SimpleQueue[Job | None], index: int) -> None:
        while (job := line.get()) is not None:
            function, done = job
            try:
                function(index)
            finally:
                done.append(index)
                self._news.put(None)
