"""``data.pkl`` as torch and CPython write it: the pickle of a dict of tensors.

Protocol 2, as the C pickler of CPython 3.8 to 3.13 writes a dict of name to tensor: every string, tuple and global is
put into the memo at its first use and fetched from there afterwards, the dict in batches of 1,000.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ggmlpy.files.errors import ShapeError, UsageError
from ggmlpy.files.segments import Segment

from .tensor import DTYPES, LazyTensor
from .torch_formats import Layout

__all__ = ["Plain", "SameTensor", "Tensor", "TensorToWrite", "pickle_of"]


@dataclass(frozen=True)
class SameTensor:
    """A further key of a tensor that stands under the key ``of`` already: one object, saved once."""

    name: str
    of: str


TensorToWrite = LazyTensor | SameTensor | tuple[str, str, Sequence[int], Iterable[object]]
Plain = str | int | float | tuple["Plain", "Plain"] | list["Plain"] | dict[str, "Plain"]

_BATCH = 1000  # of dict items between two SETITEMS, pickle's BATCHSIZE


@dataclass(frozen=True)
class Tensor:
    """A tensor to write: what the pickle says of it, and its bytes when their turn comes; or another key of one."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[object] | LazyTensor
    same_as: str = ""

    @classmethod
    def of(cls, tensor: TensorToWrite, layout: Layout) -> Tensor:
        if isinstance(tensor, SameTensor):
            return cls(tensor.name, "", (0,), (), tensor.of)
        if isinstance(tensor, LazyTensor):
            made = cls(tensor.name, tensor.dtype, tensor.shape, tensor)
        else:
            name, dtype, shape, chunks = tensor
            made = cls(name, dtype, tuple(int(n) for n in shape), chunks)
        if made.dtype not in DTYPES or not (layout.unsigned or DTYPES[made.dtype].storage):
            known = ", ".join(entry.name for entry in DTYPES.values() if entry.storage or layout.unsigned)
            raise UsageError(f"tensor {made.name!r}: cannot save dtype {made.dtype}; supported: {known}")
        return made

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the record."""
        return self.size * DTYPES[self.dtype].size

    def strides(self) -> tuple[int, ...]:
        """Those of a contiguous tensor, in elements; torch counts an axis of length 0 as 1."""
        strides = [1]
        for n in reversed(self.shape[1:]):
            strides.append(strides[-1] * max(n, 1))
        return tuple(reversed(strides)) if self.shape else ()

    def segments(self, progress: Callable[[int], object] | None = None) -> Iterator[Segment]:
        """The stored bytes, checked to be as many as the shape says.

        Args:
            progress: called with the number of bytes when a segment is written.
        """
        if isinstance(self.chunks, LazyTensor):
            yield from self.chunks.segments(progress)
            return
        left = self.nbytes
        for chunk in self.chunks:
            piece = _flat(chunk)
            left -= len(piece)
            if left < 0:
                break
            told = partial(progress, len(piece)) if progress else None
            yield Segment(len(piece), piece.toreadonly, written=told)
        if left:
            raise ShapeError(
                f"tensor {self.name!r} was announced with shape {list(self.shape)}, its chunks hold other bytes",
                expected=f"{self.nbytes:,} bytes",
                found="more" if left < 0 else f"{self.nbytes - left:,}",
            )


def _flat(chunk: object) -> memoryview:
    """The bytes of a buffer or an array (little-endian, row by row)."""
    if isinstance(chunk, np.ndarray):
        little = np.ascontiguousarray(chunk, dtype=chunk.dtype.newbyteorder("<"))
        return little.reshape(-1).view(np.uint8).data
    return memoryview(chunk).cast("B")  # type: ignore[arg-type]


def pickle_of(tensors: Sequence[Tensor], ordered: bool, beside: Mapping[str, Plain] | None = None) -> bytes:
    """``data.pkl`` of a dict of tensors, or of a dict that holds it as ``state_dict`` and, after it, ``beside``."""
    pickler = _Pickler()
    if beside is None:
        _state_dict(pickler, tensors, ordered)
    else:
        pickler.new(b"}")
        pickler.write(b"(")
        pickler.text("state_dict")
        _state_dict(pickler, tensors, ordered)
        for key, value in beside.items():
            pickler.text(key)
            pickler.plain(value)
        pickler.write(b"u")
    pickler.write(b".")
    return bytes(pickler.out)


def _state_dict(pickler: _Pickler, tensors: Sequence[Tensor], ordered: bool) -> None:
    if ordered:
        pickler.ordered_dict()
    else:
        pickler.new(b"}")
    batches = [tensors[i : i + _BATCH] for i in range(0, len(tensors), _BATCH)]
    if not ordered and tensors and len(tensors) % _BATCH == 0:
        batches.append([])  # CPython looks for more after a full batch of a plain dict, and writes what it found
    key = 0
    for batch in batches:
        single = len(batch) == 1 and (ordered or len(tensors) == 1)
        pickler.write(b"" if single else b"(")
        for tensor in batch:
            pickler.item(tensor, key)
            key += not tensor.same_as
        pickler.write(b"s" if single else b"u")
    if len(tensors) != len({tensor.name for tensor in tensors}):
        raise UsageError("two tensors to save have the same name")


def _unicode(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return struct.pack("<cI", b"X", len(encoded)) + encoded


class _Pickler:
    """CPython's pickler for the few kinds of objects in a dict of tensors."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memo: dict[object, int] = {}
        self.n_memo = 0

    def write(self, data: bytes) -> None:
        self.out += data

    def new(self, data: bytes) -> None:
        """Write an object and put it into the memo."""
        self.out += data
        self.out += b"q%c" % self.n_memo if self.n_memo < 256 else struct.pack("<cI", b"r", self.n_memo)
        self.n_memo += 1

    def once(self, key: object, data: bytes) -> None:
        """Write an object the first time, fetch it from the memo afterwards."""
        index = self.memo.get(key)
        if index is None:
            self.memo[key] = self.n_memo
            self.new(data)
        else:
            self.out += b"h%c" % index if index < 256 else struct.pack("<cI", b"j", index)

    def global_(self, module: str, name: str) -> None:
        self.once((module, name), f"c{module}\n{name}\n".encode())

    def text(self, text: str) -> None:
        """A string. Words that torch's own source contains are one object with a literal of the same text."""
        data = _unicode(text)
        if text in ("storage", "cpu"):
            self.once(text, data)
        else:
            self.new(data)

    def plain(self, value: Plain) -> None:
        """A number, a text, a pair, a list or a dict, as they stand in a model's description."""
        if isinstance(value, str):
            shared = len(value) < 2 and value < "\u0100"  # of these CPython has one object each
            self.once(("character", value), _unicode(value)) if shared else self.new(_unicode(value))
        elif isinstance(value, int):
            self.integer(value)
        elif isinstance(value, float):
            self.write(struct.pack(">cd", b"G", value))
        elif isinstance(value, tuple):
            for item in value:
                self.plain(item)
            self.new(b"\x86")
        elif isinstance(value, list):
            self.new(b"]")
            for start in range(0, len(value), _BATCH):
                self._batch(value[start : start + _BATCH], b"e")
        else:
            self.new(b"}")
            self._batch([item for pair in value.items() for item in pair], b"u")

    def _batch(self, values: Sequence[Plain], last: bytes) -> None:
        self.write(b"(")
        for value in values:
            self.plain(value)
        self.write(last)

    def integer(self, value: int) -> None:
        if value < 1 << 8:
            self.out += struct.pack("<cB", b"K", value)
        elif value < 1 << 16:
            self.out += struct.pack("<cH", b"M", value)
        elif value < 1 << 31:
            self.out += struct.pack("<ci", b"J", value)
        else:
            size = value.bit_length() // 8 + 1
            self.out += b"\x8a%c" % size + value.to_bytes(size, "little")

    def integers(self, values: tuple[int, ...]) -> None:
        """A tuple of integers: TUPLE1 to TUPLE3 have opcodes of their own, the empty one is never remembered."""
        if not values:
            self.write(b")")
            return
        self.write(b"(" if len(values) > 3 else b"")
        for value in values:
            self.integer(value)
        self.new(b"t" if len(values) > 3 else (b"\x85", b"\x86", b"\x87")[len(values) - 1])

    def ordered_dict(self) -> None:
        """An empty OrderedDict."""
        self.global_("collections", "OrderedDict")
        self.write(b")")
        self.new(b"R")

    def item(self, tensor: Tensor, key: int) -> None:
        """A dict item: the name and the tensor."""
        self.text(tensor.name)
        if tensor.same_as:
            self.once(("tensor", tensor.same_as), b"")
        else:
            self.tensor(tensor, key)
            self.memo["tensor", tensor.name] = self.n_memo - 1

    def tensor(self, tensor: Tensor, key: int) -> None:
        """_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()).

        A dtype without a storage class of its own takes _rebuild_tensor_v3 over bytes, with itself at the end.
        """
        storage = DTYPES[tensor.dtype].storage
        self.global_("torch._utils", "_rebuild_tensor_v2" if storage else "_rebuild_tensor_v3")
        self.write(b"((")
        self.text("storage")
        self.global_(*(("torch", storage) if storage else ("torch.storage", "UntypedStorage")))
        self.text(str(key))
        self.text("cpu")
        self.integer(tensor.size if storage else tensor.nbytes)
        self.new(b"t")
        self.write(b"Q")
        self.integer(0)
        self.integers(tensor.shape)
        self.integers(tensor.strides())
        self.write(b"\x89")
        self.ordered_dict()
        if not storage:
            self.global_("torch", tensor.dtype)
        self.new(b"t")
        self.new(b"R")
