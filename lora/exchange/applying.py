"""An open model with adapters added: each changed matrix is kept in f32 beside the mapped file.

``W + scale * factor * (b @ a)`` is what llama.cpp of 2023 makes of a matrix when it loads an adapter, and what that of
today computes token by token. Nothing is rounded to the type of the file again, as the one of 2023 did unless it was
given a ``--lora-base``; that costs four bytes per number of each changed matrix. The bits are the same on every
machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from ggmlpy.files.errors import FormatError, ShapeError
from ggmlpy.formats.model_file import ModelFile, Piece, Tensor
from ggmlpy.formats.tensor_types import type_named
from lora.merging.sums import product_in_order

from .reading import LoraFile, open_lora_file

__all__ = ["apply_adapters"]

ROWS = 64  # at a time, so that they stay in the cache while the products are added


def apply_adapters(
    model: ModelFile, adapters: Sequence[tuple[str | os.PathLike[str], float]], base: ModelFile | None = None
) -> Iterator[str]:
    """Add adapters to an open model, in the order given; yields what is worth telling about each.

    Args:
        model: its tensors are replaced; its file is not touched.
        adapters: files of llama.cpp, and the factor of each.
        base: the same model in a finer type, whose matrices are changed and taken in place of the model's.

    Raises:
        ShapeError: a pair belongs to another model.
        FormatError: an adapter file is damaged, or none, or its changes leave the range of f32.
    """
    for path, factor in adapters:
        adapter = open_lora_file(path)
        _check(adapter, model)
        for name, pair in adapter.pairs.items():
            source = base if base is not None and model.tensors[name].type.name != "f32" else model
            values = source.tensors[name].numpy()
            with np.errstate(over="ignore", invalid="ignore"):
                for start in range(0, len(values), ROWS):
                    rows = slice(start, start + ROWS)
                    values[rows] += np.float32(factor * pair.scale) * product_in_order(pair.b[rows], pair.a)
            if not np.isfinite(values).all():
                raise _overflow(adapter, name, factor)
            model.tensors[name] = _in_memory(model.tensors[name], values)
        yield from _told(adapter, model)


def _check(adapter: LoraFile, model: ModelFile) -> None:
    stated = model.metadata.get("general.architecture")
    architecture = stated.text() if stated is not None else "llama"
    if adapter.architecture != architecture:
        raise ShapeError(
            "the adapter is for another architecture",
            path=adapter.path,
            field="general.architecture",
            expected=architecture,
            found=adapter.architecture,
            next_step="name an adapter of this model",
        )
    for name, pair in adapter.pairs.items():
        tensor = model.tensors.get(name)
        expected = (pair.b.shape[0], pair.a.shape[1])
        if tensor is None or tensor.shape != expected:
            raise ShapeError(
                "the adapter does not fit the model",
                path=adapter.path,
                field=name,
                expected=f"{list(expected)} in the model",
                found="nothing" if tensor is None else list(tensor.shape),
                cause="an adapter of another model",
            )


def _overflow(adapter: LoraFile, name: str, factor: float) -> FormatError:
    return FormatError(
        "with this adapter the model has values that are NaN or infinite",
        path=adapter.path,
        field=name,
        found=f"alpha {adapter.alpha:g}, times {factor:g}",
        cause="numbers of a damaged file, or a factor that is too large",
        next_step="a smaller factor (--lora-scaled), or `compare` the adapter with its source",
    )


def _in_memory(tensor: Tensor, values: np.ndarray) -> Tensor:
    data = np.ascontiguousarray(values, "<f4")
    piece = Piece(0, 0, 0, tensor.shape, data.reshape(-1).view(np.uint8))
    return Tensor(tensor.name, type_named("f32", "gguf", 3), tensor.shape, (piece,))


def _told(adapter: LoraFile, model: ModelFile) -> Iterator[str]:
    size = sum(model.tensors[name].nbytes for name in adapter.pairs)
    yield f"{adapter.path}: {len(adapter.pairs)} matrices changed, kept in f32: {size / 1e6:,.1f} MB of memory"
    if adapter.ignored:
        yield f"{adapter.path}: left out, as llama.cpp does: {', '.join(adapter.ignored)}"
    if adapter.kind == "ggla" and any(name.endswith(("wq.weight", "wk.weight")) for name in adapter.pairs):
        yield (
            f"{adapter.path}: the rows of wq and wk are added in the order of the file, as main does; they are Hugging "
            "Face's, those of the model are not. PEFT's result comes from `merge --lora`"
        )
