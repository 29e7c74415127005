"""Compile once, then start in milliseconds: the machine code of the kernels, kept in a file.

Numba needs seconds to compile the kernels, and even to find them in its own cache it must first be imported, which costs
more than everything else at the start. The kernels here need nothing of Numba once they are machine code: they take two
integers and return one. So their object code (the ELF, Mach-O or COFF file that any compiler makes) is kept, and loading
it takes LLVM's linker and no Numba.

The file's name contains a digest of all that the code depends on: the sources of the kernels, the processor, LLVM's
version and the kinds of matrices. It lies in the user's cache directory (``GGMLPY_CACHE`` names another), so a package
that is installed read-only works too; where nothing can be written, the kernels are compiled anew at each start.

    8 bytes   "ggmlpyk1"
    32 bytes  SHA256 of what follows
    text      a line of JSON: the names of the functions in the object code
    …         the object code
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from ggmlpy.atomic import atomic_write
from ggmlpy.errors import OutputError

from .machine import MACHINE
from .threads import futex_number, offer_processor_address

__all__ = ["Kernels", "cache_directory", "load_kernels"]

MAGIC = b"ggmlpyk1"
SOURCES = ("machine", "simd", "threads", "fast_plan", "fast_layouts", "fast_blocks", "fast_kernels")
_LOCK = threading.Lock()
_LOADED: dict[tuple[str, ...], Kernels] = {}


@dataclass(frozen=True)
class Kernels:
    """The functions that evaluate a model; see `fast_kernels.make_evaluators`.

    Attributes:
        token, batch: (address of the plan, number of the thread) -> None, without Python's lock.
        read: (address, bytes) -> None: reads memory as the kernels do, to measure how fast that can be.
        engine: what keeps the code in memory.
    """

    token: Any
    batch: Any
    read: Any
    engine: Any


def load_kernels(kinds: Sequence[str]) -> Kernels:
    """The kernels for matrices of these kinds (`fast_blocks.LAYOUTS` and "f16", "f32"), compiled if need be."""
    with _LOCK:
        key = tuple(kinds)
        if key not in _LOADED:
            path = cache_directory() / f"kernels-{_digest(key)}.bin"
            code = _read(path)
            if code is None:
                code = _compile(key)
                _write(path, code)
            _LOADED[key] = _link(code)
        return _LOADED[key]


def cache_directory() -> Path:
    """Where compiled kernels are kept: $GGMLPY_CACHE, or the platform's place for such things."""
    if "GGMLPY_CACHE" in os.environ:
        return Path(os.environ["GGMLPY_CACHE"])
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "ggmlpy" / "cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "ggmlpy"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "ggmlpy"


def _digest(kinds: tuple[str, ...]) -> str:
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((here / f"{name}.py").read_bytes())
    target = (MACHINE.triple, MACHINE.cpu, MACHINE.feature_string, llvm.llvm_version_info, futex_number())
    digest.update(repr((kinds, target)).encode())
    return digest.hexdigest()[:24]


def _read(path: Path) -> bytes | None:
    """What `_write` wrote, or None where it is missing or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    magic, digest, code = data[:8], data[8:40], data[40:]
    return code if magic == MAGIC and hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as stream:
            stream.write(MAGIC + hashlib.sha256(code).digest() + code)
    except (OSError, OutputError):
        return  # a full or read-only disk costs the next start some seconds, and this one nothing


def _compile(kinds: tuple[str, ...]) -> bytes:
    """A line of names, then object code."""
    import numba

    if MACHINE.override:
        numba.config.CPU_NAME, numba.config.CPU_FEATURES = MACHINE.cpu, MACHINE.feature_string
    from .fast_kernels import SIGNATURE, make_evaluators, read_memory

    token, batch = make_evaluators(kinds)
    names, objects = [], []
    for function in (token, batch, read_memory):
        function.compile(SIGNATURE)
        (result,) = function.overloads.values()
        names.append(result.fndesc.llvm_func_name)
        objects.append(result.library.serialize_using_object_code()[2][0])
    sizes = [len(code) for code in objects]
    return json.dumps({"names": names, "sizes": sizes}).encode() + b"\n" + b"".join(objects)


def _link(code: bytes) -> Kernels:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if futex_number() is None:
        llvm.add_symbol("llama_offer_processor", offer_processor_address())
    line, _, objects = code.partition(b"\n")
    header = json.loads(line)
    functions = []
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    start = 0
    for size in header["sizes"]:
        engine.add_object_file(llvm.ObjectFileRef.from_data(objects[start : start + size]))
        start += size
    engine.finalize_object()
    # Numba's convention: status f(result *, exception **, arguments …); the kernels raise nothing.
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    for name in header["names"]:
        functions.append(_callable(kind(engine.get_function_address(name))))
    return Kernels(*functions, engine)


def _callable(function: Any) -> Any:
    def call(first: int, second: int) -> None:
        result, exception = ctypes.c_int64(), ctypes.c_void_p()
        function(ctypes.addressof(result), ctypes.addressof(exception), first, second)

    return call
