"""What compiling means outside a kernel: telling the person who waits, and knowing when machine code is out of date.

**Announcing.** The first use on a machine takes seconds in which nothing else happens. Numba compiles when a module
with kernels is first imported, or when a kernel is first called, deep below the code that could tell a person. So the
caller registers a function here, and it is called when compiling begins.

**Invalidating.** Machine code is kept in files, and goes with the sources that it was made of. `source_digest` is a
digest of those; both caches have it in their keys: Numba's (see `ggmlpy.machine.kernels`) and the one of the fast
arithmetic (see `llama_ref.arithmetic.fast.machine_code`). A kernel is made of the files in its own folder, of this
folder (vectors and conversions), and of the tables in `ggmlpy.formats`; nothing else may flow into its code.

Numba is not imported here.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

__all__ = ["announce_with", "compiling", "listen_to_numba", "source_digest"]

PACKAGE = Path(__file__).parents[1]

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
        from ggmlpy.machine.jit import event

        class Listener(event.Listener):
            def on_start(self, event: object) -> None:
                compiling()

            def on_end(self, event: object) -> None:
                pass

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
