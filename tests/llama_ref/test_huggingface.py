"""Hugging Face's layout: the real scripts' bytes, both ways, and what must be refused."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from ggmlpy import open_model
from ggmlpy.files.errors import (
    DiskSpaceError,
    FormatError,
    MissingFileError,
    OutputError,
    ShapeError,
    UsageError,
    VocabularyError,
)
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.verify.fingerprint import fingerprint
from llama_ref.checkpoint import LazyTensor, open_checkpoint, open_pth, write_pth
from llama_ref.checkpoint.folder import Folder
from llama_ref.checkpoint.params import read_params_json
from llama_ref.checkpoint.safetensors_file import SafetensorsFile, open_safetensors, write_safetensors
from llama_ref.checkpoint.weights import write_weights
from llama_ref.conversion.checkpoints import parse_size, plan_from_hf, plan_to_hf
from llama_ref.conversion.converting import plan_conversion
from llama_ref.conversion.tokenizer_json import tokenizer_json
from tests.today import huggingface_directory
from toolchain.verify.fingerprint import fingerprint_checkpoint


@pytest.fixture
def golden(data):
    """What convert_llama_weights_to_hf.py of transformers 4.28.1 wrote, and its input."""
    return data / "merge" / "step1-hf-7b"


def run(planner, source, target, **options):
    with planner(source, target, **options) as plan:
        return plan.write(), plan.notes


def tensors_of(directory):
    with open_checkpoint(directory) as model:
        return {name: (t.dtype, t.shape, t.numpy().tobytes()) for name, t in model.tensors.items()}


# ------------------------------------------------------------------------------------------------------------- to-hf


def test_every_file_of_the_real_script(golden, tmp_path):
    run(plan_to_hf, golden / "base" / "7B", tmp_path / "hf", weights="bin")
    real = {path.name: path.read_bytes() for path in (golden / "hf").iterdir()}
    ours = {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()}
    assert sorted(ours) == sorted(real)
    for name, content in real.items():
        assert ours[name] == content, name


def test_safetensors_of_the_same_model(golden, tmp_path):
    run(plan_to_hf, golden / "base" / "7B", tmp_path / "hf")
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == (golden / "hf_equivalent.safetensors").read_bytes()


def test_the_real_output_is_read_as_the_same_model(golden):
    assert tensors_of(golden / "hf") == tensors_of(golden / "base" / "7B")
    with open_checkpoint(golden / "hf") as model:
        assert model.layout == "huggingface"
        assert model.original_names["layers.0.attention.wq.weight"] == "model.layers.0.self_attn.q_proj.weight"
        assert model.params.n_vocab == model.n_vocab == 320


def test_inv_freq_is_an_option(golden, tmp_path):
    source = golden / "base" / "7B"
    run(plan_to_hf, source, tmp_path / "with", inv_freq=True)
    run(plan_to_hf, source, tmp_path / "without", weights="bin", inv_freq=False)
    with (
        SafetensorsFile(tmp_path / "with" / "model.safetensors") as file,
        open_pth(golden / "hf" / "pytorch_model.bin") as real,
    ):
        name = "model.layers.1.self_attn.rotary_emb.inv_freq"
        assert file[name].numpy().tobytes() == real[name].numpy().tobytes()
    with open_pth(tmp_path / "without" / "pytorch_model.bin") as file:
        assert not any("inv_freq" in name for name in file)


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_parts_with_an_index(weights, golden, tmp_path):
    run(plan_to_hf, golden / "base" / "7B", tmp_path / "hf", weights=weights, shard_size="100KB")
    suffix = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[weights]
    index = json.loads((tmp_path / "hf" / f"{suffix}.index.json").read_text())
    files = Folder.of(tmp_path / "hf").parts
    assert sorted(set(index["weight_map"].values())) == [path.name for path in files]
    assert len(files) == 4
    assert all(path.stat().st_size < 110_000 for path in files)
    expected = sum(len(content) for _, _, content in tensors_of(golden / "base" / "7B").values())
    assert index["metadata"]["total_size"] == expected + (64 if weights == "bin" else 0)
    assert tensors_of(tmp_path / "hf") == tensors_of(golden / "base" / "7B")


def test_one_tensor_larger_than_the_limit_gets_a_file_of_its_own(golden, tmp_path):
    run(plan_to_hf, golden / "base" / "7B", tmp_path / "hf", shard_size=1000)
    assert tensors_of(tmp_path / "hf") == tensors_of(golden / "base" / "7B")


def test_another_type(golden, tmp_path):
    run(plan_to_hf, golden / "base" / "7B", tmp_path / "hf", dtype="float32")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["torch_dtype"] == "float32"
    run(plan_from_hf, tmp_path / "hf", tmp_path / "meta", dtype="float16")
    assert tensors_of(tmp_path / "meta") == tensors_of(golden / "base" / "7B")
    with pytest.raises(UsageError, match="choose float16 or float32"):
        plan_to_hf(golden / "base" / "7B", tmp_path / "x", dtype="int8")


def test_grown_tokenizers_have_no_tokenizer_json(data, tmp_path):
    _, notes = run(plan_to_hf, data / "merge" / "v11-llama" / "out", tmp_path / "hf")
    assert any("no tokenizer.json" in note for note in notes)
    assert not (tmp_path / "hf" / "tokenizer.json").exists()


def test_tokenizer_json_of_the_real_tokenizer(tokenizers):
    document = json.loads(tokenizer_json(tokenizers / "llama.model"))
    assert len(document["model"]["vocab"]) == 32000
    assert len(document["model"]["merges"]) == 61249
    assert document["model"]["merges"][:2] == ["▁ t", "e r"]


# ------------------------------------------------------------------------------------------------- from-hf, and round


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_round_trip_leaves_every_tensor_as_it_is(shards, data, tmp_path):
    source = data / "ggml" / "T3_input"
    run(plan_to_hf, source, tmp_path / "hf")
    params = read_params_json(source / "params.json")
    run(plan_from_hf, tmp_path / "hf", tmp_path / "meta", shards=shards, params=params)
    assert tensors_of(tmp_path / "meta") == tensors_of(source)
    assert (tmp_path / "meta" / "params.json").read_text() == (source / "params.json").read_text()
    assert (tmp_path / "meta" / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
    if shards == 2:  # the same shards as the original's, tensor by tensor
        for name in ("consolidated.00.pth", "consolidated.01.pth"):
            with open_pth(tmp_path / "meta" / name) as ours, open_pth(source / name) as original:
                assert all(ours[n].numpy().tobytes() == original[n].numpy().tobytes() for n in ours)


def test_uneven_vocabulary_gives_the_rest_to_the_last_shard(data, tmp_path):
    source = data / "merge" / "two-shard-13b" / "out"
    run(plan_to_hf, source, tmp_path / "hf")
    run(plan_from_hf, tmp_path / "hf", tmp_path / "meta", shards=2)
    for name in ("consolidated.00.pth", "consolidated.01.pth"):
        with open_pth(tmp_path / "meta" / name) as ours, open_pth(source / name) as real:
            assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in real.items()}
            assert all(ours[n].numpy().tobytes() == real[n].numpy().tobytes() for n in ours)


def test_other_parameters_than_the_models_are_refused(golden, tmp_path):
    with pytest.raises(UsageError, match="are not those of"):
        plan_from_hf(golden / "hf", tmp_path / "x", params=ModelParams(n_embd=4096, n_mult=256, n_head=32, n_layer=32))
    with pytest.raises(UsageError, match="0 shards: choose 1 to 4"):
        plan_from_hf(golden / "hf", tmp_path / "x", shards=0)
    with pytest.raises(UsageError, match="9 shards"):
        plan_from_hf(golden / "hf", tmp_path / "x", shards=9)


def test_one_fingerprint_for_all_layouts(data, tmp_path):
    source = data / "ggml" / "T3_input"
    run(plan_to_hf, source, tmp_path / "hf", weights="bin")
    run(plan_to_hf, source, tmp_path / "st", shard_size="100KB")
    run(plan_from_hf, tmp_path / "st", tmp_path / "meta", shards=4)
    with plan_conversion(source, tmp_path / "x.bin", container="ggml") as plan:
        plan.write()
    prints = set()
    for directory in (source, tmp_path / "hf", tmp_path / "st", tmp_path / "meta"):
        with open_checkpoint(directory) as model:
            prints.add(fingerprint_checkpoint(model))
    with open_model(tmp_path / "x.bin") as file:
        prints.add(fingerprint(file))
    assert len(prints) == 1


def test_one_changed_bit_changes_the_fingerprint(data, tmp_path):
    source = shutil.copytree(data / "ggml" / "T1_input", tmp_path / "7B")
    with open_checkpoint(source) as model:
        before = fingerprint_checkpoint(model)
        arrays = {name: tensor.numpy().copy() for name, tensor in model.tensors.items()}
    arrays["norm.weight"].view("u2")[3] ^= 1
    write_pth(source / "consolidated.00.pth", [LazyTensor.of_array(n, a) for n, a in arrays.items()])
    with open_checkpoint(source) as model:
        assert fingerprint_checkpoint(model) != before


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def hf(golden, tmp_path):
    """A writable copy in four parts."""
    run(plan_to_hf, golden / "base" / "7B", tmp_path / "hf", shard_size="100KB")
    return tmp_path / "hf"


def test_a_missing_part_is_named(hf):
    (hf / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"model-00002-of-00004\.safetensors missing"):
        open_checkpoint(hf)
    (hf / "model.safetensors.index.json").unlink()
    with pytest.raises(MissingFileError, match="by the numbers in their names"):
        open_checkpoint(hf)


def test_parts_without_an_index_are_read(hf, golden):
    (hf / "model.safetensors.index.json").unlink()
    assert tensors_of(hf) == tensors_of(golden / "hf")


def test_parts_of_two_downloads(hf):
    (hf / "model.safetensors.index.json").unlink()
    shutil.copy(hf / "model-00001-of-00004.safetensors", hf / "model-00001-of-00002.safetensors")
    with pytest.raises(FormatError, match="parts of different models"):
        open_checkpoint(hf)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a\\b"])
def test_an_index_that_leaves_its_directory(name, hf):
    (hf / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"norm.weight": name}}))
    with pytest.raises(FormatError, match="names a file outside its directory"):
        open_checkpoint(hf)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_without_a_map(index, hf):
    (hf / "model.safetensors.index.json").write_text(index)
    with pytest.raises(FormatError, match="has no weight_map"):
        open_checkpoint(hf)


def test_a_tensor_in_two_files(hf):
    shutil.copy(hf / "model-00001-of-00004.safetensors", hf / "model-00002-of-00004.safetensors")
    with pytest.raises(ShapeError, match="is in two files"):
        open_checkpoint(hf)


def test_a_missing_config(hf):
    (hf / "config.json").unlink()
    with pytest.raises(MissingFileError, match=r"config\.json: is missing"):
        open_checkpoint(hf)


def test_tied_embeddings(golden, tmp_path):
    run(plan_to_hf, golden / "base" / "7B", tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    with SafetensorsFile(path) as file:
        write_safetensors(tmp_path / "x", [t for n, t in file.items() if n != "lm_head.weight"], file.metadata)
    (tmp_path / "x").replace(path)
    with pytest.raises(ShapeError, match=r"the first 'output\.weight'"):
        open_checkpoint(tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with open_checkpoint(tmp_path / "hf") as model:
        assert np.array_equal(model.tensors["output.weight"].numpy(), model.tensors["tok_embeddings.weight"].numpy())


def test_wrong_ids_of_an_early_conversion_are_told(hf):
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**config, "bos_token_id": 0, "eos_token_id": 1}))
    with open_checkpoint(hf) as model:
        assert len(model.notes) == 2
        assert "bos_token_id 0, LLaMA's is 1: an early third-party conversion" in model.notes[0]


def test_both_layouts_in_one_directory_is_told(golden, tmp_path):
    both = shutil.copytree(golden / "base" / "7B", tmp_path / "both")
    shutil.copy(golden / "hf" / "pytorch_model.bin", both)
    with open_checkpoint(both) as model:
        assert model.layout == "meta"
        assert any("both layouts" in note for note in model.notes)


def test_the_target_must_be_a_directory_of_its_own(golden, hf, tmp_path):
    copy = shutil.copytree(golden / "base", tmp_path / "base")
    with pytest.raises(UsageError, match="is the input"):
        plan_to_hf(copy / "7B", copy / "7B")
    with pytest.raises(UsageError, match="holds other weights already"):
        plan_to_hf(copy / "7B", hf)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        run(plan_to_hf, copy / "7B", tmp_path / "file")


def test_a_tokenizer_that_does_not_fit(data, golden, tmp_path):
    base = shutil.copytree(golden / "base", tmp_path / "base")
    shutil.copy(data / "ggml" / "T1_input" / "tokenizer.model", base / "tokenizer.model")
    with pytest.raises(VocabularyError, match="the tokenizer has 400 pieces, the weights 320 rows"):
        plan_to_hf(base / "7B", tmp_path / "hf")
    (base / "tokenizer.model").unlink()
    with pytest.raises(MissingFileError, match="--weights-only"):
        plan_to_hf(base / "7B", tmp_path / "hf")
    written, _ = run(plan_to_hf, base / "7B", tmp_path / "hf", weights_only=True)
    assert sorted(path.name for path in written) == ["config.json", "generation_config.json", "model.safetensors"]


def test_a_full_disk(golden, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DiskSpaceError, match="not enough disk space"):
        run(plan_to_hf, golden / "base" / "7B", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_sizes_are_known_beforehand(golden, tmp_path):
    for weights in ("safetensors", "bin"):
        seen = []
        with plan_to_hf(golden / "base" / "7B", tmp_path / weights, weights=weights, shard_size="100KB") as plan:
            plan.write(seen.append)
            assert sum(seen) == plan.tensor_bytes
            assert plan.sizes == {name: (tmp_path / weights / name).stat().st_size for name in plan.sizes}


@pytest.mark.parametrize("text", ["", "GB", "10 TB", "-1", "0", "1e3"])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError, match="cannot understand the size"):
        parse_size(text)


def test_unknown_kinds(golden, tmp_path):
    with pytest.raises(UsageError, match="choose safetensors or bin"):
        plan_to_hf(golden / "base" / "7B", tmp_path / "x", weights="pickle")


def weights_in(folder):
    opened = open_safetensors(folder / "model.safetensors")
    return {name: LazyTensor.of_array(name, tensor.numpy().copy()) for name, tensor in opened.items()}


def test_a_model_without_a_head_has_no_prefix_and_the_embedding_as_output(tmp_path, vectors):
    model, _ = huggingface_directory(vectors, "tied", tmp_path / "tied")
    config = json.loads((model / "config.json").read_text())
    changed = {"architectures": ["LlamaModel"], "tie_word_embeddings": False}
    (model / "config.json").write_text(json.dumps(config | changed))
    with open_checkpoint(model) as whole:
        wanted = {name: tensor.numpy().copy() for name, tensor in whole.tensors.items()}
    bare = [tensor.with_(name=name.removeprefix("model.")) for name, tensor in weights_in(model).items()]
    write_weights(model / "model.safetensors", bare)
    with open_checkpoint(model) as found:
        assert found.tensors.keys() == wanted.keys()
        assert all(np.array_equal(found.tensors[name].numpy(), values) for name, values in wanted.items())
        assert "LlamaModel has no lm_head: the embedding is taken for it" in found.notes[0]


def test_an_output_that_is_not_the_embedding_it_is_said_to_be_is_told(tmp_path, vectors):
    model, _ = huggingface_directory(vectors, "f32-safe", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with open_checkpoint(model) as found:
        assert "lm_head.weight is not the embedding" in found.notes[0]
    tensors = weights_in(model)
    same = tensors["model.embed_tokens.weight"].with_(name="lm_head.weight")
    write_weights(model / "model.safetensors", (tensors | {"lm_head.weight": same}).values())
    with open_checkpoint(model) as found:
        assert found.notes == []


def test_a_missing_head_is_named(tmp_path, vectors):
    model, _ = huggingface_directory(vectors, "tied", tmp_path / "tied")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ShapeError, match=r"lm_head\.weight was not saved"):
        open_checkpoint(model)
