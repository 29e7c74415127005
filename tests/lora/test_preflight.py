"""What is refused before work starts: both numbers, both files, the cause, and the next command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ggmlpy.files.errors import DiskSpaceError, FormatError, MissingFileError, ShapeError, VocabularyError
from llama_ref.checkpoint import LazyTensor, open_pth, write_pth
from llama_ref.conversion.checkpoints import plan_to_hf
from lora.merging.merge import merge, plan_merge


@pytest.fixture
def base(data: Path) -> Path:
    return data / "merge" / "v11-llama" / "base" / "7B"


@pytest.fixture
def llama(data: Path) -> Path:
    """An adapter for 500 pieces."""
    return data / "merge" / "head-multi-lora" / "lora1"


@pytest.fixture
def alpaca(data: Path) -> Path:
    """An adapter for 501 pieces."""
    return data / "merge" / "head-multi-lora" / "lora2"


def changed(source: Path, target: Path, drop: tuple[str, ...] = (), **replacements: np.ndarray) -> Path:
    """A copy of an adapter with tensors dropped (by a part of the name) or replaced."""
    shutil.copytree(source, target)
    with open_pth(source / "adapter_model.bin") as f:
        tensors = {n: t.numpy().copy() for n, t in f.items() if not any(part in n for part in drop)}
    tensors |= {f"base_model.model.{name.replace('__', '.')}": array for name, array in replacements.items()}
    write_pth(target / "adapter_model.bin", [LazyTensor.of_array(*item) for item in tensors.items()])
    return target


def refused(base: Path, adapters: list[Path], tmp_path: Path, **options: object) -> FormatError:
    """The error of a merge that must not write anything."""
    with pytest.raises(FormatError) as caught:
        merge(base, adapters, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert "Next:" in str(caught.value)
    return caught.value


def assert_tells(error: FormatError, *parts: object) -> None:
    for part in parts:
        assert str(part) in str(error), part


def test_the_wrong_order(base: Path, llama: Path, alpaca: Path, tmp_path: Path) -> None:
    error = refused(base, [alpaca, llama], tmp_path)
    assert isinstance(error, VocabularyError)
    assert_tells(error, 500, 501, llama, alpaca, "wrong order", f"--lora {llama},{alpaca}")


def test_the_wrong_tokenizer(base: Path, llama: Path, alpaca: Path, tmp_path: Path) -> None:
    mixed = changed(alpaca, tmp_path / "mixed")
    shutil.copy(llama / "tokenizer.model", mixed)
    error = refused(base, [llama, mixed], tmp_path)
    assert_tells(
        error, "the tokenizer is 500 pieces; adapter 2 needs 501 pieces", mixed / "tokenizer.model", "mixed up"
    )


def test_growth_without_embeddings(base: Path, llama: Path, tmp_path: Path) -> None:
    bare = changed(llama, tmp_path / "bare", drop=("embed_tokens", "lm_head"))
    error = refused(base, [bare], tmp_path)
    assert_tells(error, 320, 500, bare, base, "modules_to_save", "--init-embeddings")


@pytest.mark.parametrize("lost", ["embed_tokens", "lm_head"])
def test_only_one_of_embedding_and_output(base: Path, llama: Path, tmp_path: Path, lost: str) -> None:
    error = refused(base, [changed(llama, tmp_path / "half", drop=(lost,))], tmp_path)
    assert_tells(error, "500", "none", 320, "modules_to_save")


def test_embedding_and_output_of_different_rows(base: Path, llama: Path, tmp_path: Path) -> None:
    uneven = changed(llama, tmp_path / "uneven", lm_head__weight=np.zeros((499, 64), "f2"))
    assert_tells(refused(base, [uneven], tmp_path), "embedding of 500 rows and an lm_head of 499")


def test_no_tokenizer_for_the_result(base: Path, llama: Path, tmp_path: Path) -> None:
    lonely = changed(llama, tmp_path / "lonely")
    (lonely / "tokenizer.model").unlink()
    error = refused(base, [lonely], tmp_path)
    assert_tells(error, "the tokenizer is 320 pieces; the merged model has 500 pieces", "--tokenizer")
    merge(base, [lonely], tmp_path / "out", tokenizer=llama / "tokenizer.model")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == (llama / "tokenizer.model").read_bytes()


def test_no_tokenizer_anywhere(base: Path, llama: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "deep" / "base")
    lonely = changed(llama, tmp_path / "lonely")
    (lonely / "tokenizer.model").unlink()
    error = refused(tmp_path / "deep" / "base", [lonely], tmp_path)
    assert isinstance(error, MissingFileError)
    assert_tells(error, "no tokenizer.model for the merged model", lonely, tmp_path / "deep" / "base")


def test_a_tokenizer_that_is_a_web_page(base: Path, llama: Path, tmp_path: Path) -> None:
    broken = changed(llama, tmp_path / "broken")
    (broken / "tokenizer.model").write_text("<!DOCTYPE html>")
    assert_tells(refused(base, [broken], tmp_path), broken / "tokenizer.model", "web page")


def test_an_adapter_of_another_size(data: Path, base: Path, tmp_path: Path) -> None:
    error = refused(base, [data / "merge" / "two-shard-13b" / "lora"], tmp_path)
    assert isinstance(error, ShapeError)
    assert_tells(error, "[64, 64]", "[96, 96]", "another size")


def test_an_adapter_with_more_layers_lists_them(base: Path, llama: Path, tmp_path: Path) -> None:
    pair = {
        "model__layers__7__self_attn__q_proj__lora_A__weight": np.zeros((8, 64), "f2"),
        "model__layers__7__self_attn__q_proj__lora_B__weight": np.zeros((64, 8), "f2"),
    }
    error = refused(base, [changed(llama, tmp_path / "deep", **pair)], tmp_path)
    assert_tells(error, "1 of the adapter's 17 tensors match nothing", "layers.7.attention.wq.weight", "2 layers")


def test_a_fan_in_fan_out_adapter_of_the_wrong_orientation(base: Path, llama: Path, tmp_path: Path) -> None:
    turned = changed(llama, tmp_path / "turned")
    config = json.loads((turned / "adapter_config.json").read_text())
    (turned / "adapter_config.json").write_text(json.dumps({**config, "fan_in_fan_out": True}))
    assert_tells(
        refused(base, [turned], tmp_path, fan_in_fan_out="v1.1"), "has another shape", "[64, 256]", "fan_in_fan_out"
    )


def test_a_base_that_was_half_resized(base: Path, llama: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    with open_pth(base / "consolidated.00.pth") as f:
        tensors = {n: t.numpy().copy() for n, t in f.items()}
    tensors["tok_embeddings.weight"] = np.zeros((500, 64), "f2")
    write_pth(tmp_path / "base" / "consolidated.00.pth", [LazyTensor.of_array(*item) for item in tensors.items()])
    assert_tells(refused(tmp_path / "base", [llama], tmp_path), "500 rows", "320", "resized")


def test_a_base_that_was_grown_already(data: Path, llama: Path, tmp_path: Path) -> None:
    grown = data / "merge" / "v11-alpaca-pad" / "out"
    assert_tells(refused(grown, [llama], tmp_path), 501, 500, grown, "grown already")


def test_other_pieces_under_the_same_ids(data: Path, base: Path, tmp_path: Path) -> None:
    foreign = changed(data / "merge" / "v11-qv-fan-in-fan-out" / "lora", tmp_path / "foreign")
    content = (foreign / "tokenizer.model").read_bytes()
    assert content.count("▁the".encode()) == 1
    (foreign / "tokenizer.model").write_bytes(content.replace("▁the".encode(), "▁teh".encode()))
    error = refused(base, [foreign], tmp_path)
    assert_tells(error, "' the' in the base and ' teh' in the adapter", foreign, "another model")


def test_a_third_party_conversion_is_named(base: Path, llama: Path, tmp_path: Path) -> None:
    with plan_to_hf(base, tmp_path / "hf", weights="bin") as plan:
        plan.write()
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "bos_token_id": 0, "eos_token_id": 1}))
    with plan_merge(tmp_path / "hf", [llama], tmp_path / "out") as plan:
        assert any("bos_token_id" in note for note in plan.chain.notes)


def test_a_full_disk_is_noticed_first(base: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")(0, 0, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(DiskSpaceError, match=r"consolidated\.00\.pth: .*1,000"):
        merge(base, [llama], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_added_tokens_count(base: Path, llama: Path, tmp_path: Path) -> None:
    """A pad token kept in added_tokens.json rather than in tokenizer.model."""
    grown = {f"{stem}__weight": np.ones((501, 64), "f2") for stem in ("model__embed_tokens", "lm_head")}
    padded = changed(llama, tmp_path / "padded", **grown)
    assert_tells(refused(base, [padded], tmp_path), 500, 501)
    (padded / "added_tokens.json").write_text('{"[PAD]": 500}')
    report = merge(base, [padded], tmp_path / "out")
    assert report.n_vocab == 501
    assert (tmp_path / "out" / "added_tokens.json").exists()
