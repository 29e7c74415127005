"""params.json and config.json: what is read, derived, and refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import FormatError, MissingFileError, ShapeError, UnsupportedError, UsageError
from ggmlpy.formats.model_params import META_LLAMA3, ModelParams, RopeScaling, find_n_mult, model_named
from ggmlpy.formats.model_sizes import PUBLISHED_SIZES
from llama_ref.checkpoint.params import (
    config_json,
    params_json,
    params_of_huggingface,
    params_of_meta,
    read_config_json,
    read_json,
    read_params_json,
)

GOOD = {"dim": 64, "multiple_of": 32, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-06, "vocab_size": -1}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-06,
    "vocab_size": 320,
}


def written(tmp_path, record, name="params.json"):
    path = tmp_path / name
    path.write_text(json.dumps(record) if not isinstance(record, str) else record)
    return path


def test_published_models():
    models = {size.name: model_named(size.name) for size in PUBLISHED_SIZES}
    assert {name: (p.n_ff, p.n_shards, p.published) for name, p in models.items()} == {
        "7B": (11008, 1, "7B"),
        "13B": (13824, 2, "13B"),
        "33B": (17920, 4, "33B"),
        "65B": (22016, 8, "65B"),
    }
    assert '"norm_eps": 1e-05' in params_json(models["65B"])
    assert model_named("30B") == models["33B"]
    assert [size.n_ff for size in PUBLISHED_SIZES] == [model.n_ff for model in models.values()]
    with pytest.raises(UsageError, match="published ones are 7B, 13B, 33B, 65B"):
        model_named("70B")


@given(st.integers(1, 512).map(lambda n: n * 8), st.integers(1, 512))
def test_a_multiple_is_found_for_every_width_that_one_gives(n_embd, n_mult):
    wanted = ModelParams(n_embd=n_embd, n_mult=n_mult, n_head=1, n_layer=1).n_ff
    found = find_n_mult(n_embd, wanted, (256, 128, 64, 32, wanted))
    assert ModelParams(n_embd=n_embd, n_mult=found, n_head=1, n_layer=1).n_ff == wanted


def test_golden_files(data):
    base = data / "merge" / "step1-hf-7b"
    params = read_params_json(base / "base" / "7B" / "params.json")
    assert params_json(params) == (base / "base" / "7B" / "params.json").read_text()
    config = read_config_json(base / "hf" / "config.json")
    assert (config.n_embd, config.n_ff, config.n_head, config.n_layer, config.n_vocab) == (64, 256, 4, 2, 320)
    assert config_json(params, 320) == json.loads((base / "hf" / "config.json").read_text())


def test_norm_eps_and_vocab_size_may_be_absent(tmp_path):
    record = {key: GOOD[key] for key in ("dim", "multiple_of", "n_heads", "n_layers")}
    assert read_params_json(written(tmp_path, record)) == ModelParams(
        n_embd=64, n_mult=32, n_head=4, n_layer=2, norm_eps=1e-6, n_vocab=-1
    )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"dim": None}, FormatError, "not a plausible size"),
        ({"dim": True}, FormatError, "not a plausible size"),
        ({"dim": 0}, FormatError, "not a plausible size"),
        ({"dim": 64.0}, FormatError, "not a plausible size"),
        ({"n_layers": 10**9}, FormatError, "not a plausible size"),
        ({"n_heads": 5}, ShapeError, "does not divide into heads"),
        ({"n_heads": 64}, ShapeError, "heads of an even size"),
        ({"norm_eps": "small"}, FormatError, "not a plausible epsilon"),
        ({"vocab_size": 0}, FormatError, "the tokenizer decides"),
        ({"n_kv_heads": 3}, ShapeError, "heads of queries and keys do not fit together"),
        ({"ffn_dim_multiplier": "wide"}, FormatError, "not a plausible multiplier"),
    ],
)
def test_implausible_params(change, error, words, tmp_path):
    path = written(tmp_path, {**GOOD, **change})
    with pytest.raises(error, match=words) as caught:
        read_params_json(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["dim", "multiple_of", "n_heads", "n_layers"])
def test_missing_keys_are_named(key, tmp_path):
    path = written(tmp_path, {k: v for k, v in GOOD.items() if k != key})
    with pytest.raises(FormatError, match=f"has no '{key}'"):
        read_params_json(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt_neox"}, "gpt_neox"),
        ({"hidden_act": "gelu"}, "gelu"),
    ],
)
def test_other_architectures_are_refused(change, words, tmp_path):
    path = written(tmp_path, {**CONFIG, **change}, "config.json")
    with pytest.raises(UnsupportedError, match=words) as caught:
        read_config_json(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "nan", '"x"', "<html>", "[" * 100_000, "\x00"])
def test_what_is_not_a_json_object(text, tmp_path):
    with pytest.raises(FormatError, match=r"is not JSON|is not a JSON object"):
        read_json(written(tmp_path, text))


def test_a_missing_or_giant_file(tmp_path):
    with pytest.raises(MissingFileError, match=r"copy params\.json"):
        read_json(tmp_path / "params.json")
    with open(tmp_path / "params.json", "wb") as stream:
        stream.truncate(1 << 25)
    with pytest.raises(FormatError, match="too large for a configuration"):
        read_json(tmp_path / "params.json")


# --------------------------------------------------------------------------------- what is carried for other families

SPOKEN = {
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "attention_bias": True,
    "tie_word_embeddings": True,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128009],
    "pad_token_id": -1,
    "torch_dtype": "bfloat16",
    "initializer_range": 0.02,
}
STRETCHED = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
    "unheard_of": 1,
}


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_a_config_is_read_to_its_last_key(spelling, tmp_path):
    theta = {"rope_theta": 500000.0}
    rope = {"rope_theta": 500000.0, "rope_scaling": STRETCHED}
    rope = rope if spelling == "rope_scaling" else {"rope_parameters": {**theta, **STRETCHED}}
    params = read_config_json(written(tmp_path, {**CONFIG, **SPOKEN, **rope}, "config.json"))
    assert params.rope_freq_base == 500000.0
    assert params.rope_scaling == RopeScaling(
        type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
    )
    assert params.rope_scaling.other == {"unheard_of": 1}
    assert (params.context_length, params.sliding_window) == (131072, 4096)
    assert (params.attention_bias, params.mlp_bias, params.tied_embeddings) == (True, False, True)
    assert (params.bos_id, params.eos_ids, params.unk_id, params.pad_id) == (128000, (128001, 128009), None, -1)
    assert (params.dtype, params.other) == ("bfloat16", {"initializer_range": 0.02})


def test_what_a_config_does_not_say_is_what_the_first_llama_did(tmp_path):
    params = read_config_json(written(tmp_path, CONFIG, "config.json"))
    assert (params.rope_theta, params.rope_freq_base, params.rope_scaling) == (None, 10000.0, None)
    assert (params.n_ctx_train, params.context_length, params.eos_ids) == (2048, 2048, ())
    assert (params.n_head_kv, params.head_dim, params.n_rot) == (4, 16, 16)


@pytest.mark.parametrize("value", ["wide", None, True, [], {}, 10**400])
@pytest.mark.parametrize("key", ["rope_theta", "rope_scaling", "max_position_embeddings", "eos_token_id"])
def test_a_carried_value_of_another_type_refuses_no_file(key, value, tmp_path):
    params = read_config_json(written(tmp_path, {**CONFIG, key: value}, "config.json"))
    assert (params.rope_freq_base, params.rope_scaling) == (10000.0, None)


def test_params_json_of_later_models_is_carried_too(tmp_path):
    record = {**GOOD, "rope_theta": 500000.0, "use_scaled_rope": True, "max_batch_size": 4}
    params = read_params_json(written(tmp_path, record))
    assert (params.rope_theta, params.rope_scaling) == (500000.0, META_LLAMA3)
    assert params.other == {"max_batch_size": 4}


@given(st.integers(1, 64), st.integers(1, 4096), st.booleans())
def test_any_feed_forward_width_can_be_said_in_params_json(heads, n_ff, grouped):
    n_embd = 16 * heads
    params = ModelParams(n_embd=n_embd, n_layer=1, n_head=heads, n_ff=n_ff, n_head_kv=1 if grouped else heads)
    again = params_of_meta(json.loads(params_json(params)), "params.json")
    assert (again.n_ff, again.n_head_kv) == (n_ff, params.n_head_kv)


@pytest.mark.parametrize(
    ("said", "n_head_kv", "n_ff"),
    [
        ({"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8}, 8, 28672),
        ({"dim": 4096, "multiple_of": 1024, "ffn_dim_multiplier": 1.3, "n_heads": 32, "n_kv_heads": 8}, 8, 14336),
        ({"dim": 2048, "multiple_of": 256, "ffn_dim_multiplier": 1.5, "n_heads": 32, "n_kv_heads": 8}, 8, 8192),
    ],
)
def test_published_checkpoints_of_llama_2_and_3(said, n_head_kv, n_ff):
    record = {**said, "n_layers": 1, "norm_eps": 1e-5, "vocab_size": -1}
    params = params_of_meta(record, "params.json")
    assert (params.n_head_kv, params.n_ff) == (n_head_kv, n_ff)
    assert json.loads(params_json(params)) == record


@pytest.mark.parametrize(
    ("model_type", "field", "value"),
    [
        ("llama", "n_ctx_train", 2048),
        ("mistral", "n_ctx_train", 131072),
        ("mistral", "sliding_window", 4096),
        ("qwen2", "sliding_window", None),
        ("qwen2", "attention_bias", True),
        ("qwen2", "wo_bias", False),
        ("qwen3", "head_dim", 128),
        ("qwen3", "qk_norm", True),
    ],
)
def test_what_a_config_leaves_out_is_what_transformers_takes(model_type, field, value):
    said = {"model_type": model_type, "num_key_value_heads": 2}
    assert getattr(params_of_huggingface({**CONFIG, **said}, "config.json"), field) == value
