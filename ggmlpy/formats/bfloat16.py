"""Floats as bfloat16: the upper half of a float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bfloat16_of_converter", "cut_to_bfloat16", "rounded_to_bfloat16"]


def cut_to_bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the bfloat16 below in magnitude.

    >>> hex(cut_to_bfloat16(np.float32([1.0078]))[0])
    '0x3f80'
    """
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> np.uint32(16)).astype("<u2")


def rounded_to_bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even, as torch rounds; NaN stays NaN.

    >>> hex(rounded_to_bfloat16(np.float32([1.0078]))[0])
    '0x3f81'
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FC0), rounded).astype("<u2")


def bfloat16_of_converter(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The same, except that a NaN keeps the rest of its upper half, as llama.cpp's converter writes it.

    >>> hex(bfloat16_of_converter(np.array([0xFFA50001], np.uint32).view(np.float32))[0])
    '0xffe5'
    """
    upper = cut_to_bfloat16(x) | np.uint16(0x40)
    return np.where(np.isnan(x), upper, rounded_to_bfloat16(x)).astype("<u2")
