"""Blocks of codes back to float32, in the order of operations of llama.cpp's ``dequantize_row_*``: equal to the bit.

Every operation below rounds to float32 on its own; nothing is fused. ``blocks`` is a structured array
[..., n_blocks]. Where codes are in a block, and which code is zero, :mod:`ggmlpy.formats.tensor_types` says.

The k-quants keep 256 values per block, in sub-blocks of 16 (q2_K, q3_K, q6_K) or 32 (q4_K, q5_K) values whose scales
are themselves codes of 4, 6 or 8 bits.

Sources: ggml.c at llama.cpp 352589927, 3e5aa8a1c, 6986c7835, dadbed99e; k_quants.c at dadbed99e; q4_3 from ggml.c of
2023-04-20.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import UsageError

from .codes import signed_codes
from .eras import Era, tensor_type_of
from .tensor_types import TensorType

__all__ = ["dequantize", "scales_of"]

Blocks = NDArray[Any]


def dequantize(blocks: NDArray[Any], type: TensorType | str, era: str | Era | None = None) -> NDArray[np.float32]:
    """The float32 values of an array of blocks.

    Args:
        blocks: [..., n_blocks] of ``type.block`` (for f32, f16 and bf16 an array of plain numbers [..., n]).
        type: the tensor type, see :mod:`ggmlpy.formats.tensor_types`; or its name in an era, see
            :func:`~ggmlpy.formats.eras.tensor_type_of`.
        era: whose name it is.

    Returns:
        float32 [..., n_blocks * type.blck_size].

    Raises:
        UsageError: the array's dtype is not ``type.block``, or the era has no such type.

    >>> from ggmlpy.formats.tensor_types import TENSOR_TYPES
    >>> q4_0 = TENSOR_TYPES["q4_0-2023-03"]
    >>> block = np.zeros(1, q4_0.block)
    >>> block["d"], block["qs"] = 0.5, 0x98
    >>> dequantize(block, q4_0)[:4]
    array([0. , 0.5, 0. , 0.5], dtype=float32)
    """
    if isinstance(type, str):
        type = tensor_type_of(type, era)
    if blocks.dtype != type.block:
        raise UsageError(f"blocks of {type.layout} have dtype {type.block}, not {blocks.dtype}")
    if type.name == "bf16":
        return (blocks.astype(np.uint32) << 16).view(np.float32)
    if not type.quantized:
        return blocks.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # inf * 0 and the like are NaN in C too
        scale, minimum = scales_of(blocks, type)
        values = signed_codes(blocks, type).astype(np.float32)  # [..., n_blocks, blck_size]
        values *= spread(scale, type)
        if minimum is not None and type.is_k_quant:
            values -= spread(minimum, type)
        elif minimum is not None:
            values += minimum
    return values.reshape(*blocks.shape[:-1], blocks.shape[-1] * type.blck_size)


def scales_of(blocks: Blocks, type: TensorType) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """The scale of each run of ``type.run`` values, and the minimum if there is one: float32 [..., n_blocks, runs].

    A minimum is added to the scaled code, or, in k-quants, subtracted from it.
    """
    names = type.field_names
    if not type.is_k_quant:
        return f32(blocks["d"]), f32(blocks["m"]) if "m" in names else None
    scales, mins = _SCALES[type.name](blocks)
    minimum = None if mins is None else f32(blocks["dmin"]) * mins.astype(np.float32)
    return f32(blocks["d"]) * scales.astype(np.float32), minimum


def f32(field: Blocks) -> Blocks:
    """A scale [..., n_blocks] as float32 [..., n_blocks, 1]."""
    return field.astype(np.float32)[..., np.newaxis]


def spread(runs: Blocks, type: TensorType) -> Blocks:
    """One number per run [..., n_blocks, runs] -> one per value [..., n_blocks, blck_size] (or 1: one for all)."""
    return np.repeat(runs, type.run, axis=-1) if type.is_k_quant else runs


# The scales of k-quants are codes themselves, packed in their own ways.

Scales = tuple[Blocks, Blocks | None]  # of each run the scale's code and, where there is one, the minimum's


def scales_and_mins(blocks: Blocks) -> Scales:
    """Twelve bytes [..., 12] -> eight 6-bit scales and eight 6-bit minimums [..., 8]."""
    s = blocks["scales"]
    low, middle, high = s[..., 0:4], s[..., 4:8], s[..., 8:12]
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=-1)
    mins = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=-1)
    return scales, mins


def six_bit_scales(blocks: Blocks) -> Scales:
    """Twelve bytes [..., 12] -> sixteen scales -32 … 31 [..., 16]."""
    s = blocks["scales"]
    low = np.concatenate([s[..., 0:8] & 15, s[..., 0:8] >> 4], axis=-1)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    high = ((s[..., np.newaxis, 8:12] >> shifts) & 3).reshape(*s.shape[:-1], 16)
    return (low | (high << 4)).astype(np.int8) - np.int8(32), None


_SCALES: dict[str, Callable[[Blocks], Scales]] = {
    "q2_K": lambda blocks: (blocks["scales"] & 15, blocks["scales"] >> 4),
    "q3_K": six_bit_scales,
    "q4_K": scales_and_mins,
    "q5_K": scales_and_mins,
    "q6_K": lambda blocks: (blocks["scales"], None),
}
