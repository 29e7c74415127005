"""Saying that kernels are being compiled: the first use on a machine takes seconds in which nothing else is to be seen.

Numba compiles when a module with kernels is first imported, or when a kernel is first called, deep below whoever could
tell a person. So whoever can puts a function here, and the modules with kernels see to it that it is called.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["announce_with", "compiling", "listen_to_numba"]

_announce: list[Callable[[], object]] = []  # at most one: it is called once
_listening = False


def announce_with(function: Callable[[], object]) -> None:
    """Have ``function`` called when compiling begins, once.

    >>> announce_with(lambda: print("compiling"))
    >>> compiling(), compiling()
    compiling
    (None, None)
    """
    _announce[:] = [function]


def compiling() -> None:
    """Something is being compiled now."""
    if _announce:
        _announce.pop()()


def listen_to_numba() -> None:
    """Have :func:`compiling` called when Numba compiles; loading from its cache is not compiling."""
    global _listening
    if not _listening:
        _listening = True
        from numba.core import event

        class Listener(event.Listener):
            def on_start(self, event: object) -> None:
                compiling()

            def on_end(self, event: object) -> None:
                pass

        event.register("numba:compile", Listener())
