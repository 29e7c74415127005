"""Adapters as PEFT of 2023-08 to 2026 saves them, and the options of a merge that go with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import ShapeError, UnsupportedError, UsageError
from ggmlpy.formats.tensor_names import meta_names, rename, unwrapped
from llama_ref.checkpoint import LazyTensor, open_checkpoint, open_pth, write_pth
from llama_ref.conversion.checkpoints import plan_to_hf
from lora.merging.adapter import open_adapter
from lora.merging.adapter_config import read_adapter_config
from lora.merging.adapter_features import FEATURES
from lora.merging.kernels import rounded
from lora.merging.merge import merge, plan_merge
from tests.lora.test_adapter import CONFIG, Q, pair, write_adapter

HEAD, EMBED = "base_model.model.lm_head", "base_model.model.model.embed_tokens"
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@pytest.fixture
def base(data: Path) -> Path:
    return data / "merge" / "v11-llama" / "base" / "7B"


def model(base: Path, name: str) -> np.ndarray:
    with open_checkpoint(base) as opened:
        return opened.tensors[name].f32().copy()


# ── whole tensors beside pairs ───────────────────────────────────────────────────────────────────────────────────────


def test_pairs_on_the_embedding_and_the_output_stand_beside_base_layers(base: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    embedding, head = model(base, "tok_embeddings.weight"), model(base, "output.weight")
    n_vocab, n_embd = head.shape
    a, b = pair(n_vocab, n_embd)
    on_a, on_b = rng.standard_normal((2, n_vocab)).astype("f2"), rng.standard_normal((n_embd, 2)).astype("f2")
    tensors = {f"{HEAD}.base_layer.weight": head, f"{HEAD}.lora_A.weight": a, f"{HEAD}.lora_B.weight": b}
    tensors |= {f"{EMBED}.base_layer.weight": embedding, f"{EMBED}.lora_embedding_A": on_a}
    write_adapter(tmp_path / "lora", {**tensors, f"{EMBED}.lora_embedding_B": on_b})
    with plan_merge(base, [tmp_path / "lora"], tmp_path / "out") as plan:
        merged = {name: plan.model.tensor(name).f32() for name in ("tok_embeddings.weight", "output.weight")}
    assert np.allclose(merged["output.weight"], head + 4 * b.astype("f4") @ a.astype("f4"), atol=0.03)
    assert np.allclose(
        merged["tok_embeddings.weight"], embedding + 4 * (on_b.astype("f4") @ on_a.astype("f4")).T, atol=0.03
    )


@pytest.mark.parametrize("name", ["modules_to_save.weight", "modules_to_save.default.weight"])
def test_a_trained_module_under_three_names_counts_once(tmp_path: Path, name: str) -> None:
    trained, before = np.full((7, 6), 2, "f2"), np.zeros((7, 6), "f2")
    copies = {f"{HEAD}.weight": trained, f"{HEAD}.{name}": trained, f"{HEAD}.original_module.weight": before}
    write_adapter(tmp_path, copies, modules_to_save=["lm_head"])
    with open_adapter(tmp_path) as adapter:
        assert np.array_equal(adapter.replaced["output.weight"].numpy(), trained)
        assert [note for note in adapter.notes if "differs" in note or "promises" in note] == []


def test_copies_of_a_trained_module_that_differ_are_told(tmp_path: Path) -> None:
    trained, stale = np.full((7, 6), 2, "f2"), np.zeros((7, 6), "f2")
    write_adapter(tmp_path, {f"{HEAD}.weight": stale, f"{HEAD}.modules_to_save.weight": trained})
    with open_adapter(tmp_path) as adapter:
        assert np.array_equal(adapter.replaced["output.weight"].numpy(), trained)
        assert any("lm_head.weight differs from lm_head.modules_to_save.weight" in note for note in adapter.notes)


# ── wrappers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.sampled_from(meta_names(2)), st.lists(st.tuples(st.integers(0, 6), st.sampled_from(WRAPPERS)), max_size=4))
def test_wrappers_are_no_part_of_a_name(name: str, wrappers: list[tuple[int, str]]) -> None:
    parts = rename(name, "huggingface").split(".")
    for place, wrapper in wrappers:
        parts.insert(min(place, len(parts) - 1), wrapper)
    assert unwrapped(".".join(parts)) == rename(name, "huggingface")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_adapter_and_a_wrapped_base_merge_alike(data: Path, base: Path, tmp_path: Path, wrapper: str) -> None:
    def wrap(source: Path, target: Path) -> None:
        with open_pth(source) as weights:
            tensors = [LazyTensor.of_array(f"{wrapper}.{name}", t.numpy().copy()) for name, t in weights.items()]
        write_pth(target, tensors)

    lora = data / "merge" / "v11-llama" / "lora"
    shutil.copytree(lora, tmp_path / "lora")
    shutil.copytree(base, tmp_path / "base")
    wrap(lora / "adapter_model.bin", tmp_path / "lora" / "adapter_model.bin")
    wrap(base / "consolidated.00.pth", tmp_path / "base" / "consolidated.00.pth")
    with plan_to_hf(base, tmp_path / "hf", weights="bin") as plan:
        plan.write()
    wrap(tmp_path / "hf" / "pytorch_model.bin", tmp_path / "hf" / "pytorch_model.bin")
    right = (data / "merge" / "v11-llama" / "out" / "consolidated.00.pth").read_bytes()
    for source in ("base", "hf"):
        merge(tmp_path / source, [tmp_path / "lora"], tmp_path / f"out-{source}")
        assert (tmp_path / f"out-{source}" / "consolidated.00.pth").read_bytes() == right
    merge(tmp_path / "hf", [tmp_path / "lora"], tmp_path / "out", output_type="huggingface")
    with open_pth(tmp_path / "out" / "pytorch_model.bin") as merged:
        assert "lm_head.weight" in merged


# ── the configuration ────────────────────────────────────────────────────────────────────────────────────────────────

ACTIVE = {"init_lora_weights": "pissa", "alora_invocation_tokens": [5, 6], "trainable_token_indices": [3]}


@pytest.mark.parametrize("key", [key for key, feature in FEATURES.items() if feature.effect == "refused"])
def test_a_feature_that_changes_a_merge_is_refused_by_its_key(tmp_path: Path, key: str) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**CONFIG, key: ACTIVE.get(key, {"some": 1})}))
    with pytest.raises(UnsupportedError, match=key) as caught:
        read_adapter_config(path)
    assert caught.value.cause == FEATURES[key].reason


@pytest.mark.parametrize("value", [True, False, "gaussian", "EVA", "orthogonal", None])
def test_initializations_that_leave_the_base_alone(tmp_path: Path, value: object) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**CONFIG, "init_lora_weights": value}))
    assert read_adapter_config(path).notes == ()


@given(st.sampled_from(sorted(FEATURES)), st.sampled_from([None, False, [], {}, ""]))
def test_a_key_at_rest_says_nothing(tmp_path_factory: pytest.TempPathFactory, key: str, value: object) -> None:
    path = tmp_path_factory.mktemp("config") / "adapter_config.json"
    path.write_text(json.dumps({key: value, **CONFIG}))
    assert read_adapter_config(path).notes == ()


@pytest.mark.parametrize("record", [{"some_new_feature": {"n": 2}}, {"bias": "all"}, {"ensure_weight_tying": True}])
def test_what_a_merge_does_not_take_into_account_is_told(tmp_path: Path, record: dict) -> None:
    a, b = pair()
    stem = f"base_model.model.{Q}"
    write_adapter(tmp_path, {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}, **record)
    with open_adapter(tmp_path) as adapter:
        assert any(next(iter(record)) in note for note in adapter.notes)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (f"base_model.model.{Q}.lora_magnitude_vector", "DoRA"),
        (f"base_model.model.{Q}.lora_diag", "does more than LoRA"),
        (f"base_model.model.{Q}.bias", "trained biases"),
        ("base_model.model.transformer.h.0.attn.c_attn.lora_A.weight", "another architecture"),
    ],
)
def test_only_the_keys_of_another_architecture_are_called_so(tmp_path: Path, key: str, words: str) -> None:
    write_adapter(tmp_path, {key: np.ones((2, 2), "f2")})
    with pytest.raises(ShapeError) as caught:
        open_adapter(tmp_path)
    assert words in (caught.value.cause or "")


# ── fan_in_fan_out, and the type of the result ───────────────────────────────────────────────────────────────────────


def test_fan_in_fan_out_is_ignored_with_a_note_or_transposes_when_asked(tmp_path: Path) -> None:
    a, b = pair(6, 6)
    stem = f"base_model.model.{Q}"
    write_adapter(tmp_path, {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}, fan_in_fan_out=True)
    change = b.astype("f4") @ a.astype("f4")
    for way, expected, note in (("peft", change, "it is ignored"), ("v1.1", change.T, "are added transposed")):
        with open_adapter(tmp_path, fan_in_fan_out=way) as adapter:
            (found,) = adapter.pairs.values()
            left, right = found.factors()
            assert np.array_equal(left @ right, expected)
            assert any(note in said for said in adapter.notes)
    with pytest.raises(UsageError, match="unknown fan_in_fan_out"):
        open_adapter(tmp_path, fan_in_fan_out="gpt2")


def retyped(base: Path, target: Path, dtype: str) -> Path:
    """The base with tensors of another type."""
    shutil.copytree(base, target)
    with open_checkpoint(base) as opened:
        wide = {name: rounded(t.f32(), dtype) for name, t in opened.tensors.items()}
    bits = {
        name: (values.view("u4") >> 16).astype("u2") if dtype == "bfloat16" else values for name, values in wide.items()
    }

    def tensor(name: str, values: np.ndarray) -> LazyTensor:
        return LazyTensor(name, values.shape, dtype, lambda start, stop: values[start:stop])

    write_pth(target / "consolidated.00.pth", [tensor(*item) for item in bits.items()])
    return target


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_merge_in_the_bases_own_type(data: Path, base: Path, tmp_path: Path, dtype: str) -> None:
    own, lora = retyped(base, tmp_path / "base", dtype), data / "merge" / "v11-llama" / "lora"
    merge(own, [lora], tmp_path / "out", dtype="auto")
    name = "layers.0.feed_forward.w1.weight"
    with open_adapter(lora) as adapter, open_checkpoint(tmp_path / "out") as merged, open_checkpoint(own) as before:
        left, right = adapter.pairs[name].factors()
        sums = np.zeros((len(left), right.shape[1]), "f4")
        for k in range(left.shape[1]):
            sums += left[:, k, None] * right[k]
        exact = before.tensors[name].f32() + sums * np.float32(adapter.pairs[name].scale)
        assert {tensor.dtype for tensor in merged.tensors.values()} == {dtype}
        assert np.array_equal(merged.tensors[name].f32(), rounded(exact, dtype))
    merge(own, [lora], tmp_path / "hf", dtype="auto", output_type="huggingface")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["torch_dtype"] == dtype


def test_a_merge_is_half_precision_unless_asked(data: Path, base: Path, tmp_path: Path) -> None:
    own, lora = retyped(base, tmp_path / "base", "float32"), data / "merge" / "v11-llama" / "lora"
    merge(own, [lora], tmp_path / "out")
    right = data / "merge" / "v11-llama" / "out" / "consolidated.00.pth"
    assert (tmp_path / "out" / "consolidated.00.pth").read_bytes() == right.read_bytes()
    for words, options in (("unknown type", {"dtype": "f8"}), ("--dtype bf16 is for pth", {"output_type": "ggml-f16"})):
        with pytest.raises(UsageError, match=words):
            merge(base, [lora], tmp_path / "x", **{"dtype": "bf16", **options})
