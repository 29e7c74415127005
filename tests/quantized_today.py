"""Inputs and outputs of the real llama-quantize: headers of the inputs, with weights that follow from their names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.formats.gguf import open_gguf

__all__ = ["input_file", "manifest", "weights"]


def manifest(folder: Path) -> dict[str, Any]:
    """What was run on what, and the digest of what came out."""
    return json.loads((folder / "manifest.json").read_text())


def weights(model: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of one tensor: sums of 16-bit fields of a splitmix64 sequence, every 257th sixteen times larger."""
    n = int(np.prod(shape))
    seed = int.from_bytes(hashlib.sha256(f"{model}:{name}".encode()).digest()[:8], "little")
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    total = sum((z >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48))
    values = (total.astype(np.int64) - 131070).astype(np.float32) * np.float32(2.0**-20)
    values[::257] *= np.float32(16)
    return (values + np.float32(1) if len(shape) == 1 else values).reshape(shape)


def input_file(folder: Path, name: str, target: Path) -> Path:
    """The input called ``name`` in full."""
    record = manifest(folder)["inputs"][name]
    head = (folder / Path(record["head"]).name).read_bytes()
    target.write_bytes(head + bytes(record["size"] - len(head)))
    places = [(key, tensor.offset, tensor.shape, tensor.type.name) for key, tensor in open_gguf(target).tensors.items()]
    with target.open("r+b") as stream:
        for key, offset, shape, kind in places:
            stream.seek(offset)
            stream.write(_stored(weights(name.split(".")[0], key, shape), kind).tobytes())
    assert hashlib.sha256(target.read_bytes()).hexdigest() == record["sha256"], name
    return target


def _stored(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "bf16":
        word = values.view(np.uint32)
        return ((word + 0x7FFF + ((word >> 16) & 1)) >> 16).astype("<u2")
    return values.astype({"f32": "<f4", "f16": "<f2"}[kind])
