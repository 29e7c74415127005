"""Pickles of torch, opcode by opcode: what its own pickler never writes, but a stranger's file may hold.

Each function returns the opcodes that push one value. Protocol 2, without a memo.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

__all__ = ["HOOKS", "PROTO", "STOP", "call", "dictionary", "integer", "integers", "name", "storage", "tensor", "text"]

PROTO, STOP = b"\x80\x02", b"."


def text(value: str) -> bytes:
    """BINUNICODE"""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    """LONG1, in its shortest form"""
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def name(module: str, attribute: str) -> bytes:
    """GLOBAL"""
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE of ``function`` with a tuple of ``arguments``"""
    return function + b"(" + b"".join(arguments) + b"tR"


def integers(values: Iterable[int]) -> bytes:
    """A tuple of integers"""
    return b"(" + b"".join(map(integer, values)) + b"t"


def dictionary(values: Iterable[tuple[str, bytes]]) -> bytes:
    """EMPTY_DICT, and SETITEM for each value"""
    return b"}" + b"".join(text(key) + value + b"s" for key, value in values)


def storage(
    kind: bytes | None = None, key: str = "0", location: str = "cpu", numel: int | bytes = 16, view: bytes = b""
) -> bytes:
    """BINPERSID of a storage; ``view`` is what the old format has behind its number of elements"""
    numel = integer(numel) if isinstance(numel, int) else numel
    kind = kind or name("torch", "HalfStorage")
    return b"(" + text("storage") + kind + text(key) + text(location) + numel + view + b"tQ"


HOOKS = call(name("collections", "OrderedDict"))


def tensor(
    data: bytes | None = None,
    offset: int = 0,
    shape: Iterable[int] = (4, 4),
    strides: Iterable[int] = (4, 1),
    grad: bytes = b"\x89",
    hooks: bytes = HOOKS,
) -> bytes:
    """_rebuild_tensor_v2"""
    parts = (data or storage(), integer(offset), integers(shape), integers(strides), grad, hooks)
    return call(name("torch._utils", "_rebuild_tensor_v2"), *parts)
