"""``identify`` names other programs' files, describes any GGUF, and never sends back to itself."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ggmlpy.files.errors import FormatError
from llama_ref.checkpoint.layout import origin_of
from toolchain.look.identify import identify_any

GGML = 0x67676D6C
TEXT = b"".join(struct.pack("<I", 4) + b"word" for _ in range(40))
FILES = {
    "gpt-j": struct.pack("<I7ii", GGML, 300, 2048, 64, 4, 2, 16, 1, 300) + TEXT,
    "gpt-2": struct.pack("<I6ii", GGML, 300, 1024, 64, 4, 2, 1, 300) + TEXT,
    "gpt-neox": struct.pack("<I8i", GGML, 300, 2048, 64, 4, 2, 16, 1, 1) + TEXT,
    "mpt": struct.pack("<I5iffi", GGML, 4096, 2048, 32, 32, 50432, 8.0, 0.0, 1) + TEXT,
    "whisper": struct.pack("<I11i", GGML, 51864, 1500, 512, 8, 6, 448, 512, 8, 6, 80, 1) + TEXT,
    "prompt cache": struct.pack("<III5i", 0x6767736E, 1, 5, 1, 2, 3, 4, 5) + bytes(100),
    "llama2.c": struct.pack("<7i", 288, 768, 6, 6, 6, 32000, 256) + bytes(400),
    "llamafile": b"MZqFpD='\n\n\0\x10\0" + bytes(500),
}


@pytest.mark.parametrize("name", FILES)
def test_another_programs_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(FILES[name])
    found = identify_any(path)
    assert name in found.what.lower()
    assert "identify" not in found.next_step


def gguf(path: Path, **keys: object) -> Path:
    content = b""
    for key, value in keys.items():
        name = key.replace("__", ".").encode()
        content += struct.pack("<Q", len(name)) + name
        if isinstance(value, str):
            content += struct.pack("<IQ", 8, len(value)) + value.encode()
        else:
            content += struct.pack("<II", 4, value)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + content)
    return path


def test_any_gguf_is_described(tmp_path: Path) -> None:
    other = identify_any(gguf(tmp_path / "a.gguf", general__architecture="gemma", gemma__block_count=24))
    assert "gemma model" in other.what
    assert "gemma.block_count 24" in other.model
    lora = identify_any(gguf(tmp_path / "b.gguf", general__architecture="llama", general__type="adapter"))
    assert "LoRA adapter for llama" in lora.what
    matrix = identify_any(gguf(tmp_path / "c.gguf", general__architecture="llama", general__type="imatrix"))
    assert "importance matrix" in matrix.what


def test_a_part_of_a_split_model_under_another_name(tmp_path: Path) -> None:
    path = gguf(tmp_path / "whole.gguf", general__architecture="llama", split__no=0, split__count=2)
    assert "part 1 of 2 of a split model, renamed" in identify_any(path).what
    path.write_bytes(path.read_bytes() + bytes(4096))
    assert "joined behind it" in identify_any(path).what


def test_raw_pieces_are_to_be_joined(tmp_path: Path) -> None:
    (tmp_path / "x.gguf.part2of2").write_bytes(b"\1" * 99)
    found = identify_any(tmp_path / "x.gguf.part2of2")
    assert "raw piece 2 of 2" in found.what
    assert "cat x.gguf.part*" in found.next_step


def test_quantized_checkpoints_are_promised_to_no_command(tmp_path: Path) -> None:
    names = {"model.norm.weight": "f4", "model.layers.0.mlp.up_proj.qweight": "i4"}
    save_file({name: np.ones((8,), kind) for name, kind in names.items()}, tmp_path / "model.safetensors")
    found = identify_any(tmp_path / "model.safetensors")
    assert "quantized" in found.what
    assert "convert" not in found.readers + found.next_step


@pytest.mark.parametrize("content", [b"GGUF" + bytes(40), b"lmgg", b"\x01" * 100, b"{}", b""])
def test_identify_never_sends_back_to_itself(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(FormatError) as caught:
        identify_any(tmp_path / "x.bin")
    assert "`identify " not in str(caught.value.next_step)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("model.layers.0.mlp.up_proj.qweight", "GPTQ"),
        ("base_model.model.lm_head.base_layer.weight", "PEFT"),
        ("model.layers.0.mlp.up_proj.scale", "more than the weights"),
        ("transformer.h.0.attn.c_attn.weight", "another architecture"),
    ],
)
def test_the_origin_of_unknown_tensors(key: str, words: str) -> None:
    assert words in origin_of([key])
