"""Reading adapters: every spelling, directories and ZIPs; what cannot be merged is refused by name."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ggmlpy.files.errors import FormatError, IntegrityError, MissingFileError, ShapeError, UnsupportedError, UsageError
from llama_ref.checkpoint import LazyTensor, open_pth, write_pth
from lora.merging.adapter import open_adapter
from lora.merging.adapter_config import read_adapter_config
from lora.merging.merge import merge

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 8}
Q = "model.layers.0.self_attn.q_proj"


def write_adapter(folder: Path, tensors: dict[str, np.ndarray], **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_pth(folder / "adapter_model.bin", [LazyTensor.of_array(*item) for item in tensors.items()])
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def pair(rows: int = 4, columns: int = 6, rank: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows * columns)
    return rng.standard_normal((rank, columns)).astype("f2"), rng.standard_normal((rows, rank)).astype("f2")


def test_the_golden_adapters(data: Path) -> None:
    with open_adapter(data / "merge" / "v11-llama" / "lora") as adapter:
        assert len(adapter.pairs) == 14
        assert set(adapter.replaced) == {"tok_embeddings.weight", "output.weight"}
        assert adapter.n_vocab == 500
        assert adapter.tokenizer is not None
        assert len(adapter.tokenizer) == 500
        assert adapter.pairs["layers.0.attention.wq.weight"].scale == 4.0


@pytest.mark.parametrize("prefix", ["base_model.model.model.", "base_model.model.", "model.", ""])
@pytest.mark.parametrize("middle", ["lora_{}.weight", "lora_{}.default.weight", "lora_{}.my_adapter.weight", "lora_{}"])
def test_every_spelling_of_a_pair(tmp_path: Path, prefix: str, middle: str) -> None:
    a, b = pair()
    stem = prefix + "layers.0.self_attn.q_proj."
    write_adapter(tmp_path, {stem + middle.format("A"): a, stem + middle.format("B"): b})
    with open_adapter(tmp_path) as adapter:
        (found,) = adapter.pairs.values()
        assert (found.name, found.shape, found.rank) == ("layers.0.attention.wq.weight", (4, 6), 2)
        left, right = found.factors()
        assert np.array_equal(left, b.astype("f4"))
        assert np.array_equal(right, a.astype("f4"))


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.lm_head.weight",
        "base_model.model.lm_head.modules_to_save.default.weight",
        "lm_head.modules_to_save.second.weight",
        "base_model.model.lm_head.0.weight",
        "lm_head.weight",
    ],
)
def test_every_spelling_of_a_whole_tensor(tmp_path: Path, key: str) -> None:
    a, b = pair()
    whole = np.ones((7, 6), np.float32)
    stem = f"base_model.model.{Q}"
    original = {"base_model.model.lm_head.original_module.weight": np.zeros((5, 6), "f2")}
    frequencies = {"base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(3, "f4")}
    write_adapter(
        tmp_path, {key: whole, f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b, **original, **frequencies}
    )
    with open_adapter(tmp_path) as adapter:
        assert list(adapter.replaced) == ["output.weight"]
        assert np.array_equal(adapter.replaced["output.weight"].numpy(), whole)


def test_a_pair_on_the_embedding_is_transposed(tmp_path: Path) -> None:
    """peft keeps lora_embedding_A as [r, n_vocab] and lora_embedding_B as [n_embd, r]."""
    a, b = pair(rows=6, columns=9)
    stem = "base_model.model.model.embed_tokens"
    write_adapter(tmp_path, {f"{stem}.lora_embedding_A": a, f"{stem}.lora_embedding_B": b})
    with open_adapter(tmp_path) as adapter:
        (found,) = adapter.pairs.values()
        left, right = found.factors()
        assert found.shape == (9, 6)
        assert np.array_equal(left @ right, (b.astype("f4") @ a.astype("f4")).T)


def test_bfloat16_and_safetensors(tmp_path: Path) -> None:
    import struct

    tensors = {f"base_model.model.{Q}.lora_A.weight": [2, 6], f"base_model.model.{Q}.lora_B.weight": [4, 2]}
    header, body = {}, b""
    for name, shape in tensors.items():
        content = struct.pack("<H", 0x3FC0) * math.prod(shape)  # 1.5
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    text = json.dumps(header).encode()
    (tmp_path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    with open_adapter(tmp_path) as adapter:
        (found,) = adapter.pairs.values()
        assert (found.factors()[0] == 1.5).all()


def test_safetensors_and_bin_merge_alike(data: Path, tmp_path: Path) -> None:
    golden = data / "merge" / "v11-llama"
    shutil.copytree(golden / "lora", tmp_path / "lora")
    with open_pth(tmp_path / "lora" / "adapter_model.bin") as f:
        save_file({n: t.numpy().copy() for n, t in f.items()}, tmp_path / "lora" / "adapter_model.safetensors")
    (tmp_path / "lora" / "adapter_model.bin").unlink()
    merge(golden / "base" / "7B", [tmp_path / "lora"], tmp_path / "out")
    merged = (tmp_path / "out" / "consolidated.00.pth").read_bytes()
    assert merged == (golden / "out" / "consolidated.00.pth").read_bytes()


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 4.0),
        ({"use_rslora": True}, 8 / math.sqrt(2)),
        ({"r": 16, "rank_pattern": {"q_proj": 2}}, 4.0),
        ({"alpha_pattern": {r"model\.layers\.\d+\.self_attn\.q_proj": 3}}, 1.5),
        ({"alpha_pattern": {"proj": 3, "q_proj": 5}}, 2.5),
        ({"alpha_pattern": {"k_proj|q_proj": 2}}, 1.0),
        ({"lora_alpha": 0.5}, 0.25),
    ],
)
def test_scales(tmp_path: Path, config: dict, scale: float) -> None:
    a, b = pair()
    stem = f"base_model.model.{Q}"
    write_adapter(tmp_path, {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}, **config)
    with open_adapter(tmp_path) as adapter:
        assert adapter.pairs["layers.0.attention.wq.weight"].scale == scale


# ── ZIPs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("folder", ["", "chinese_llama_lora_7b/", "a/b/"])
def test_a_zip_as_it_was_downloaded(data: Path, tmp_path: Path, method: int, folder: str) -> None:
    golden = data / "merge" / "v11-alpaca-pad"
    with zipfile.ZipFile(tmp_path / "lora.zip", "w", method) as archive:
        archive.writestr("__MACOSX/._adapter_config.json", "junk")
        for path in (golden / "lora").iterdir():
            archive.write(path, folder + path.name)
    merge(data / "merge" / "v11-llama" / "base" / "7B", [tmp_path / "lora.zip"], tmp_path / "out")
    for path in (golden / "out").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_what_was_unpacked_is_deleted(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    archive = shutil.make_archive(str(tmp_path / "lora"), "zip", data / "merge" / "v11-llama" / "lora")
    with open_adapter(archive):
        assert list((tmp_path / "t").iterdir())
    assert not list((tmp_path / "t").iterdir())


def test_a_zip_of_two_adapters_a_bomb_and_a_cut_one(data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("one/adapter_config.json", "{}")
        archive.writestr("two/adapter_config.json", "{}")
    with pytest.raises(UsageError, match=r"holds several adapters \(one, two\)"):
        open_adapter(tmp_path / "two.zip")
    whole = Path(shutil.make_archive(str(tmp_path / "whole"), "zip", data / "merge" / "v11-llama" / "lora"))
    bytes_ = bytearray(whole.read_bytes())
    bytes_[5000] ^= 1
    (tmp_path / "flipped.zip").write_bytes(bytes_)
    with pytest.raises(IntegrityError, match="the ZIP cannot be read"):
        open_adapter(tmp_path / "flipped.zip")
    (tmp_path / "cut.zip").write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(MissingFileError, match="no adapter here"):
        open_adapter(tmp_path / "cut.zip")


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type PREFIX_TUNING"),
        ({"use_dora": True}, "DoRA scales each column"),
        ({"init_lora_weights": "pissa_niter_16"}, "the base itself was changed"),
        ({"layer_replication": [[0, 4]]}, "repeated layers"),
        ({"enable_lora": [True, False, True]}, "MergedLinear"),
    ],
)
def test_variants_that_addition_cannot_merge(tmp_path: Path, config: dict, words: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    with pytest.raises(UnsupportedError, match=words) as caught:
        read_adapter_config(tmp_path / "adapter_config.json")
    assert "Next: merge it with the PEFT version that made it" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"r": 0}, "r"),
        ({"r": "8"}, "r"),
        ({"r": True}, "r"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"modules_to_save": 5}, "modules_to_save"),
        ({"rank_pattern": {"(": 1}}, "rank_pattern"),
        ({"alpha_pattern": {"(?=a)a": 1}}, "alpha_pattern"),
        ({"alpha_pattern": {"q_proj": "x"}}, "q_proj"),
    ],
)
def test_a_bad_configuration_names_its_field(tmp_path: Path, config: dict, field: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    with pytest.raises(FormatError) as caught:
        read_adapter_config(tmp_path / "adapter_config.json")
    assert caught.value.field == field


def test_saved_empty(tmp_path: Path) -> None:
    """The 443 bytes of CLA#711, and the embedding of shape [0] of CLA#645."""
    write_adapter(tmp_path / "none", {})
    with pytest.raises(ShapeError, match="0 LoRA pairs: this file was saved empty"):
        open_adapter(tmp_path / "none")
    write_adapter(tmp_path / "zero", {"base_model.model.model.embed_tokens.weight": np.zeros((0,), "f2")})
    with pytest.raises(ShapeError, match=r"saved empty .*embed_tokens\.weight has shape \[0\]"):
        open_adapter(tmp_path / "zero")


def test_keys_that_belong_to_no_llama_are_listed(tmp_path: Path) -> None:
    a, b = pair()
    write_adapter(tmp_path, {"base_model.model.transformer.h.0.attn.lora_A.weight": a, "x.bias": b})
    with pytest.raises(ShapeError, match=r"2 tensors cannot be applied .*h\.0\.attn\.lora_A\.weight, x\.bias"):
        open_adapter(tmp_path)
    stem = f"base_model.model.{Q}"
    write_adapter(tmp_path, {f"{stem}.lora_A.weight": a, f"{stem}.lora_magnitude_vector": b[:, 0]})
    with pytest.raises(ShapeError, match="a DoRA adapter"):
        open_adapter(tmp_path)


def test_halves_and_contradictions(tmp_path: Path) -> None:
    a, b = pair()
    stem = f"base_model.model.{Q}"
    write_adapter(tmp_path / "half", {f"{stem}.lora_A.weight": a})
    with pytest.raises(ShapeError, match="lora_A without its partner"):
        open_adapter(tmp_path / "half")
    write_adapter(tmp_path / "unfit", {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b[:, :1]})
    with pytest.raises(ShapeError, match=r"lora_A \[2, 6\] and lora_B \[4, 1\] do not fit"):
        open_adapter(tmp_path / "unfit")
    write_adapter(tmp_path / "rank", {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}, r=8)
    with pytest.raises(ShapeError, match=r"expected r = 8 .*found r = 2"):
        open_adapter(tmp_path / "rank")
    twice = {f"{stem}.lora_A.weight": a, f"{stem}.lora_A.default.weight": a, f"{stem}.lora_B.weight": b}
    write_adapter(tmp_path / "twice", twice)
    with pytest.raises(ShapeError, match="the tensor is there twice"):
        open_adapter(tmp_path / "twice")


def test_what_is_not_an_adapter(data: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no adapter here"):
        open_adapter(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match=r"no adapter_config\.json .*this is a model, not an adapter"):
        open_adapter(data / "merge" / "v11-llama" / "base" / "7B")
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(MissingFileError, match=r"no adapter_model\.safetensors or adapter_model\.bin"):
        open_adapter(tmp_path)


def test_an_adapter_one_folder_down(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "merge" / "v11-llama" / "lora", tmp_path / "chinese_llama_lora_7b")
    with open_adapter(tmp_path) as adapter:
        assert len(adapter.pairs) == 14
    shutil.copytree(data / "merge" / "v11-llama" / "lora", tmp_path / "second")
    with pytest.raises(UsageError, match="several adapters"):
        open_adapter(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*CONFIG, "rank_pattern", "alpha_pattern", "modules_to_save", "use_dora", "init_lora_weights"])


@given(st.dictionaries(KEYS, JSON, max_size=5))
def test_any_configuration_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, changes: dict) -> None:
    path = tmp_path_factory.mktemp("config") / "adapter_config.json"
    path.write_text(json.dumps({**CONFIG, **changes}))
    with contextlib.suppress(FormatError):
        assert read_adapter_config(path).scale_of("model.layers.0.self_attn.q_proj") != 0


@settings(max_examples=60)
@given(position=st.integers(0, 10**9), value=st.integers(0, 255))
def test_a_damaged_zip_is_read_whole_or_refused(
    data: Path, tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    folder = tmp_path_factory.mktemp("zip")
    with zipfile.ZipFile(folder / "lora.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("adapter_config.json", "tokenizer.model"):
            archive.write(data / "merge" / "v11-qv-fan-in-fan-out" / "lora" / name, name)
        archive.write(data / "merge" / "v11-qv-fan-in-fan-out" / "lora" / "adapter_model.bin", "adapter_model.bin")
    content = bytearray((folder / "lora.zip").read_bytes())
    content[position % len(content)] = value
    (folder / "lora.zip").write_bytes(content)
    with contextlib.suppress(FormatError, UsageError), open_adapter(folder / "lora.zip") as adapter:
        assert len(adapter.pairs) == 4


def test_a_promise_that_was_not_kept_is_noted(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "merge" / "v11-qv-fan-in-fan-out" / "lora", tmp_path / "lora")
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "modules_to_save": ["embed_tokens", "lm_head"]}))
    with open_adapter(tmp_path / "lora") as adapter:
        assert "promises embed_tokens, lm_head whole" in adapter.notes[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8b\x08\0" + bytes(300), "a gzip archive. Next: unpack it first"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(300), "a 7-Zip archive. Next: unpack it first"),
        (b"PK\x03\x04" + bytes(300), "an interrupted download: the end of the ZIP is missing. Next: download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "Next: git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page that was saved instead of the file"),
    ],
)
def test_downloads_that_are_no_adapter(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "adapter.zip").write_bytes(content)
    with pytest.raises(MissingFileError, match=words):
        open_adapter(tmp_path / "adapter.zip")


def test_a_zip_without_an_adapter_is_told_by_what_it_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("ggml-model-q4_0.bin", b"tjgg")
    with pytest.raises(MissingFileError, match=r"found ggml-model-q4_0\.bin"):
        open_adapter(tmp_path / "model.zip")
