"""What is written for other programs: ids, arguments, and what will differ; and models that numpy does not train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import cli
from ggmlpy.files.errors import UsageError
from ggmlpy.formats.model_params import ModelParams
from lora.training.memory import require_plain
from lora.training.prepared import open_prepared

Golden = Callable[[str], Path]


@pytest.fixture
def prepared(golden: Golden, tmp_path: Path) -> str:
    out = str(tmp_path / "sft.safetensors")
    given = [str(golden("recipe/data/sft/c.json")), "--tokenizer", str(golden("recipe/tokenizer-alpaca"))]
    assert cli.main(["train", "prepare", *given, "--records", "--length", "96", "-o", out, "-q"]) == 0
    return out


def test_rows_and_numbers(prepared: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    argv = ["train", "export", prepared, "--stage", "instruct", "--recipe", "original", "--cards", "4", "-o", str(out)]
    assert cli.main(argv) == 0
    told = capsys.readouterr().err
    assert "will differ: optimizer" in told
    assert "will differ: loss" in told
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    with open_prepared(prepared) as data:
        assert [row["input_ids"] for row in rows] == [data.row(number).tolist() for number in data.train]
        assert [row["labels"] for row in rows] == [data.labels(number).tolist() for number in data.train]
    arguments = json.loads((out / "arguments.json").read_bytes())
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * 4 == 512
    assert (arguments["learning_rate"], arguments["warmup_steps"], arguments["weight_decay"]) == (1e-4, 180, 0)
    adapter = json.loads((out / "adapter.json").read_bytes())
    assert (adapter["r"], adapter["lora_alpha"], len(adapter["target_modules"])) == (8, 32, 7)
    assert json.loads((out / "ds_zero2.json").read_bytes())["zero_optimization"]["stage"] == 2
    assert "learning_rate: 0.0001\n" in (out / "axolotl.yml").read_text()
    assert len((out / "DIFFERENCES.txt").read_text().splitlines()) == told.count("will differ: ")


def test_transformers_takes_the_arguments(prepared: str, tmp_path: Path) -> None:
    """Whatever its version is: names of Trainer's arguments come and go."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    out = tmp_path / "out"
    assert cli.main(["train", "export", prepared, "--stage", "instruct", "-o", str(out), "-q"]) == 0
    arguments = json.loads((out / "arguments.json").read_bytes())
    here = {"deepspeed": None, "bf16": False, "use_cpu": True, "output_dir": str(tmp_path)}
    taken = transformers.TrainingArguments(**{**arguments, **here})
    assert (taken.warmup_steps, taken.max_steps) == (180, 6000)


def test_uneven_cards_are_refused(prepared: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "export", prepared, "--stage", "instruct", "--cards", "3", "-o", str(tmp_path / "out")]
    assert cli.main(argv) == 2
    assert "cannot be shared out over 3 cards" in capsys.readouterr().err


def test_rows_longer_than_the_runs(prepared: str, golden: Golden, tmp_path: Path) -> None:
    from dataclasses import replace

    from lora.training.recipe import load_recipe
    from lora.training.run_stage import StageInput, prepared_blocks

    given = StageInput([prepared], str(golden("recipe/tokenizer-alpaca/tokenizer.model")))
    short = replace(load_recipe("today").stage("instruct"), length=32)
    with pytest.raises(UsageError, match="rows of 96 tokens, and a row has 32 here"):
        prepared_blocks("instruct", given, "today", short, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_head_kv": 2}, "grouped heads"),
        ({"rope_theta": 500000.0}, "rotary base 500000"),
        ({"attention_bias": True}, "biases"),
        ({"tied_embeddings": True}, "one matrix"),
    ],
)
def test_models_that_numpy_would_compute_wrongly(changes: dict, words: str) -> None:
    require_plain(ModelParams(n_embd=64, n_layer=2, n_head=4), "base")
    with pytest.raises(UsageError, match=words):
        require_plain(ModelParams(n_embd=64, n_layer=2, n_head=4, **changes), "base")
