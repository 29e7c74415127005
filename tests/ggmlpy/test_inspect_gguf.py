"""inspect: keys of GGUF files, and files of architectures that nothing here computes."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cli
from ggmlpy import OutTensor, open_model, types_of
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.look.contents import metadata_rows
from ggmlpy.quantizers.migration import migrate
from tests.ggmlpy.models import write_tiny


@pytest.fixture
def foreign(tmp_path):
    f32 = types_of("gguf", 3)[0]
    keys = {
        "general.architecture": Value("string", b"gemma"),
        "gemma.block_count": Value("u32", 1),
        "gemma.pattern": Value("array", np.arange(9, dtype=np.int32), "i32"),
        "general.name": Value("string", b"a\x1b[31m name"),
    }
    tensor = OutTensor("blk.0.attn_qkv.weight", f32, (6, 32), lambda: [np.zeros((6, 32), "<f4")])
    write_gguf(tmp_path / "g.gguf", keys, [tensor])
    return tmp_path / "g.gguf"


def test_another_architecture_is_shown_as_it_stands(foreign, capsys):
    assert cli.main(["inspect", "-q", str(foreign), "--tensors", "--metadata"]) == 0
    shown = capsys.readouterr().out
    assert "architecture gemma" in shown
    assert "blk.0.attn_qkv.weight" in shown
    assert "gemma.pattern" in shown
    assert "(9 items)" in shown
    assert "\x1b" not in shown
    assert cli.main(["inspect", "-q", "--json", str(foreign)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["architecture"] == "gemma"
    assert summary["metadata"][2] == {
        "key": "gemma.pattern",
        "type": "array of i32",
        "length": 9,
        "value": [0, 1, 2, 3, 4],
    }


def test_other_architectures_are_compared(foreign, tmp_path, capsys):
    assert cli.main(["compare", "-q", str(foreign), str(foreign)]) == 0
    changed = foreign.read_bytes()[:-4] + np.float32(1).tobytes()
    (tmp_path / "other.gguf").write_bytes(
        changed.replace(b"gemma.block_count\x04\0\0\0\x01", b"gemma.block_count\x04\0\0\0\x02")
    )
    assert cli.main(["compare", "-q", str(foreign), str(tmp_path / "other.gguf")]) == 1
    shown = capsys.readouterr().out
    assert "gemma.block_count 1 and 2" in shown
    assert "blk.0.attn_qkv.weight" in shown


def test_the_keys_of_a_model_are_shown_when_asked_for(tmp_path, capsys):
    with open_model(write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16")) as model:
        migrate(model, tmp_path / "m.gguf", "gguf", 3)
    assert cli.main(["inspect", "-q", str(tmp_path / "m.gguf")]) == 0
    assert "llama.block_count" not in capsys.readouterr().out
    assert cli.main(["inspect", "-q", "--metadata", str(tmp_path / "m.gguf")]) == 0
    assert "llama.block_count" in capsys.readouterr().out


def test_arrays_of_arrays_are_counted():
    inner = Value("array", np.arange(3), "u8")
    rows = metadata_rows({"x": Value("array", [inner, inner], "array")})
    assert rows == [{"key": "x", "type": "array of array", "length": 2, "value": ["array of 3 u8"] * 2}]
