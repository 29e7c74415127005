"""What llama.cpp's loader rejects, and what it lets pass: each has a message of ours that says more.

The golden ``rejects_small`` are the inputs that the real tools were run on; the others are made here in the same way.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ggmlpy import FormatError, ModelParams, open_model
from ggmlpy.files.errors import (
    BadMagicError,
    IntegrityError,
    ShapeError,
    TruncatedError,
    UnsupportedError,
    VocabularyError,
)
from ggmlpy.look.check import check_model, problems_of
from tests.ggmlpy.models import write_tiny


def rejected(path: Path, kind: type[FormatError], *words: str) -> FormatError:
    """Opening and checking ``path`` fails with this error, whose text holds all the words."""
    with pytest.raises(kind) as caught, open_model(path) as model:
        check_model(model)
    for word in (path.name, *words):
        assert word in str(caught.value)
    return caught.value


def patched(path: Path, offset: int, data: bytes) -> Path:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)
    return path


@pytest.fixture
def tiny(tmp_path) -> Path:
    return write_tiny(tmp_path / "tiny.bin")


def header_of(path: Path, name: str) -> int:
    with open_model(path) as model:
        return model.tensors[name].pieces[0].header


def test_another_magic(tiny):
    error = rejected(
        patched(tiny, 0, b"lmgh"),
        BadMagicError,
        "bad magic",
        "expected 0x67676d6c ggml, 0x67676d66 ggmf, 0x67676a74 ggjt, 0x46554747 gguf, found 0x68676d6c",
        "Next: `identify ",
    )
    assert (error.offset, error.field) == (0, "magic")


def test_the_magic_alone_makes_no_gguf(golden):
    rejected(golden("ggml/rejects_small/bad_magic_GGUF.bin"), FormatError, "metadata key '' occurs twice", "offset 66")


def test_an_empty_file(golden):
    rejected(golden("ggml/rejects_small/empty.bin"), TruncatedError, "the file is empty", "expected at least 4 bytes")


def test_no_tensors_is_no_crash(golden):
    rejected(
        golden("ggml/rejects_small/no_tensors.bin"), ShapeError, "no tensors", "vocabulary only", "expected 291 tensors"
    )


@pytest.mark.parametrize("name", ["ggmf.bin", "unversioned_ggml.bin", "n_layer_2.bin"])
def test_what_only_that_version_could_not_read_is_read(name, golden):
    with open_model(golden(f"ggml/rejects_small/{name}")) as model:
        assert list(problems_of(model)) == []


def test_an_unknown_version(tiny):
    error = rejected(patched(tiny, 4, struct.pack("<I", 9)), UnsupportedError, "unsupported format version 9 of ggjt")
    assert (error.offset, error.expected, error.found) == (4, "1 or 2 or 3", 9)


@pytest.mark.parametrize("value", [-1, 20, 99])
def test_a_bad_ftype(tiny, value):
    rejected(patched(tiny, 32, struct.pack("<i", value)), UnsupportedError, f"bad f16 value {value}", "offset 32")


def test_an_unknown_tensor(tiny):
    at = tiny.read_bytes().index(b"tok_embeddings")
    rejected(patched(tiny, at, b"x"), ShapeError, "unknown tensor 'xok_embeddings.weight' in model file")


def test_missing_tensors(tmp_path):
    path = write_tiny(tmp_path / "m.bin", change=lambda tensors: tensors[:-2])
    rejected(path, ShapeError, "not all tensors", "expected 12", "found 10", "layers.0.attention_norm.weight")


def test_a_wrong_shape(tiny):
    at = header_of(tiny, "layers.0.attention.wq.weight")
    error = rejected(patched(tiny, at + 12, struct.pack("<2i", 64, 16)), ShapeError, "wrong shape in the model file")
    assert (error.expected, error.found) == ("[32, 32] ([rows, columns], from the header)", [16, 64])


def test_a_vocabulary_that_is_not_the_embedding_s(tmp_path):
    """llama.cpp: 'wrong size in model file', at run time, without a number."""

    def grown(tensors):
        embedding = tensors[0]
        bigger = type(embedding)(embedding.name, embedding.type, (24, 32), lambda: [bytes(24 * 20)])
        return [bigger, *tensors[1:]]

    path = write_tiny(tmp_path / "m.bin", change=grown)
    rejected(path, VocabularyError, "has 24 rows, but the vocabulary has 20 entries", "tokenizer.model")


def test_an_unknown_tensor_type(tiny):
    at = header_of(tiny, "layers.0.attention.wq.weight")
    error = rejected(patched(tiny, at + 8, struct.pack("<i", 9)), UnsupportedError, "unknown tensor type 9")
    assert error.offset == at + 8


def test_a_type_that_is_not_the_header_s(tiny):
    """llama.cpp does not notice."""
    rejected(patched(tiny, 32, struct.pack("<i", 1)), ShapeError, "not of the type the header names", "expected f16")


def test_truncation_inside_the_last_tensor(tiny):
    """llama.cpp does not notice."""
    data = tiny.read_bytes()
    tiny.write_bytes(data[:-5])
    error = rejected(tiny, TruncatedError, "the file ends inside tensor 'layers.0.ffn_norm.weight'")
    assert str(len(data)) in str(error.expected).replace(",", "")


def test_truncation_in_the_middle(tiny):
    data = tiny.read_bytes()
    tiny.write_bytes(data[: len(data) // 2])
    rejected(tiny, TruncatedError, "the file ends inside tensor", "Likely cause: an interrupted download")


def test_truncation_inside_the_header_of_a_tensor(tiny):
    at = header_of(tiny, "layers.0.ffn_norm.weight")
    tiny.write_bytes(tiny.read_bytes()[: at + 20])
    rejected(tiny, TruncatedError, "the file ends inside a field")


def test_truncation_inside_the_vocabulary(tiny):
    tiny.write_bytes(tiny.read_bytes()[:200])
    rejected(tiny, TruncatedError, "the file ends inside the vocabulary")


def test_a_vocabulary_as_big_as_on_paper_only(tiny):
    error = rejected(
        patched(tiny, 8, struct.pack("<i", 2**31 - 1)), TruncatedError, "the file is too short for its vocabulary"
    )
    assert error.found == "2,147,483,647"


@pytest.mark.parametrize(("tail", "words"), [(b"x", "1 trailing bytes"), (bytes(16), "16 trailing bytes")])
def test_trailing_bytes(tiny, tail, words):
    """llama.cpp does not notice one byte, and calls sixteen zeros an unknown tensor ''."""
    size = tiny.stat().st_size
    tiny.write_bytes(tiny.read_bytes() + tail)
    error = rejected(tiny, IntegrityError, words, "after the last tensor")
    assert error.offset == size


def test_heads_that_do_not_divide_the_width(tmp_path):
    path = write_tiny(tmp_path / "m.bin", hparams=ModelParams.from_header(20, 32, 32, 3, 1, 16, 2))
    rejected(path, ShapeError, "width and heads do not fit together", "32 / 3")


def test_a_duplicate_tensor(tmp_path):
    path = write_tiny(tmp_path / "m.bin", change=lambda tensors: [*tensors, tensors[-1]])
    rejected(path, ShapeError, "'layers.0.ffn_norm.weight' occurs twice")


def test_a_missing_file(tmp_path):
    rejected(tmp_path / "none.bin", FormatError, "no such file")


def test_a_directory(tmp_path):
    rejected(tmp_path, FormatError, "is a directory", "`doctor ")


@pytest.mark.parametrize(
    ("start", "cause"),
    [
        (b"PK\x03\x04", "this is a zip"),
        (b"<!DOCTYPE html>", "this is a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer"),
        (bytes(64), "it begins with zeros"),
        (b"\x1f\x8b\x08\x00", "a gzip archive. Next: unpack it first"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7-Zip archive. Next: unpack it first"),
        (b"Rar!\x1a\x07\x01\x00", "a RAR archive. Next: unpack it first"),
        (b"ggml-model-q4_0.bin".ljust(257, b"\0") + b"ustar\x0000", "a tar archive. Next: unpack it first"),
        (b"\x0a\x0e\x0a\x05<unk>\x15", "a tokenizer, not a model"),
        (b"\x3d\x00\x00\x00\x00\x00\x00\x00" + b'{"a":', "a safetensors file"),
    ],
)
def test_files_of_other_programs_are_recognised(tmp_path, start, cause):
    path = tmp_path / "m.bin"
    path.write_bytes(start + bytes(64))
    rejected(path, BadMagicError, cause)


def test_leniency_keeps_what_can_be_read(tiny):
    tiny.write_bytes(tiny.read_bytes()[:-5])
    with open_model(tiny, strict=False) as model:
        assert len(model.tensors) == 11
        assert [type(problem) for problem in model.problems] == [TruncatedError]
