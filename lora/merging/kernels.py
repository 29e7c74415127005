"""The merge kernel: ``W' = fp16(fp32(W) + fp32(B @ A) * fp32(scale))`` on rows of half-precision weights, in place.

What torch computes, operation by operation, and so what is written down here:

* ``B @ A`` in float32: each element starts from +0 and adds ``B[i, k] * A[k, j]`` for k = 0, 1, …, each product and
  each sum rounded. With half-precision adapters every product is exact, so fused or not makes no difference; with
  float32 adapters it does, and this is the unfused form of torch's CPU kernels before AVX-512.
* times the scale, rounded; plus the weight, rounded; never fused.
* one rounding to half precision, to nearest even, at the end.

The rank is padded to a multiple of eight with zeros, which changes nothing: a sum that starts from +0 is never -0, and
adding the product +0 to it is the identity. The conversions are LLVM's ``fpext`` and ``fptrunc`` between ``half`` and
``float``: one instruction for eight values on x86 with F16C and on ARM. Columns are cut into tiles of 512, so that a
tile of A (16 KB at rank 8) stays in the first-level cache while rows pass by; each weight is read and written once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ggmlpy.files.errors import UsageError
from ggmlpy.machine.c_arithmetic import ABS
from ggmlpy.machine.features import MACHINE
from ggmlpy.machine.kernels import kernel
from ggmlpy.machine.vectors import bits as bits_of
from ggmlpy.machine.vectors import bits_of_f16, f16_of_bits, float_of

from .sums import product_in_order

__all__ = ["Delta", "bfloat16_bits", "rounded"]

TILE = 512  # columns
ROWS = 32  # rows that pass before the next tile: 32 KB of weights
GROUP = 8  # products added a pass


@dataclass(frozen=True)
class Delta:
    """A low-rank change ``scale * (b @ a)`` of a matrix, laid out for the kernel."""

    b: np.ndarray  # float32 [rows, rank / 8, 8], zeros behind the rank
    a: np.ndarray  # float32 [column tiles, rank rounded up to 8, 512], zeros behind the rank and the columns
    scale: np.float32
    n_columns: int

    @classmethod
    def of(cls, b: np.ndarray, a: np.ndarray, scale: float) -> Delta:
        """From ``b`` [rows, rank] and ``a`` [rank, columns] of any float type; ``scale`` is rounded to float32.

        >>> delta = Delta.of(np.array([[1.0], [2.0]]), np.array([[3.0, 4.0]]), 0.5)
        >>> weights = np.ones((2, 2), np.float16)
        >>> delta.add_to(weights), weights.tolist()
        (4.0, [[2.5, 3.0], [4.0, 5.0]])
        """
        if b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0]:
            raise UsageError(f"b [rows, rank] and a [rank, columns] do not fit: {b.shape} and {a.shape}")
        return cls(_pack_b(b), _pack_a(a), np.float32(scale), a.shape[1])

    def add_to(self, weights: np.ndarray, first_row: int = 0, dtype: str = "float16") -> float:
        """Add the change's rows from ``first_row`` on to ``weights`` ([n, columns], contiguous), in place.

        Args:
            weights: float16; for the other types float32, which holds their values.
            dtype: what the sums are rounded to: "float16", "bfloat16" or "float32".

        Returns the largest ``|new - old|`` (NaN or infinity if a value left the range of the type).
        """
        stop = first_row + len(weights)
        if (
            weights.dtype != (np.float16 if dtype == "float16" else np.float32)
            or not weights.flags.c_contiguous
            or weights.shape[1:] != (self.n_columns,)
            or not 0 <= first_row <= stop <= len(self.b)
        ):
            raise UsageError(
                f"rows {first_row}:{stop} of a change of {len(self.b)} x {self.n_columns} do not fit "
                f"{weights.dtype} weights of shape {weights.shape}"
            )
        if dtype != "float16":
            return _add_wide(weights, self.b[first_row:stop], self.a, self.scale, dtype)
        add = _add_compiled if MACHINE.has_f16 else add_plainly
        return float(add(weights.view(np.uint16), self.b[first_row:stop], self.a, self.scale))


def _pack_b(b: np.ndarray) -> np.ndarray:
    groups = -(-b.shape[1] // GROUP)
    packed = np.zeros((len(b), groups * GROUP), np.float32)
    packed[:, : b.shape[1]] = b
    return packed.reshape(len(b), groups, GROUP)


def _pack_a(a: np.ndarray) -> np.ndarray:
    rank, columns = a.shape
    packed = np.zeros((-(-columns // TILE), -(-rank // GROUP) * GROUP, TILE), np.float32)
    for tile, start in zip(packed, range(0, columns, TILE)):
        tile[:rank, : min(TILE, columns - start)] = a[:, start : start + TILE]
    return packed


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """A contiguous copy of float values, rounded to nearest even; what is too large becomes an infinity, as in torch.

    Returns float16 for "float16", and float32 for "float32" and "bfloat16", whose values it holds.

    >>> rounded(np.array([1.00390625, 1.01171875], np.float32), "bfloat16").tolist()
    [1.0, 1.015625]
    """
    with np.errstate(over="ignore"):
        if dtype == "float16":
            return np.array(values, dtype=np.float16, order="C", copy=True)
        wide = np.array(values, dtype=np.float32, order="C", copy=True)
    if dtype == "bfloat16":
        bits = wide.view(np.uint32)
        up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        bits[...] = np.where(np.isnan(wide), bits | np.uint32(0x400000), bits + up) & np.uint32(0xFFFF0000)
    return wide


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """The upper halves (uint16) of float32 values that :func:`rounded` made bfloat16's."""
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _change(b: np.ndarray, a: np.ndarray, n_columns: int) -> np.ndarray:
    """``b @ a`` unscaled, float32 [n, columns]: one product and one sum at a time."""
    rank = a.shape[1]
    columns = a.transpose(1, 0, 2).reshape(rank, -1)[:, :n_columns]  # [rank, columns]
    return product_in_order(b.reshape(-1, rank), columns)


def _add_wide(weights: np.ndarray, b: np.ndarray, a: np.ndarray, scale: np.float32, dtype: str) -> float:
    """The kernel for sums of another type than half precision."""
    old = weights.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        weights[...] = rounded(old + _change(b, a, weights.shape[1]) * scale, dtype)
        return float(np.abs(weights - old).max(initial=0.0))


def add_plainly(bits: np.ndarray, b: np.ndarray, a: np.ndarray, scale: np.float32) -> float:
    """The kernel as numpy reads it: its definition in the tests, and its stand-in without half-precision hardware."""
    weights = bits.view(np.float16)  # [n, columns]
    old = weights.astype(np.float32)
    delta = _change(b, a, weights.shape[1])
    with np.errstate(over="ignore"):
        weights[...] = (old + delta * scale).astype(np.float16)
    return float(np.abs(weights.astype(np.float32) - old).max(initial=0.0))


_ZERO = np.float32(0)
_SIGNATURE = "float32(uint16[:, ::1], float32[:, :, ::1], float32[:, :, ::1], float32)"


def _add(weights: Any, b: Any, a: Any, scale: Any) -> Any:
    n_rows, n_columns = weights.shape
    delta = np.empty(TILE, np.float32)
    largest = np.int32(0)  # bits of |value|: as integers they compare like the magnitudes, NaN above all
    for first in range(0, n_rows, ROWS):
        for t in range(a.shape[0]):
            n = min(TILE, n_columns - t * TILE)
            for i in range(first, min(first + ROWS, n_rows)):
                for j in range(n):
                    delta[j] = _ZERO
                for g in range(b.shape[1]):
                    s = a[t, GROUP * g : GROUP * (g + 1)]  # [8, 512]
                    b0, b1, b2, b3, b4, b5, b6, b7 = (
                        b[i, g, 0], b[i, g, 1], b[i, g, 2], b[i, g, 3], b[i, g, 4], b[i, g, 5], b[i, g, 6], b[i, g, 7],
                    )  # fmt: skip
                    for j in range(n):
                        d = delta[j] + b0 * s[0, j]
                        d = d + b1 * s[1, j]
                        d = d + b2 * s[2, j]
                        d = d + b3 * s[3, j]
                        d = d + b4 * s[4, j]
                        d = d + b5 * s[5, j]
                        d = d + b6 * s[6, j]
                        delta[j] = d + b7 * s[7, j]
                row = weights[i, t * TILE : t * TILE + n]
                for j in range(n):
                    old = f16_of_bits(row[j])
                    new = bits_of_f16(old + delta[j] * scale)
                    row[j] = new
                    change = np.int32(bits_of(f16_of_bits(new) - old) & ABS)
                    largest = change if change > largest else largest
    return float_of(largest)


_add_compiled: Any = kernel(_add, _SIGNATURE) if MACHINE.has_f16 else None
