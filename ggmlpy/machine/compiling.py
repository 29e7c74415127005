"""What compiling means outside a kernel: telling the person who waits, and knowing when machine code is out of date.

**Watching.** The first use on a machine takes seconds in which nothing else happens. Numba compiles when a module with
kernels is first imported, or when a kernel is first called, deep below the code that could tell a person. So the caller
registers a function here, and it is called whenever a function's compiling begins, and when all that began has ended.

**Invalidating.** Machine code is kept in files, and goes with the sources that it was made of. `source_digest` is a
digest of those; both caches have it in their keys: Numba's (see `ggmlpy.machine.kernels`) and the one of the fast
arithmetic (see `llama_ref.arithmetic.fast.machine_code`). A kernel is made of the files in its own folder, of this
folder (vectors and conversions), and of the tables in `ggmlpy.formats`; nothing else may flow into its code.

Numba is not imported here.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["Watcher", "compiling", "listen_to_numba", "source_digest", "watch_compiling"]

PACKAGE = Path(__file__).parents[1]

Watcher = Callable[[str], object]  # called with the name of what is being compiled, and with "" at the end

_LOCK = threading.Lock()
_watchers: list[Watcher] = []  # at most one
_begun: list[str] = []  # what is being compiled: each for the one before it
_listening = False


def watch_compiling(watcher: Watcher | None) -> Watcher | None:
    """Have ``watcher`` called whenever a function's compiling begins, and at the end; returns the watcher before it.

    A function is compiled with all that it calls. The watcher is called for each of these, with the name of the first.

    >>> before = watch_compiling(lambda name: print(name or "done"))
    >>> with compiling("batch"), compiling("attention"):
    ...     pass
    batch
    batch
    done
    >>> _ = watch_compiling(before)
    """
    before = _watchers[0] if _watchers else None
    _watchers[:] = [watcher] if watcher else []
    return before


@contextlib.contextmanager
def compiling(name: str) -> Iterator[None]:
    """Something of this name is compiled within."""
    _begin(name)
    try:
        yield
    finally:
        _end()


def _begin(name: str) -> None:
    with _LOCK:
        _begun.append(name)
        _tell(_begun[0])


def _end() -> None:
    with _LOCK:
        _begun.pop()
        if not _begun:
            _tell("")


def _tell(name: str) -> None:
    for watcher in _watchers:
        watcher(name)


def listen_to_numba() -> None:
    """Have watchers called when Numba compiles; loading from its cache is not compiling."""
    global _listening
    if not _listening:
        _listening = True
        from ggmlpy.machine.jit import event

        class Listener(event.Listener):
            def on_start(self, event: Any) -> None:
                _begin(event.data["dispatcher"].py_func.__name__)

            def on_end(self, event: Any) -> None:
                _end()

        event.register("numba:compile", Listener())


@functools.cache
def source_digest(folder: Path) -> str:
    """A digest that changes with every source file that kernels in ``folder`` are made of.

    The same for all where the sources can't be read (in an archive): they don't change there.
    """
    folders = (PACKAGE / "machine", PACKAGE / "machine" / "vectors", PACKAGE / "formats", folder)
    digest = hashlib.sha256()
    try:
        for file in (file for each in folders for file in sorted(each.glob("*.py"))):
            digest.update(file.read_bytes())
    except OSError:
        return "unknown"
    return digest.hexdigest()
