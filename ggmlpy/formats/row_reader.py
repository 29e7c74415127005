"""Rows of tensors, read a few at a time into memory of our own.

A mapped file costs nothing until it is read, but streaming through all of it costs twice: page faults cost more than
copying, and every page that was touched counts as this process's memory. So streaming code reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dequantize import dequantize
from .model_file import Tensor, as_blocks

__all__ = ["RowSource"]


class RowSource:
    """The rows of one tensor.

    Attributes:
        tensor: what is read.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def raw(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Their bytes: uint8 [stop - start, row_bytes].

        Raises:
            TruncatedError: the file has become shorter since it was opened.
        """
        return self.tensor.read_rows(start, stop)

    def floats(self, start: int, stop: int) -> NDArray[Any]:
        """Their numbers, f32 or f16 as they stand, all others as f32: [stop - start, columns]."""
        blocks = as_blocks(self.raw(start, stop), self.tensor.type)
        return blocks if self.tensor.type.block.kind == "f" else dequantize(blocks, self.tensor.type)
