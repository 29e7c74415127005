"""The reference arithmetic on matrices that are plain arrays, which belong to no file."""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_ref.arithmetic.reference import ReferenceBackend
from llama_ref.arithmetic.rotation import Rotation
from llama_ref.arithmetic.transformer import F32

__all__ = ["ArrayBackend"]


class ArrayBackend(ReferenceBackend):
    """A LLaMA's rotation, for heads of ``size`` dimensions; a matrix is an array."""

    def __init__(self, size: int) -> None:
        self.rotation = Rotation(10000.0 ** (-np.arange(0, size, 2) / size))

    def matmul(self, w: Any, x: F32) -> F32:
        product: F32 = x @ w.T
        return product
