"""The numpy engine against runs of the original scripts and of today's Trainer: losses, norms, rates, adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolchain.demo.story as demo
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.tensor_names import rename
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.layout import in_layout
from llama_ref.checkpoint.safetensors_file import open_safetensors
from lora.merging.adapter import open_adapter
from lora.merging.merge import merge
from lora.training.data import Batch, Document, stack
from lora.training.loop import Run
from lora.training.model import Lora, Weights
from lora.training.recipe import MODULES, load_recipe, split_modules
from lora.training.stages import load_weights

STAGES = ("stage1", "stage2", "instruct")
SEVEN = Lora(r=8, alpha=32.0, dropout=0.0, targets=split_modules(MODULES))  # as the golden runs were made
Golden = Callable[[str], Path]


class Replayed:
    """The micro-batches of a golden run, in its order."""

    def __init__(self, path: Path) -> None:
        self.updates = json.loads(path.read_bytes())
        self.batches = [self._batch(each) for update in self.updates for each in update]

    @staticmethod
    def _batch(micro: dict[str, list[list[int]]]) -> Batch:
        documents = []
        for ids, labels, mask in zip(micro["ids"], micro["labels"], micro["mask"]):
            n = sum(mask)
            documents.append([Document(np.array(ids[:n], np.int32), (np.array(labels[:n]) >= 0).astype(np.float32))])
        return stack(documents, len(micro["ids"][0]) - 1)

    def batch(self, number: int) -> Batch:
        return self.batches[number]

    def identity(self) -> dict[str, Any]:
        return {}


def meta_tensor(name: str, array: np.ndarray, shape: ModelParams) -> tuple[str, np.ndarray]:
    """A tensor of a golden file, under the engine's name and with its order of rows."""
    name = name.removeprefix("base_model.model.")
    side = next((side for side in (".lora_A", ".lora_B") if side in name), "")
    meta = rename(name.replace(side + ".weight", ".weight"), "meta")
    if side == ".lora_B":
        array = in_layout(LazyTensor.of_array(meta, array, layout="huggingface"), "meta", shape).numpy()
    return meta.replace(".weight", side) if side else meta, np.array(array, np.float32)


def tensors_of(path: Path, shape: ModelParams) -> Weights:
    with open_safetensors(path) as file:
        return dict(meta_tensor(name, tensor.numpy(), shape) for name, tensor in file.items())


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each stage begins: the demo's base, and the same with its first adapter."""
    base, merged = demo.FOLDER / "base", tmp_path_factory.mktemp("merged") / "model"
    merge(base, [demo.FOLDER / demo.ADAPTERS[0]], merged)
    return {"stage1": base, "stage2": base, "instruct": merged}


def begin(stage: str, recipe: str, golden: Golden, base: Path) -> Run:
    weights, shape = load_weights(base)
    start = tensors_of(golden(f"recipe/{stage}/start.safetensors"), shape)
    weights |= start
    settings = json.loads(golden(f"recipe/{stage}/original.json").read_bytes())["settings"]
    usual = load_recipe(recipe).stage(stage).settings
    assert (usual.warmup, usual.weight_decay) == (settings["warmup_ratio"], settings["weight_decay"])
    changes = {"n_steps": settings["steps"], "accumulation": settings["accumulation"]}
    chosen = replace(usual, learning_rate=settings["learning_rate"], **changes)
    trained = ["tok_embeddings.weight"] if stage == "stage1" else list(start)
    replayed = Replayed(golden(f"recipe/{stage}/batches.json"))
    return Run(weights, trained, shape, replayed, chosen, lora=None if stage == "stage1" else SEVEN)


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
