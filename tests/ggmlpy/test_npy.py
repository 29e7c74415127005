"""Our strict reader of .npy and .npz: what numpy writes is read to the bit, everything else is refused in one way."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ggmlpy.files.errors import FormatError, IntegrityError, MissingFileError, TruncatedError, UnsupportedError
from ggmlpy.files.npy import parse_npy, read_npz

NUMBERS = st.sampled_from(["?", "i1", "<u2", ">i4", "<f2", "<f4", ">f8", "<u8"])


def saved(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def with_header(text: str, data: bytes = b"\0" * 8) -> bytes:
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode() + data


@given(arrays.arrays(NUMBERS.map(np.dtype), arrays.array_shapes(min_dims=0, min_side=0)), st.booleans())
def test_what_numpy_saves_is_read(array, fortran):
    array = np.asfortranarray(array) if fortran else array
    read = parse_npy(saved(array), "x.npy")
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()


@given(st.integers(0, 200), st.binary(max_size=3))
def test_any_damage_is_one_kind_of_error_or_an_array(at, junk):
    data = saved(np.arange(6, dtype="<i4").reshape(2, 3))
    with contextlib.suppress(FormatError):
        parse_npy(data[:at] + junk + data[at + len(junk) :], "x.npy")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': [2]}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': , 9), }",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,)}",
        "__import__('os').system('true')",
        "(" * 5000,
        "[1, 2",
        "",
    ],
)
def test_headers_that_are_refused(header):
    with pytest.raises(IntegrityError, match="the array's header is damaged"):
        parse_npy(with_header(header), "x.npy")


def test_nothing_is_allocated_on_a_headers_word():
    with pytest.raises(TruncatedError, match="another size than its header says"):
        parse_npy(with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}"), "x.npy")


def test_archives(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.float32(1.5))
    read = read_npz(tmp_path / "a.npz")
    assert sorted(read) == ["x", "y"]
    assert read["y"] == np.float32(1.5)
    np.savez_compressed(tmp_path / "b.npz", x=np.arange(3))
    with pytest.raises(UnsupportedError, match="stored, not compressed"):
        read_npz(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("x.npy", saved(np.arange(2)))
        archive.writestr("x", saved(np.arange(3)))
    with pytest.raises(IntegrityError, match="occurs twice"):
        read_npz(tmp_path / "c.npz")
    with pytest.raises(MissingFileError):
        read_npz(tmp_path / "d.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    for cut in range(0, len(whole), 7):
        (tmp_path / "e.npz").write_bytes(whole[:cut])
        with pytest.raises(FormatError):
            read_npz(tmp_path / "e.npz")
