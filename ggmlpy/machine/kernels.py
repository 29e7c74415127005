"""Compiling functions with Numba: for Python to call (`kernel`), or for other compiled code only.

All are compiled for `MACHINE`, without Python's lock; a division by zero gives inf as in C; there is no contraction and
no reassociation: every operation rounds as written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from .compiling import listen_to_numba, source_digest
from .features import MACHINE

__all__ = ["compiled", "inlined", "kernel"]

listen_to_numba()
if MACHINE.override:
    _settings: Any = numba.config
    _settings.CPU_NAME, _settings.CPU_FEATURES = MACHINE.cpu, MACHINE.feature_string

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}

#: a part of kernels, compiled with them
inlined: Any = numba.njit(**OPTIONS)

#: a function that only compiled code calls: without the wrappers by which Python could call it, which take a third of
#: the time to compile. `llama_ref.arithmetic.fast.machine_code` calls such functions by their addresses.
compiled: Any = numba.njit(**OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True})


def kernel(function: Callable[..., Any], signature: Any = None) -> Any:
    """Compile a function (when it is first called, unless there is a signature), or load its code from Numba's cache.

    Numba keeps machine code beside the source or in the user's cache directory. Its index is valid for one *stamp*, the
    time and size of the file that the kernel is in; files whose functions it calls are not noticed. So
    `source_digest` becomes a part of the stamp. Where nothing can be written, kernels are compiled in each process.
    """
    dispatcher = numba.njit(**OPTIONS)(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
    else:
        index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
        if index is not None:  # Numba has no public way to say this
            index._source_stamp = (index._source_stamp, source_digest(Path(inspect.getfile(function)).parent))
    if signature is not None:
        dispatcher.compile(signature)
        dispatcher.disable_compile()
    return dispatcher
