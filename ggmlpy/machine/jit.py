"""Numba, imported so that the folder where the person stands has no say: everything of it is taken from here.

Numba reads ``.numba_config.yaml`` of the working directory when it is imported and again each time it compiles. That
file may turn compiling off, or name a folder of machine code to load, which Python's pickle does: it would run what it
holds. Models come in folders of strangers, and people go into them. The environment's ``NUMBA_*`` variables are the
person's own, and count.
"""

from __future__ import annotations

import os
import sys
import types as python_types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "CompileResultCacheImpl",
    "FunctionCache",
    "IndexDataCacheFile",
    "cgutils",
    "config",
    "event",
    "intrinsic",
    "models",
    "njit",
    "register_model",
    "serialize",
    "types",
]

CONFIG_FILE = ".numba_config.yaml"


@contextmanager
def _config_file_ignored() -> Iterator[None]:
    """While Numba is imported, what reads its configuration finds it empty."""
    if "numba" in sys.modules or not os.path.exists(CONFIG_FILE):
        yield
        return
    blind: Any = python_types.ModuleType("yaml")
    blind.safe_load = lambda stream: None
    yaml = sys.modules.get("yaml")
    sys.modules["yaml"] = blind
    try:
        yield
    finally:
        del sys.modules["yaml"]
        if yaml is not None:
            sys.modules["yaml"] = yaml


with _config_file_ignored():
    from numba import njit, types
    from numba.core import cgutils, config, event, serialize
    from numba.core.bytecode import FunctionIdentity
    from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile
    from numba.extending import intrinsic, models, register_model

config._config_fname = os.devnull  # no file is read again

# Functions of one name are told apart in machine code by numbers. Numba counts from one in each process; code from the
# cache, made by several processes, would then have the same names, and be linked to each other's parts.
_identity: Any = FunctionIdentity
_identity._unique_ids = iter(lambda: int.from_bytes(os.urandom(7), "big"), None)
