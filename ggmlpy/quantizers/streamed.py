"""A tensor quantized on its way into a file: bytes come in, blocks go out, and no more than a piece is held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.ordered import Workers
from ggmlpy.formats.eras import Era
from ggmlpy.formats.out_tensor import OutTensor, row_chunks
from ggmlpy.formats.tensor_types import TensorType

__all__ = ["quantized"]


def quantized(tensor: OutTensor, target: TensorType, era: Era, workers: Workers | None = None) -> OutTensor:
    """What an era's quantizer makes of a tensor that is f16 or f32 now.

    Args:
        workers: who computes, while the next piece is read; by default the reader does.
    """
    from .rows import quantize_rows

    def pieces() -> Iterator[tuple[int, NDArray[Any]]]:
        """Rows, and how many of them are there only because a k-quant's search sees the block before."""
        last = np.zeros((0, tensor.shape[-1]), tensor.type.block)
        for raw in row_chunks(tensor):
            rows = np.concatenate([last, raw.view(tensor.type.block)])
            yield len(last), rows
            last = rows[-1:] if target.is_k_quant else last

    def chunks() -> Iterator[NDArray[Any]]:
        work = workers.ordered if workers else map
        yield from work(lambda piece: quantize_rows(piece[1], target.name, era)[piece[0] :], pieces())

    return OutTensor(tensor.name, target, tensor.shape, chunks)
