"""Spoiling a checkpoint, a tokenizer or an adapter: one step changes one thing in a directory or in a file."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llama_ref.checkpoint import LazyTensor, open_pth, write_pth

from .checkpoints import edit_json, small_tensors, write_small_safetensors
from .pickles import PROTO, STOP
from .specimen import save

__all__ = [
    "copied",
    "flip_a_bit",
    "pickled",
    "pieces_swapped",
    "renamed",
    "replaced",
    "rewritten",
    "rows_cut",
    "set_keys",
    "set_tensors",
    "spoiled",
    "tensors_renamed",
    "wider",
    "with_entry",
    "with_header",
    "without",
    "zipped",
]

Writer = Callable[[Path], object]


def flip_a_bit(data: bytes, fields: object) -> bytes:
    """The first value of the first tensor, one bit of it the other way round."""
    values = small_tensors()[0].numpy().tobytes()
    return data.replace(values, bytes([values[0] ^ 1]) + values[1:])


def spoiled(write: Writer, *steps: Callable[[Path], object]) -> Writer:
    """A directory that ``write`` fills and ``steps`` spoil."""

    def made(path: Path) -> None:
        write(path)
        for step in steps:
            step(path)

    return made


def set_keys(file: str, **keys: Any) -> Callable[[Path], None]:
    return lambda path: edit_json(path / file, **keys)


def without(file: str) -> Callable[[Path], None]:
    return lambda path: (path / file).unlink()


def replaced(file: str, data: bytes) -> Callable[[Path], None]:
    return lambda path: save(path / file, data)


def set_tensors(file: str, drop: str = "", **new: np.ndarray) -> Callable[[Path], None]:
    """Drop the tensors of a .pth file that have a text in their names, or replace some; __ stands for a dot."""

    def step(path: Path) -> None:
        with open_pth(path / file) as opened:
            kept = {n: t.numpy().copy() for n, t in opened.items() if not drop or drop not in n}
        kept |= {n.replace("__", "."): array for n, array in new.items()}
        write_pth(path / file, [LazyTensor.of_array(*item) for item in kept.items()])

    return step


def zipped(records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Writer:
    """A ZIP of these records."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", method) as archive:
            for member, data in records.items():
                archive.writestr(zipfile.ZipInfo(member, (1980, 1, 1, 0, 0, 0)), data, method)

    return write


def pickled(value: bytes, **members: bytes) -> Writer:
    """A checkpoint of torch with this pickle in it."""
    records = {"data.pkl": PROTO + value + STOP, "data/0": bytes(32), "version": b"3\n", **members}
    return zipped({f"x/{member}": data for member, data in records.items()})


def renamed(file: str, new: str) -> Callable[[Path], object]:
    return lambda path: (path / file).rename(path / new)


def copied(file: str, new: str) -> Callable[[Path], None]:
    return lambda path: save(path / new, (path / file).read_bytes())


def tensors_renamed(file: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda path: rewritten(path / file, lambda name, array: (name.replace(old, new), array))


def rewritten(path: Path, change: Callable[[str, np.ndarray], tuple[str, np.ndarray]]) -> None:
    """Change the name or the values of each tensor of a .pth file."""
    with open_pth(path) as opened:
        kept = [change(n, t.numpy().copy()) for n, t in opened.items()]
    write_pth(path, [LazyTensor.of_array(*item) for item in kept])


def rows_cut(path: Path, rows: int) -> None:
    rewritten(path, lambda name, array: (name, array if "lora_" in name else array[:rows]))


def wider(path: Path) -> None:
    def twice(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
        return name, np.concatenate([array, array], axis=1) if name.endswith("lora_A.weight") else array

    rewritten(path, twice)


def pieces_swapped(file: str) -> Callable[[Path], None]:
    """Let two pieces of one length change places."""

    def step(path: Path) -> None:
        data, of, to = (path / file).read_bytes(), "▁of".encode(), "▁to".encode()
        save(path / file, data.replace(of, b"\0" * len(of), 1).replace(to, of, 1).replace(b"\0" * len(of), to, 1))

    return step


def with_header(change: Callable[[dict[str, Any]], object]) -> Writer:
    """A safetensors file whose header says something else."""

    def write(path: Path) -> None:
        write_small_safetensors(path)
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        change(header)
        changed_header = json.dumps(header).encode()
        save(path, struct.pack("<Q", len(changed_header)) + changed_header + data[8 + length :])

    return write


def with_entry(tensor_name: str, **keys: Any) -> Writer:
    return with_header(lambda header: header[tensor_name].update(keys))
