"""The recipe "today" beside transformers' own Trainer, on data whose epochs end inside a batch or an update."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
import toolchain.demo.files as demo
from lora.training.loop import read_log
from lora.training.prepare import Preparation, prepare_data
from lora.training.prepared import IGNORED, PreparedData, open_prepared

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

BASE = demo.FOLDER / "base"
TOKENIZER = BASE / "tokenizer.model"
LINES = [
    "The sun is far away.",
    "",
    "<s> inside </s> of a line",
    "Paris is the capital of France.  ",
    "\tTabs  and   x",
]
RECORDS = [
    *({"instruction": f"Add {i} and {i + 1}.", "output": str(2 * i + 1)} for i in range(7)),
    {"instruction": "Say nothing.", "input": "at all", "output": ""},
    {"instruction": "word " * 200, "input": "", "output": "never seen"},
    {"instruction": "Quote <s>.", "input": "<s>", "output": "</s> is the end, <s> the beginning"},
    {"instruction": "A long answer", "input": None, "output": "far " * 300},
]


class Rows(torch.utils.data.Dataset):
    """The rows to train on, in the data's order; Trainer shuffles them."""

    def __init__(self, data: PreparedData) -> None:
        self.rows = [(data.row(number), data.labels(number)) for number in data.train]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        return self.rows[at]


def padded(rows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """A batch as the original's collator makes it."""
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    batch = {name: np.zeros(shape, np.int64) for name in ("input_ids", "labels", "attention_mask")}
    batch["labels"][:] = IGNORED
    for at, (ids, labels) in enumerate(rows):
        for name, values in (("input_ids", ids), ("labels", labels), ("attention_mask", 1)):
            batch[name][at, : len(ids)] = values
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def trainers_log(data: Path, rows: int, accumulation: int, steps: int, tmp_path: Path) -> list[dict[str, float]]:
    """Losses, norms and rates of Trainer, which trains embeddings and output."""
    cli.main(["to-hf", str(BASE), str(tmp_path / "base"), "-q"])
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embed_tokens" in name or "lm_head" in name)
    numbers = {"max_steps": steps, "per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
    rates = {"learning_rate": 2e-3, "lr_scheduler_type": "cosine", "warmup_steps": 1, "weight_decay": 0.01, "seed": 3}
    quiet = {"logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True}
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path / "out"), **numbers, **rates, **quiet)
    with open_prepared(data) as prepared:
        dataset = Rows(prepared)
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=padded)
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize(
    ("kind", "rows", "accumulation", "steps"),
    [("texts", 2, 2, 8), ("texts", 8, 9, 3), ("records", 1, 4, 7), ("records", 3, 2, 6)],
)
def test_losses_are_trainers(kind: str, rows: int, accumulation: int, steps: int, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(LINES * 9) + "\n\n", "utf-8")
    (tmp_path / "b.txt").write_bytes(b"A line that goes on and on\r\nand another\rmixed ends " * 7)
    (tmp_path / "r.json").write_text(json.dumps(RECORDS), "utf-8")
    files = [tmp_path / "r.json"] if kind == "records" else [tmp_path / "a.txt", tmp_path / "b.txt"]
    length, data, out = 32 if kind == "texts" else 64, tmp_path / "data.safetensors", tmp_path / "ours"
    prepare_data(files, TOKENIZER, data, Preparation(kind, length=length, validation=0.1))
    theirs = trainers_log(data, rows, accumulation, steps, tmp_path)
    stage = "instruct" if kind == "records" else "stage2"
    given = ["--tokenizer", str(TOKENIZER), "--base", str(BASE), "-o", str(out), "--recipe", "today", "--seed", "3"]
    sizes = ["--rows", str(rows), "--accumulation", str(accumulation), "--steps", str(steps), "--length", str(length)]
    numbers = ["--learning-rate", "0.002", "--warmup", "0.01", "--weight-decay", "0.01", "--targets", "none"]
    assert cli.main(["train", stage, str(data), *given, *sizes, *numbers, "-q"]) == 0
    ours = read_log(out / "work" / "log.jsonl")
    assert [line.learning_rate for line in ours] == pytest.approx([line["learning_rate"] for line in theirs], rel=1e-9)
    assert [line.loss for line in ours] == pytest.approx([float(line["loss"]) for line in theirs], rel=1e-5)
    assert [line.gradient for line in ours] == pytest.approx([float(line["grad_norm"]) for line in theirs], rel=1e-4)
