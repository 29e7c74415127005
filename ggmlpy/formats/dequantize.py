"""Blocks of codes back to float32, in the order of operations of llama.cpp's ``dequantize_row_*``: equal to the bit.

Every operation below rounds to float32 on its own; nothing is fused. Shapes: ``b`` is the structured block array
[..., n_blocks]; each decoder returns [..., n_blocks, blck_size]. Where the codes of the plain types stand in their
blocks is told by :mod:`ggmlpy.formats.codes`.

The k-quants keep 256 values a block, in sub-blocks of 16 (q2_K, q3_K, q6_K) or 32 (q4_K, q5_K) values whose scales are
themselves codes of 4, 6 or 8 bits.

Sources: ggml.c at llama.cpp 352589927, 3e5aa8a1c, 6986c7835, dadbed99e; k_quants.c at dadbed99e; q4_3 from ggml.c of
2023-04-20.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import UsageError

from .codes import unpack_codes
from .tensor_types import TensorType

__all__ = ["dequantize"]

Blocks = NDArray[Any]
Decoder = Callable[[Blocks, Blocks], Blocks]  # blocks [..., n], their codes [..., n, blck_size] -> values


def dequantize(blocks: NDArray[Any], type: TensorType) -> NDArray[np.float32]:
    """The float32 values of an array of blocks.

    Arguments:
        blocks: [..., n_blocks] of ``type.block`` (for f32, f16 and bf16 an array of plain numbers [..., n]).
        type: the tensor type, see :mod:`ggmlpy.formats.tensor_types`.

    Returns:
        float32 [..., n_blocks * type.blck_size].

    Raises:
        UsageError: the array's dtype is not ``type.block``.

    >>> from ggmlpy.formats.tensor_types import TENSOR_TYPES
    >>> q4_0 = TENSOR_TYPES["q4_0-2023-03"]
    >>> block = np.zeros(1, q4_0.block)
    >>> block["d"], block["qs"] = 0.5, 0x98
    >>> dequantize(block, q4_0)[:4]
    array([0. , 0.5, 0. , 0.5], dtype=float32)
    """
    if blocks.dtype != type.block:
        raise UsageError(f"blocks of {type.layout} have dtype {type.block}, not {blocks.dtype}")
    if type.name == "bf16":
        return (blocks.astype(np.uint32) << 16).view(np.float32)
    if not type.quantized:
        return blocks.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # inf * 0 and the like are NaN in C too
        if type.name in _K_QUANTS:
            values = _K_QUANTS[type.name](blocks)  # [..., n_blocks, 256]
        else:
            values = _SIMPLE[type.name](blocks, unpack_codes(blocks, type))  # [..., n_blocks, blck_size]
    return values.reshape(*blocks.shape[:-1], blocks.shape[-1] * type.blck_size)


# --- unpacking ----------------------------------------------------------------------------------------------------


def f32(field: Blocks) -> Blocks:
    """A scale [..., n_blocks] as float32 [..., n_blocks, 1]."""
    return field.astype(np.float32)[..., np.newaxis]


def crumbs(qs: Blocks) -> Blocks:
    """Bytes [..., 64] -> 2-bit codes [..., 256]: 32 bytes hold 128 values, 32 a shift of 0, 2, 4, 6."""
    groups = qs.reshape(*qs.shape[:-1], 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    return ((groups >> shifts) & 3).reshape(*qs.shape[:-1], 256)


def nibbles_of_64(qs: Blocks) -> Blocks:
    """Bytes [..., 128] -> codes [..., 256]: 32 bytes hold 64 values, the first 32 in their low halves."""
    groups = qs.reshape(*qs.shape[:-1], 4, 32)
    return np.concatenate([groups & 15, groups >> 4], axis=-1).reshape(*qs.shape[:-1], 256)


def scales_and_mins(s: Blocks) -> tuple[Blocks, Blocks]:
    """The twelve bytes of q4_K and q5_K [..., 12] -> eight 6-bit scales and eight 6-bit minimums [..., 8]."""
    low, middle, high = s[..., 0:4], s[..., 4:8], s[..., 8:12]
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=-1)
    mins = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=-1)
    return scales, mins


def six_bit_scales(s: Blocks) -> Blocks:
    """The twelve bytes of q3_K [..., 12] -> sixteen scales -32 … 31 [..., 16]."""
    low = np.concatenate([s[..., 0:8] & 15, s[..., 0:8] >> 4], axis=-1)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    high = ((s[..., np.newaxis, 8:12] >> shifts) & 3).reshape(*s.shape[:-1], 16)
    return (low | (high << 4)).astype(np.int8) - np.int8(32)


def spread(sub_blocks: Blocks) -> Blocks:
    """One number a sub-block [..., n] -> one a value [..., 256]."""
    return np.repeat(sub_blocks, 256 // sub_blocks.shape[-1], axis=-1)


# --- decoding -----------------------------------------------------------------------------------------------------


def centred(offset: int) -> Decoder:
    """(q - offset) * d"""
    return lambda b, codes: (codes.astype(np.int8) - np.int8(offset)).astype(np.float32) * f32(b["d"])


def affine(b: Blocks, codes: Blocks) -> Blocks:
    """q * d + m"""
    return codes.astype(np.float32) * f32(b["d"]) + f32(b["m"])


def affine_k(b: Blocks, codes: Blocks, scales: Blocks, mins: Blocks) -> Blocks:
    """(d * scale) * q - dmin * min, the scales [..., n_sub_blocks], the codes [..., 256]."""
    scale = spread(f32(b["d"]) * scales.astype(np.float32))
    minimum = spread(f32(b["dmin"]) * mins.astype(np.float32))
    return scale * codes.astype(np.float32) - minimum


def q2_k(b: Blocks) -> Blocks:
    """Sixteen values share a 4-bit scale and a 4-bit minimum."""
    return affine_k(b, crumbs(b["qs"]), b["scales"] & 15, b["scales"] >> 4)


def q3_k(b: Blocks) -> Blocks:
    """(d * scale) * (q - 4): the third bit of value 32 i + l is bit i of byte l of hmask."""
    bit = np.arange(8, dtype=np.uint8).reshape(8, 1)
    third = ((b["hmask"][..., np.newaxis, :] >> bit) & 1).reshape(*b.shape, 256)
    codes = (crumbs(b["qs"]) | (third << 2)).astype(np.int8) - np.int8(4)
    return spread(f32(b["d"]) * six_bit_scales(b["scales"]).astype(np.float32)) * codes.astype(np.float32)


def q4_k(b: Blocks) -> Blocks:
    """Thirty-two values share a 6-bit scale and a 6-bit minimum."""
    return affine_k(b, nibbles_of_64(b["qs"]), *scales_and_mins(b["scales"]))


def q5_k(b: Blocks) -> Blocks:
    """As q4_K; the fifth bit of value 32 i + l is bit i of byte l of qh."""
    bit = np.arange(8, dtype=np.uint8).reshape(8, 1)
    fifth = ((b["qh"][..., np.newaxis, :] >> bit) & 1).reshape(*b.shape, 256)
    return affine_k(b, nibbles_of_64(b["qs"]) | (fifth << 4), *scales_and_mins(b["scales"]))


def q6_k(b: Blocks) -> Blocks:
    """((d * scale) * (q - 32)): of 128 values, 64 bytes hold the low four bits, 32 bytes the high two."""
    ql = b["ql"].reshape(*b.shape, 2, 1, 64)
    low = ((ql >> np.array([0, 4], np.uint8).reshape(2, 1)) & 15).reshape(*b.shape, 256)
    codes = (low | (crumbs(b["qh"]) << 4)).astype(np.int8) - np.int8(32)
    return spread(f32(b["d"]) * b["scales"].astype(np.float32)) * codes.astype(np.float32)


_SIMPLE: dict[str, Decoder] = {
    "q4_0": centred(8),
    "q4_1": affine,
    "q4_2": centred(8),
    "q4_3": affine,
    "q5_0": centred(16),
    "q5_1": affine,
    "q8_0": centred(0),
}
_K_QUANTS: dict[str, Callable[[Blocks], Blocks]] = {
    "q2_K": q2_k,
    "q3_K": q3_k,
    "q4_K": q4_k,
    "q5_K": q5_k,
    "q6_K": q6_k,
}
