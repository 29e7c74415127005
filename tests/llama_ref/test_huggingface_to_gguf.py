"""Hugging Face directories to GGUF: the very files that llama.cpp's converter writes, and what is told beside them."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import FormatError, UsageError, VocabularyError
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.model_params import ModelParams, RopeScaling
from llama_ref.checkpoint.folder import Folder
from llama_ref.checkpoint.rope_freqs import llama3_divisors, llama3_scaling
from llama_ref.conversion.converting import plan_conversion, plan_vocabulary
from llama_ref.conversion.huggingface_to_gguf.model_card import card_of, general_metadata
from llama_ref.conversion.huggingface_to_gguf.model_names import NameParts, name_parts, size_label, title
from llama_ref.conversion.huggingface_to_gguf.shards import Splitting, parse_split_size
from llama_ref.conversion.huggingface_to_gguf.special_tokens import special_metadata
from tests.today import huggingface_directory

CASES = (
    *("Org-Tiny-7B-chat-v1.1", "added-both", "added-decoder", "added-json", "bf16-sharded", "bias"),
    *("codellama-theta1e6", "dynamic-new", "f32-bin", "f32-safe", "headdim32", "linear-old", "llama1-mha"),
    *("llama1-notok-config", "llama2-gqa", "llama3-bpe", "llama3-new", "llama3-old", "mistral-window16", "odd48"),
    *("qwen2", "qwen2-tied", "qwen3", "spm-both", "spm-json-added", "spm-json-only", "theta-float-new", "tied"),
    *("yarn-attn", "yarn-mscale", "yarn-new", "yarn-noorig", "yarn-old"),
)


SMALL = {
    "config.json": {
        **{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4},
        **{"num_hidden_layers": 2, "vocab_size": 8},
    },
    "generation_config.json": {},
    "tokenizer_config.json": {},
    "tokenizer.json": {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}},
}


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_that_of_llama_cpp(case, vectors, tmp_path):
    golden = json.loads((vectors / "today-models/gguf/manifest.json").read_text())["files"]
    model, pre = huggingface_directory(vectors, case, tmp_path / case)
    wanted = {record["outtype"]: record["sha256"] for record in golden.values() if record["case"] == case}
    for outtype, sha256 in wanted.items():
        with plan_conversion(model, tmp_path / "m.gguf", outtype=outtype, pre_tokenizer=pre) as plan:
            (path,) = plan.write()
            assert plan.files[path] == path.stat().st_size
        assert digest(path) == sha256, outtype


@pytest.mark.parametrize(
    ("changes", "sha256"),
    [
        ({"torch_dtype": "torch.bfloat16"}, "2f3e8f7f333df3d23c4ef0dd6ddf94a6dff68da18852d060a958af64bd9835dc"),
        ({"rope_scaling": {"type": "linear"}}, "2f3e8f7f333df3d23c4ef0dd6ddf94a6dff68da18852d060a958af64bd9835dc"),
        ({"initializer_range": 1}, "2f3e8f7f333df3d23c4ef0dd6ddf94a6dff68da18852d060a958af64bd9835dc"),
        ({"tie_word_embeddings": None}, "2f3e8f7f333df3d23c4ef0dd6ddf94a6dff68da18852d060a958af64bd9835dc"),
        (("model_type",), "2f3e8f7f333df3d23c4ef0dd6ddf94a6dff68da18852d060a958af64bd9835dc"),
        (
            ("model_type", "max_position_embeddings"),
            "e67996fd069cd974b88154ce689576a6f84c1a040fcfb0cb679052891d7bf5df",
        ),
        ({"rope_theta": None}, "61929b31e8d7b567da96a2b316b599719df69ac5e258363d0f4fbb773cc123fc"),
    ],
)
def test_what_transformers_refuses_is_taken_as_it_stands(changes, sha256, vectors, tmp_path):
    """Digests of files that llama.cpp's converter (llama-cpp-python 0.3.36, transformers 5.24) made of the same."""
    model, _ = huggingface_directory(vectors, "llama2-gqa", tmp_path / "llama2-gqa")
    config = json.loads((model / "config.json").read_text())
    for key in changes:
        config.pop(key, None)
    config |= changes if isinstance(changes, dict) else {}
    (model / "config.json").write_text(json.dumps(config))
    with plan_conversion(model, tmp_path / "m.gguf", outtype="f16") as plan:
        (path,) = plan.write()
    assert digest(path) == sha256


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("t8", Splitting(max_tensors=8)),
        ("s100k", Splitting(max_bytes=parse_split_size("100K"))),
        ("first", Splitting(max_tensors=10, tensors_in_first=False)),
    ],
)
def test_shards_are_those_of_llama_cpp(name, how, vectors, tmp_path):
    golden = json.loads((vectors / "today-models/split/manifest.json").read_text())["files"]
    model, _ = huggingface_directory(vectors, "llama2-gqa", tmp_path / "llama2-gqa")
    with plan_conversion(model, tmp_path / f"{name}.gguf", splitting=how) as plan:
        written = {path.name: digest(path) for path in plan.write()}
    assert written == {file: record["sha256"] for file, record in golden.items() if file.startswith(f"{name}-")}


@pytest.mark.parametrize("case", ["llama-7b", "codellama-32016"])
def test_vocabularies_are_those_of_llama_cpp(case, vectors, tokenizers, tmp_path):
    folder = shutil.copytree(vectors / "today-models/vocab" / case, tmp_path / case)
    shutil.copyfile(tokenizers / "llama.model", folder / "tokenizer.model")
    with plan_vocabulary(folder, tmp_path / "v.gguf") as plan:
        plan.write()
    golden = gzip.decompress((vectors / "today-models/vocab" / f"{case}.gguf.gz").read_bytes())
    assert (tmp_path / "v.gguf").read_bytes() == golden


def test_a_negative_id_is_refused_as_there(vectors, tmp_path):
    model, _ = huggingface_directory(vectors, "pad-minus1", tmp_path / "pad-minus1")
    with pytest.raises(VocabularyError, match=r"'pad' is negative.*remove pad_token_id from config\.json"):
        plan_conversion(model, tmp_path / "m.gguf")


def test_rules_for_words_that_nobody_knows_are_asked_for(vectors, tmp_path):
    model, _ = huggingface_directory(vectors, "qwen2", tmp_path / "qwen2")
    with pytest.raises(VocabularyError, match="--pre-tokenizer"):
        plan_conversion(model, tmp_path / "m.gguf")


def test_losses_are_told(vectors, tmp_path):
    said = {
        "mistral-window16": "sliding_window 16: readers of the file see all tokens",
        "yarn-mscale": "mscale",
        "dynamic-new": "readers of the file take the plain frequencies",
        "llama3-bpe": "several tokens that end a text (357, 360): it has 360, the tokenizer's",
        "spm-json-only": "",
    }
    for case, words in said.items():
        model, pre = huggingface_directory(vectors, case, tmp_path / case)
        with plan_conversion(model, tmp_path / "m.gguf", pre_tokenizer=pre) as plan:
            assert any(words in note for note in plan.notes) or not words, plan.notes


def test_options_of_other_conversions_are_refused(vectors, tmp_path):
    model, _ = huggingface_directory(vectors, "llama1-mha", tmp_path / "llama1-mha")
    for container, options, words in (
        ("gguf", {"guess_params": True}, "--guess-params is for GGML files"),
        ("ggjt1", {"splitting": Splitting(max_tensors=2)}, "are for GGUF files"),
        ("ggjt1", {"outtype": "bf16"}, "unknown outtype 'bf16': choose f16 or f32"),
        ("gguf", {"outtype": "q4_0"}, "choose f32, f16, q8_0, bf16 or auto"),
    ):
        with pytest.raises(UsageError, match=words):
            plan_conversion(model, tmp_path / "m", container=container, **options)


# ------------------------------------------------------------------------------------------------------------ names


def test_names_are_taken_apart_as_there(golden):
    record = json.loads(golden("today-models/names.json").read_text(encoding="utf-8"))
    for case in record["cases"]:
        found = name_parts(case["id"], case["total_params"])
        assert found == NameParts(*case["components"]), case
        assert case["title"] in (None, title(found.full))
    for total, label in record["size_labels"]:
        assert size_label(total) == label


CARD = """---
license: [mit, other]
language:
- en
- no
base_model:
- meta-llama/Llama-2-7b-hf
- https://huggingface.co/org/some-model-v2
\tmodel_creator: x
---
# Card
"""


def test_a_model_card(tmp_path):
    folder = tmp_path / "Llama-3.2-1B-Instruct"
    folder.mkdir()
    (folder / "config.json").write_text('{"_name_or_path": "./local/path/here"}')
    (folder / "README.md").write_text(CARD.replace("\tmodel_creator: x\n", "model_creator: x\n"))
    said = {key: value.value for key, value in general_metadata(Folder.of(folder), 1_235_814_400).items()}
    assert said == {
        "general.name": b"Llama 3.2 1B Instruct",
        "general.author": b"x",
        "general.finetune": b"Instruct",
        "general.basename": b"Llama-3.2",
        "general.size_label": b"1B",
        "general.license": b"mit,other",
        "general.base_model.count": 2,
        "general.base_model.0.name": b"Llama 2 7b Hf",
        "general.base_model.0.organization": b"Meta Llama",
        "general.base_model.0.repo_url": b"https://huggingface.co/meta-llama/Llama-2-7b-hf",
        "general.base_model.1.name": b"Some Model v2",
        "general.base_model.1.version": b"v2",
        "general.base_model.1.organization": b"Org",
        "general.base_model.1.repo_url": b"https://huggingface.co/org/some-model-v2",
        "general.tags": [],
        "general.languages": [b"en", b"no"],
    }


@pytest.mark.parametrize("text", ["", "# Card", "---\nname: x", "---\n- a\n---", "---\n{: [\n---", "---\n\0\n---"])
def test_a_card_that_says_nothing(text, tmp_path):
    (tmp_path / "README.md").write_text(text)
    assert card_of(Folder.of(tmp_path)) == {}


# ----------------------------------------------------------------------------------------------------- special tokens


def special_of(folder, **files):
    for name, record in files.items():
        (folder / f"{name}.json").write_text(json.dumps(record))
    return {key: value.value for key, value in special_metadata(Folder.of(folder), 100).items()}


def template(*parts):
    return [{"SpecialToken" if part.startswith("<") else "Sequence": {"id": part}} for part in parts]


def test_ids_of_the_tokenizer_come_before_those_of_the_model(tmp_path):
    said = special_of(
        tmp_path,
        tokenizer_config={"eos_token": "<e>", "pad_token": {"content": "<p>"}, "add_bos_token": True},
        tokenizer={"added_tokens": [{"content": "<e>", "id": 7}, {"content": "<p>", "id": 8}]},
        config={"bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 999, "pad_token_id": None},
    )
    assert list(said.items()) == [
        ("tokenizer.ggml.eos_token_id", 7),
        ("tokenizer.ggml.padding_token_id", 8),
        ("tokenizer.ggml.bos_token_id", 1),
        ("tokenizer.ggml.add_bos_token", True),
    ]


def test_what_is_put_around_a_text_decides(tmp_path):
    said = special_of(
        tmp_path,
        tokenizer_config={"bos_token": "<b>", "eos_token": "<old>", "add_bos_token": False},
        tokenizer={
            "added_tokens": [{"content": f"<{name}>", "id": i} for i, name in enumerate(("b", "old", "new"))],
            "post_processor": {
                "type": "Sequence",
                "processors": [
                    {"type": "ByteLevel"},
                    {
                        "type": "TemplateProcessing",
                        "single": template("<b>", "A", "<new>"),
                        "pair": template("<b>", "A", "<new>", "B", "<new>"),
                    },
                ],
            },
        },
        config={},
    )
    assert said == {
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_sep_token": False,
    }


# ------------------------------------------------------------------------------------------------------- rope_freqs


@pytest.mark.parametrize(("factor", "context"), [(8.0, 8192), (32.0, 8192), (8.0, 64), (4.0, 1024)])
def test_the_scaling_of_llama_3_comes_back_from_its_tensor(factor, context):
    scaling = RopeScaling(
        type="llama3", factor=factor, original_context=context, low_freq_factor=1.0, high_freq_factor=4.0
    )
    params = ModelParams(n_embd=512, n_layer=1, n_head=4, rope_theta=500000.0, rope_scaling=scaling)
    divisors = llama3_divisors(params)
    assert llama3_scaling(params, divisors) == scaling
    assert llama3_scaling(params, divisors + np.float32(0.01)) is None


# ---------------------------------------------------------------------------------------------------- hostile input

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        *(
            "added_tokens",
            "model",
            "post_processor",
            "decoder",
            "normalizer",
            "bos_token",
            "eos_token",
            "add_bos_token",
        ),
        *("added_tokens_decoder", "chat_template", "additional_special_tokens", "temperature", "top_k", "sequence"),
        *("max_position_embeddings", "rope_theta", "rope_scaling", "eos_token_id", "pad_token_id", "_name_or_path"),
    ]
)


@given(records=st.dictionaries(st.sampled_from(sorted(SMALL)), st.dictionaries(KEYS, JSON, max_size=4), max_size=3))
def test_whatever_the_small_files_say_ends_in_a_plan_or_in_an_error_of_ours(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for name, record in SMALL.items():
        (folder / name).write_text(json.dumps({**record, **records.get(name, {})}))
    try:
        with plan_vocabulary(folder, folder / "v.gguf", pre_tokenizer="qwen2") as plan:
            plan.write()
        open_gguf(folder / "v.gguf")
    except (FormatError, UsageError):
        pass


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "max_position_embeddings", 2**40),
        ("config.json", "max_position_embeddings", -1),
        ("config.json", "rope_theta", 1e300),
        ("config.json", "bos_token_id", 2**33),
        ("generation_config.json", "temperature", 1e300),
    ],
)
def test_a_number_without_a_place_is_refused(name, key, value, tmp_path):
    for file, record in SMALL.items():
        (tmp_path / file).write_text(json.dumps({**record, **({key: value} if file == name else {})}))
    with pytest.raises(FormatError, match=r"no place in GGUF|not a plausible value"):
        plan_vocabulary(tmp_path, tmp_path / "v.gguf", pre_tokenizer="qwen2")
