"""Reading NumPy's ``.npy`` and ``.npz`` files that come from outside: no pickles, no code, nothing on a header's word.

An array is::

    "\\x93NUMPY"  u8 major  u8 minor  u16 or u32 n  n bytes of text  data

where the text is a Python literal, ``{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }``, and the data are
exactly as many bytes as it implies. ``.npz`` is a zip of such files; :func:`numpy.savez` compresses none of them, so
what a reader gets is never larger than the file. ``numpy.load`` reads more (objects, structures, compressed archives)
and raises a dozen kinds of errors for damaged files; here they are one.

Source: numpy/lib/format.py (NEP 1), versions 1.0 to 3.0.
"""

from __future__ import annotations

import ast
import lzma
import math
import os
import struct
import warnings
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, IntegrityError, MissingFileError, TruncatedError, UnsupportedError

__all__ = ["MAGIC", "ZIP_TROUBLE", "parse_npy", "read_npz", "unreadable"]

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # characters, as numpy's own limit
MOST_DIMENSIONS = 32
KINDS = "biuf"  # bool, integers, floats

# What Python's zipfile raises for damaged archives.
ZIP_TROUBLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    struct.error,
    OverflowError,
    IndexError,
    OSError,
)


def read_npz(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an archive that :func:`numpy.savez` wrote, by name (without ``.npy``); read-only.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is not such an archive, or an array in it is damaged.
    """
    if not os.path.isfile(path):
        raise MissingFileError("no such file", path=path)
    try:
        with zipfile.ZipFile(path) as archive:
            records = [(info.filename, _content(path, archive, info)) for info in archive.infolist()]
    except ZIP_TROUBLE as error:
        raise IntegrityError("not an archive of arrays", path=path, found=str(error)[:80] or None) from error
    arrays = {name.removesuffix(".npy"): parse_npy(data, path, name) for name, data in records}
    if len(arrays) != len(records):
        raise IntegrityError("an array's name occurs twice", path=path)
    return arrays


def _content(path: str | os.PathLike[str], archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise UnsupportedError("arrays must be stored, not compressed", path=path, field=info.filename)
    return archive.read(info)


def parse_npy(data: bytes, path: str | os.PathLike[str], name: str | None = None) -> NDArray[Any]:
    """The array in the bytes of a ``.npy`` file; read-only.

    Arguments:
        path, name: the file, and the record in it, for messages.

    Raises:
        FormatError: it is not an array of numbers, or it is cut off.

    >>> import io
    >>> out = io.BytesIO(); np.save(out, np.arange(3, dtype="<u2"))
    >>> parse_npy(out.getvalue(), "x.npy")
    array([0, 1, 2], dtype=uint16)
    """
    wide = data[6:7] != b"\x01"
    start = 12 if wide else 10
    length = int.from_bytes(data[8:start], "little")
    if (
        data[:6] != MAGIC
        or data[6:7] not in (b"\x01", b"\x02", b"\x03")
        or length > min(LONGEST_HEADER, len(data) - start)
    ):
        raise IntegrityError("not an array that numpy saved", path=path, field=name, found=data[:8].hex(" "))
    dtype, order, shape = _checked_header(data[start : start + length], path, name)
    expected = math.prod(shape) * dtype.itemsize
    found = len(data) - start - length
    if found != expected:
        raise TruncatedError(
            "the array's data have another size than its header says",
            path=path, field=name, expected=f"{expected:,} bytes", found=f"{found:,}", cause="a damaged file",
        )  # fmt: skip
    return np.frombuffer(data, dtype, offset=start + length).reshape(shape, order=order)


def _checked_header(
    text: bytes, path: str | os.PathLike[str], name: str | None
) -> tuple[np.dtype[Any], Any, tuple[int, ...]]:
    """Type, order ("C" or "F") and shape."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in a damaged text
            record = ast.literal_eval(text.decode("utf-8").strip())
        shape, fortran = record["shape"], record["fortran_order"]
        if set(record) != {"descr", "fortran_order", "shape"} or type(fortran) is not bool:
            raise ValueError("other keys")
        if type(shape) is not tuple or len(shape) > MOST_DIMENSIONS:
            raise ValueError("shape is no tuple")
        if not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
            raise ValueError("shape holds no sizes")
        dtype = np.dtype(record["descr"]) if type(record["descr"]) is str else None
        if dtype is None or dtype.kind not in KINDS:
            raise ValueError("not a type of numbers")
    except (ValueError, SyntaxError, TypeError, KeyError, AttributeError, MemoryError, RecursionError) as error:
        raise IntegrityError(
            "the array's header is damaged",
            path=path,
            field=name,
            expected="descr, fortran_order and shape of an array of numbers",
            found=str(error)[:80],
        ) from error
    return dtype, "F" if fortran else "C", shape


def unreadable(path: str | os.PathLike[str], what: str, error: Exception) -> FormatError:
    """The refusal of a file whose arrays are whole and whose header makes no sense."""
    return FormatError(f"not {what}", path=path, found=f"{type(error).__name__}: {error}"[:120], cause="a damaged file")
