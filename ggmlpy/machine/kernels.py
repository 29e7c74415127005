"""Compiling functions with Numba: for Python to call (`kernel`), or for other compiled code only.

All are compiled for `MACHINE`, without Python's lock; a division by zero gives inf as in C; there is no contraction and
no reassociation: every operation rounds as written.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
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
            index.save = functools.partial(_save, index)
    if signature is not None:
        dispatcher.compile(signature)
        dispatcher.disable_compile()
    return dispatcher


def _save(index: Any, key: Any, data: Any) -> None:
    """Save machine code in Numba's cache, in a file whose name says which code it is, and only then tell the index.

    Numba itself numbers the files of a function's kernels, after it has told the index. So a process could load another
    kernel's code: while the first of two processes writes its own, or after both have chosen the same number.
    """
    digest = hashlib.sha256(repr((index._source_stamp, key)).encode()).hexdigest()
    name = index._data_name(int(digest[:15], 16))
    index._save_data(name, data)
    known = index._load_index()
    if not known:  # a new index: what an older one knew is out of date
        _remove_others(Path(index._data_path(name)), index._index_name.removesuffix("nbi"))
    index._save_index({**known, key: name})


def _remove_others(kept: Path, prefix: str) -> None:
    for file in kept.parent.glob(f"{glob.escape(prefix)}*.nbc"):
        if file != kept:
            with contextlib.suppress(OSError):  # another process has it, or has removed it
                file.unlink()
