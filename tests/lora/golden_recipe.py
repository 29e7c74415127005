"""Golden runs of the recipe as both engines take them: where they start, their numbers, their batches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.tensor_names import rename
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.layout import in_layout
from llama_ref.checkpoint.safetensors_file import open_safetensors
from lora.training.data import Batch, Document, stack
from lora.training.model import Lora, Weights
from lora.training.recipe import MODULES, StageNumbers, load_recipe, split_modules

STAGES = ("stage1", "stage2", "instruct")
SEVEN = Lora(r=8, alpha=32.0, dropout=0.0, targets=split_modules(MODULES))  # as the golden runs were made


def golden_numbers(golden: Path, stage: str, recipe: str) -> StageNumbers:
    """The recipe's numbers with the golden run's rate (ten times as high), steps and batches."""
    settings = json.loads((golden / stage / "original.json").read_bytes())["settings"]
    usual = load_recipe(recipe).stage(stage)
    assert (usual.settings.warmup, usual.settings.weight_decay) == (settings["warmup_ratio"], settings["weight_decay"])
    changes = {"n_steps": settings["steps"], "accumulation": settings["accumulation"]}
    chosen = replace(usual.settings, learning_rate=settings["learning_rate"], **changes)
    rows, lora = settings["rows"], None if stage == "stage1" else SEVEN
    return replace(usual, settings=chosen, rows=rows, batch=rows * settings["accumulation"], lora=lora)


def meta_tensor(name: str, array: np.ndarray, shape: ModelParams) -> tuple[str, np.ndarray]:
    """A tensor of a golden file, under the engine's name and with its order of rows."""
    name = name.removeprefix("base_model.model.")
    side = next((side for side in (".lora_A", ".lora_B") if side in name), "")
    meta = rename(name.replace(side + ".weight", ".weight"), "meta")
    if side == ".lora_B":
        array = in_layout(LazyTensor.of_array(meta, array, layout="huggingface"), "meta", shape).numpy()
    return meta.replace(".weight", side) if side else meta, np.array(array, np.float32)


def tensors_of(path: Path, shape: ModelParams) -> Weights:
    """All tensors of a golden file."""
    with open_safetensors(path) as file:
        return dict(meta_tensor(name, tensor.numpy(), shape) for name, tensor in file.items())


def golden_start(path: Path, shape: ModelParams, stage: str) -> tuple[Weights, dict[str, LazyTensor]]:
    """What is trained, before the first step; and what the golden run grew but did not train."""
    tensors = tensors_of(path, shape)
    if stage != "stage1":
        return tensors, {}
    head = tensors.pop("output.weight")
    return tensors, {"output.weight": LazyTensor.of_array("output.weight", head, layout="meta")}


class ReplayedRows:
    """The rows of a golden run in its order, as both engines ask for them."""

    def __init__(self, path: Path) -> None:
        self.updates = json.loads(path.read_bytes())
        self.micros = [micro for update in self.updates for micro in update]
        rows = [row for micro in self.micros for row in zip(micro["ids"], micro["labels"], micro["mask"])]
        self.rows = [(np.array(ids[: sum(mask)]), np.array(labels[: sum(mask)])) for ids, labels, mask in rows]
        self.data = self

    def of_update(self, step: int, accumulation: int) -> range:
        before = sum(map(len, self.updates[:step]))
        return range(before, before + len(self.updates[step]))

    def rows_of(self, number: int) -> list[int]:
        before = sum(len(micro["ids"]) for micro in self.micros[:number])
        return list(range(before, before + len(self.micros[number]["ids"])))

    def row(self, number: int) -> np.ndarray:
        return self.rows[number][0]

    def labels(self, number: int) -> np.ndarray:
        return self.rows[number][1]

    def n_targets(self, number: int) -> int:
        return int((self.labels(number)[1:] >= 0).sum())

    def batch(self, number: int) -> Batch:
        """A micro-batch for the numpy engine."""
        numbers = self.rows_of(number)
        documents = [Document(self.row(i).astype(np.int32), (self.labels(i) >= 0).astype(np.float32)) for i in numbers]
        return stack([[document] for document in documents], max(map(len, documents)) - 1)

    def identity(self) -> dict[str, Any]:
        return {}
