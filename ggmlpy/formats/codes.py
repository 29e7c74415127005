"""The codes inside quantized blocks, and carrying them from one era's layout to another's without requantizing.

llama.cpp changed where a code stands in its block (April: neighbours share a byte; May: elements j and j + 16 do) and
how wide the scale is (f32, from August f16). The code of an element means the same throughout, so a block can be
carried over: codes are reordered, which loses nothing, and a scale may be rounded to f16, which loses what
:func:`repack`'s caller can measure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tensor_types import TensorType

__all__ = ["pack_codes", "repack", "repackable", "unpack_codes"]

NEIGHBOURS = ("q4_0-2023-03", "q4_1-2023-03", "q4_2", "q4_3", "q5_0-2023-04", "q5_1-2023-04")
CODED = (*NEIGHBOURS, "q4_0-2023-05", "q4_0-2023-08", "q4_1-2023-05", "q4_1-2023-08", "q5_0-2023-05", "q5_1-2023-05")


def unpack_codes(blocks: NDArray[Any], tensor_type: TensorType) -> NDArray[Any]:
    """The code of each element: uint8 (q8_0: int8) [..., n_blocks, blck_size].

    >>> from ggmlpy.formats.tensor_types import TENSOR_TYPES
    >>> block = np.zeros(1, TENSOR_TYPES["q4_0-2023-03"].block)
    >>> block["qs"][0, :2] = 0x21, 0x43
    >>> unpack_codes(block, TENSOR_TYPES["q4_0-2023-03"])[0, :4].tolist()
    [1, 2, 3, 4]
    """
    qs = blocks["qs"]
    if tensor_type.name == "q8_0":
        return qs
    low, high = qs & 0x0F, qs >> 4  # [..., blck_size / 2]
    if tensor_type.layout in NEIGHBOURS:
        codes = np.stack([low, high], axis=-1).reshape(*qs.shape[:-1], tensor_type.blck_size)
    else:
        codes = np.concatenate([low, high], axis=-1)
    if "qh" in tensor_type.field_names:
        fifth = blocks["qh"][..., None] >> np.arange(tensor_type.blck_size, dtype=np.uint32) & 1
        codes = codes | fifth.astype(np.uint8) << 4
    return codes


def pack_codes(codes: NDArray[Any], blocks: NDArray[Any], tensor_type: TensorType) -> None:
    """Put codes [..., n_blocks, blck_size] into the code fields of ``blocks``; the inverse of :func:`unpack_codes`."""
    if tensor_type.name == "q8_0":
        blocks["qs"] = codes
        return
    nibbles, half = codes & 0x0F, tensor_type.blck_size // 2
    if tensor_type.layout in NEIGHBOURS:
        blocks["qs"] = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    else:
        blocks["qs"] = nibbles[..., :half] | nibbles[..., half:] << 4
    if "qh" in tensor_type.field_names:
        bits = (codes >> 4).astype(np.uint32) << np.arange(tensor_type.blck_size, dtype=np.uint32)
        blocks["qh"] = np.bitwise_or.reduce(bits, axis=-1)


def repackable(source: TensorType, target: TensorType) -> bool:
    """Whether the codes of ``source`` can be carried into ``target``: the same type in two eras."""
    coded = (*CODED, "q8_0-2023-04", "q8_0-2023-08")
    return source.name == target.name and source.layout in coded and target.layout in coded


def repack(blocks: NDArray[Any], source: TensorType, target: TensorType) -> NDArray[Any]:
    """The same codes in the layout of ``target``; scales are converted (rounded to nearest where f32 becomes f16)."""
    out = np.zeros(blocks.shape, target.block)
    with np.errstate(over="ignore"):
        for name in ("d", "m"):
            if name in target.field_names:
                out[name] = blocks[name]
    pack_codes(unpack_codes(blocks, source), out, target)
    return out
