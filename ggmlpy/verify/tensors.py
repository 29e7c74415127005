"""The one comparison of two tensors: a few rows at a time, with the first difference decoded down to its block.

One tensor flows past (an :class:`~ggmlpy.formats.out_tensor.OutTensor`, perhaps made while it is compared); of the
other, rows are read where they are needed (:class:`Found`). Nothing is held whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.codes import unpack_codes
from ggmlpy.formats.out_tensor import OutTensor, made_by_rows, row_chunks
from ggmlpy.formats.row_reader import RowSource
from ggmlpy.formats.tensor_types import TensorType

from .terms import DIFFERS, SAME, Terms

__all__ = [
    "BlockView",
    "Found",
    "TensorDifference",
    "block_view",
    "compare_tensors",
    "decoded",
    "same_bytes",
    "ulp_distance",
    "writes_exactly",
]


Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class BlockView:
    """One block, decoded.

    Attributes:
        offset: where it begins in its file (of a single-part model).
        fields: its scale and minimum.
        codes: the code of each element (empty for f32 and f16).
        values: what they decode to.
    """

    path: str
    layout: str
    offset: int | None
    fields: dict[str, float]
    codes: list[int]
    values: list[float]


@dataclass
class TensorDifference:
    """How one tensor differs.

    Attributes:
        status: "same", "differs", or what else is wrong with it, in words (see :class:`~ggmlpy.verify.terms.Terms`).
        n_values, n_different: values in it, values that decode differently.
        max_ulp, median_ulp: distance of the different values, in units in the last place of the stored type where both
            are f16 or both bf16, else of f32.
        max_error: largest absolute difference.
        n_not_finite, n_zero: of the different values, those that are NaN or infinite and those that are 0 in ``b``.
        row, column, a, b: the first difference, decoded on both sides.
        signs: whose quantizers the two look like.
    """

    name: str
    status: str
    types: tuple[str, str] = ("", "")
    n_values: int = 0
    n_different: int = 0
    max_ulp: int = 0
    median_ulp: float = 0.0
    max_error: float = 0.0
    n_not_finite: int = 0
    n_zero: int = 0
    row: int | None = None
    column: int | None = None
    a: BlockView | None = None
    b: BlockView | None = None
    signs: tuple[str, str] = ("", "")

    @property
    def odd(self) -> bool:
        """Whether more is wrong than values: a tensor is missing, or has another shape or type."""
        return self.status not in (SAME, DIFFERS)


@dataclass(frozen=True)
class Found(OutTensor):
    """A tensor of a file, read anywhere.

    Attributes:
        offset: of its data in its file, if it lies there in one piece.
    """

    offset: int | None = None
    path: str = ""

    @classmethod
    def at(
        cls,
        name: str,
        record: TensorType,
        shape: tuple[int, ...],
        row_of: Callable[[int, int], Bytes],
        offset: int | None = None,
        path: str = "",
    ) -> Found:
        """A tensor from its reader of rows, which gives uint8 [rows, row_bytes]."""
        made = made_by_rows(name, record, shape, row_of)
        return cls(name, record, shape, made.chunks, row_of, offset=offset, path=path)

    @property
    def row_of(self) -> Callable[[int, int], Bytes]:
        """``row_of(start, stop)`` gives the bytes of these rows: uint8 [rows, row_bytes]."""
        return cast("Callable[[int, int], Bytes]", self.rows)

    @classmethod
    def of(cls, source: RowSource, path: str) -> Found:
        """A tensor of a model file."""
        tensor = source.tensor
        offset = tensor.offset if len(tensor.pieces) == 1 else None
        return cls.at(tensor.name, tensor.type, tensor.shape, source.raw, offset, path)


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def compare_tensors(
    a: OutTensor | None, b: Found | None, terms: Terms, passed: Callable[[int], object] | None = None
) -> TensorDifference:
    """Compare two tensors, of which one may not exist.

    Args:
        a: the one that flows past: the expected one, or the first of two equals.
        b: the one that is read beside it.
        passed: called with the number of rows after each piece.
    """
    if a is None or b is None:
        present = a or b
        return TensorDifference(present.name if present else "", terms.extra if a is None else terms.missing)
    result = TensorDifference(a.name, SAME, (a.type.layout, b.type.layout))
    if a.shape != b.shape:
        result.status = terms.shape.format(a=list(a.shape), b=list(b.shape))
        return result
    if terms.layout and a.type.layout != b.type.layout:
        result.status = terms.layout.format(a=a.type.layout, b=b.type.layout)
    measure, start = _Measure(a, b, terms, result), 0
    for rows in row_chunks(a):
        measure.add(rows, b.row_of(start, start + len(rows)), start)
        start += len(rows)
        result.n_values += len(rows) * a.shape[-1]
        if passed:
            passed(len(rows))
    result.median_ulp = measure.median()
    return result


class _Measure:
    """Counts and measures the values that differ, and decodes the first block that does."""

    def __init__(self, a: OutTensor, b: Found, terms: Terms, result: TensorDifference) -> None:
        self.a, self.b, self.terms, self.result = a, b, terms, result
        self.distances: list[NDArray[np.int64]] = []

    def add(self, ours: Bytes, theirs: Bytes, start: int) -> None:
        """Compare the rows from ``start`` on: uint8 [rows, row_bytes] of each side's type."""
        same = same_bytes(ours, theirs)
        if same and self.a.type.layout == self.b.type.layout:
            return
        different = self._values(ours, theirs)  # [rows, columns]
        if not (different.any() if self.terms.by_value else not same):
            return
        if self.result.status == SAME:
            self.result.status = DIFFERS
        if self.result.row is None:
            self._decode_first(different, ours, theirs, start)

    def _values(self, ours: Bytes, theirs: Bytes) -> NDArray[np.bool_]:
        x, y = decoded(ours, self.a.type), decoded(theirs, self.b.type)  # [rows, columns]
        distance = ulp_distance(x, y, self.a.type.name if self.a.type.name == self.b.type.name else "f32")
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(x.astype(np.float64) - y)
        different: NDArray[np.bool_] = (distance > 0) & ~(error <= self.terms.tolerance)
        if different.any():
            result, distance = self.result, distance[different]
            result.n_different += len(distance)
            result.n_not_finite += int(np.count_nonzero(~np.isfinite(y[different])))
            result.n_zero += int(np.count_nonzero(y[different] == 0))
            result.max_ulp = max(result.max_ulp, int(distance.max()))
            result.max_error = max(result.max_error, float(np.nan_to_num(error[different], nan=0.0).max()))
            if self.terms.max_sampled is None or sum(map(len, self.distances)) < self.terms.max_sampled:
                self.distances.append(distance)
        return different

    def _decode_first(self, different: NDArray[np.bool_], ours: Bytes, theirs: Bytes, start: int) -> None:
        row, column = _first_difference(different, ours, theirs, self.a.type)
        self.result.row, self.result.column = start + row, column
        self.result.a = _block_of(self.a, ours[row], start + row, column)
        self.result.b = _block_of(self.b, theirs[row], start + row, column)

    def median(self) -> float:
        """Of the distances in ulp; 0 if nothing differs."""
        if not self.distances:
            return 0.0
        return float(np.median(np.concatenate(self.distances)[: self.terms.max_sampled]))


def _first_difference(different: NDArray[np.bool_], ours: Bytes, theirs: Bytes, record: TensorType) -> tuple[int, int]:
    """Row and column of the first value that differs, or of the first byte if all values decode alike."""
    if different.any():
        row, column = np.argwhere(different)[0]
        return int(row), int(column)
    if ours.shape != theirs.shape:
        return 0, 0
    row, byte = np.argwhere(ours != theirs)[0]
    return int(row), int(byte) // record.type_size * record.blck_size


def writes_exactly(made: OutTensor | None, found: Found) -> bool:
    """Whether a tensor has the shape, type and bytes of one that was found."""
    if made is None or made.shape != found.shape or made.type.layout != found.type.layout:
        return False
    start = 0
    for rows in row_chunks(made):
        if not same_bytes(rows, found.row_of(start, start + len(rows))):
            return False
        start += len(rows)
    return True


# ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def same_bytes(x: Bytes, y: Bytes) -> bool:
    """Whether two arrays of bytes are equal, compared eight at a time where that is possible."""
    if x.shape != y.shape:
        return False
    if x.nbytes % 8 == 0 and x.flags.c_contiguous and y.flags.c_contiguous:
        x, y = (array.reshape(-1).view(np.uint64) for array in (x, y))  # type: ignore[assignment]
    return bool(np.array_equal(x, y))


def decoded(rows: Bytes, record: TensorType) -> NDArray[np.float32]:
    """The numbers of rows of bytes: float32 [rows, columns]."""
    from ggmlpy.formats.dequantize import dequantize

    return dequantize(np.ascontiguousarray(rows).view(record.block), record)


def ulp_distance(x: NDArray[np.float32], y: NDArray[np.float32], type_name: str = "f32") -> NDArray[np.int64]:
    """How many numbers of a type lie between x and y, elementwise; 0 for equal bits, for +0 and -0, and for two nans.

    Args:
        type_name: "f16" or "bf16" if x and y are numbers of that type; all others are measured in f32.

    >>> ulp_distance(np.float32([1.0]), np.float32([1.0009765625]), "f16").tolist()
    [1]
    >>> ulp_distance(np.float32([1.0]), np.nextafter(np.float32([1.0]), np.float32(2))).tolist()
    [1]
    """
    distance = np.abs(_ordered(x, type_name) - _ordered(y, type_name))
    distance[np.isnan(x) & np.isnan(y)] = 0
    return distance


def _ordered(x: NDArray[np.float32], type_name: str) -> NDArray[np.int64]:
    """Integers in the order of the numbers."""
    if type_name == "f16":
        half = np.ascontiguousarray(x).astype(np.float16).view(np.int16).astype(np.int64)
        return np.where(half < 0, -(half & 0x7FFF), half)
    bits = np.ascontiguousarray(x, np.float32).view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return ordered // (1 << 16) if type_name == "bf16" else ordered


def _block_of(tensor: OutTensor, row: Bytes, number: int, column: int) -> BlockView:
    """The block that holds column ``column`` of row ``number``, given the row's bytes."""
    record = tensor.type
    start = column // record.blck_size * record.type_size
    path, offset = "expected", None
    if isinstance(tensor, Found):
        path = tensor.path
        offset = None if tensor.offset is None else tensor.offset + number * len(row) + start
    return block_view(record, row[start : start + record.type_size], offset, path)


def block_view(record: TensorType, raw: Bytes, offset: int | None, path: str) -> BlockView:
    """The bytes of one block (uint8 [type_size]), decoded."""
    blocks = np.ascontiguousarray(raw).view(record.block)  # [1]
    coded = record.codes and record.blck_size <= 32
    return BlockView(
        path=path,
        layout=record.layout,
        offset=offset,
        fields={n: float(blocks[n][0]) for n in record.scale_fields},
        codes=[int(code) for code in unpack_codes(blocks, record)[0]] if coded else [],
        values=[float(value) for value in decoded(raw, record).reshape(-1)],
    )
