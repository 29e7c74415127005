"""``ggml-adapter-model.bin``: a LoRA adapter for llama.cpp of April 2023 and later, until GGUF took over.

::

    header         u32 magic 0x67676c61 ("algg" in the file), i32 version 1, i32 r, i32 alpha
    each tensor    i32 dimensions, i32 length of the name, i32 type (0 f32, 1 f16), i32 per dimension, columns first,
                   name, zeros to a multiple of 32 from the beginning of the file, data

Names are Meta's with ``.loraA`` or ``.loraB``. A is transposed, [columns, r], in the adapter's own type; B is [rows, r]
and f32. The rows of wq and wk stay in Hugging Face's order, although those of the models do not.

Source: convert-lora-to-ggml.py of llama.cpp 3e5aa8a1c; the same bytes at 6986c7835 and dadbed99e.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import BadMagicError, FormatError, TruncatedError, UnsupportedError
from ggmlpy.formats.tensor_names import find
from lora.merging.adapter import Adapter

__all__ = ["GglaAdapter", "read_ggla", "write_ggla"]

MAGIC, VERSION = 0x67676C61, 1
HEADER, TENSOR = struct.Struct("<Iiii"), struct.Struct("<iii")
TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
ALIGNMENT = 32
LONGEST_NAME = 256
SIDES = (".loraA", ".loraB")


@dataclass(frozen=True)
class GglaAdapter:
    """What such a file holds.

    Attributes:
        r, alpha: the change is multiplied by ``alpha / r``.
        halves: by Meta name and side, A [r, columns] and B [rows, r].
    """

    r: int
    alpha: int
    halves: dict[str, NDArray[np.generic]]


def write_ggla(adapter: Adapter, outfile: str | os.PathLike[str]) -> None:
    """Write an adapter as ``ggml-adapter-model.bin``.

    Raises:
        UnsupportedError: it says something that the file has no place for.
    """
    config = adapter.config
    _refuse(adapter)
    with atomic_write(outfile) as stream:
        stream.write(HEADER.pack(MAGIC, VERSION, config.r, int(config.alpha)))
        for name, values in _halves(adapter):
            encoded = name.encode()
            stream.write(TENSOR.pack(values.ndim, len(encoded), int(values.dtype == np.float16)))
            stream.write(struct.pack(f"<{values.ndim}i", *values.shape[::-1]))
            stream.write(encoded)
            stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
            stream.write(values.tobytes())


def _refuse(adapter: Adapter) -> None:
    config, found = adapter.config, ""
    others = [name for name, pair in adapter.pairs.items() if pair.scale != config.alpha / config.r]
    if config.fan_in_fan_out:
        found = "fan_in_fan_out"
    elif adapter.replaced or config.modules_to_save:
        found = "whole tensors: " + ", ".join(adapter.replaced or config.modules_to_save)
    elif config.alpha != int(config.alpha):
        found = f"lora_alpha {config.alpha}, which is not a whole number"
    elif others:
        found = f"another scale for {others[0]} (use_rslora, rank_pattern or alpha_pattern)"
    elif any(find(name)[1] is None for name in adapter.pairs):
        found = "pairs outside the layers: " + ", ".join(name for name in adapter.pairs if find(name)[1] is None)
    if found:
        raise UnsupportedError(
            "this adapter can't be written as ggla",
            path=config.path,
            found=found,
            next_step="`merge` it into its base, or write GGUF: --container gguf",
        )


def _halves(adapter: Adapter) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Name and values of each tensor; pairs come in the order of the file, A first."""
    for name, pair in adapter.pairs.items():
        a = pair.a.numpy() if pair.a.dtype == "float16" else pair.a.f32()
        yield name + SIDES[0], np.ascontiguousarray(a.T)
        yield name + SIDES[1], np.ascontiguousarray(pair.b.f32())


def read_ggla(path: str | os.PathLike[str]) -> GglaAdapter:
    """Read ``ggml-adapter-model.bin``.

    Raises:
        BadMagicError, UnsupportedError: another format, version or type.
        TruncatedError: it ends too early.
        FormatError: names or shapes that are none.
    """
    data = Path(path).read_bytes()
    if len(data) < HEADER.size:
        raise TruncatedError("the file ends inside its header", path=path, expected=HEADER.size, found=len(data))
    magic, version, r, alpha = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise BadMagicError("not a ggla adapter", path=path, offset=0, expected=hex(MAGIC), found=hex(magic))
    if version != VERSION:
        raise UnsupportedError("unknown version of ggla", path=path, offset=4, expected=VERSION, found=version)
    if not 0 < r < 1 << 16:
        raise FormatError("the rank is out of range", path=path, offset=8, field="r", found=r)
    halves: dict[str, NDArray[np.generic]] = {}
    at = HEADER.size
    while at < len(data):
        name, values, at = _read_tensor(path, data, at)
        if name in halves:
            raise FormatError("a tensor is there twice", path=path, found=name)
        halves[name] = values.T if name.endswith(SIDES[0]) else values
    return GglaAdapter(r, alpha, halves)


def _read_tensor(path: str | os.PathLike[str], data: bytes, at: int) -> tuple[str, NDArray[np.generic], int]:
    """One tensor and where the next begins."""

    def need(size: int, what: str) -> None:
        if size > len(data) - at:
            raise TruncatedError(
                f"the file ends inside {what}",
                path=path,
                offset=at,
                expected=f"{size:,} bytes",
                found=len(data) - at,
            )

    need(TENSOR.size, "a tensor's header")
    n_dims, length, kind = TENSOR.unpack_from(data, at)
    if n_dims != 2 or not 0 < length <= LONGEST_NAME or kind not in TYPES:
        found = f"{n_dims} dimensions, a name of {length} bytes, type {kind}"
        raise FormatError("not a tensor's header", path=path, offset=at, expected="2, a name, 0 or 1", found=found)
    at += TENSOR.size
    need(8 + length, "a tensor's header")
    columns, rows = struct.unpack_from("<2i", data, at)
    name = data[at + 8 : at + 8 + length].decode("utf-8", "replace")
    at += 8 + length
    at += -at % ALIGNMENT
    if columns < 1 or rows < 1 or not name.endswith(SIDES):
        raise FormatError("not half of a LoRA pair", path=path, field=name, found=f"[{rows}, {columns}]")
    size = math.prod((rows, columns)) * TYPES[kind].itemsize
    need(size, name)
    values = np.frombuffer(data, TYPES[kind], rows * columns, at).reshape(rows, columns)
    return name, values, at + size
