"""GGUF models in the transformer: the same logits as the file they came from; grouped heads; rope base; epsilon."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ggmlpy import TENSOR_TYPES, ModelParams, OutTensor, open_model, out_tensor, quantize_file, write_model
from ggmlpy.files.errors import FormatError, ShapeError, UsageError
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.look.check import problems_of
from ggmlpy.quantizers.migration import migrate
from llama_ref.arithmetic.model_keys import passed_over
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


@pytest.mark.parametrize("numerics", ["reference", "fast", "exact"])
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
    if numerics == "exact":
        with pytest.raises(UsageError, match="share heads of keys and values"):
            logits(grouped, "exact", era="2023-05-19")


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


def with_keys(source, target, keys=None, tensors=None):
    """``source``, a GGUF file, with further or other keys (None: without), and further tensors."""
    file = open_gguf(source)
    metadata = {**file.metadata, **(keys or {})}
    found = [
        OutTensor(name, tensor.type, tensor.shape, lambda tensor=tensor: [tensor.data])
        for name, tensor in file.tensors.items()
    ]
    write_gguf(target, {key: value for key, value in metadata.items() if value is not None}, [*found, *(tensors or [])])
    return target


@pytest.fixture
def gguf(tmp_path):
    source = write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16", hparams=HPARAMS)
    return rewritten(source, tmp_path / "a.gguf", HPARAMS)


@pytest.mark.parametrize("numerics", ["reference", "fast"])
@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"llama.rope.scale_linear": Value("f32", 4.0)}, {"llama.rope.scaling.factor": Value("f32", 4.0)}),
        ({}, {"llama.rope.scaling.type": Value("string", b"linear")}),
        ({}, {"llama.rope.scaling.type": Value("string", b"yarn")}),
        ({}, {"llama.rope.scaling.type": Value("string", b"none"), "llama.rope.scaling.factor": Value("f32", 4.0)}),
    ],
)
def test_two_ways_to_say_the_same_scaling(older, newer, numerics, gguf, tmp_path):
    first = logits(with_keys(gguf, tmp_path / "o.gguf", older), numerics)
    np.testing.assert_array_equal(first, logits(with_keys(gguf, tmp_path / "n.gguf", newer), numerics))
    assert np.array_equal(first, logits(gguf, numerics)) == (not older)


def test_half_precision_of_the_other_kind_runs_and_quantizes(gguf, tmp_path):
    file = open_gguf(gguf)
    bf16 = TENSOR_TYPES["bf16"]

    def halved(name, tensor):
        if len(tensor.shape) < 2:
            return OutTensor(name, tensor.type, tensor.shape, lambda: [tensor.data])
        upper = tensor.data.view("<f2").astype("<f4").view("<u4") >> 16
        return OutTensor(name, bf16, tensor.shape, lambda: [upper.astype("<u2")])

    tensors = [halved(name, tensor) for name, tensor in file.tensors.items()]
    keys = {**file.metadata, "general.file_type": Value("u32", 32)}
    write_gguf(tmp_path / "b.gguf", keys, tensors)
    np.testing.assert_allclose(logits(tmp_path / "b.gguf", "fast"), logits(tmp_path / "b.gguf"), atol=1e-3)
    quantize_file(tmp_path / "b.gguf", tmp_path / "q.gguf", "q8_0", era="2023-08-21")
    with open_model(tmp_path / "b.gguf") as before, open_model(tmp_path / "q.gguf") as after:
        for name, tensor in before.tensors.items():
            values = tensor.numpy()
            np.testing.assert_allclose(after.tensors[name].numpy(), values, atol=0.02 * np.abs(values).max())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.type", Value("string", b"dynamic")),
        ("llama.rope.scaling.type", Value("string", b"longrope")),
        ("llama.rope.dimension_count", Value("u32", 16)),
        ("llama.rope.freq_base", Value("f32", -1.0)),
        ("llama.rope.scaling.factor", Value("f32", -2.0)),
        ("llama.rope.scaling.factor", Value("string", b"4")),
        ("llama.attention.value_length", Value("u32", 16)),
        ("llama.attention.layer_norm_epsilon", Value("f32", 1e-5)),
        ("llama.expert_count", Value("u32", 8)),
        ("llama.use_parallel_residual", Value("bool", True)),
        ("llama.tensor_data_layout", Value("string", b"another")),
        ("llama.rope.scale", Value("f32", 4.0)),
        ("llama.something.new", Value("f32", 1.0)),
        ("rope.something", Value("f32", 1.0)),
        ("attention.something", Value("array", np.ones(3, np.float32), "f32")),
    ],
)
def test_what_the_arithmetic_does_not_do_is_refused_by_name(key, value, gguf, tmp_path):
    with pytest.raises(FormatError) as caught:
        logits(with_keys(gguf, tmp_path / "k.gguf", {key: value}))
    assert key in str(caught.value)


def test_a_sliding_window_is_passed_over_as_in_llama_cpp(gguf, tmp_path):
    windowed = with_keys(gguf, tmp_path / "k.gguf", {"llama.attention.sliding_window": Value("u32", 8)})
    np.testing.assert_array_equal(logits(windowed), logits(gguf))
    with open_model(windowed) as file, open_model(gguf) as plain:
        (note,) = passed_over(file, 16)
        assert note.startswith("the file says sliding_window 8; ")
        assert not [*passed_over(file, 8), *passed_over(plain, 16)]


def test_a_tensor_that_no_llama_has_is_refused(gguf, tmp_path):
    stranger = OutTensor("blk.0.attn_sinks.weight", TENSOR_TYPES["f32"], (32,), lambda: [np.ones(32, "<f4")])
    path = with_keys(gguf, tmp_path / "t.gguf", tensors=[stranger])
    with pytest.raises(FormatError, match=r"unknown tensor 'blk\.0\.attn_sinks\.weight'"):
        logits(path)


def test_a_bias_of_one_matrix_alone_is_fine_for_all_who_look(gguf, tmp_path):
    bias = OutTensor("blk.0.attn_v.bias", TENSOR_TYPES["f32"], (128,), lambda: [np.ones(128, "<f4")])
    path = with_keys(gguf, tmp_path / "t.gguf", tensors=[bias])
    assert not np.array_equal(logits(path), logits(gguf))
    with open_model(path) as model:
        assert list(problems_of(model)) == []
    short = OutTensor("blk.0.attn_v.bias", TENSOR_TYPES["f32"], (64,), lambda: [np.ones(64, "<f4")])
    with open_model(with_keys(gguf, tmp_path / "s.gguf", tensors=[short])) as model:
        assert "wrong shape" in str([*problems_of(model)])


def test_harmless_keys_change_nothing(gguf, tmp_path):
    keys = {
        "llama.vocab_size": Value("u32", 50),
        "llama.expert_count": Value("u32", 0),
        "llama.rope.scaling.finetuned": Value("bool", True),
        "llama.tensor_data_layout": Value("string", b"Meta AI original pth"),
        "llama.attention.value_length": Value("u32", 32),
        "general.license": Value("string", b"none"),
        "someone.else": Value("u32", 3),
    }
    np.testing.assert_array_equal(logits(with_keys(gguf, tmp_path / "k.gguf", keys)), logits(gguf))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"llama.rope.scaling.factor": Value("f32", 4.0)}, "rope scaling"),
        ({"llama.rope.freq_base": Value("f32", 1e6)}, "a rope base of 1e"),
        ({"llama.attention.layer_norm_rms_epsilon": Value("f32", 1e-5)}, "an epsilon of 1e-05"),
    ],
)
def test_exact_refuses_what_its_era_had_not(keys, words, gguf, tmp_path):
    path = with_keys(gguf, tmp_path / "k.gguf", keys)
    with pytest.raises(UsageError, match=words):
        logits(path, "exact", era="2023-05-19")
