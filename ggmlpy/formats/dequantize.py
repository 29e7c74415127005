"""Blocks of codes back to float32, in the order of operations of llama.cpp's ``dequantize_row_*``: equal to the bit.

Every operation below rounds to float32 on its own; nothing is fused. ``blocks`` is a structured array
[..., n_blocks]. Where codes are in a block, and which code is zero, :mod:`ggmlpy.formats.tensor_types` says.

A value is the scale of its run times a small integer, and where there is a minimum, that is added or subtracted. Where
a block has several runs, of 16 or 32 values, their scales are themselves codes of 3 to 8 bits.

llama.cpp sometimes multiplies by a power of two at another place, or adds an eighth to a point before it scales it.
That makes no difference to any bit: scales of blocks are float16, so no product comes near float32's smallest number.

Sources: ggml.c at llama.cpp 352589927, 3e5aa8a1c, 6986c7835, dadbed99e; k_quants.c at dadbed99e; ggml-quants.c of ggml
0.25.3; q4_3 from ggml.c of 2023-04-20.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import UsageError

from .codes import signed_codes
from .eras import Era, tensor_type_of
from .grids import fields
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


Scales = tuple[NDArray[np.float32], NDArray[np.float32] | None]


def scales_of(blocks: Blocks, type: TensorType) -> Scales:
    """The scale of each run of ``type.run`` values, and the minimum if there is one: float32 [..., n_blocks, runs].

    A minimum is added to the scaled code, or, in k-quants, subtracted from it.
    """
    if type.layout in _SCALES:
        return _SCALES[type.layout](blocks)
    return f32(blocks["d"]), f32(blocks["m"]) if "m" in type.field_names else None


def f32(field: Blocks) -> Blocks:
    """A scale [..., n_blocks] as float32 [..., n_blocks, 1]."""
    return field.astype(np.float32)[..., np.newaxis]


def spread(runs: Blocks, type: TensorType) -> Blocks:
    """One number per run [..., n_blocks, runs] -> one per value [..., n_blocks, blck_size] (or 1: one for all)."""
    return np.repeat(runs, type.run, axis=-1) if type.run < type.blck_size else runs


# The scales of runs are codes themselves, packed in their own ways: functions blocks -> float32 [..., n_blocks, runs].


def of_block(blocks: Blocks, scales: Blocks, mins: Blocks | None = None) -> Scales:
    """The scales (and minimums) whose codes [..., n_blocks, runs] are multiples of the block's own."""
    minimum = None if mins is None else f32(blocks["dmin"]) * mins.astype(np.float32)
    return f32(blocks["d"]) * scales.astype(np.float32), minimum


def scales_and_mins(blocks: Blocks) -> Scales:
    """Twelve bytes [..., 12] -> eight 6-bit scales and eight 6-bit minimums [..., 8]."""
    s = blocks["scales"]
    low, middle, high = s[..., 0:4], s[..., 4:8], s[..., 8:12]
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=-1)
    mins = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=-1)
    return of_block(blocks, scales, mins)


def six_bit_scales(blocks: Blocks) -> Scales:
    """Twelve bytes [..., 12] -> sixteen scales -32 … 31 [..., 16]."""
    s = blocks["scales"]
    low = np.concatenate([s[..., 0:8] & 15, s[..., 0:8] >> 4], axis=-1)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    high = ((s[..., np.newaxis, 8:12] >> shifts) & 3).reshape(*s.shape[:-1], 16)
    return of_block(blocks, (low | (high << 4)).astype(np.int8) - np.int8(32))


def split_scales(blocks: Blocks) -> Scales:
    """iq4_xs: of eight scales -32 … 31 four low bits each in four bytes, two high bits each in a word."""
    low = fields(blocks["scales_l"], 4)
    high = (blocks["scales_h"][..., np.newaxis] >> np.arange(0, 16, 2, dtype=np.uint16)) & 3
    return of_block(blocks, (low | high << 4).astype(np.int8) - np.int8(32))


def odd(codes: Blocks, part: float) -> Blocks:
    """The IQ types: a code s is an odd number 2 s + 1, of which a ``part`` counts."""
    return (codes.astype(np.float32) * np.float32(2) + np.float32(1)) * np.float32(part)


def iq1_m_scales(blocks: Blocks) -> Scales:
    """The four upper bits of four words are the block's float16; below them are four scales of three bits each."""
    words = blocks["scales"]  # [..., 4]
    bits = (words >> 12 << np.array([0, 4, 8, 12], np.uint16)).sum(axis=-1, dtype=np.uint16)
    codes = (words[..., np.newaxis] >> np.array([0, 3, 6, 9], np.uint16)) & 7
    return f32(bits.view(np.float16)) * odd(codes.reshape(*blocks.shape, 16), 1 / 8), None


def powers_of_two(blocks: Blocks) -> Scales:
    """mxfp4: 2^(e - 128), for e = 0 and 1 a float32 below the smallest normal one."""
    exponents = blocks["e"].astype(np.uint32)
    bits = np.where(exponents < 2, np.uint32(0x00200000) << exponents, (exponents - 1) << 23)
    return bits.astype(np.uint32).view(np.float32)[..., np.newaxis], None


def unsigned_e4m3(blocks: Blocks) -> Scales:
    """nvfp4: four bits of exponent and three of mantissa, halved as the levels are doubled; 0x7f is 0, and
    the top bit says nothing."""
    exponent, mantissa = (blocks["d"] >> 3) & 15, (blocks["d"] & 7).astype(np.float32)
    normal = np.ldexp(np.float32(1) + mantissa / np.float32(8), exponent.astype(np.int32) - 8)
    scale = np.where(exponent > 0, normal, mantissa * np.float32(2**-10))
    return np.where(blocks["d"] == 0x7F, np.float32(0), scale.astype(np.float32)), None


_SCALES: dict[str, Callable[[Blocks], Scales]] = {
    "q2_K": lambda blocks: of_block(blocks, blocks["scales"] & 15, blocks["scales"] >> 4),
    "q3_K": six_bit_scales,
    "q4_K": scales_and_mins,
    "q5_K": scales_and_mins,
    "q6_K": lambda blocks: of_block(blocks, blocks["scales"]),
    "iq1_m": iq1_m_scales,
    "iq1_s-2024-02": lambda blocks: of_block(blocks, odd(fields(blocks["scales"], 4) & 7, 1 / 8)),
    "iq1_s-2024-03": lambda blocks: of_block(blocks, odd(blocks["qh"] >> 12, 1 / 8)),
    "iq1_s": lambda blocks: of_block(blocks, odd((blocks["qh"] >> 12) & 7, 1 / 8)),
    "iq2_s": lambda blocks: of_block(blocks, odd(fields(blocks["scales"], 4), 1 / 8)),
    "iq2_xs": lambda blocks: of_block(blocks, odd(fields(blocks["scales"], 4), 1 / 8)),
    "iq2_xxs": lambda blocks: of_block(blocks, odd(blocks["qs"][..., 7::8] >> 4, 1 / 8)),
    "iq3_s-2024-02": lambda blocks: of_block(blocks, odd(fields(blocks["scales"], 4), 1 / 4)),
    "iq3_s": lambda blocks: of_block(blocks, odd(fields(blocks["scales"], 4), 1)),
    "iq3_xxs": lambda blocks: of_block(blocks, odd(blocks["signs"] >> 28, 1 / 4)),
    "iq4_xs": split_scales,
    "mxfp4": powers_of_two,
    "nvfp4": unsigned_e4m3,
}
