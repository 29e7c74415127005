"""A file that is cut short while compiled code reads its map: zeros and an error, in place of a process that ends.

Whoever reads a page of a map that its file no longer has gets the signal SIGBUS, which ends the process. A server has
other clients. So the handler below puts a page of zeros there and lets the reading go on; what was computed with them
is thrown away, for :func:`ggmlpy.files.mapping.check_length` refuses every map from then on. It is a few instructions
of machine code: Python's own handlers run too late for this signal. Memory that is broken ends the process as ever.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import signal
import sys
from typing import Any

__all__ = ["survive_cut_files", "zeros_were_read"]

SIGINFO_CODE, SIGINFO_ADDRESS = 8, 16  # where siginfo_t says why, and what was read; Linux, 64 bits
BUS_ADRERR = 2  # why: there is nothing behind this address
SA_SIGINFO = 4
MAP_FIXED, MAP_FAILED = 0x10, -1

_pages = ctypes.c_int64(0)  # of zeros that were read
_kept: list[Any] = []  # the handler's code


class SigAction(ctypes.Structure):
    """``struct sigaction`` of glibc and musl, for 64 bits."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def zeros_were_read() -> bool:
    """Whether a file was cut short while its map was read, in this process."""
    return _pages.value > 0


def survive_cut_files() -> bool:
    """From now on, a map of a file that was cut short reads as zeros; False where that cannot be had."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"):
        return False
    if not _kept:
        engine = _compiled_handler()
        action = SigAction(engine.get_function_address("on_bus_error"), flags=SA_SIGINFO)
        if ctypes.CDLL(None).sigaction(signal.SIGBUS, ctypes.byref(action), None):
            return False
        _kept.append(engine)
    return True


def _compiled_handler() -> Any:
    """``void on_bus_error(int signal, siginfo_t *about, void *context)``."""
    import llvmlite.binding as llvm
    from llvmlite import ir

    i32, i64 = ir.IntType(32), ir.IntType(64)
    module = ir.Module("bus_errors")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [i32, i64, i64]), "on_bus_error")
    b = ir.IRBuilder(function.append_basic_block())

    def libc(name: str, result: Any, *arguments: Any) -> Any:
        address = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return b.call(b.inttoptr(i64(address), kind.as_pointer()), arguments)

    def about(offset: int, kind: Any) -> Any:
        return b.load(b.inttoptr(b.add(function.args[1], i64(offset)), kind.as_pointer()))

    def end_if(condition: Any) -> None:
        with b.if_then(condition, likely=False):
            libc("_exit", ir.VoidType(), i32(128 + signal.SIGBUS))

    end_if(b.icmp_signed("!=", about(SIGINFO_CODE, i32), i32(BUS_ADRERR)))
    address = about(SIGINFO_ADDRESS, i64)
    page, flags = b.and_(address, i64(-mmap.PAGESIZE)), MAP_FIXED | mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    b.atomic_rmw("add", b.inttoptr(i64(ctypes.addressof(_pages)), i64.as_pointer()), i64(1), "monotonic")
    made = libc("mmap", i64, page, i64(mmap.PAGESIZE), i32(mmap.PROT_READ), i32(flags), i32(-1), i64(0))
    end_if(b.icmp_signed("==", made, i64(MAP_FAILED)))
    b.ret_void()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), target)
    engine.finalize_object()
    return engine
