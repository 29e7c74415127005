"""Which arithmetic evaluates a model: identify says before what generate would find out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy import ModelParams, OutTensor, open_model, types_of, write_model
from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.tensor_names import expected_shapes
from ggmlpy.formats.tensor_types import TensorType
from llama_ref.arithmetic.choosing import NUMERICS, arithmetics_of
from llama_ref.text.model import Model
from tests.docs.blocks import run
from tests.ggmlpy.models import FTYPE_OF, write_tiny
from tests.llama_ref.test_every_key import every_key, model, probes  # noqa: F401 - a fixture
from tests.llama_ref.test_gguf_models import with_keys


def opens(path: Path, numerics: str) -> bool:
    try:
        Model.from_file(path, numerics=numerics).close()
    except (FormatError, UsageError):
        return False
    return True


def check_what_is_said(path: Path) -> dict[str, str]:
    """For each arithmetic: a model is made with it if and only if nothing was said against it."""
    with open_model(path) as file:
        reasons = arithmetics_of(file)
    assert list(reasons) == list(NUMERICS)
    for numerics, reason in reasons.items():
        assert opens(path, numerics) == (not reason), (numerics, reason)
    return reasons


@pytest.mark.parametrize("key", every_key())
def test_every_key_is_refused_before_as_it_is_when_text_is_made(key: str, model: Path, tmp_path: Path) -> None:  # noqa: F811
    for value in probes(key):
        changed = with_keys(model, tmp_path / "m.gguf", {key: value})
        try:
            reasons = check_what_is_said(changed)
        except FormatError:
            continue  # it is not opened at all
        for reason in filter(None, reasons.values()):
            assert "\n" not in reason


@given(kind=st.sampled_from(["f16", "f32"]), heads=st.integers(1, 6), head_dim=st.integers(1, 20))
def test_shapes_that_only_some_compute(
    kind: str, heads: int, head_dim: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hparams = ModelParams.from_header(20, heads * head_dim, 32, heads, 1, head_dim, FTYPE_OF[kind])
    check_what_is_said(write_tiny(tmp_path_factory.getbasetemp() / "odd.bin", "ggjt", 1, kind, hparams=hparams))


@pytest.mark.parametrize(
    ("keys", "words", "step"),
    [
        ({}, "evaluated   --numerics fast, reference, exact\n", "quantize"),
        (
            {"llama.expert_count": Value("u32", 8)},
            "evaluated   by nothing here: the key 'llama.expert_count' says how the model computes",
            "inspect",
        ),
        (
            {"llama.rope.scaling.type": Value("string", b"linear"), "llama.rope.scaling.factor": Value("f32", 2.0)},
            "evaluated   --numerics fast, reference; not exact: has rope scaling, which llama.cpp of 2023-08-21",
            "quantize",
        ),
        ({"llama.x\x1b[2Jy": Value("u32", 1)}, "by nothing here: the key 'llama.x\\x1b[2Jy' says how", "inspect"),
    ],
)
def test_identify_says_it(model: Path, tmp_path: Path, keys: dict, words: str, step: str) -> None:  # noqa: F811
    path = with_keys(model, tmp_path / "m.gguf", keys)
    code, said = run(["identify", str(path)])
    assert code == 0
    assert words in said
    assert f" {step} " in said.splitlines()[-1]
    code, said = run(["identify", "--json", str(path)])
    (found,) = json.loads(said)
    assert list(found["arithmetic"]) == list(NUMERICS)


def test_where_only_the_reference_computes_the_next_step_says_so(tmp_path: Path) -> None:
    hparams = ModelParams.from_header(20, 32, 8, 4, 1, 8, FTYPE_OF["q4_0"]).changed(n_head=1, n_head_kv=1, head_dim=8)
    path = write_tiny(tmp_path / "a.bin", "ggjt", 3, "q4_0", hparams=ModelParams.from_header(20, 32, 32, 4, 1, 8, 2))
    with open_model(path) as file:
        vocab = list(zip(file.vocab, file.vocab.scores.tolist(), strict=True))
        known = types_of("gguf", 3)
        write_model(tmp_path / "m.gguf", "gguf", 3, hparams, vocab, list(tensors_of(hparams, known[2])))
    reasons = check_what_is_said(tmp_path / "m.gguf")
    assert "multiple of 16" in reasons["fast"]
    assert reasons["reference"] == ""
    assert run(["identify", str(tmp_path / "m.gguf")])[1].rstrip().endswith("-p TEXT --numerics reference")


def tensors_of(hparams: ModelParams, kind: TensorType) -> Iterator[OutTensor]:
    """Tensors of zeros: the matrices quantized where their rows allow it."""
    known = types_of("gguf", 3)
    for name, shape in expected_shapes(hparams).items():
        record = kind if len(shape) == 2 and shape[-1] % kind.blck_size == 0 else known[0]
        data = np.zeros(int(np.prod(shape)) // record.blck_size * record.type_size, np.uint8)
        yield OutTensor(name, record, shape, lambda data=data: [data])
