"""GGUF models in the transformer: the same logits as the file they came from; grouped heads; rope base; epsilon."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ggmlpy import ModelParams, OutTensor, open_model, out_tensor, write_model
from ggmlpy.files.errors import ShapeError
from ggmlpy.quantizers.migration import migrate
from llama_ref.text.model import Model
from tests.ggmlpy.models import write_tiny

HPARAMS = ModelParams.from_header(50, 128, 32, 4, 2, 32, 1)
TOKENS = [1, 7, 33, 12, 8, 49, 3]


def logits(path, numerics="reference", **options):
    with Model.from_file(path, numerics=numerics, n_ctx=16, **options) as model:
        return model.evaluate(TOKENS, 0)


def rewritten(source, target, hparams, change=None):
    """``source`` as GGUF with other numbers; ``change`` edits a tensor's rows."""
    with open_model(source) as model:
        tensors = [change(tensor) if change else out_tensor(tensor) for tensor in model.tensors.values()]
        vocab = list(zip(model.vocab, model.vocab.scores.tolist(), strict=True))
        write_model(target, "gguf", 3, hparams, vocab, tensors)
    return target


@pytest.mark.parametrize("numerics", ["reference", "fast", "exact"])
def test_a_gguf_file_computes_as_the_file_it_came_from(numerics, tmp_path):
    source = write_tiny(
        tmp_path / "a.bin", "ggjt", 3, "q4_0", hparams=ModelParams.from_header(50, 128, 32, 4, 2, 32, 2)
    )
    with open_model(source) as model:
        migrate(model, tmp_path / "a.gguf", "gguf", 3)
    np.testing.assert_array_equal(logits(source, numerics), logits(tmp_path / "a.gguf", numerics))


@pytest.mark.parametrize("numerics", ["reference", "fast"])
@pytest.mark.parametrize("n_head_kv", [1, 2])
def test_grouped_heads_are_heads_that_happen_to_be_equal(numerics, n_head_kv, tmp_path):
    source = write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16", hparams=HPARAMS)
    rows = 32 * n_head_kv

    def few(tensor):
        if not tensor.name.endswith(("wk.weight", "wv.weight")):
            return out_tensor(tensor)
        data = tensor.raw_rows(0, rows)
        return OutTensor(tensor.name, tensor.type, (rows, 128), lambda: [data])

    def many(tensor):
        if not tensor.name.endswith(("wk.weight", "wv.weight")):
            return out_tensor(tensor)
        heads = tensor.raw_rows(0, rows).reshape(n_head_kv, -1)
        data = np.repeat(heads, 4 // n_head_kv, axis=0)
        return OutTensor(tensor.name, tensor.type, (128, 128), lambda: [data])

    grouped = rewritten(source, tmp_path / "g.gguf", HPARAMS.changed(n_head_kv=n_head_kv), few)
    spelt_out = rewritten(source, tmp_path / "s.gguf", HPARAMS, many)
    np.testing.assert_array_equal(logits(grouped, numerics), logits(spelt_out, numerics))


@pytest.mark.parametrize("numerics", ["reference", "fast"])
def test_rope_base_and_epsilon_come_from_the_file(numerics, tmp_path):
    source = write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16", hparams=HPARAMS)
    usual = logits(
        rewritten(source, tmp_path / "u.gguf", replace(HPARAMS, rope_theta=10000.0, norm_eps=1e-6)), numerics
    )
    np.testing.assert_array_equal(usual, logits(source, numerics))
    for changes in ({"rope_theta": 500.0, "norm_eps": 1e-6}, {"rope_theta": 10000.0, "norm_eps": 0.5}):
        other = rewritten(source, tmp_path / "o.gguf", replace(HPARAMS, **changes))
        assert np.abs(logits(other, numerics) - usual).max() > 1e-2
        np.testing.assert_allclose(logits(other, numerics), logits(other), atol=0.05)


def test_heads_that_cannot_be_shared_are_refused(tmp_path):
    source = write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16", hparams=HPARAMS)

    def three(tensor):
        if not tensor.name.endswith(("wk.weight", "wv.weight")):
            return out_tensor(tensor)
        return OutTensor(tensor.name, tensor.type, (96, 128), lambda: [tensor.raw_rows(0, 96)])

    path = rewritten(source, tmp_path / "t.gguf", HPARAMS.changed(n_head_kv=3), three)
    with pytest.raises(ShapeError, match=r"head_count_kv, expected a divisor of 4, found 3"):
        logits(path)


def test_llama_cpp_of_today_continues_as_we_do(golden, tmp_path):
    """The Python binding of llama.cpp loads our GGUF and takes the same tokens, each the likeliest."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="the PyPI package llama-cpp-python is not installed")
    with open_model(golden("ggml/T1_convert_f16/T1.p2.f16.bin")) as model:
        migrate(model, tmp_path / "m.gguf", "gguf", 3)
    theirs = llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=64, n_threads=1, logits_all=True, verbose=True)
    with Model.from_file(tmp_path / "m.gguf", numerics="reference", n_ctx=64) as ours:
        tokens = theirs.tokenize(b"Hello World", add_bos=True)
        theirs.eval(tokens)
        logits = ours.evaluate(tokens, 0, last_only=True)
        for n_past in range(len(tokens), len(tokens) + 20):
            likeliest = int(np.argmax(logits))
            assert int(np.argmax(theirs.scores[theirs.n_tokens - 1])) == likeliest
            theirs.eval([likeliest])
            logits = ours.evaluate([likeliest], n_past, last_only=True)
