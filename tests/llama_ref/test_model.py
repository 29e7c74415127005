"""The model around the arithmetic: what it refuses, what it keeps, and that the cache can be saved and rewound."""

from __future__ import annotations

import numpy as np
import pytest

import ggmlpy
from ggmlpy import out_tensor, write_model
from ggmlpy.files.errors import ShapeError, UsageError
from ggmlpy.formats.era_of_file import era_of_file
from llama_ref.text.model import Model
from tests.llama_ref.random_models import Shape, write_random_model

TOKENS = [1, 5, 9, 13, 17, 21]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("model") / "m.bin", Shape(n_layer=2), "f16")


@pytest.fixture(params=["reference", "exact"])
def model(request, path):
    with Model.from_file(path, numerics=request.param, n_ctx=16) as model:
        yield model


def test_logits_have_a_row_for_each_token(model):
    rows = model.evaluate(TOKENS, 0)
    assert rows.shape == (len(TOKENS), model.n_vocab) == (6, 61)
    assert rows.dtype == np.float32


def test_last_only_is_the_last_row(model):
    rows = model.evaluate(TOKENS, 0)
    np.testing.assert_allclose(model.evaluate(TOKENS, 0, last_only=True), rows[-1], rtol=1e-5, atol=1e-5)


def test_last_only_is_exact_in_exact_arithmetic(path):
    for build in ("scalar", "avx2"):
        with Model.from_file(path, numerics="exact", build=build, n_ctx=16) as model:
            rows = model.evaluate(TOKENS, 0)
            np.testing.assert_array_equal(model.evaluate(TOKENS, 0, last_only=True), rows[-1])


def test_rewinding_forgets_what_follows(model):
    first = model.evaluate(TOKENS[:4], 0)
    model.evaluate([40, 41, 42], 4)
    np.testing.assert_array_equal(model.evaluate(TOKENS[4:], 4), model.evaluate(TOKENS[4:], 4))
    np.testing.assert_array_equal(model.evaluate(TOKENS[:4], 0), first)


def test_a_saved_cache_continues_the_same_conversation(model, path):
    model.evaluate(TOKENS[:4], 0)
    state = model.cache.save()
    expected = model.evaluate(TOKENS[4:], 4)
    with Model.from_file(path, numerics=model.backend.name, n_ctx=32) as other:
        other.cache.restore(state)
        assert other.cache.length == 4
        np.testing.assert_array_equal(other.evaluate(TOKENS[4:], 4), expected)


def test_a_cache_of_another_model_is_refused(model, tmp_path):
    other = write_random_model(tmp_path / "m.bin", Shape(n_head=1, n_layer=2))
    with Model.from_file(other, numerics="reference") as second:
        second.evaluate([1], 0)
        with pytest.raises(UsageError, match="does not fit this model's"):
            model.cache.restore(second.cache.save())


@pytest.mark.parametrize(
    ("tokens", "n_past", "message"),
    [
        ([], 0, "give at least one token"),
        ([61], 0, "token 61 is outside the vocabulary of 61 tokens"),
        ([3, -1], 0, "token -1 is outside"),
        ([1], 1, "n_past is 1, but the cache holds 0 positions"),
        ([1] * 17, 0, r"0 \+ 17 tokens do not fit the context of 16"),
    ],
)
def test_what_cannot_be_evaluated(model, tokens, n_past, message):
    with pytest.raises(UsageError, match=message):
        model.evaluate(tokens, n_past)


def test_a_context_of_nothing_is_refused(path):
    with pytest.raises(UsageError, match="n_ctx must be at least 1"):
        Model.from_file(path, numerics="reference", n_ctx=0)


def test_a_missing_tensor_is_named(path, tmp_path):
    with ggmlpy.open_model(path) as file:
        kept = [out_tensor(t) for name, t in file.tensors.items() if name != "layers.1.ffn_norm.weight"]
        vocab = list(zip(file.vocab, file.vocab.scores.tolist(), strict=True))
        write_model(tmp_path / "m.bin", "ggjt", 1, file.hparams, vocab, kept)
    with pytest.raises(ShapeError, match=r"layers\.1\.ffn_norm\.weight"):
        Model.from_file(tmp_path / "m.bin", numerics="reference")


@pytest.mark.parametrize("era", sorted(ggmlpy.ERAS))
def test_the_era_of_a_file_is_found(era, tmp_path):
    kind = "q8_0" if era == "2023-04-30" else "q4_0"
    with ggmlpy.open_model(write_random_model(tmp_path / "m.bin", Shape(), kind, era)) as file:
        assert era_of_file(file).date == era
