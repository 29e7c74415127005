"""Our safetensors reader and writer: the library's bytes, and a row of attacks."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load_file, save

from ggmlpy.files.errors import (
    BadMagicError,
    FormatError,
    IntegrityError,
    MissingFileError,
    OutputError,
    TruncatedError,
    UnsupportedError,
)
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.safetensors_file import SafetensorsFile, safetensors_size, write_safetensors

DTYPES = [np.dtype(n) for n in ["bool", "u1", "i1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<f8", "<i8", "<u8"]]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
)


@given(st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"), ARRAYS, max_size=6))
def test_our_bytes_are_the_librarys(tmp_path_factory, arrays):
    try:
        expected = save(arrays, {"format": "pt"})
    except UnicodeEncodeError:
        return  # a lone surrogate is no name
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    tensors = [LazyTensor.of_array(name, array) for name, array in arrays.items()]
    size = write_safetensors(path, tensors, {"format": "pt"})
    assert path.read_bytes() == expected
    assert size == safetensors_size(tensors, {"format": "pt"}) == len(expected)
    with SafetensorsFile(path) as file, safe_open(path, framework="numpy") as librarys:
        assert file.metadata == librarys.metadata() == {"format": "pt"}
        assert set(file) == set(librarys.keys()) == set(arrays)
        for name, array in arrays.items():
            assert file[name].numpy().tobytes() == librarys.get_tensor(name).tobytes() == array.tobytes()
            assert file[name].shape == array.shape
            if array.shape and array.size:  # of nothing the library cuts no slice
                half = array.shape[0] // 2
                assert file[name].rows(half, len(array)).tobytes() == librarys.get_slice(name)[half:].tobytes()


def test_golden_file_survives_reading_and_writing(data, tmp_path):
    golden = data / "merge" / "step1-hf-7b" / "hf_equivalent.safetensors"
    with SafetensorsFile(golden) as file:
        write_safetensors(tmp_path / "again", file.values(), file.metadata)
        for name, array in load_file(golden).items():
            assert np.array_equal(file[name].numpy(), array)
            assert np.array_equal(file[name].rows(3, 7), array[3:7])
    assert (tmp_path / "again").read_bytes() == golden.read_bytes()


def test_bfloat16_is_read_without_ml_dtypes(tmp_path):
    bits = np.array([[0x3F80, 0xC000], [0x7F80, 0x0001]], "<u2")
    tensor = LazyTensor("w", (2, 2), "bfloat16", lambda a, b: bits[a:b])
    write_safetensors(tmp_path / "x", [tensor])
    with SafetensorsFile(tmp_path / "x") as file:
        assert file["w"].dtype == "bfloat16"
        assert file["w"].numpy().tolist() == [[1.0, -2.0], [np.inf, 2.0**-133]]


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


ATTACKS = {
    "empty": (b"", TruncatedError, "too short"),
    "short": (b"\x01\x02", TruncatedError, "too short"),
    "zero header": (struct.pack("<Q", 0), BadMagicError, "not a safetensors file"),
    "giant header": (struct.pack("<Q", 1 << 63), BadMagicError, "not a safetensors file"),
    "pickle": (b"\x80\x02}q\x00." + b"\0" * 20, BadMagicError, "not a safetensors file"),
    "cut header": (raw({"a": entry()}, length=5000), TruncatedError, "within its header"),
    "no json": (raw(b"{nonsense"), IntegrityError, "not JSON"),
    "a list": (raw(b"[1, 2]"), IntegrityError, "not JSON"),
    "not utf-8": (raw(b'{"\xff": 1}'), IntegrityError, "not JSON"),
    "deep": (raw(b'{"a":' * 60000), IntegrityError, "not JSON"),
    "name twice": (raw(b'{"a":{},"a":{}}'), IntegrityError, "occurs twice"),
    "metadata numbers": (raw({"__metadata__": {"a": 1}}), IntegrityError, "__metadata__"),
    "metadata list": (raw({"__metadata__": []}), IntegrityError, "__metadata__"),
    "entry number": (raw({"a": 3}), IntegrityError, "entry of tensor 'a'"),
    "entry more": (raw({"a": {**entry(), "x": 1}}, b"\0" * 8), IntegrityError, "entry of tensor 'a'"),
    "float8": (raw({"a": entry("F8_E4M3", (8,))}, b"\0" * 8), UnsupportedError, "unsupported type"),
    "dtype list": (raw({"a": entry(["F32"])}, b"\0" * 8), UnsupportedError, "unsupported type"),
    "negative shape": (raw({"a": entry(shape=(-2,))}, b"\0" * 8), IntegrityError, "a shape"),
    "true shape": (raw({"a": entry(shape=(True, 2))}, b"\0" * 8), IntegrityError, "a shape"),
    "many axes": (raw({"a": entry(shape=(1,) * 9)}, b"\0" * 8), IntegrityError, "a shape"),
    "overflow": (raw({"a": entry(shape=(1 << 61, 1 << 61, 0, 2))}, b"\0" * 8), IntegrityError, "bytes for"),
    "wrong size": (raw({"a": entry(shape=(3,))}, b"\0" * 8), IntegrityError, "12 bytes"),
    "backwards": (raw({"a": entry(offsets=(8, 0))}, b"\0" * 8), IntegrityError, "bytes for"),
    "one offset": (raw({"a": entry(offsets=(0,))}, b"\0" * 8), IntegrityError, "two offsets"),
    "float offset": (raw({"a": entry(offsets=(0.0, 8.0))}, b"\0" * 8), IntegrityError, "two offsets"),
    "gap": (raw({"a": entry(offsets=(4, 12))}, b"\0" * 12), IntegrityError, "gap"),
    "overlap": (raw({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12), IntegrityError, "overlaps"),
    "cut data": (raw({"a": entry()}, b"\0" * 7), TruncatedError, "within the data"),
    "trailing": (raw({"a": entry()}, b"\0" * 9), IntegrityError, "behind the last tensor"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused_with_the_path(name, tmp_path):
    content, error, words = ATTACKS[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(error, match=words) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)


@given(st.integers(0, 400), st.integers(0, 255), st.integers(-3, 3))
def test_mutations_end_in_our_errors_or_a_read(tmp_path_factory, position, value, growth):
    content = bytearray(save({"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(4, "f2")}))
    content[position % len(content)] = value
    content = content[:growth] if growth < 0 else content + b"\0" * growth
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(content)
    try:
        with SafetensorsFile(path) as file:
            ours = {name: tensor.numpy() for name, tensor in file.items()}
    except FormatError:
        return
    assert all(array.nbytes <= len(content) * 2 for array in ours.values())
    assert {name: array.tobytes() for name, array in load_file(path).items()} == {
        name: array.tobytes() for name, array in ours.items()
    }  # what we accept, the library accepts and reads alike


def test_the_library_opens_what_is_written_before_it_takes_its_name(tmp_path, monkeypatch):
    path, tensors = tmp_path / "x.safetensors", [LazyTensor.of_array("a", np.zeros(2, "f4"))]
    monkeypatch.setattr("llama_ref.checkpoint.safetensors_file._header_bytes", lambda *_: raw({"b": entry()}))
    with pytest.raises(OutputError, match="cannot read what was written") as caught:
        write_safetensors(path, tensors)
    assert "['a', 'b']" in str(caught.value)
    monkeypatch.setattr("llama_ref.checkpoint.safetensors_file._header_bytes", lambda *_: raw({"a": entry("F16")}))
    with pytest.raises(OutputError, match="cannot read what was written"):
        write_safetensors(path, tensors)
    assert not any(tmp_path.iterdir())
    write_safetensors("/dev/null", tensors)


def test_a_file_cut_after_opening(tmp_path):
    path = tmp_path / "x"
    write_safetensors(path, [LazyTensor.of_array("a", np.zeros((100, 100), "f4"))])
    with SafetensorsFile(path) as file:
        with open(path, "r+b") as stream:
            stream.truncate(1000)
        with pytest.raises(TruncatedError, match="changed after it had been opened"):
            file["a"].numpy()


def test_no_such_file(tmp_path):
    with pytest.raises(MissingFileError, match="cannot be opened"):
        SafetensorsFile(tmp_path / "none")
