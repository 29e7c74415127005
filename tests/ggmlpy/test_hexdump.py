"""The annotated dump covers each byte of a file exactly once, and says what stands there."""

from __future__ import annotations

import pytest

from ggmlpy import open_model
from ggmlpy.look.hexdump import hexdump
from ggmlpy.look.lines import matches
from ggmlpy.quantizers.migration import migrate
from tests.ggmlpy.models import write_tiny

CASES = [("ggml", 0, "q4_0"), ("ggmf", 1, "f16"), ("ggjt", 1, "q5_1"), ("ggjt", 3, "q8_0"), ("gguf", 3, "q4_0")]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}{case[1]}")
def file(request, tmp_path):
    container, version, type_name = request.param
    if container != "gguf":
        return write_tiny(tmp_path / "m.bin", container, version, type_name)
    with open_model(write_tiny(tmp_path / "m.bin", "ggjt", 3, type_name)) as model:
        migrate(model, tmp_path / "m.gguf", "gguf", 3)
    return tmp_path / "m.gguf"


def test_every_byte_is_told_once_and_in_order(file):
    end = 0
    for line in hexdump(file, fold=False):
        if ".data" in line.path and file.suffix == ".gguf":
            end += -end % 32  # GGUF aligns the data of each tensor
        assert line.offset == end
        assert line.data == file.read_bytes()[line.offset : line.offset + min(line.size, 16)]
        end += line.size
    assert end + -end % 32 >= file.stat().st_size >= end


def test_long_runs_are_folded_to_their_ends(golden):
    folded = [line.value for line in hexdump(golden("ggml/T1_quant_p2/T1.q4_0.bin")) if not line.size]
    assert folded == ["… 394 more vocabulary entries", "… 15 more tensors"]


def test_fields_are_found_by_name(golden):
    lines = list(hexdump(golden("ggml/T1_quant_p2/T1.q4_0.bin"), fold=False))
    assert [line.value for line in lines if matches(line, "n_vocab")] == ["400"]
    assert [line.value for line in lines if matches(line, "vocabulary[399]")] == ["1", "'8'", "-140.0"]
    assert [line.offset for line in lines if matches(line, "tensor[norm.weight].data")] == [19840]


def test_what_cannot_be_read_is_shown_as_such(tmp_path):
    path = write_tiny(tmp_path / "m.bin")
    path.write_bytes(path.read_bytes()[:-5])
    assert list(hexdump(path))[-1].path == "unread"
