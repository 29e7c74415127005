"""Whole merges against the files of the original scripts, and every target against the long way round."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ggmlpy
from ggmlpy.files.errors import UsageError
from ggmlpy.formats.eras import GGUF_ERA
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.tensor_names import expected_shapes, meta_names, rename
from ggmlpy.quantizers.whole_file import quantize_file
from llama_ref.checkpoint import Checkpoint, LazyTensor, open_checkpoint, open_pth, widen_bfloat16, write_pth
from llama_ref.checkpoint.params import params_json
from llama_ref.conversion.checkpoints import plan_to_hf
from llama_ref.conversion.converting import plan_conversion
from lora.merging.merge import merge, plan_merge
from tests.lora.test_kernels import transcription

# case -> base, adapters; the five cases of one base share it
CASES = {
    "v11-llama": ("v11-llama/base/7B", ["lora"]),
    "v11-alpaca-pad": ("v11-llama/base/7B", ["lora"]),
    "v11-qv-fan-in-fan-out": ("v11-llama/base/7B", ["lora"]),
    "v11-adapter-f32": ("v11-llama/base/7B", ["lora"]),
    "head-multi-lora": ("v11-llama/base/7B", ["lora1", "lora2"]),
    "two-shard-13b": ("two-shard-13b/base/13B", ["lora"]),
}


def inputs(data: Path, case: str) -> tuple[Path, list[Path]]:
    base, adapters = CASES[case]
    return data / "merge" / base, [data / "merge" / case / name for name in adapters]


def assert_same_files(found: Path, expected: Path) -> None:
    assert sorted(path.name for path in found.iterdir()) == sorted(path.name for path in expected.iterdir())
    for path in expected.iterdir():
        assert (found / path.name).read_bytes() == path.read_bytes(), path.name


def assert_same_tensors(found: Checkpoint, expected: Checkpoint) -> None:
    assert set(found.tensors) == set(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert np.array_equal(found.tensors[name].numpy(), tensor.numpy()), name


@pytest.mark.parametrize("case", CASES)
def test_the_original_scripts_files(golden, tmp_path: Path, case: str) -> None:
    base, adapters = CASES[case]
    folder = golden(f"merge/{case}")
    way = "v1.1" if "fan-in" in case else "peft"
    sources = [folder / name for name in adapters]
    report = merge(golden(f"merge/{base}"), sources, tmp_path / "out", fan_in_fan_out=way)
    assert_same_files(tmp_path / "out", folder / "out")
    assert report.n_changed == report.n_with_pairs == (4 if "fan-in" in case else 14)
    assert 0 < report.largest < 1


TORCHES = [("1.13", "torch1.13.1"), ("2.0", "torch2.0.1"), ("2.6", "torch2.13.0")]


@pytest.mark.parametrize(("torch_format", "folder"), TORCHES)
def test_the_bytes_of_another_torch(golden, data: Path, tmp_path: Path, torch_format: str, folder: str) -> None:
    expected = golden(f"merge/pth-format/{folder}/consolidated.00.pth")
    merge(*inputs(data, "v11-llama"), tmp_path / "out", torch_format=torch_format)
    assert (tmp_path / "out" / "consolidated.00.pth").read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("weights", ["bin", "safetensors"])
@pytest.mark.parametrize("case", ["head-multi-lora", "two-shard-13b"])
def test_a_base_in_hugging_faces_layout(data: Path, tmp_path: Path, case: str, weights: str) -> None:
    base, adapters = inputs(data, case)
    with plan_to_hf(base, tmp_path / "base", weights=weights, shard_size="200KB") as plan:
        plan.write()
    n_shards = len(list(base.glob("*.pth")))
    merge(tmp_path / "base", adapters, tmp_path / "out", n_shards=n_shards)
    assert_same_files(tmp_path / "out", data / "merge" / case / "out")


@pytest.mark.parametrize("weights", ["bin", "safetensors"])
@pytest.mark.parametrize("shard_size", ["10GB", "150KB"])
def test_hugging_faces_layout_is_that_of_the_merged_pth(
    data: Path, tmp_path: Path, weights: str, shard_size: str
) -> None:
    merged = data / "merge" / "head-multi-lora" / "out"
    merge(
        *inputs(data, "head-multi-lora"),
        tmp_path / "out",
        output_type="huggingface",
        weights=weights,
        shard_size=shard_size,
    )
    with plan_to_hf(merged, tmp_path / "long", weights=weights, shard_size=shard_size) as plan:
        plan.write()
    assert_same_files(tmp_path / "out", tmp_path / "long")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 501
    with open_checkpoint(tmp_path / "out") as found, open_checkpoint(merged) as expected:
        assert_same_tensors(found, expected)


@pytest.mark.parametrize("weights", ["bin", "safetensors"])
def test_a_base_in_parts_lends_its_parts(data: Path, tmp_path: Path, weights: str) -> None:
    """As the low-memory script: the same files, index and configuration with the new sizes in them."""
    base, adapters = inputs(data, "head-multi-lora")
    with plan_to_hf(base, tmp_path / "base", weights=weights, shard_size="150KB", inv_freq=True) as plan:
        plan.write()
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "transformers_version": "4.30.0"}))
    merge(tmp_path / "base", adapters, tmp_path / "out", output_type="huggingface")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {
        **config,
        "transformers_version": "4.30.0",
        "vocab_size": 501,
    }
    (name,) = (path.name for path in (tmp_path / "base").glob("*.index.json"))
    before, after = (json.loads((tmp_path / folder / name).read_text()) for folder in ("base", "out"))
    assert after["weight_map"] == before["weight_map"]
    assert list(after["weight_map"]) == list(before["weight_map"])
    assert after["metadata"]["total_size"] == before["metadata"]["total_size"] + 2 * 2 * 64 * (501 - 320)
    with open_checkpoint(tmp_path / "out") as found, open_checkpoint(data / "merge/head-multi-lora/out") as expected:
        assert_same_tensors(found, expected)


@pytest.mark.parametrize("era", ["2023-03-19", "2023-03-31", "2023-04-30", "2023-05-19", "2023-08-21"])
def test_ggml_is_what_converting_and_quantizing_give(data: Path, tmp_path: Path, era: str) -> None:
    merged = data / "merge" / "v11-alpaca-pad" / "out"
    with plan_conversion(merged, tmp_path / "long-f16.bin", era=era) as plan:
        plan.write()
    quantize_file(tmp_path / "long-f16.bin", tmp_path / "long-q4_0.bin", "q4_0", era)
    for kind in ("f16", "q4_0"):
        output = tmp_path / f"{kind}.bin"
        merge(*inputs(data, "v11-alpaca-pad"), output, output_type=f"ggml-{kind}", era=era)
        assert output.read_bytes() == (tmp_path / f"long-{kind}.bin").read_bytes(), kind


def test_gguf_is_what_converting_gives(data: Path, tmp_path: Path) -> None:
    merged = data / "merge" / "v11-alpaca-pad" / "out"
    with plan_conversion(merged, tmp_path / "long.gguf", container="gguf", era=GGUF_ERA) as plan:
        plan.write()
    merge(*inputs(data, "v11-alpaca-pad"), tmp_path / "f16.gguf", output_type="gguf-f16")
    assert (tmp_path / "f16.gguf").read_bytes() == (tmp_path / "long.gguf").read_bytes()
    merge(*inputs(data, "v11-alpaca-pad"), tmp_path / "q4_0.gguf", output_type="gguf-q4_0")
    merge(*inputs(data, "v11-alpaca-pad"), tmp_path / "q4_0.bin", output_type="ggml-q4_0", era="2023-08-21")
    with ggmlpy.open_model(tmp_path / "q4_0.gguf") as found, ggmlpy.open_model(tmp_path / "q4_0.bin") as expected:
        assert set(found.tensors) == set(expected.tensors)
        for name, tensor in expected.tensors.items():
            assert found.tensors[name].raw().tobytes() == tensor.raw().tobytes(), name


def test_a_base_in_bfloat16_is_rounded_once(data: Path, tmp_path: Path) -> None:
    base, adapters = inputs(data, "v11-llama")
    with open_pth(base / "consolidated.00.pth") as f:
        bits = {name: (tensor.f32().view(np.uint32) >> 16).astype(np.uint16) for name, tensor in f.items()}
    for folder, dtype in (("bf16", "bfloat16"), ("f16", "float16")):
        shutil.copytree(base, tmp_path / folder)
        arrays = {n: x if dtype == "bfloat16" else widen_bfloat16(x).astype(np.float16) for n, x in bits.items()}
        tensors = [(name, dtype, array.shape, [array]) for name, array in arrays.items()]
        write_pth(tmp_path / folder / "consolidated.00.pth", tensors)
        merge(tmp_path / folder, adapters, tmp_path / f"out-{folder}")
    assert_same_files(tmp_path / "out-bf16", tmp_path / "out-f16")


@pytest.mark.parametrize("n_shards", [2, 4])
def test_shards_join_to_the_same_model(data: Path, tmp_path: Path, n_shards: int) -> None:
    merge(*inputs(data, "v11-alpaca-pad"), tmp_path / "out", n_shards=n_shards)
    with open_pth(tmp_path / "out" / f"consolidated.{n_shards - 1:02}.pth") as last:
        assert last["output.weight"].shape[0] == 501 // n_shards + 501 % n_shards
    with open_checkpoint(tmp_path / "out") as found, open_checkpoint(data / "merge/v11-alpaca-pad/out") as expected:
        assert_same_tensors(found, expected)


def test_threads_do_not_matter(data: Path, tmp_path: Path) -> None:
    for n_threads in (1, 3):
        merge(*inputs(data, "v11-llama"), tmp_path / str(n_threads), n_threads=n_threads)
        assert_same_files(tmp_path / str(n_threads), data / "merge" / "v11-llama" / "out")


# ── a model of our own, so that everything can vary ──────────────────────────────────────────────────────────────────


def make_base(folder: Path, params: ModelParams, n_vocab: int, dtype: type = np.float16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(params.n_embd)
    shapes = expected_shapes(replace(params, n_vocab=n_vocab), meta_names(params.n_layer))
    arrays = {name: (rng.standard_normal(shape) * 0.02).astype(dtype) for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_pth(folder / "consolidated.00.pth", [LazyTensor.of_array(*item) for item in arrays.items()])
    (folder / "params.json").write_text(params_json(params))
    return arrays


def make_adapter(
    folder: Path, pairs: dict[str, tuple[np.ndarray, np.ndarray]], whole: dict[str, np.ndarray], **config: object
) -> Path:
    """``pairs``: Meta name -> (B, A) in Hugging Face's order of rows."""
    tensors = {}
    for name, (b, a) in pairs.items():
        stem = "base_model.model." + rename(name, "huggingface").removesuffix(".weight")
        tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    tensors |= {"base_model.model." + rename(name, "huggingface"): array for name, array in whole.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_pth(folder / "adapter_model.bin", [LazyTensor.of_array(*item) for item in tensors.items()])
    rank = next((a.shape[0] for _, a in pairs.values()), 1)
    settings_ = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings_))
    return folder


def permuted(weights: np.ndarray, n_head: int) -> np.ndarray:
    """Meta's order of rows to Hugging Face's, as convert_llama_weights_to_hf.py has it."""
    rows, columns = weights.shape
    return weights.reshape(n_head, rows // n_head // 2, 2, columns).transpose(0, 2, 1, 3).reshape(rows, columns)


def unpermuted(weights: np.ndarray, n_head: int) -> np.ndarray:
    rows, columns = weights.shape
    return weights.reshape(n_head, 2, rows // n_head // 2, columns).transpose(0, 2, 1, 3).reshape(rows, columns)


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), n_adapters=st.integers(1, 3), dtype=st.sampled_from([np.float16, np.float32]))
def test_any_adapters_against_the_definition(
    data: Path, tmp_path_factory: pytest.TempPathFactory, seed: int, n_adapters: int, dtype: type
) -> None:
    """Merged in Hugging Face's order of rows, as the scripts do it, and permuted back at the end."""
    folder, rng = tmp_path_factory.mktemp("merge"), np.random.default_rng(seed)
    params = ModelParams(n_embd=24, n_mult=8, n_head=2, n_layer=1)
    weights = make_base(folder / "base", params, 320, dtype)
    shutil.copy(data / "merge" / "v11-llama" / "base" / "tokenizer.model", folder / "base")
    expected = {name: array.astype(np.float16) for name, array in weights.items()}
    adapters = []
    for i in range(n_adapters):
        chosen = [name for name, array in weights.items() if array.ndim == 2 and rng.random() < 0.5]
        rank = int(rng.integers(1, 97))
        pairs = {
            name: tuple(rng.standard_normal(s).astype(np.float16) for s in ((len(expected[name]), rank), (rank, 24)))
            for name in chosen
            if weights[name].shape[1] == 24
        }
        norm = {"norm.weight": rng.standard_normal(24).astype(np.float32)}
        adapters.append(make_adapter(folder / f"lora{i}", pairs, norm, r=rank, lora_alpha=3))
        expected["norm.weight"] = norm["norm.weight"].astype(np.float16)
        for name, (b, a) in pairs.items():
            turn = any(part in name for part in (".wq.", ".wk."))
            before = permuted(expected[name], 2) if turn else expected[name]
            after = transcription(before, b, a, 3 / rank)
            expected[name] = unpermuted(after, 2) if turn else after
    merge(folder / "base", adapters, folder / "out")
    with open_checkpoint(folder / "out") as found:
        for name, array in expected.items():
            assert np.array_equal(found.tensors[name].numpy().view(np.uint16), array.view(np.uint16)), name


def test_a_wrong_permutation_is_noticed_by_these_tests(data: Path, tmp_path: Path) -> None:
    """The same adapter with the rows of one lora_B in Meta's order must not give the golden file."""
    base, (adapter,) = inputs(data, "v11-llama")
    shutil.copytree(adapter, tmp_path / "lora")
    with open_pth(adapter / "adapter_model.bin") as f:
        tensors = {name: tensor.numpy().copy() for name, tensor in f.items()}
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    tensors[key] = unpermuted(tensors[key], 4)
    write_pth(tmp_path / "lora" / "adapter_model.bin", [LazyTensor.of_array(*item) for item in tensors.items()])
    merge(base, [tmp_path / "lora"], tmp_path / "out")
    with open_checkpoint(tmp_path / "out") as found, open_checkpoint(data / "merge/v11-llama/out") as golden:
        differing = [n for n, t in golden.tensors.items() if not np.array_equal(found.tensors[n].numpy(), t.numpy())]
    assert differing == ["layers.0.attention.wq.weight"]


# ── growth without training ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def untrained(data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A base of 320 pieces, and an adapter that brings a tokenizer of 500 and no embeddings."""
    base, (adapter,) = inputs(data, "v11-qv-fan-in-fan-out")
    shutil.copytree(adapter, tmp_path / "lora")
    shutil.copy(data / "merge" / "v11-llama" / "lora" / "tokenizer.model", tmp_path / "lora")
    return base, tmp_path / "lora"


@pytest.mark.parametrize("init", ["zeros", "mean", "normal", "pieces"])
def test_rows_are_filled_only_when_asked_for(untrained: tuple[Path, Path], tmp_path: Path, init: str) -> None:
    base, adapter = untrained
    merge(base, [adapter], tmp_path / "out", init=init, seed=7)
    with open_checkpoint(base) as old, open_checkpoint(tmp_path / "out") as new:
        for name in ("tok_embeddings.weight", "output.weight"):
            before, after = old.tensors[name].numpy(), new.tensors[name].numpy()
            assert after.shape[0] == 500
            assert np.array_equal(after[:320], before)
            rows = after[320:].astype(np.float32)
            assert (rows == 0).all() if init == "zeros" else rows.std() > 0
            if init == "mean":
                assert np.array_equal(
                    after[320:], np.broadcast_to(before.astype("f8").mean(0), rows.shape).astype("f2")
                )
            if init == "normal":
                assert abs(rows.std() - 0.02) < 0.001
    merge(base, [adapter], tmp_path / "again", init=init, seed=7, n_threads=1)
    assert_same_files(tmp_path / "out", tmp_path / "again")


def test_another_seed_gives_other_rows(untrained: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = untrained
    for seed in (1, 2):
        merge(base, [adapter], tmp_path / str(seed), init="normal", seed=seed)
    first, second = ((tmp_path / str(seed) / "consolidated.00.pth").read_bytes() for seed in (1, 2))
    assert first != second


# ── the plan and the report ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_dry_run_tells_everything_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    with plan_merge(*inputs(data, "head-multi-lora"), tmp_path / "out") as plan:
        words = plan.describe()
    for part in ("base", "adapter 1", "adapter 2", "320", "500", "501", "397,534 bytes", "pairs: 28"):
        assert part in words, part
    assert not (tmp_path / "out").exists()


def test_the_sizes_foretold_are_the_sizes_written(data: Path, tmp_path: Path) -> None:
    for kind in ("pth", "huggingface", "ggml-f16", "ggml-q4_0", "gguf-f16", "gguf-q5_1"):
        with plan_merge(*inputs(data, "v11-llama"), tmp_path / kind, output_type=kind) as plan:
            foretold = plan.target().sizes()
            plan.run()
        assert {path: path.stat().st_size for path in foretold} == foretold


def test_an_adapter_that_does_nothing_is_called_so(data: Path, tmp_path: Path) -> None:
    base, _ = inputs(data, "v11-llama")
    zero = {"layers.0.attention.wv.weight": (np.zeros((64, 2), np.float16), np.ones((2, 64), np.float16))}
    report = merge(base, [make_adapter(tmp_path / "lora", zero, {})], tmp_path / "out")
    assert (report.n_changed, report.n_with_pairs) == (0, 1)
    assert "no tensor changed: lora_B is zero everywhere" in str(report)
    with open_checkpoint(base) as old, open_checkpoint(tmp_path / "out") as new:
        assert all(np.array_equal(new.tensors[n].numpy(), t.numpy()) for n, t in old.tensors.items())


def test_values_beyond_half_precision_are_called_so(data: Path, tmp_path: Path) -> None:
    base, _ = inputs(data, "v11-llama")
    huge = {"layers.0.attention.wv.weight": (np.full((64, 1), 6e4, np.float16), np.full((1, 64), 6e4, np.float16))}
    report = merge(base, [make_adapter(tmp_path / "lora", huge, {})], tmp_path / "out")
    assert "beyond half precision" in str(report)


def test_progress_adds_up(data: Path, tmp_path: Path) -> None:
    for kind in ("pth", "ggml-q4_0", "huggingface"):
        seen: list[int] = []
        with plan_merge(*inputs(data, "v11-llama"), tmp_path / kind, output_type=kind) as plan:
            plan.run(progress=seen.append)
            assert 0.99 * plan.nbytes <= sum(seen) <= plan.nbytes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output_type": "gguf"}, "unknown output type 'gguf'"),
        ({"output_type": "ggml-q9_0"}, "unknown type 'q9_0'"),
        ({"init": "ones"}, "unknown initialization 'ones'"),
        ({"torch_format": "0.4"}, "unknown torch format '0.4'"),
        ({"n_shards": 0}, "0 shards"),
        ({"n_threads": 0}, "0 threads"),
        ({"init": "normal", "seed": -1}, "must not be negative"),
        ({"output_type": "huggingface", "weights": "npz"}, "unknown kind of weights 'npz'"),
        ({"n_shards": 3}, "cannot be cut into 3 shards"),
    ],
)
def test_wrong_requests(data: Path, tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        merge(*inputs(data, "v11-llama"), tmp_path / "out", **options)
    assert not (tmp_path / "out" / "params.json").exists()


def test_inputs_and_other_models_are_not_overwritten(data: Path, tmp_path: Path) -> None:
    base, adapters = inputs(data, "v11-llama")
    with pytest.raises(UsageError, match="is the input"):
        merge(base, adapters, base)
    merge(base, adapters, tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds consolidated\.00\.pth.* already; use --force"):
        merge(base, adapters, tmp_path / "out")
    with pytest.raises(UsageError, match="holds weights of another model"):
        merge(base, adapters, tmp_path / "out", output_type="huggingface", force=True)
    merge(base, adapters, tmp_path / "out", force=True)
    assert_same_files(tmp_path / "out", data / "merge" / "v11-llama" / "out")
    with pytest.raises(UsageError, match="is there already; use --force"):
        merge(base, adapters, tmp_path / "out" / "params.json", output_type="ggml-f16")
