"""Work done by several threads ahead of the one that needs the results: in order, and not too far ahead.

A writer wants the pieces of a file from first to last. Threads compute the next few while it writes; how many is
bounded, and so is the memory that finished pieces occupy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TypeVar

from .processors import checked_threads

__all__ = ["Workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads that compute ahead of a consumer; a context manager.

    Args:
        n_threads: how many; by default one per processor.
        ahead: how many results may be started and not yet taken; by default one more than there are threads.

    >>> with Workers(2) as workers:
    ...     list(workers.ordered(len, ["a", "bb", "ccc"]))
    [1, 2, 3]
    """

    def __init__(self, n_threads: int | None = None, *, ahead: int | None = None) -> None:
        self.n_threads = checked_threads(n_threads)
        self.ahead = ahead or self.n_threads + 1
        self._pool = ThreadPoolExecutor(self.n_threads, thread_name_prefix="ggmlpy")

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def ordered(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
        """``map(function, items)``, computed at most ``ahead`` results in advance.

        What ``function`` raises is raised where its result would have come; what has not begun by then is canceled, as
        it is when the consumer stops early, and what has begun is waited for.
        """
        running: deque[Future[Result]] = deque()
        try:
            for item in items:
                running.append(self._pool.submit(function, item))
                if len(running) > self.ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            wait([future for future in running if not future.cancel()])
