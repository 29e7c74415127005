"""Writing checkpoints with the very bytes of ``torch.save``, one tensor at a time, without torch.

A merged model is recognised by its SHA256, so the container must come out as torch's does. Which bytes those are
depends on the version of torch:

================  ==========================================================  ============  =========================
torch             records, in this order                                      ``data/k``    prefix of a path that is
                                                                              sorted as     not ASCII
================  ==========================================================  ============  =========================
1.13, 2.0         data.pkl, data/k..., version                                text          base name
2.1 ... 2.6.x     data.pkl, byteorder, data/k..., version,                    text          ``archive``
                  .data/serialization_id
2.7 ... 2.13      data.pkl, .format_version, .storage_alignment, byteorder,   numbers       ``archive``
                  data/k..., version, .data/serialization_id
================  ==========================================================  ============  =========================

The name ``2.6`` stands for the last row, as it does on the command line; torch 2.6.0 itself still wrote the row above,
which ``2.6.0`` asks for.

**The archive.** Records are stored; each is ``<prefix>/<name>``, the prefix being the file's name without its last
extension. Local headers carry neither CRC nor sizes; those follow the data in a descriptor, so that one pass suffices.

::

    local header   version 0, flags 0x0808 (0x0800 and no descriptor if empty), date 0, CRC and sizes 0
                   extra: [zip64: u16 1, u16 n; if size >= 2^32-1: u64 size, u64 0; if offset >= 2^32-1: u64 offset]
                          "FB", u16 n, n times "Z" so that the data starts at a multiple of 64
    data
    descriptor     "PK\\7\\8", CRC, size, size: u32, or u64 if the local header has a zip64 field
    directory      version 0, made by 0, real CRC; zip64 field with both real sizes
    zip64 end      always, made by 0x031e, needs 45; its locator; the end record with its values clamped

**The pickle.** Protocol 2, as the C pickler of CPython 3.8 to 3.13 writes a dict of name to tensor: every string, tuple
and global is put into the memo at its first use and fetched from there afterwards, the dict in batches of 1,000.

Sources: torch/serialization.py of 1.13.1, 2.0.1, 2.1.2, 2.3.1, 2.5.1, 2.6.0, 2.7.0, 2.8.0 and 2.13.0;
caffe2/serialize/inline_container.cc; third_party/miniz; files of torch 1.13.1, 2.0.1, 2.5.1, 2.6.0 and 2.13.0.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import OutputError, ShapeError, UsageError

from .crc32 import crc32
from .tensor import DTYPES, LazyTensor

__all__ = ["TORCH_FORMATS", "TensorToWrite", "pth_size", "stream_pth", "write_pth"]

TensorToWrite = LazyTensor | tuple[str, str, Sequence[int], Iterable[object]]

_LIMIT32 = 0xFFFFFFFF
_ALIGNMENT = 64
_BATCH = 1000  # of dict items between two SETITEMS, pickle's BATCHSIZE


@dataclass(frozen=True)
class _Layout:
    """What differs between the versions of torch."""

    first: tuple[tuple[str, bytes], ...]  # records between data.pkl and the data
    numeric: bool  # data/10 after data/9, not after data/1
    identified: bool  # .data/serialization_id at the end
    unsigned: bool  # uint16, uint32 and uint64 can be saved
    ascii_prefix: bool  # a path that is not ASCII is written through a stream, which has no name


_BYTEORDER = ("byteorder", b"little")
_1_13 = _Layout((), numeric=False, identified=False, unsigned=False, ascii_prefix=False)
_2_1 = _Layout((_BYTEORDER,), numeric=False, identified=True, unsigned=False, ascii_prefix=True)
_2_6 = replace(_2_1, unsigned=True)
_2_7 = _Layout(
    ((".format_version", b"1"), (".storage_alignment", b"64"), _BYTEORDER),
    numeric=True,
    identified=True,
    unsigned=True,
    ascii_prefix=True,
)
TORCH_FORMATS: dict[str, _Layout] = {
    **dict.fromkeys(("1.13", "2.0"), _1_13),
    **dict.fromkeys(("2.1", "2.2", "2.3", "2.4", "2.5"), _2_1),
    "2.6.0": _2_6,
    **dict.fromkeys(("2.6", "2.7", "2.8", "2.9", "2.10", "2.11", "2.12", "2.13"), _2_7),
}


def write_pth(
    path: str | os.PathLike[str],
    tensors: Iterable[TensorToWrite],
    torch_format: str = "1.13",
    *,
    ordered: bool = False,
) -> None:
    """Write what ``torch.save({name: tensor, ...}, path)`` writes, atomically.

    Arguments:
        path: the file; its base name without the last extension stands inside the file, too.
        tensors: in the order of the dict; :class:`.LazyTensor` or ``(name, dtype, shape, chunks)``, where ``chunks``
            are buffers or arrays that together hold the stored bytes (bfloat16 as uint16). All names and shapes are
            taken first; the chunks are asked for when their turn comes, a tensor at a time, **in the order of the
            file**, which before torch 2.7 is the order of the numbers as text: 0, 1, 10, 11, ..., 2, 20.
        torch_format: the version of torch whose bytes to write: a key of :data:`TORCH_FORMATS`, or a full version such
            as ``"1.13.1"``.
        ordered: save an OrderedDict, as a module's ``state_dict()`` is, rather than a plain dict.

    Raises:
        UsageError: an unknown ``torch_format``, a name given twice, a dtype that this torch does not have.
        ShapeError: the chunks of a tensor hold more or fewer bytes than its shape.
        DiskSpaceError, OutputError: see :func:`ggmlpy.files.atomic.atomic_write`.

    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "consolidated.00.pth")
    >>> write_pth(path, [LazyTensor.of_array("w", np.eye(2, dtype=np.float16))])
    >>> from llama_ref.checkpoint import open_pth
    >>> with open_pth(path) as f:
    ...     f["w"].numpy(), os.path.getsize(path)
    (array([[1., 0.],
           [0., 1.]], dtype=float16), 771)
    """
    layout = _layout(torch_format)
    wanted = [_Tensor.of(tensor, layout) for tensor in tensors]
    pickle = _pickle(wanted, ordered)
    places = _plan(_prefix(path, layout), layout, len(pickle), wanted)
    with atomic_write(path, size=_archive_size(places)) as stream:
        _write_archive(stream, layout, places, pickle, wanted)


def stream_pth(
    stream: BinaryIO, name: str, tensors: Iterable[TensorToWrite], torch_format: str = "1.13", *, ordered: bool = False
) -> None:
    """What :func:`write_pth` writes, into anything that has a ``write`` method: to learn the digest of a file that
    does not exist, for instance. ``name`` is the file's name, whose stem stands inside.
    """
    layout = _layout(torch_format)
    wanted = [_Tensor.of(tensor, layout) for tensor in tensors]
    pickle = _pickle(wanted, ordered)
    _write_archive(stream, layout, _plan(_prefix(name, layout), layout, len(pickle), wanted), pickle, wanted)


def pth_size(
    path: str | os.PathLike[str],
    tensors: Iterable[tuple[str, str, Sequence[int]]],
    torch_format: str = "1.13",
    *,
    ordered: bool = False,
) -> int:
    """The size in bytes of the file that :func:`write_pth` would write; ``tensors`` are (name, dtype, shape).

    >>> pth_size("consolidated.00.pth", [("w", "float16", (2, 2))])
    771
    """
    layout = _layout(torch_format)
    wanted = [_Tensor.of((*tensor, ()), layout) for tensor in tensors]
    return _archive_size(_plan(_prefix(path, layout), layout, len(_pickle(wanted, ordered)), wanted))


def _layout(torch_format: str) -> _Layout:
    """The layout of a version: ``2.0``, ``2.0.1`` and ``2.0.1+cpu`` are the same."""
    short = re.match(r"\d+\.\d+", torch_format)
    for name in (torch_format, re.sub(r"\+.*", "", torch_format), short[0] if short else ""):
        if name in TORCH_FORMATS and re.fullmatch(r"[0-9.]+(\+\w+)?", torch_format):
            return TORCH_FORMATS[name]
    raise UsageError(f"unknown torch format {torch_format!r}; known: {', '.join(TORCH_FORMATS)}")


def _prefix(path: str | os.PathLike[str], layout: _Layout) -> str:
    """The directory inside the archive, as torch derives it from the path it was given."""
    text = os.fspath(path)
    if layout.ascii_prefix and not text.isascii():
        return "archive"
    base = re.split(r"[/\\]", text)[-1]
    prefix = base.rpartition(".")[0] if "." in base else base
    if not prefix:
        raise OutputError("no name before the extension; torch.save refuses that", path=path, next_step="name the file")
    return prefix


@dataclass(frozen=True)
class _Tensor:
    """A tensor to write: what the pickle says of it, and its bytes when their turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[object] | LazyTensor

    @classmethod
    def of(cls, tensor: TensorToWrite, layout: _Layout) -> _Tensor:
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

    def bytes(self) -> Iterator[memoryview]:
        """The stored bytes, checked to be as many as the shape says."""
        left = self.nbytes
        for chunk in self.chunks.chunks() if isinstance(self.chunks, LazyTensor) else self.chunks:
            piece = _flat(chunk)
            left -= len(piece)
            if left < 0:
                break
            yield piece
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


# -- the pickle --------------------------------------------------------------------------------------------------------


def _pickle(tensors: Sequence[_Tensor], ordered: bool) -> bytes:
    """``data.pkl`` of a dict of tensors."""
    pickler = _Pickler()
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
            pickler.tensor(tensor, key)
            key += 1
        pickler.write(b"s" if single else b"u")
    pickler.write(b".")
    if key != len({tensor.name for tensor in tensors}):
        raise UsageError("two tensors to save have the same name")
    return bytes(pickler.out)


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
        encoded = text.encode("utf-8", "surrogatepass")
        data = struct.pack("<cI", b"X", len(encoded)) + encoded
        if text in ("storage", "cpu"):
            self.once(text, data)
        else:
            self.new(data)

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

    def tensor(self, tensor: _Tensor, key: int) -> None:
        """A dict item: the name, and _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()).

        A dtype without a storage class of its own takes _rebuild_tensor_v3 over bytes, with itself at the end.
        """
        storage = DTYPES[tensor.dtype].storage
        self.text(tensor.name)
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


# -- the archive -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A record and where it stands; all of its bytes but the CRC follow from that."""

    name: str  # without the prefix
    full: bytes
    size: int
    header: int  # offset of the local header

    @property
    def wide(self) -> bool:
        """Whether its local header has a zip64 field."""
        return self.size >= _LIMIT32 or self.header >= _LIMIT32

    @property
    def data(self) -> int:
        """Offset of the data."""
        return self.header + len(self.local_header())

    @property
    def end(self) -> int:
        """Offset behind the data and its descriptor."""
        return self.data + self.size + len(self.descriptor(0))

    def _zip64(self, compressed: int) -> bytes:
        values = [self.size, compressed] if self.size >= _LIMIT32 else []
        values += [self.header] if self.header >= _LIMIT32 else []
        return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""

    @property
    def _flags(self) -> int:
        return 0x0808 if self.size else 0x0800

    def local_header(self) -> bytes:
        zip64 = self._zip64(0)
        used = self.header + 30 + len(self.full) + len(zip64) + 4
        extra = zip64 + struct.pack("<2sH", b"FB", -used % _ALIGNMENT) + b"Z" * (-used % _ALIGNMENT)
        fixed = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, self._flags, 0, 0, 0, 0, 0, 0, len(self.full), len(extra))
        return fixed + self.full + extra

    def descriptor(self, crc: int) -> bytes:
        if not self.size:
            return b""
        return struct.pack("<4sIQQ" if self.wide else "<4sIII", b"PK\7\x08", crc, self.size, self.size)

    def directory_entry(self, crc: int) -> bytes:
        extra = self._zip64(self.size)
        size = min(self.size, _LIMIT32)
        numbers = (0, 0, self._flags, 0, 0, 0, crc, size, size, len(self.full), len(extra), 0, 0, 0, 0)
        fixed = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *numbers, min(self.header, _LIMIT32))
        return fixed + self.full + extra


def _plan(prefix: str, layout: _Layout, pickle_size: int, tensors: Sequence[_Tensor]) -> list[_Place]:
    """Every record with its offset. CRCs are not needed for that, so the size is known before the first byte."""
    keys = range(len(tensors)) if layout.numeric else sorted(range(len(tensors)), key=str)
    sizes = [("data.pkl", pickle_size), *((name, len(content)) for name, content in layout.first)]
    sizes += [(f"data/{key}", tensors[key].nbytes) for key in keys]
    sizes += [("version", 2)] + [(".data/serialization_id", 40)] * layout.identified
    places: list[_Place] = []
    for name, size in sizes:
        start = places[-1].end if places else 0
        places.append(_Place(name, f"{prefix}/{name}".encode(), size, start))
    return places


def _archive_size(places: Sequence[_Place]) -> int:
    return places[-1].end + sum(len(place.directory_entry(0)) for place in places) + 56 + 20 + 22


def _write_archive(
    stream: BinaryIO, layout: _Layout, places: Sequence[_Place], pickle: bytes, tensors: Sequence[_Tensor]
) -> None:
    """All records, the directory and the three end records."""
    fixed = {"data.pkl": pickle, "version": b"3\n", **dict(layout.first)}
    crcs: list[int] = []
    for place in places:
        if place.name == ".data/serialization_id":
            fixed[place.name] = _serialization_id(places, crcs)
        key = place.name.removeprefix("data/")
        content = tensors[int(key)].bytes() if key != place.name else [fixed[place.name]]
        stream.write(place.local_header())
        crc = 0
        for piece in content:
            crc = crc32(piece, crc)
            stream.write(piece)
        stream.write(place.descriptor(crc))
        crcs.append(crc)
    directory = b"".join(place.directory_entry(crc) for place, crc in zip(places, crcs, strict=True))
    stream.write(directory + _end(len(places), len(directory), places[-1].end))


def _end(n: int, size: int, offset: int) -> bytes:
    """The zip64 end record, its locator, and the end record of the classic format."""
    zip64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0x031E, 45, 0, 0, n, n, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1)
    few = min(n, 0xFFFF)
    classic = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, few, few, min(size, _LIMIT32), min(offset, _LIMIT32), 0)
    return zip64 + locator + classic


# -- the serialization id of torch 2.1 and later -----------------------------------------------------------------------


def _serialization_id(places: Sequence[_Place], crcs: Sequence[int]) -> bytes:
    """Two hashes of 20 digits: of the names of the records so far, and of the CRCs of those that are not empty."""
    written = [place.name for place in places[: len(crcs)]]
    names = 0
    for name in _unordered_set(written):
        names = _combine(names, _string_hash(name))
    contents = 0
    for place, crc in zip(places, crcs):
        contents = _combine(contents, crc) if place.size else contents
    return b"%020d%020d" % (names, contents)


_MASK = (1 << 64) - 1


def _combine(seed: int, value: int) -> int:
    """c10::hash_combine."""
    return seed ^ ((value + 0x9E3779B9 + (seed << 6) + (seed >> 2)) & _MASK)


def _string_hash(text: str) -> int:
    """std::hash of libstdc++: 64-bit MurmurHash2 with the seed 0xc70f6907.

    >>> hex(_string_hash("version"))
    '0x15ba742bb08e0596'
    """
    data = text.encode()
    multiplier = 0xC6A4A7935BD1E995
    result = 0xC70F6907 ^ (len(data) * multiplier & _MASK)
    whole = len(data) & ~7
    for (word,) in struct.iter_unpack("<Q", data[:whole]):
        word = word * multiplier & _MASK
        result = (result ^ ((word ^ (word >> 47)) * multiplier & _MASK)) * multiplier & _MASK
    if len(data) > whole:
        result = (result ^ int.from_bytes(data[whole:], "little")) * multiplier & _MASK
    result = (result ^ (result >> 47)) * multiplier & _MASK
    return result ^ (result >> 47)


# Numbers of buckets that libstdc++ goes through as a set doubles (from the primes of its hashtable_c++0x.cc).
_BUCKETS = (13, 29, 59, 127, 257, 541, 1109, 2357, 5087, 10273, 20753, 42043, 85229, 172933)


def _unordered_set(names: Sequence[str]) -> list[str]:
    """``names`` in the order in which a std::unordered_set of libstdc++ hands them out.

    The set is one linked list: a new bucket goes to its front, a new member to the front of its bucket. When the
    members outnumber the buckets, the list is rebuilt over more buckets, in its order so far.
    """
    hashes = {name: _string_hash(name) for name in names}
    order: list[str] = []
    for fewer, buckets in zip((0, *_BUCKETS), _BUCKETS):
        groups: dict[int, list[str]] = {}
        for name in [*order, *names[fewer:buckets]]:
            groups.setdefault(hashes[name] % buckets, []).append(name)
        order = [name for group in reversed(groups.values()) for name in reversed(group)]
        if len(names) <= buckets:
            break
    return order
