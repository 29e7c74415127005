"""A checkpoint's tensor as the bytes that a file would hold, made a few rows at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError
from ggmlpy.formats.bfloat16 import rounded_to_bfloat16
from ggmlpy.formats.out_tensor import OutTensor, made_by_rows
from ggmlpy.formats.tensor_types import TENSOR_TYPES, TensorType
from llama_ref.checkpoint import LazyTensor

__all__ = ["TYPE_NAMES", "stored", "type_of"]

CHUNK_BYTES = 1 << 22
TYPE_NAMES = {"float16": "f16", "float32": "f32", "bfloat16": "bf16"}  # torch's names: ours


def type_of(tensor: LazyTensor) -> TensorType:
    """The tensor type of a checkpoint's elements.

    Raises:
        FormatError: no file of weights for a LLaMA has such elements.
    """
    if tensor.dtype not in TYPE_NAMES:
        raise FormatError(
            f"tensor {tensor.name!r} has dtype {tensor.dtype}", field=tensor.name, expected=", ".join(TYPE_NAMES)
        )
    return TENSOR_TYPES[TYPE_NAMES[tensor.dtype]]


def stored(tensor: LazyTensor, record: TensorType) -> OutTensor:
    """A tensor as a file of ``record`` holds it, rounded to nearest even where that is narrower."""

    def made(start: int, stop: int) -> NDArray[Any]:
        if record.name == "bf16" == TYPE_NAMES.get(tensor.dtype):
            return tensor.stored_lines(start, stop)
        values = tensor.lines(start, stop)
        if record.name == "bf16":
            return rounded_to_bfloat16(values.astype(np.float32))
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, record.block)

    return made_by_rows(tensor.name, record, tensor.shape, made)
