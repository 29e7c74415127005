"""What becomes of each number of a model on its way into another container: carried, refused, or told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ggmlpy import open_model
from ggmlpy.files.errors import UnsupportedError
from ggmlpy.formats.carrying import NUMBERS, REFUSED, SCALINGS, TARGETS, TOLD, carry, is_usual, lost_in
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.model_params import ModelParams, RopeScaling
from llama_ref.checkpoint.params import config_json, params_json, params_of_huggingface, read_params_json
from llama_ref.conversion.checkpoints import convert_from_huggingface, convert_to_huggingface, plan_from_hf
from llama_ref.conversion.converting import convert, plan_conversion

LLAMA = ModelParams(n_vocab=320, n_embd=64, n_layer=2, n_head=4, n_mult=32)
LINEAR = {"type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
OTHERWISE = {  # a value for each field that is not what a reader assumes
    "n_head_kv": 2,
    "head_dim": 32,
    "n_ff": 100,
    "n_rot": 8,
    "norm_eps": 1e-5,
    "rope_theta": 1e6,
    "rope_scaling": RopeScaling(type="linear", factor=4.0),
    "n_ctx_train": 4096,
    "sliding_window": 4096,
    "attention_bias": True,
    "mlp_bias": True,
    "bos_id": 5,
    "eos_ids": (7,),
    "unk_id": 3,
    "pad_id": 9,
}


@pytest.fixture
def folder(data: Path, tmp_path: Path):
    """A function that copies the tiny model of a layout with changes of its configuration."""

    def changed(layout: str, **changes) -> Path:
        golden = data / "merge" / "step1-hf-7b"
        shutil.copytree(golden / ("hf" if layout == "huggingface" else "base/7B"), tmp_path / "model")
        shutil.copy(golden / "base" / "tokenizer.model", tmp_path / "tokenizer.model")
        path = tmp_path / "model" / ("config.json" if layout == "huggingface" else "params.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return tmp_path / "model"

    return changed


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.field)
def test_each_number_is_carried_refused_or_told(number, target):
    if number.field not in OTHERWISE:
        assert is_usual(LLAMA, number.field) or getattr(number, target) not in (REFUSED, TOLD)
        return
    value = OTHERWISE[number.field]
    params = LLAMA.changed(**{number.field: value, **({"n_rot": 32} if number.field == "head_dim" else {})})
    cell = SCALINGS["linear"][target] if number.field == "rope_scaling" else getattr(number, target)
    if cell == REFUSED:
        with pytest.raises(UnsupportedError, match="has no place for"):
            carry(params, target, "huggingface", "config.json")
    else:
        assert bool(carry(params, target, "huggingface", "config.json")) == (cell == TOLD)
    assert lost_in(params, target, "huggingface") == (cell in (REFUSED, TOLD))


def test_what_every_reader_assumes_is_nothing_to_tell():
    said = LLAMA.changed(
        norm_eps=9.999999974752427e-07, rope_theta=10000.0, n_ctx_train=2048, bos_id=1, eos_ids=(2,), pad_id=-1
    )
    for target in TARGETS:
        assert carry(said, target, "gguf", "x.gguf") == []


@pytest.mark.parametrize("layout", ["meta", "huggingface"])
def test_the_base_of_the_frequencies_goes_into_gguf_and_is_refused_by_ggjt(layout, folder, tmp_path):
    model = folder(layout, rope_theta=1e6)
    convert(model, tmp_path / "m.gguf", container="gguf")
    assert open_gguf(tmp_path / "m.gguf").metadata["llama.rope.freq_base"].value == 1e6
    with pytest.raises(UnsupportedError, match=r"ggjt v1 has no place for rope_theta 1000000.*--container gguf"):
        plan_conversion(model)


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("scaling", [LINEAR, YARN], ids=["linear", "yarn"])
def test_rope_scaling_goes_into_gguf_with_all_its_parts(scaling, spelling, folder, tmp_path):
    changes = {spelling: {**scaling, "rope_theta": 5e5}, "max_position_embeddings": 16384}
    convert(folder("huggingface", **changes), tmp_path / "m.gguf", container="gguf")
    with open_model(tmp_path / "m.gguf") as model:
        found = model.hparams
    kind = scaling.get("rope_type", scaling.get("type"))
    original = scaling.get("original_max_position_embeddings")
    assert found.rope_scaling == RopeScaling(
        type=kind, factor=scaling["factor"], original_context=original, beta_fast=scaling.get("beta_fast")
    )
    assert (found.rope_theta, found.n_ctx_train) == (5e5, 16384)


@pytest.mark.parametrize("scaling", [LINEAR, YARN, {"type": "dynamic", "factor": 2.0}, LLAMA3])
def test_rope_scaling_survives_the_way_from_config_to_config(scaling):
    record = config_json(LLAMA, 320) | {"rope_scaling": scaling, "rope_theta": 1e6, "max_position_embeddings": 16384}
    params = params_of_huggingface(record, "config.json")
    again = params_of_huggingface(config_json(params, 320), "config.json")
    assert again == params
    assert again.rope_scaling == params.rope_scaling is not None


def test_what_readers_of_gguf_compute_otherwise_is_told(folder):
    for changes, words in (
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic, factor 2: readers of the file take the plain"),
        ({"rope_scaling": {**YARN, "mscale": 0.707}}, "mscale 0.707: readers of the file compute YaRN as published"),
        ({"rope_scaling": {**YARN, "beta_fast": 16}}, "beta_fast 16: readers of the file compute YaRN as published"),
        ({"model_type": "mistral", "num_key_value_heads": 4}, "sliding_window 4096: readers of the file see all"),
    ):
        model = folder("huggingface", **changes)
        with plan_conversion(model, container="gguf") as plan:
            assert any(words in note for note in plan.notes), plan.notes
        shutil.rmtree(model)


def test_a_scaling_that_gguf_cannot_say_is_refused(folder):
    model = folder("huggingface", rope_scaling={"type": "longrope", "x": [1]})
    with pytest.raises(UnsupportedError, match="has no place for rope_scaling"):
        plan_conversion(model, container="gguf")


@pytest.mark.parametrize("scaling", [{}, LINEAR, YARN], ids=["plain", "linear", "yarn"])
def test_a_part_of_a_head_that_is_rotated_is_refused_in_either_spelling(scaling, folder, tmp_path):
    model = folder("huggingface", rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5, **scaling})
    with pytest.raises(UnsupportedError, match=r"partial_rotary_factor 0\.5"):
        plan_conversion(model, container="gguf")
    record = json.loads((model / "config.json").read_text())
    record["rope_parameters"]["partial_rotary_factor"] = 1.0
    (model / "config.json").write_text(json.dumps(record))
    plan_conversion(model, container="gguf").__exit__()


def test_what_else_stands_beside_a_scaling_is_told_and_layers_that_differ_are_refused(folder):
    model = folder("huggingface", rope_parameters={"rope_theta": 1e4, "unheard_of": 3})
    for container in ("ggjt1", "gguf"):
        with plan_conversion(model, container=container) as plan:
            assert any("rope_parameters.unheard_of" in note for note in plan.notes)
    for rope in ({"full_attention": {"rope_theta": 5e5}}, {"type": "linear", "factor": 2.0, "x": {"y": 1}}):
        with pytest.raises(UnsupportedError, match="differs between kinds of layers"):
            params_of_huggingface({**json.loads((model / "config.json").read_text()), "rope_parameters": rope}, "c")
    linear = {**json.loads((model / "config.json").read_text()), "rope_parameters": {**LINEAR, "unheard_of": 3}}
    (model / "config.json").write_text(json.dumps(linear))
    with plan_conversion(model, container="gguf") as plan:
        assert any("unheard_of 3" in note for note in plan.notes)


def test_meta_says_the_base_and_the_scaling_of_llama_3_and_no_other(folder, tmp_path):
    model = folder("huggingface", rope_theta=5e5, rope_scaling=LLAMA3)
    convert_from_huggingface(model, tmp_path / "meta")
    assert json.loads((tmp_path / "meta/params.json").read_text())["use_scaled_rope"] is True
    found = read_params_json(tmp_path / "meta/params.json")
    assert (found.rope_theta, found.rope_scaling.type) == (5e5, "llama3")
    shutil.rmtree(model)
    model = folder("huggingface", rope_scaling={**LLAMA3, "factor": 32.0})
    with pytest.raises(UnsupportedError, match=r"params\.json has no place for rope_scaling llama3"):
        plan_from_hf(model, tmp_path / "other")


def test_the_way_to_hugging_face_keeps_what_meta_says(folder, tmp_path):
    convert_to_huggingface(folder("meta", rope_theta=1e6, norm_eps=1e-5), tmp_path / "hf")
    written = json.loads((tmp_path / "hf/config.json").read_text())
    assert (written["rope_theta"], written["rms_norm_eps"]) == (1e6, 1e-5)


def test_epsilon_and_context_are_told(folder):
    with plan_conversion(folder("huggingface", rms_norm_eps=1e-5, max_position_embeddings=4096)) as plan:
        assert "ggjt v1 has no place for rms_norm_eps 1e-05: generate needs --norm-eps 1e-05" in plan.notes
        assert any("max_position_embeddings 4096" in note for note in plan.notes)


def test_a_key_that_nothing_here_knows_is_told_or_kept(folder, tmp_path):
    model = folder("huggingface", logits_scaling=8)
    with plan_conversion(model, container="gguf") as plan:
        assert any("logits_scaling" in note for note in plan.notes)
    convert_to_huggingface(model, tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["logits_scaling"] == 8


def test_params_json_is_as_before_where_nothing_is_new():
    assert list(json.loads(params_json(LLAMA.changed(rope_theta=10000.0)))) == [
        "dim", "multiple_of", "n_heads", "n_layers", "norm_eps", "vocab_size",
    ]  # fmt: skip
