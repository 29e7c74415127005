"""A low-rank product whose bits are the same on every machine: one product and one sum at a time."""

from __future__ import annotations

import numpy as np

__all__ = ["product_in_order"]


def product_in_order(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """``b @ a``, float32 [rows, columns], of float32 ``b`` [rows, rank] and ``a`` [rank, columns].

    Each element starts from +0 and adds ``b[i, k] * a[k, j]`` for k = 0, 1, …, each product and each sum rounded. A
    BLAS sums in an order of its own, and fuses where the processor can.

    >>> product_in_order(np.float32([[1, 2]]), np.float32([[3], [4]])).tolist()
    [[11.0]]
    """
    total = np.zeros((len(b), a.shape[1]), np.float32)
    for k in range(len(a)):
        total += b[:, k, None] * a[k]
    return total
