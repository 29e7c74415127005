"""Adapters from and to ``ggml-adapter-model.bin`` (:mod:`ggmlpy.formats.ggla`), as llama.cpp's converter writes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import UnsupportedError
from ggmlpy.formats.fields import write
from ggmlpy.formats.ggla import HEADER, MAGIC, SIDES, TENSOR, VERSION, open_ggla
from ggmlpy.formats.tensor_names import find
from lora.merging.adapter import Adapter

__all__ = ["GglaAdapter", "read_ggla", "write_ggla"]


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
    header = {"magic": MAGIC, "version": VERSION, "r": config.r, "alpha": int(config.alpha)}
    with atomic_write(outfile) as stream:
        stream.write(write(HEADER, header))
        for name, values in _halves(adapter):
            record = {"name": name.encode(), "dims": values.shape[::-1], "type": int(values.dtype == np.float16)}
            stream.write(write(TENSOR, record, stream.tell()))
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
    """Read ``ggml-adapter-model.bin``. Raises as :func:`ggmlpy.formats.ggla.open_ggla`."""
    file = open_ggla(path)
    halves = {
        name: tensor.values.T if name.endswith(SIDES[0]) else tensor.values for name, tensor in file.tensors.items()
    }
    return GglaAdapter(file.r, file.alpha, halves)
