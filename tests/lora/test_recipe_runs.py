"""The numpy engine against runs of the original scripts and of today's Trainer: losses, norms, rates, adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import toolchain.demo.files as demo
from lora.merging.adapter import open_adapter
from lora.merging.merge import merge
from lora.training.loop import Run
from lora.training.model import Weights
from lora.training.stages import load_weights
from tests.lora.golden_recipe import STAGES, ReplayedRows, golden_numbers, meta_tensor, tensors_of

Golden = Callable[[str], Path]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each stage begins: the demo's base, and the same with its first adapter."""
    base, merged = demo.FOLDER / "base", tmp_path_factory.mktemp("merged") / "model"
    merge(base, [demo.FOLDER / demo.ADAPTERS[0]], merged)
    return {"stage1": base, "stage2": base, "instruct": merged}


def begin(stage: str, recipe: str, golden: Golden, base: Path) -> Run:
    weights, shape = load_weights(base)
    folder = golden("recipe")
    start = tensors_of(folder / stage / "start.safetensors", shape)
    weights |= start
    numbers, rows = golden_numbers(folder, stage, recipe), ReplayedRows(folder / stage / "batches.json")
    trained = ["tok_embeddings.weight"] if stage == "stage1" else list(start)
    return Run(weights, trained, shape, rows, numbers.settings, lora=numbers.lora)  # type: ignore[arg-type]


def agree(run: Run, start: Weights, final: Weights) -> None:
    """The specification's tolerances: few entries are off by 1e-5, and the updates point the same way."""
    ours = np.concatenate([run.weights[name].ravel() for name in final])
    theirs = np.concatenate([final[name].ravel() for name in final])
    begun = np.concatenate([start[name].ravel() for name in final])
    assert (np.abs(ours - theirs) > 1e-5).mean() <= 0.005
    a, b = (each.astype(np.float64) - begun for each in (ours, theirs))
    assert a @ b / np.sqrt((a @ a) * (b @ b)) >= 0.9999


@pytest.mark.parametrize("stage", STAGES)
def test_original(stage: str, golden: Golden, bases: dict[str, Path]) -> None:
    run = begin(stage, "original", golden, bases[stage])
    start = {name: tensor.copy() for name, tensor in run.weights.items()}
    run.train()
    steps = json.loads(golden(f"recipe/{stage}/original.json").read_bytes())["steps"]
    assert [line.learning_rate for line in run.log] == pytest.approx([step["lr"] for step in steps], rel=1e-12)
    means = [float(np.mean(step["micro_losses"])) for step in steps]
    assert [line.loss for line in run.log] == pytest.approx(means, rel=1e-4)
    assert [line.gradient for line in run.log] == pytest.approx([step["grad_norm"] for step in steps], rel=2e-4)
    if stage == "stage1":
        agree(run, start, tensors_of(golden("recipe/stage1/final.safetensors"), run.shape))
        return
    with open_adapter(golden(f"recipe/{stage}/original")) as adapter:
        final = {name: tensor.f32() for name, tensor in adapter.replaced.items()}
        sides = [(side.name, side.f32()) for pair in adapter.pairs.values() for side in (pair.a, pair.b)]
        final |= dict(meta_tensor(name, array, run.shape) for name, array in sides)
    agree(run, start, final)


@pytest.mark.parametrize("stage", STAGES)
def test_today(stage: str, golden: Golden, bases: dict[str, Path]) -> None:
    run = begin(stage, "today", golden, bases[stage])
    start = {name: tensor.copy() for name, tensor in run.weights.items()}
    run.train(until=20 if stage == "instruct" else 6)
    steps = json.loads(golden(f"recipe/{stage}/today.json").read_bytes())["runs"]["one process"][: run.step]
    assert [line.learning_rate for line in run.log] == pytest.approx([step["lr"] for step in steps], rel=1e-12)
    assert [line.loss for line in run.log] == pytest.approx([step["loss"] for step in steps], rel=1e-4)
    assert [line.gradient for line in run.log] == pytest.approx([step["grad_norm"] for step in steps], rel=2e-4)
    if run.step == 20:
        agree(run, start, tensors_of(golden(f"recipe/{stage}/today.safetensors"), run.shape))
