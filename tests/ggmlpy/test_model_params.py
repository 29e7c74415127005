"""The one description of a model: what is derived, what a GGUF file says, and names of sizes and vocabularies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ggmlpy import FormatError, ModelParams, open_model
from ggmlpy.formats.containers import HPARAMS
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.model_params import RopeScaling
from ggmlpy.formats.model_sizes import PUBLISHED_SIZES, describe_shape
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import expected_shapes
from ggmlpy.formats.vocabulary_names import KNOWN_VOCABULARIES, vocabulary_name
from ggmlpy.quantizers.migration import migrate
from tests.ggmlpy.models import write_tiny

SMALL = ModelParams(n_vocab=12, n_embd=64, n_layer=2, n_head=4, n_mult=32)


def test_the_header_is_the_declared_record() -> None:
    assert list(SMALL.header()) == [field.name for field in HPARAMS]
    assert ModelParams.from_header(**SMALL.header()) == SMALL


def test_what_is_derived_stays_with_replace_and_follows_with_changed() -> None:
    assert (SMALL.n_head_kv, SMALL.head_dim, SMALL.n_rot, SMALL.n_ff) == (4, 16, 16, 192)
    assert replace(SMALL, n_head=2).head_dim == 16
    assert SMALL.changed(n_head=2) == ModelParams(n_vocab=12, n_embd=64, n_layer=2, n_head=2, n_mult=32)
    assert SMALL.changed(n_mult=256).n_ff == 256
    assert SMALL.changed(n_ff=100, n_head_kv=2).n_ff == 100


@pytest.mark.parametrize("n_head", [0, -3])
def test_a_header_without_heads_can_be_described(n_head: int) -> None:
    params = ModelParams.from_header(12, 64, 32, n_head, 2, 16, 1)
    assert (params.head_dim, params.n_q, params.n_kv) == (0, 64, 64)


def test_shapes_of_grouped_and_of_wide_heads() -> None:
    shapes = expected_shapes(SMALL.changed(n_head_kv=2, head_dim=32))
    assert shapes["layers.1.attention.wq.weight"] == (128, 64)
    assert shapes["layers.1.attention.wk.weight"] == (64, 64)
    assert shapes["layers.1.attention.wo.weight"] == (64, 128)


def test_it_is_shown_by_what_is_particular() -> None:
    assert repr(SMALL) == "ModelParams(n_embd=64, n_layer=2, n_head=4, n_vocab=12, n_mult=32)"
    assert "n_head_kv=2" in repr(SMALL.changed(n_head_kv=2))
    assert eval(repr(SMALL)) == SMALL


def with_keys(tmp_path: Path, **values: Value) -> Path:
    """A GGUF file with further metadata; ``__`` in a name stands for a dot."""
    with open_model(write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16")) as model:
        migrate(model, tmp_path / "a.gguf", "gguf", 3)
    file = open_gguf(tmp_path / "a.gguf")
    tensors = [OutTensor(t.name, t.type, t.shape, lambda t=t: [t.data]) for t in file.tensors.values()]
    metadata = {**file.metadata, **{name.replace("__", "."): value for name, value in values.items()}}
    write_gguf(tmp_path / "b.gguf", metadata, tensors)
    return tmp_path / "b.gguf"


def test_a_gguf_file_is_read_to_its_last_key(tmp_path: Path) -> None:
    path = with_keys(
        tmp_path,
        llama__rope__scaling__type=Value("string", b"yarn"),
        llama__rope__scaling__factor=Value("f32", 4.0),
        llama__rope__scaling__original_context_length=Value("u32", 4096),
        llama__rope__scaling__yarn_beta_fast=Value("f32", 16.0),
        llama__attention__sliding_window=Value("u32", 77),
        general__url=Value("string", b"https://example.org"),
    )
    with open_model(path) as model:
        params = model.hparams
    assert params.rope_scaling == RopeScaling(type="yarn", factor=4.0, original_context=4096, beta_fast=16.0)
    assert (params.sliding_window, params.bos_id, params.eos_ids, params.unk_id) == (77, 1, (2,), 0)
    assert not params.tied_embeddings
    assert params.other["general.url"].text() == "https://example.org"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama__rope__scaling__type", Value("u32", 1)),
        ("llama__attention__key_length", Value("string", b"wide")),
        ("llama__attention__sliding_window", Value("f32", 0.5)),
    ],
)
def test_a_value_that_results_depend_on_must_be_of_its_type(key: str, value: Value, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=f"the metadata has no .* '{key.replace('__', '.')}'"):
        open_model(with_keys(tmp_path, **{key: value}))


def test_one_name_for_each_size_and_vocabulary() -> None:
    assert [describe_shape(size.n_embd, size.n_layer) for size in PUBLISHED_SIZES] == ["7B", "13B", "33B", "65B"]
    assert [vocabulary_name(known.size) for known in KNOWN_VOCABULARIES] == [
        "LLaMA (32000)",
        "Chinese-LLaMA (49953)",
        "Chinese-Alpaca (49954)",
        "Chinese-LLaMA-2 (55296)",
        "LLaMA-3 (128256)",
    ]
