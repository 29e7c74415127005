"""Meta's own checkpoints of LLaMA 2 and 3: grouped heads, shards that cut rows of the embedding, ranks as tokenizer."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from ggmlpy.files.errors import VocabularyError
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.tensor_names import expected_shapes, shard_axis
from llama_ref.checkpoint import LazyTensor, open_checkpoint, write_pth
from llama_ref.conversion.checkpoints import plan_from_hf, plan_to_hf
from llama_ref.conversion.converting import plan_conversion
from llama_ref.vocabulary.byte_ranks import read_byte_ranks, special_tokens
from llama_ref.vocabulary.json_tokenizer import JsonTokenizer

WORDS = [b"th", b"the", b" t", b" the", b"er", b"in"]
RANKS = [*(bytes([i]) for i in range(256)), *WORDS]
N_VOCAB = len(RANKS) + 256
PARAMS = {"dim": 64, "n_layers": 1, "n_heads": 8, "n_kv_heads": 4, "multiple_of": 32, "ffn_dim_multiplier": 1.3}


def checkpoint(folder, *, rows: bool, shards: int = 4, **params):
    """A checkpoint in several shards; ``rows``: the embedding is cut as LLaMA 3's."""
    folder.mkdir()
    said = {**PARAMS, "norm_eps": 1e-5, "vocab_size": N_VOCAB, "rope_theta": 500000.0, **params}
    (folder / "params.json").write_text(json.dumps(said))
    shape = ModelParams(n_embd=64, n_layer=1, n_head=8, n_head_kv=4, n_mult=32, ffn_dim_multiplier=1.3, n_vocab=N_VOCAB)
    random, tensors = np.random.default_rng(7), {}
    for name, size in expected_shapes(shape).items():
        tensors[name] = random.standard_normal(size).astype(np.float16)
    for i in range(shards):
        parts = {}
        for name, values in tensors.items():
            axis = 0 if name.startswith("tok_") and rows else shard_axis(name)
            parts[name] = values if axis is None else np.array_split(values, shards, axis)[i]
        written = [LazyTensor.of_array(name, np.ascontiguousarray(part)) for name, part in parts.items()]
        write_pth(folder / f"consolidated.{i:02}.pth", written)
    return tensors


def ranks(folder, tokens=RANKS):
    lines = (b"%s %d\n" % (base64.b64encode(token), i) for i, token in enumerate(tokens))
    (folder / "tokenizer.model").write_bytes(b"".join(lines))


@pytest.mark.parametrize("rows", [False, True])
def test_shards_are_joined_as_they_were_cut(rows, tmp_path):
    tensors = checkpoint(tmp_path / "meta", rows=rows)
    with open_checkpoint(tmp_path / "meta") as found:
        for name, values in tensors.items():
            assert np.array_equal(found.tensors[name].numpy(), values), name


@pytest.mark.parametrize("outtype", ["f16", "q8_0", "auto"])
@pytest.mark.parametrize("later", [False, True])
def test_llama_3_goes_to_gguf_without_the_directory_between(later, outtype, tmp_path):
    checkpoint(tmp_path / "meta", rows=True, **({"use_scaled_rope": True} if later else {}))
    ranks(tmp_path / "meta")
    options = {"outtype": outtype, "pre_tokenizer": "llama-bpe"}
    with plan_conversion(tmp_path / "meta", tmp_path / "one.gguf", **options) as plan:
        (straight,) = plan.write()
        assert any("params.json does not say how long contexts were" in note for note in plan.notes)
    with plan_to_hf(tmp_path / "meta", tmp_path / "hf" / "meta") as plan:
        plan.write()
    with plan_conversion(tmp_path / "hf" / "meta", tmp_path / "two.gguf", **options) as plan:
        plan.write()
    assert straight.read_bytes() == (tmp_path / "two.gguf").read_bytes()


@pytest.mark.parametrize("later", [False, True])
def test_llama_3_goes_to_hugging_face_gguf_and_back(later, tmp_path):
    tensors = checkpoint(tmp_path / "meta", rows=True, **({"use_scaled_rope": True} if later else {}))
    ranks(tmp_path / "meta")
    with plan_to_hf(tmp_path / "meta", tmp_path / "hf") as plan:
        plan.write()
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert (config["num_key_value_heads"], config["bos_token_id"], config["eos_token_id"]) == (4, 262, 263)
    assert config.get("rope_scaling", {}).get("rope_type") == ("llama3" if later else None)
    assert config["max_position_embeddings"] == (131072 if later else 8192)
    tokenizer = JsonTokenizer(tmp_path / "hf")
    assert tokenizer.encode_first("the in") == [262, 257, 32, 261]
    assert ("<|eom_id|>" in tokenizer.texts) == later
    with plan_conversion(tmp_path / "hf", tmp_path / "m.gguf", pre_tokenizer="llama-bpe") as plan:
        plan.write()
        assert (plan.parts[0][0].name == "rope_freqs.weight") == later
    with plan_from_hf(tmp_path / "hf", tmp_path / "again", shards=4) as plan:
        plan.write()
    assert (tmp_path / "again/tokenizer.model").read_bytes() == (tmp_path / "meta/tokenizer.model").read_bytes()
    with open_checkpoint(tmp_path / "again") as found:
        for name, values in tensors.items():
            assert np.array_equal(found.tensors[name].numpy(), values), name


def test_special_tokens_of_the_published_models():
    first, later = special_tokens(256, False), special_tokens(256, True)
    assert (first[9], first[-1]) == ("<|eot_id|>", "<|reserved_special_token_250|>")
    assert (later[4], later[10], later[-1]) == (
        "<|finetune_right_pad_id|>", "<|python_tag|>", "<|reserved_special_token_247|>",
    )  # fmt: skip


@pytest.mark.parametrize("line", [b"!!! 0", b"IQ== 1", b"IQ==", b"IQ== x"])
def test_a_damaged_line_is_named(line, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(line + b"\n")
    with pytest.raises(VocabularyError, match="line 1"):
        read_byte_ranks(tmp_path / "tokenizer.model")


def test_ranks_of_another_model_are_refused(tmp_path):
    checkpoint(tmp_path / "meta", rows=True)
    ranks(tmp_path / "meta", [*RANKS, *(b"x%d" % i for i in range(250))])
    with pytest.raises(VocabularyError, match="the tokenizer is not that of the weights"):
        plan_to_hf(tmp_path / "meta", tmp_path / "hf")
