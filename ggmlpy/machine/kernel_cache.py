"""Where the machine code of kernels is kept between processes, and which of it is loaded.

Numba keeps a function's code as a pickle, and loading a pickle runs what it holds. So code is loaded only from a folder
and from files that belong to the user and that nobody else may write: below :func:`cache_directory`, in a folder for
each place where this package is installed, or below an absolute ``NUMBA_CACHE_DIR``. Where there is none, or it cannot
be written, or what is in it is damaged, kernels are compiled in each process.

An index says which code it has, for one *stamp*: a digest of the sources (see `ggmlpy.machine.compiling`). A file's
name says which code it is. So it is written before the index tells of it, and two processes never choose the same name
for different code.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.caches import cache_directory, is_own, is_own_folder
from ggmlpy.files.errors import OutputError

from . import jit
from .jit import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, serialize

__all__ = ["KernelCache"]


class KernelCache(FunctionCache):
    """Numba's cache of one function.

    Args:
        function: the kernel as Python has it.
        stamp: code of another stamp is out of date.

    Raises:
        RuntimeError: there is no folder for it.
    """

    def __init__(self, function: Callable[..., Any], stamp: str) -> None:
        self._impl_class = _at_own_place(stamp)
        super().__init__(function)
        self._cache_file = OwnFiles(self._cache_path, self._impl.filename_base, stamp)

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        """What tells the code of functions of one place apart. Numba's own key is another one in each process where a
        function closes over a compiled one, for those have numbers of their own."""
        return signature, codegen.magic_tuple(), hashlib.sha256(repr(_told_apart(self._py_func)).encode()).hexdigest()


def _told_apart(value: Any) -> Any:
    """What a function is made of: its code, and whatever it closes over, in a form that is the same in each process."""
    function = getattr(value, "py_func", getattr(value, "_defn", value))  # of what is compiled, of an intrinsic
    if not inspect.isfunction(function):
        return serialize.dumps(value)
    cells = [_told_apart(cell.cell_contents) for cell in function.__closure__ or ()]
    return function.__module__, function.__qualname__, function.__code__.co_code, cells


class OwnPlace:
    """What Numba calls a locator: the folder, the stamp, and what tells functions of one name apart."""

    stamp = ""

    def __init__(self, function: Callable[..., Any], source: str, folder: Path) -> None:
        self._py_file = source  # Numba's name, for its warnings
        self._line = function.__code__.co_firstlineno
        self._folder = folder

    @classmethod
    def from_function(cls, function: Callable[..., Any], source: str) -> OwnPlace | None:
        """The place for a function of a source file; None if there is none."""
        try:
            named = Path(getattr(jit.config, "CACHE_DIR", ""))
            base = named if named.is_absolute() else cache_directory() / "kernels"
        except OutputError:
            return None
        home = os.path.dirname(os.path.abspath(source))
        name = f"{os.path.basename(home)}_{hashlib.sha256(os.fsencode(home)).hexdigest()[:24]}"
        return cls(function, source, base / name) if is_own_folder(base / name) else None

    def ensure_cache_path(self) -> None:
        """It was made when the place was found."""

    def get_cache_path(self) -> str:
        """The folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """What code in the cache must have been made of."""
        return self.stamp

    def get_disambiguator(self) -> str:
        """The line: several functions of a file may have one name."""
        return str(self._line)


def _at_own_place(stamp: str) -> Any:
    place = type("OwnPlace", (OwnPlace,), {"stamp": stamp})
    return type("KernelCacheImpl", (CompileResultCacheImpl,), {"_locator_classes": [place]})


class OwnFiles(IndexDataCacheFile):
    """The index of one function's code, and the files of code that it names."""

    def _load_index(self) -> dict[Any, str]:
        return _loaded(Path(self._index_path), super()._load_index) or {}

    def _load_data(self, name: str) -> Any:
        return _loaded(Path(self._data_path(name)), lambda: super(OwnFiles, self)._load_data(name))

    def save(self, key: Any, data: Any) -> None:
        """Write the code, and only then tell the index."""
        digest = hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()
        name = self._data_name(int(digest[:15], 16))
        with contextlib.suppress(OSError, OutputError):  # a full disk costs the next process some seconds
            self._save_data(name, data)
            known = self._load_index()
            if not known:  # a new index: what an older one knew is out of date
                self._remove_others(Path(self._data_path(name)))
            self._save_index({**known, key: name})

    def _remove_others(self, kept: Path) -> None:
        prefix = glob.escape(self._index_name.removesuffix("nbi"))
        for file in kept.parent.glob(f"{prefix}*.nbc"):
            if file != kept:
                with contextlib.suppress(OSError):  # another process has it, or has removed it
                    file.unlink()

    @contextlib.contextmanager
    def _open_for_write(self, path: str) -> Iterator[BinaryIO]:
        with atomic_write(path, private=True) as stream:
            yield stream


def _loaded(path: Path, load: Callable[[], Any]) -> Any:
    """What Numba loads from a file; None where that is missing, damaged, or not the user's own."""
    if not is_own(path):
        return None
    try:
        return load()
    except Exception:  # a damaged pickle raises anything
        return None
