"""The tensors of a GGUF file made from a Hugging Face directory: which, in which order, of which type, with which rows.

Files come in the order of their names, the tensors of a safetensors file sorted, those of a ``.bin`` as stored.
Norms, biases and other vectors are f32, matrices what was asked for; a matrix whose rows can't be divided into the
blocks of q8_0 becomes f16. The rows of wq and wk stand in Meta's order in architecture llama, in Hugging Face's in
qwen2 and qwen3. LLaMA 3.1's rope scaling goes first, as a tensor of its own.

Source: conversion/base.py and llama.py of llama.cpp (October 2026).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ggmlpy.formats.bfloat16 import bfloat16_of_converter
from ggmlpy.formats.out_tensor import OutTensor, made_by_rows
from ggmlpy.formats.tensor_types import TensorType, type_named
from llama_ref.checkpoint import Checkpoint, LazyTensor, in_layout
from llama_ref.checkpoint.rope_freqs import rope_freqs_of

from .metadata import ARCHITECTURES

__all__ = ["FILE_TYPES", "chosen_type", "model_tensors", "order_of"]

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}  # general.file_type of each type that can be asked for

Overflow = Callable[[str, int], None]


def chosen_type(checkpoint: Checkpoint | None, outtype: str, order: Sequence[str]) -> str:
    """The type asked for; "auto" is that of the first matrix with 16 bits, f16 where there is none."""
    if outtype != "auto":
        return outtype
    if checkpoint is None:
        return "f16"
    kinds = {"bfloat16": "bf16", "float16": "f16"}
    matrices = (checkpoint.tensors[name] for name in order)
    return next((kinds[t.dtype] for t in matrices if len(t.shape) > 1 and t.dtype in kinds), "f16")


def model_tensors(checkpoint: Checkpoint, outtype: str, overflow: Overflow, order: Sequence[str]) -> list[OutTensor]:
    """The tensors of the file under Meta's names, in its order.

    Args:
        outtype: f32, f16, bf16 or q8_0.
        overflow: told of values that f16 can't hold, by the name of the tensor and their number.
        order: the Meta names, as :func:`order_of` has them.
    """
    tensors = [_out_tensor(checkpoint, name, outtype, overflow) for name in order]
    return [*rope_freqs_of(checkpoint.params), *tensors]


def order_of(checkpoint: Checkpoint) -> list[str]:
    """The Meta names of a directory's tensors, file by file."""
    meta = {in_file: name for name, in_file in checkpoint.original_names.items()}
    return [meta[name] for names in checkpoint.names_by_file() for name in names if name in meta]


def _out_tensor(checkpoint: Checkpoint, name: str, outtype: str, overflow: Overflow) -> OutTensor:
    tensor = checkpoint.tensors[name]
    if ARCHITECTURES[checkpoint.params.architecture] != "llama":
        tensor = in_layout(tensor, "huggingface", checkpoint.params)
    target = _type_of(tensor, outtype)

    def made(start: int, stop: int) -> npt.NDArray[Any]:
        return _stored(tensor, tensor.lines(start, stop), target, overflow)

    def taken(start: int, stop: int) -> None:
        tensor.lines_taken(start, stop)
        checkpoint.release()

    return made_by_rows(name, target, tensor.shape, made, taken=taken)


def _type_of(tensor: LazyTensor, outtype: str) -> TensorType:
    is_matrix = len(tensor.shape) > 1 and tensor.name.endswith(".weight") and not tensor.name.endswith("norm.weight")
    wanted = type_named(outtype if is_matrix else "f32", "gguf", 3)
    return type_named("f16", "gguf", 3) if tensor.shape[-1] % wanted.blck_size else wanted


def _stored(tensor: LazyTensor, own: npt.NDArray[Any], target: TensorType, overflow: Overflow) -> npt.NDArray[Any]:
    """Values as the file has them."""
    with np.errstate(over="ignore"):
        values = own.astype(np.float32, copy=False)
    if target.name == "q8_0":
        from ggmlpy.quantizers.rows import quantize_rows  # brings numba

        return quantize_rows(values, "q8_0", "2023-08-21")
    if target.name == "bf16":
        return bfloat16_of_converter(values)
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(values, dtype=target.block)
    if target.name == "f16" and tensor.dtype != "float16":
        lost = int((np.isinf(cast) & np.isfinite(values)).sum()) if np.isinf(cast).any() else 0
        if lost:
            overflow(tensor.name, lost)
    return cast
