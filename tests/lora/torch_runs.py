"""One golden run on torch, by one process or several: ``python torch_runs.py GOLDEN BASE STAGE RECIPE UNTIL OUT``.

Run by test_torch_engine.py, which compares; a folder OUT/work with a checkpoint is gone on with.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from llama_ref.checkpoint import open_checkpoint
from lora.training.torch_engine import TorchRun, processes
from lora.training.torch_model import build
from tests.lora.golden_recipe import ReplayedRows, golden_numbers, golden_start


def main(golden: Path, base: Path, stage: str, recipe: str, until: int, out: Path) -> None:
    torch.set_num_threads(1)
    who, numbers = processes(), golden_numbers(golden, stage, recipe)
    with open_checkpoint(base) as checkpoint:
        shape = checkpoint.params
        start, frozen = golden_start(golden / stage / "start.safetensors", shape, stage)
        tensors = {**checkpoint.tensors, **frozen}
        n_vocab = len(start["tok_embeddings.weight"])
        model = build(tensors, start, shape, n_vocab, numbers.lora, device=who.device)
    rows = ReplayedRows(golden / stage / "batches.json")
    (out / "work").mkdir(parents=True, exist_ok=True)
    run = TorchRun(model, rows, shape, numbers, who, folder=out / "work", checkpoint_every=5)
    run.resume()
    run.train(until)
    weights = run.weights()
    if who.first:
        np.savez(out / f"weights-{until}.npz", **weights)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]), Path(sys.argv[6]))
