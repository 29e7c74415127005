"""Files of the tensor types that only GGUF has: opened, looked at, compared, carried, as all others are."""

from __future__ import annotations

import numpy as np
import pytest

from ggmlpy import ModelParams, OutTensor, TensorType, open_model, types_of, write_model
from ggmlpy.formats.tensor_names import expected_shapes
from ggmlpy.look.check import problems_of
from ggmlpy.look.hexdump import hexdump
from ggmlpy.look.identify import identify
from ggmlpy.look.report import report_data
from ggmlpy.quantizers.migration import migrate
from ggmlpy.verify.compare import compare
from ggmlpy.verify.fingerprint import fingerprint
from tests.ggmlpy.models import FTYPE_OF, finite_blocks

LATER = [record for record in types_of("gguf", 3).values() if record.id > 14 and record.quantized]


def write_gguf_of(path, record: TensorType, seed: int = 0):
    """A whole model whose matrices are random blocks of a type."""
    rng, f32, tensors = np.random.default_rng(seed), types_of("gguf", 3)[0], []
    params = ModelParams(n_vocab=20, n_embd=256, n_layer=1, n_head=2, n_mult=256, ftype=FTYPE_OF[record.name])
    for name, shape in expected_shapes(params).items():
        kind = record if len(shape) == 2 else f32
        data = finite_blocks(rng, kind, shape)
        tensors.append(OutTensor(name, kind, shape, lambda data=data: [data]))
    write_model(path, "gguf", 3, params, [(bytes([65 + i]), -float(i)) for i in range(20)], tensors)
    return path


@pytest.fixture(params=LATER, ids=str)
def file(request, tmp_path):
    return write_gguf_of(tmp_path / f"{request.param}.gguf", request.param), request.param


def test_it_is_identified_and_has_no_problems(file):
    path, record = file
    assert record.name in "\n".join(map(str, identify(path).as_dict().values()))
    with open_model(path) as model:
        assert not list(problems_of(model))
        assert model.tensors["output.weight"].type == record


def test_the_dump_names_the_fields_of_a_block(file):
    path, record = file
    (line,) = [line for line in hexdump(path, fold=False) if line.path == "tensor[token_embd.weight].data"]
    assert line.value.endswith(f"bytes of {record.layout}")
    assert all(f"{field} " in line.doc for field in record.field_names)
    assert record.doc in line.doc


def test_the_report_shows_each_value_and_what_it_was_made_of(file):
    path, record = file
    (row,) = [row for row in report_data(path)["tensors"] if row["name"] == "output.weight"]
    assert sum(row["histogram"]) == 20 * 256
    assert len(row["histogram"]) == len(row["histogram_codes"])
    block = row["sample"][0]
    assert len(block["codes"]) == len(block["values"]) == record.blck_size
    if not record.levels and not record.grid:
        assert block["values"] == pytest.approx(
            [block["scales"]["d"] * (q - record.zero) for q in block["codes"]], rel=1e-6
        )


def test_copies_are_equal_and_other_values_are_found(file, tmp_path):
    path, record = file
    copy, other = tmp_path / "copy.gguf", write_gguf_of(tmp_path / "other.gguf", record, seed=1)
    with open_model(path) as model:
        migrate(model, copy, "gguf", 3)
    with open_model(path) as a, open_model(copy) as b, open_model(other) as c:
        assert not compare(a, b).differing
        assert fingerprint(a) == fingerprint(b) != fingerprint(c)
        (item,) = [item for item in compare(a, c).tensors if item.name == "output.weight"]
        assert item.a.values != item.b.values
