"""Compile once, then start in milliseconds: the machine code of the kernels, kept in a file.

Numba needs seconds to compile the kernels, and even to find them in its own cache it must first be imported, which
costs more than everything else at the start. The kernels here need nothing of Numba once they are machine code: they
take two integers and return one. So their object code (the ELF, Mach-O or COFF file that any compiler makes) is kept,
and loading it takes LLVM's linker and no Numba.

The file's name contains a digest of all that the code depends on: the sources of the kernels, the processor, LLVM's
version. There is one file for each kind of matrix and one for the rest, in the user's cache (see
:mod:`ggmlpy.files.caches`), so a package that is installed read-only works too; where nothing can be written, the
kernels are compiled at each start.

    8 bytes   "ggmlpyk1"
    32 bytes  SHA256 of what follows
    text      a line of JSON: the functions in the object code, its sizes, and how memory is best read ahead
    …         the object code
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.caches import cache_directory, is_own
from ggmlpy.files.errors import OutputError
from ggmlpy.files.processors import others_at_work
from ggmlpy.machine.compiling import compiling, source_digest
from ggmlpy.machine.features import MACHINE

from .read_ahead import USUAL, ReadAhead, fastest
from .threads import futex_number, offer_processor_address

__all__ = ["Kernels", "call_compiled", "load_kernels"]

MAGIC = b"ggmlpyk1"
SIGNATURE = "int64(int64, int64)"  # of what is called from Python: (address of a PLAN, number of the thread) -> 0
MODEL = "model"  # the part that is the same for all kinds of matrices
_LOCK = threading.Lock()
_LOADED: dict[str, Part] = {}


@dataclass(frozen=True)
class Part:
    """Linked code.

    Attributes:
        addresses: of its functions.
        read_ahead: how rows are best asked for here; None as long as that was not measured, or cannot be.
        engine: keeps the code in memory.
    """

    addresses: tuple[int, ...]
    read_ahead: ReadAhead | None
    engine: Any


@dataclass(frozen=True)
class Kernels:
    """The functions that evaluate a model; see `one_token` and `many_tokens`.

    Attributes:
        token, batch: (address of the plan, number of the thread), without Python's lock.
        yardsticks: to measure how fast things can be: (address, bytes): reads memory; (steps, 0): multiplies bytes in
            registers; (steps, 0): multiplies floats.
        products: kind of matrix -> addresses of the functions of `Product`.
        read_ahead: kind of matrix -> how its rows are asked for while they meet one vector.
    """

    token: Callable[[int, int], None]
    batch: Callable[[int, int], None]
    yardsticks: tuple[Callable[[int, int], None], ...]
    products: dict[str, tuple[int, ...]]
    read_ahead: dict[str, ReadAhead]


def load_kernels(kinds: Iterable[str]) -> Kernels:
    """The kernels for matrices of these kinds (`layouts.LAYOUTS` and `layouts.FLOATS`), compiled if need be."""
    with _LOCK:
        token, batch, _, *yardsticks = (_callable(at) for at in _load(MODEL).addresses)
        parts = {kind: _load(kind) for kind in kinds}
        addresses = {kind: part.addresses for kind, part in parts.items()}
        read_ahead = {kind: part.read_ahead or USUAL for kind, part in parts.items()}
        return Kernels(token, batch, tuple(yardsticks), addresses, read_ahead)


def _load(name: str) -> Part:
    if name not in _LOADED:
        path = _place(name)
        code = _read(path) if path else None
        if code is None:
            with compiling(f"kernels of {name}"):
                code = _compile(name)
            if path:
                _write(path, code)
        part = _link(code)
        if name != MODEL and part.read_ahead is None and not others_at_work():
            rows, _, few = part.addresses
            ahead = fastest(name, rows, few, _callable(_load(MODEL).addresses[2]))
            part = replace(part, read_ahead=ahead)
            if path:
                _write(path, _with_read_ahead(code, ahead))
        _LOADED[name] = part
    return _LOADED[name]


def _place(name: str) -> Path | None:
    """The file in which this part is kept; None if there is no folder for it."""
    try:
        return cache_directory() / f"{name}-{_digest(name)}.bin"
    except OutputError:
        return None


def _digest(name: str) -> str:
    target = (MACHINE.triple, MACHINE.cpu, MACHINE.feature_string, llvm.llvm_version_info, futex_number())
    everything = (name, source_digest(Path(__file__).parent), target)
    return hashlib.sha256(repr(everything).encode()).hexdigest()[:24]


def _read(path: Path) -> bytes | None:
    """What `_write` wrote, or None where it is missing, damaged, or not the user's own."""
    if not is_own(path):
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    magic, digest, code = data[:8], data[8:40], data[40:]
    return code if magic == MAGIC and hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, private=True) as stream:
            stream.write(MAGIC + hashlib.sha256(code).digest() + code)
    except (OSError, OutputError):
        return  # a full or read-only disk costs the next start some seconds, and this one nothing


def _compile(name: str) -> bytes:
    """A line that names the functions, then object code."""
    from .many_tokens import batch
    from .matrix_functions import PANEL_SIGNATURE, ROWS_SIGNATURE
    from .one_token import token
    from .products import make_product
    from .reading import multiply_bytes, multiply_floats, multiply_units, read_memory

    if name == MODEL:
        functions = (token, batch, multiply_units, read_memory, multiply_bytes, multiply_floats)
        entries: list[tuple[Any, Any]] = [(function, SIGNATURE) for function in functions]
    else:
        product = make_product(name)
        entries = [(product.rows, ROWS_SIGNATURE), *((f, PANEL_SIGNATURE) for f in (product.panel, product.few))]
    names, objects = [], []
    for function, signature in entries:
        function.compile(signature)
        (result,) = function.overloads.values()
        names.append(result.fndesc.llvm_func_name)
        objects.append(result.library.serialize_using_object_code()[2][0])
    header = {"names": names, "sizes": [len(code) for code in objects]}
    return json.dumps(header).encode() + b"\n" + b"".join(objects)


def _with_read_ahead(code: bytes, ahead: ReadAhead) -> bytes:
    """The same code; its line now says how rows are read ahead here."""
    line, _, objects = code.partition(b"\n")
    return json.dumps({**json.loads(line), "read_ahead": astuple(ahead)}).encode() + b"\n" + objects


def _link(code: bytes) -> Part:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if futex_number() is None:
        llvm.add_symbol("llama_offer_processor", offer_processor_address())
    line, _, objects = code.partition(b"\n")
    header = json.loads(line)
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    start = 0
    for size in header["sizes"]:
        engine.add_object_file(llvm.ObjectFileRef.from_data(objects[start : start + size]))
        start += size
    engine.finalize_object()
    addresses = tuple(engine.get_function_address(name) for name in header["names"])
    ahead = header.get("read_ahead")
    return Part(addresses, ahead and ReadAhead(*ahead), engine)


def _callable(function: int) -> Callable[[int, int], None]:
    """A compiled function of two integers."""
    return functools.partial(call_compiled, function)


@functools.cache
def _prototype(n: int) -> Any:
    """Numba's convention for n integers: status f(result *, exception **, arguments …)."""
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * n)


def call_compiled(function: int, *arguments: int) -> None:
    """Call a compiled function of integers by its address, without Python's lock."""
    result, exception = ctypes.c_int64(), ctypes.c_void_p()
    _prototype(len(arguments))(function)(ctypes.addressof(result), ctypes.addressof(exception), *arguments)
