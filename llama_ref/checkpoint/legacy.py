"""Checkpoints of torch before 1.6 (and of ``_use_new_zipfile_serialization=False``): pickles in a row, then bytes.

::

    pickle   the integer 0x1950a86a20f9469cfc6c
    pickle   1001, the version of this layout
    pickle   {"protocol_version": 1001, "little_endian": True, "type_sizes": {...}}
    pickle   the object; its storages are ('storage', class, key, location, n_elements, None)
    pickle   [key, ...], the order of the data
    a key:   u64 n_elements, then the elements

There is no checksum anywhere in it; that the last element ends at the last byte of the file is all that can be proven.
Source: ``_legacy_save`` in torch/serialization.py, unchanged from 1.6 to 2.13.
"""

from __future__ import annotations

import struct
from typing import Any

from ggmlpy.files.errors import BadMagicError, FormatError, IntegrityError, TruncatedError, UnsupportedError

from .pickle_reader import LEGACY_MAGIC, MAX_PICKLE, Storage, load_pickle
from .torch_zip import Buffer

__all__ = ["read_legacy"]

_VERSION = 1001


def read_legacy(buffer: Buffer, path: str) -> tuple[Any, int, dict[str, tuple[Storage, int]]]:
    """The object of the main pickle, its number of opcodes, and for each key the storage and the offset of its data.

    Raises:
        FormatError: anything that does not follow the layout above to the last byte.
    """
    pickles = _Pickles(buffer, path)
    magic = pickles.next("magic number")
    if magic != LEGACY_MAGIC or type(magic) is not int:
        raise BadMagicError(
            "a pickle, but not one of torch.save",
            path=path,
            offset=0,
            field="magic number",
            expected=hex(LEGACY_MAGIC),
            cause="another program's pickle; such files can run code when loaded, this one was not",
            next_step="ask its author for a checkpoint written by torch.save or for safetensors",
        )
    version = pickles.next("layout version")
    if version != _VERSION:
        raise UnsupportedError("unknown layout version", path=path, field="layout version", expected=_VERSION)
    system = pickles.next("system information")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise UnsupportedError("not written on a little-endian machine", path=path, field="little_endian")
    storages: dict[str, Storage] = {}
    value = pickles.next("main pickle", storages)
    n_opcodes = pickles.n_opcodes
    keys = pickles.next("storage keys")
    return value, n_opcodes, _place(buffer, path, keys, storages, pickles.position)


class _Pickles:
    """The pickles at the start of the file, one after the other."""

    def __init__(self, buffer: Buffer, path: str) -> None:
        self.buffer = buffer
        self.path = path
        self.position = 0
        self.n_opcodes = 0

    def next(self, record: str, storages: dict[str, Storage] | None = None) -> Any:
        """The value of the next pickle; storages that it mentions are added to ``storages``."""
        loaded = load_pickle(
            self.buffer[self.position : self.position + MAX_PICKLE],
            path=self.path,
            record=record,
            base=self.position,
            exact=False,
        )
        if storages is not None:
            storages.update(loaded.storages)
        self.position += loaded.length
        self.n_opcodes = loaded.n_opcodes
        return loaded.value


def _place(
    buffer: Buffer, path: str, keys: Any, storages: dict[str, Storage], offset: int
) -> dict[str, tuple[Storage, int]]:
    """Where the data of each storage lies; together they must fill the rest of the file."""

    def refuse(error: type[FormatError], problem: str, **details: Any) -> FormatError:
        return error(problem, path=path, offset=offset, cause="the file was cut off, damaged or edited", **details)

    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise refuse(IntegrityError, "the list of storage keys is not a list of strings", field="storage keys")
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        raise refuse(
            IntegrityError,
            "the storages in the file are not those that the tensors use",
            field="storage keys",
            expected=f"{len(storages)} keys of the main pickle",
            found=f"{len(keys)}, {len(set(keys) & set(storages))} of them known",
        )
    places = {}
    for key in keys:
        storage = storages[key]
        left = len(buffer) - offset
        if left < 8 + storage.nbytes:
            raise refuse(
                TruncatedError, f"storage {key} is cut off", field=key, expected=8 + storage.nbytes, found=max(0, left)
            )
        (size,) = struct.unpack_from("<Q", buffer, offset)
        if size != storage.size:
            raise refuse(
                IntegrityError, f"storage {key} has another size", field=key, expected=storage.size, found=size
            )
        places[key] = (storage, offset + 8)
        offset += 8 + storage.nbytes
    if offset != len(buffer):
        raise refuse(IntegrityError, f"{len(buffer) - offset} bytes follow the last storage")
    return places
