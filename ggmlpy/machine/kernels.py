"""Compiling functions with Numba: for Python to call (`kernel`), or for other compiled code only.

All are compiled for `MACHINE`, without Python's lock; a division by zero gives inf as in C; there is no contraction and
no reassociation: every operation rounds as written.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .compiling import listen_to_numba, source_digest
from .features import MACHINE
from .jit import config, njit
from .kernel_cache import KernelCache

__all__ = ["compiled", "inlined", "kernel"]

listen_to_numba()
if MACHINE.override:
    _settings: Any = config
    _settings.CPU_NAME, _settings.CPU_FEATURES = MACHINE.cpu, MACHINE.feature_string

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}

#: a part of kernels, compiled with them
inlined: Any = njit(**OPTIONS)

#: a function that only compiled code calls: without the wrappers by which Python could call it, which take a third of
#: the time to compile. `llama_ref.arithmetic.fast.machine_code` calls such functions by their addresses.
compiled: Any = njit(**OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True})


def kernel(function: Callable[..., Any], signature: Any = None) -> Any:
    """Compile a function (when it is first called, unless there is a signature), or load its code from the cache.

    Where nothing can be written, kernels are compiled in each process.
    """
    dispatcher = njit(**OPTIONS)(function)
    with contextlib.suppress(RuntimeError):  # no folder for it
        # Numba has no public way to say where code is kept
        dispatcher._cache = KernelCache(function, source_digest(Path(inspect.getfile(function)).parent))
    if signature is not None:
        dispatcher.compile(signature)
        dispatcher.disable_compile()
    return dispatcher
