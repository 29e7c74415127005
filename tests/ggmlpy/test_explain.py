"""A byte of a file in words: the field, and in a tensor the values that it takes part in."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cli
from ggmlpy import dequantize, explain, open_model
from ggmlpy.files.errors import UsageError
from ggmlpy.formats.tensor_types import TENSOR_TYPES
from ggmlpy.look.explain import _affected

QUANTIZED = [record for record in TENSOR_TYPES.values() if record.quantized]


@pytest.fixture(scope="module")
def q4_0(data):
    return data / "ggml" / "T1_quant_p2" / "T1.q4_0.bin"


def test_a_field_of_the_header(q4_0):
    found = explain(q4_0, 9)
    assert (found.field.path, found.field.offset, found.place) == ("header.n_vocab", 8, None)
    assert found.byte == q4_0.read_bytes()[9]


@pytest.mark.parametrize("record", QUANTIZED, ids=lambda record: record.layout)
def test_every_byte_of_every_type_is_of_some_values(record):
    """All bytes of a block that a value can depend on, and no value that nothing says anything about."""
    raw = np.random.default_rng(1).integers(0, 256, record.type_size).astype(np.uint8)
    reached = [set(_affected(raw, byte, record)) for byte in range(record.type_size)]
    assert set().union(*reached) == set(range(record.blck_size))
    for field in record.scale_fields:
        if record.block[field].itemsize > 1:
            assert reached[record.offset(field) + 1] == set(range(record.blck_size))
    for part in record.codes:
        if not record.is_k_quant and not record.grid:
            assert 0 < len(reached[record.offset(part.field)]) <= max(1, 8 // part.width)


@pytest.mark.parametrize(("layout", "values"), [("q4_0-2023-03", (6, 7)), ("q4_0-2023-05", (3, 19))])
def test_what_shares_a_byte_is_as_the_eras_differ(layout, values):
    record = TENSOR_TYPES[layout]
    raw = np.arange(1, 1 + record.type_size, dtype=np.uint8)
    assert _affected(raw, record.offset("qs") + 3, record) == values


def test_values_are_those_of_the_file(q4_0):
    with open_model(q4_0) as model:
        tensor = model.tensors["layers.0.attention.wq.weight"]
        row = dequantize(np.array(tensor.raw_rows(2, 3)).view(tensor.type.block)[0], tensor.type).ravel()
        offset = tensor.offset + 2 * tensor.row_bytes + tensor.type.type_size + 7
    place = explain(q4_0, offset).place
    assert (place.row, place.block, place.byte, place.field) == (2, 1, 7, "qs")
    assert place.values == tuple(row[list(place.columns)].tolist())


def test_a_gguf(data, tmp_path):
    target = tmp_path / "m.gguf"
    source = data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin"
    assert cli.main(["migrate", "-q", str(source), str(target)]) == 0
    assert explain(target, 4).field.path == "header.version"
    place = explain(target, target.stat().st_size - 40).place
    assert place.type.name == "f32"
    assert len(place.values) == 1


def test_the_command_says_what_the_model_does_with_it(q4_0, capsys):
    with open_model(q4_0) as model:
        tensor = model.tensors["layers.1.attention.wk.weight"]
        offset = tensor.offset + 5 * tensor.row_bytes
    assert cli.main(["explain", str(q4_0), hex(offset)]) == 0
    said = capsys.readouterr().out
    assert "tensor[layers.1.attention.wk.weight].data" in said
    assert "layer 1: row 5 makes component 5 of head 0's key" in said
    assert cli.main(["explain", str(q4_0), str(offset), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["row"], record["block"], record["block_field"]) == (5, 0, "d")
    assert len(record["values"]) == 32


@pytest.mark.parametrize("offset", ["-1", "99999999999", "x", "1.5"])
def test_offsets_that_are_none(q4_0, offset, capsys):
    argument = [offset] if not offset.startswith("-") else ["--", offset]
    assert cli.main(["explain", str(q4_0), *argument]) == 2
    assert "offset" in capsys.readouterr().err


def test_an_offset_outside_the_file_is_wrong_usage(q4_0):
    with pytest.raises(UsageError, match="outside the file"):
        explain(q4_0, q4_0.stat().st_size)
