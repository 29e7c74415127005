"""One tensor of a checkpoint, read when it is asked for.

A :class:`LazyTensor` knows its name, shape and element type, where it comes from (``source``, a chain of words that
grows as tensors are joined, permuted or merged) and in which ``layout`` its rows stand: Meta's, or Hugging Face's with
the rotary permutation. Opening a checkpoint makes these; only :meth:`LazyTensor.rows` and friends touch the data.

numpy has no bfloat16. Such elements are *stored* as uint16 and handed out as float32: a bfloat16 is the upper half of
a float32, so the widening is exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ggmlpy.files.errors import ShapeError, UsageError
from ggmlpy.files.segments import Segment

PANEL = 2 << 20  # bytes made at a time: they stay in a core's cache while adapters or casts pass over them

__all__ = ["DTYPES", "ElementType", "LazyTensor", "widen_bfloat16"]


@dataclass(frozen=True)
class ElementType:
    """How the elements of one torch dtype lie in a file (little-endian)."""

    name: str  # torch's name without "torch."
    stored: np.dtype  # as the bytes are in the file; bfloat16 as uint16, bool as uint8
    storage: str | None  # torch's typed storage class; None: only torch.storage.UntypedStorage can hold it

    @property
    def size(self) -> int:
        """Bytes an element takes."""
        return self.stored.itemsize


# fmt: off
_TABLE = (
    #           torch dtype    stored   storage class
    ElementType("float64",     np.dtype("<f8"),  "DoubleStorage"),
    ElementType("float32",     np.dtype("<f4"),  "FloatStorage"),
    ElementType("float16",     np.dtype("<f2"),  "HalfStorage"),
    ElementType("bfloat16",    np.dtype("<u2"),  "BFloat16Storage"),
    ElementType("int64",       np.dtype("<i8"),  "LongStorage"),
    ElementType("int32",       np.dtype("<i4"),  "IntStorage"),
    ElementType("int16",       np.dtype("<i2"),  "ShortStorage"),
    ElementType("int8",        np.dtype("i1"),   "CharStorage"),
    ElementType("uint8",       np.dtype("u1"),   "ByteStorage"),
    ElementType("bool",        np.dtype("u1"),   "BoolStorage"),
    ElementType("complex64",   np.dtype("<c8"),  "ComplexFloatStorage"),
    ElementType("complex128",  np.dtype("<c16"), "ComplexDoubleStorage"),
    ElementType("uint16",      np.dtype("<u2"),  None),
    ElementType("uint32",      np.dtype("<u4"),  None),
    ElementType("uint64",      np.dtype("<u8"),  None),
)
# fmt: on
DTYPES: dict[str, ElementType] = {entry.name: entry for entry in _TABLE}


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 ``bits`` (uint16, any shape), exactly.

    >>> widen_bfloat16(np.array([0x3F80, 0xC000, 0x7F80], "<u2"))
    array([ 1., -2., inf], dtype=float32)
    """
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read on demand.

    Args:
        name: its name in the checkpoint.
        shape: numbers of elements an axis, numpy order; ``()`` for a scalar.
        dtype: a key of :data:`DTYPES`.
        read: ``read(start, stop)`` returns rows ``start:stop`` of the first axis in the stored numpy dtype (bfloat16 as
            uint16, bool as uint8); a scalar is asked for ``(0, 1)`` and comes back with shape ``()``.
        source: where the values come from, in words.
        layout: ``"meta"`` or ``"huggingface"`` where the order of the rows of wq and wk is known.

    >>> x = LazyTensor.of_array("x", np.arange(6, dtype=np.float16).reshape(3, 2))
    >>> x.shape, x.dtype, x.nbytes
    ((3, 2), 'float16', 12)
    >>> x.rows(1, 3)
    array([[2., 3.],
           [4., 5.]], dtype=float16)
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[int, int], np.ndarray] = dataclasses.field(repr=False, compare=False)
    source: str = ""
    layout: str | None = None

    @classmethod
    def of_array(cls, name: str, array: np.ndarray, *, source: str = "memory", layout: str | None = None) -> LazyTensor:
        """A tensor over an ``array`` in memory; its dtype is the array's own (there is no bfloat16 array)."""
        dtype = array.dtype.name
        if dtype not in DTYPES:
            raise UsageError(f"no tensor of dtype {dtype}; supported: {', '.join(DTYPES)}")
        stored = np.asarray(array, dtype=DTYPES[dtype].stored)
        return cls(name, array.shape, dtype, lambda a, b: stored[a:b] if stored.ndim else stored, source, layout)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements as stored."""
        return self.size * DTYPES[self.dtype].size

    def stored(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``start:stop`` as the file holds them: bfloat16 as uint16, bool as uint8. May be a read-only view."""
        n_rows = self.shape[0] if self.shape else 1
        stop = n_rows if stop is None else stop
        if not 0 <= start <= stop <= n_rows:
            raise UsageError(f"rows {start}:{stop} of tensor {self.name!r}, which has {n_rows}")
        array = self.read(start, stop)
        wanted = (stop - start, *self.shape[1:]) if self.shape else ()
        if array.shape != wanted or array.dtype != DTYPES[self.dtype].stored:
            raise ShapeError(
                f"tensor {self.name!r} was read with another shape or type than announced",
                expected=f"{DTYPES[self.dtype].stored} {list(wanted)}",
                found=f"{array.dtype} {list(array.shape)}",
            )
        return array

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start:stop`` of the first axis in the tensor's own dtype; bfloat16 comes as float32."""
        return self._values(self.stored(start, stop))

    def lines(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start:stop`` as GGML counts them, to which a vector is one row."""
        return self._values(self.stored_lines(start, stop))

    def stored_lines(self, start: int, stop: int) -> np.ndarray:
        """The same, as the file holds them."""
        return self.stored(start, stop) if len(self.shape) > 1 else self.stored()

    def numpy(self) -> np.ndarray:
        """The whole tensor in its own dtype; bfloat16 comes as float32. May be a read-only view of the file."""
        return self._values(self.stored())

    def f32(self) -> np.ndarray:
        """The whole tensor as float32."""
        return self.numpy().astype(np.float32, copy=False)

    def f16(self) -> np.ndarray:
        """The whole tensor as float16, rounded to nearest even; what is too large becomes an infinity."""
        with np.errstate(over="ignore"):
            return self.numpy().astype(np.float16, copy=False)

    def chunks(self, limit: int = 16 << 20) -> Iterator[np.ndarray]:
        """The stored bytes in order, as contiguous uint8 arrays of at most ``limit`` bytes (at least one row)."""
        for start, stop in self.row_ranges(limit):
            piece = np.ascontiguousarray(self.stored(start, stop))
            yield piece.reshape(-1).view(np.uint8)

    def row_ranges(self, limit: int = PANEL) -> list[tuple[int, int]]:
        """The rows from first to last, in ranges of at most ``limit`` bytes (at least one row)."""
        if not self.size:
            return []
        n_rows = self.shape[0] if self.shape else 1
        step = max(1, limit * n_rows // self.nbytes)
        return [(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]

    def segments(self, progress: Callable[[int], object] | None = None) -> Iterator[Segment]:
        """The stored bytes as segments of a file.

        Args:
            progress: called with the number of bytes when a segment is written.
        """
        for start, stop in self.row_ranges():
            yield self._segment(start, stop, progress)

    def _segment(self, start: int, stop: int, progress: Callable[[int], object] | None) -> Segment:
        size = self.nbytes // (self.shape[0] if self.shape else 1) * (stop - start)

        def written() -> None:
            self.taken(size)
            if progress:
                progress(size)

        return Segment(size, lambda: self.stored(start, stop), written=written, of=f"tensor {self.name!r}")

    def taken(self, nbytes: int) -> None:
        """Told when the next so many of its bytes are written somewhere, or were read; nobody here wants to know."""

    def lines_taken(self, start: int, stop: int) -> None:
        """The same, told of lines."""
        self.taken(self.nbytes * (stop - start) // (self.shape[0] if len(self.shape) > 1 else 1))

    def with_(self, **changes: object) -> LazyTensor:
        """A copy with some fields changed, such as ``name`` or ``source``."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def _values(self, stored: np.ndarray) -> np.ndarray:
        if self.dtype == "bfloat16":
            return widen_bfloat16(stored)
        return stored != 0 if self.dtype == "bool" else stored
