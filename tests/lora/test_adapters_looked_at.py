"""Adapter files of llama.cpp under inspect and hexdump, and what is said where a model was meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggmlpy import open_model
from ggmlpy.files.errors import UnsupportedError
from ggmlpy.formats.ggla import open_ggla
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.look.hexdump import hexdump
from toolchain.commands.main import main
from toolchain.zoo.checkpoints import write_ggla_adapter


@pytest.fixture
def ggla(tmp_path: Path) -> Path:
    write_ggla_adapter(tmp_path / "adapter.bin")
    return tmp_path / "adapter.bin"


def test_the_dump_covers_every_byte(ggla: Path) -> None:
    lines = list(hexdump(ggla, fold=False))
    assert [line.path for line in lines[:4]] == [f"header.{name}" for name in ("magic", "version", "r", "alpha")]
    at = 0
    for line in lines:
        assert line.offset == at
        at += line.size
    assert at == ggla.stat().st_size


def test_values_lie_where_inspect_says(ggla: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(ggla), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    file = open_ggla(ggla)
    assert (summary["format"], summary["r"], summary["alpha"]) == ("ggla v1", file.r, file.alpha)
    data = ggla.read_bytes()
    for row in summary["tensors"]:
        assert data[row["offset"] : row["offset"] + row["bytes"]] == file.tensors[row["name"]].values.tobytes()
    assert main(["inspect", str(ggla), "--tensors"]) == 0
    assert f"LoRA adapter of rank {file.r}" in capsys.readouterr().out


KINDS = {
    "adapter": ("LoRA adapter for llama", "`generate -m MODEL --lora {}`"),
    "imatrix": ("importance matrix", "`quantize F16.gguf OUT.gguf Q4_K_M --imatrix {}`"),
    "mmproj": ("projector of images or sounds", "name the language model that it belongs to"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_gguf_file_that_is_no_model_says_what_it_is(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, (what, step) = tmp_path / "a.gguf", KINDS[kind]
    keys = {"general.architecture": Value("string", b"llama"), "general.type": Value("string", kind.encode())}
    write_gguf(path, keys, [])
    with pytest.raises(UnsupportedError, match=what) as caught:
        open_model(path)
    assert caught.value.next_step == step.format(path)
    assert main(["inspect", str(path), "--metadata"]) == 0
    assert what in capsys.readouterr().out
    assert main(["identify", str(path)]) == 0
    assert what in capsys.readouterr().out
