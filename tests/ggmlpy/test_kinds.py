"""What a file is by its first bytes: one table, which agrees with the containers' own magics."""

import pytest

from ggmlpy.files.kinds import begins_as_json, is_ggml, kind_of, lookalike
from ggmlpy.formats.containers import CONTAINERS, GGUF


@pytest.mark.parametrize("container", [*CONTAINERS.values(), GGUF], ids=lambda container: container.name)
def test_every_container_is_a_ggml_file(container):
    assert is_ggml(container.magic.to_bytes(4, "little") + bytes(60))


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer"),
        (b"<!DOCTYPE html>", "page"),
        (b"\r\n <HTML>", "page"),
        (b'<?xml version="1.0"?>', "page"),
        (b"PK\x03\x04", "zip"),
        (b"\x10\0\0\0\0\0\0\0" + b'{"a":{}}', "safetensors"),
        (bytes(257) + b"ustar", "tar"),
        (bytes(16), "zeros"),
    ],
)
def test_kinds(first, name):
    kind = kind_of(first)
    assert kind is not None
    assert kind.name == name
    assert not is_ggml(first)
    assert lookalike(first, "d/x")[0] == kind.what


def test_what_nobody_knows():
    assert kind_of(b"") is kind_of(b"hello") is kind_of(b"{}") is None
    assert begins_as_json(b'\n {"a": 1}')
    assert not begins_as_json(b"[1]")
