"""What either engine publishes goes through ``merge``, through PEFT and back, and carries a next stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
import toolchain.demo.files as demo
from llama_ref.checkpoint import open_checkpoint
from lora.merging.merge import merge
from lora.training.loop import read_log

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
peft: Any = pytest.importorskip("peft")

BASE, FIRST = demo.FOLDER / "base", demo.FOLDER / demo.ADAPTERS[0]
OPTIONS = {  # beside those of the recipe: fewer matrices, another rank and scale, one tensor whole, none of them
    "the recipe's": [],
    "fewer": ["--targets", "q_proj,down_proj", "--r", "3", "--alpha", "12", "--dropout", "0"],
    "embeddings": ["--modules-to-save", "embed_tokens", "--dropout", "0.2", "--r", "16"],
}


def train(engine: str, stage: str, data: Path, base: Path, tokenizer: Path, out: Path, *more: str) -> None:
    given = [str(data), "--tokenizer", str(tokenizer), "--base", str(base), "-o", str(out), "--engine", engine]
    sizes = ["--rows", "1", "--batch", "2", "--steps", "3", "--length", "128", "--learning-rate", "0.01", "-q"]
    assert cli.main(["train", stage, *given, *sizes, *more]) == 0


def tensors(folder: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(folder) as checkpoint:
        return {name: np.array(tensor.f32()) for name, tensor in checkpoint.tensors.items()}


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(3, 40)[None]).logits.numpy()


def loaded(folder: Path, n_vocab: int) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.resize_token_embeddings(n_vocab)
    return model


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_through_merge_and_peft_and_back(engine: str, options: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text((demo.FOLDER / "held-out" / "chinese.txt").read_text("utf-8")[:3000], "utf-8")
    adapter, merged, hf = tmp_path / "a", tmp_path / "merged", tmp_path / "hf"
    train(engine, "stage2", tmp_path / "t.txt", BASE, FIRST / "tokenizer.model", adapter, *OPTIONS[options])
    merge(BASE, [adapter], merged)
    for source, target in ((BASE, tmp_path / "base"), (merged, hf)):
        assert cli.main(["to-hf", str(source), str(target), "-q"]) == 0
    ours = tensors(merged)
    n_vocab = len(ours["output.weight"])
    model = peft.PeftModel.from_pretrained(loaded(tmp_path / "base", n_vocab), str(adapter))
    assert logits(model) == pytest.approx(logits(loaded(hf, n_vocab)), abs=0.02)
    model.save_pretrained(tmp_path / "again")
    (tmp_path / "again" / "tokenizer.model").write_bytes((FIRST / "tokenizer.model").read_bytes())
    merge(BASE, [tmp_path / "again"], tmp_path / "merged again")
    theirs = tensors(tmp_path / "merged again")
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_a_next_stage_on_the_merged_model(engine: str, tmp_path: Path) -> None:
    """Merged one after the other or at once, both adapters give the same model."""
    records = [{"instruction": f"{n}加1等于多少？", "output": f"{n}加1等于{n + 1}。"} for n in range(9)]
    (tmp_path / "r.json").write_text(json.dumps(records), "utf-8")
    merge(BASE, [FIRST], tmp_path / "merged")
    tokenizer = demo.FOLDER / demo.ADAPTERS[1] / "tokenizer.model"
    train(engine, "instruct", tmp_path / "r.json", tmp_path / "merged", tokenizer, tmp_path / "a")
    merge(tmp_path / "merged", [tmp_path / "a"], tmp_path / "whole")
    merge(BASE, [FIRST, tmp_path / "a"], tmp_path / "at once")
    one, other = tensors(tmp_path / "whole"), tensors(tmp_path / "at once")
    assert one.keys() == other.keys()
    assert all(one[name] == pytest.approx(other[name], abs=2e-3) for name in one)
    log = read_log(tmp_path / "a" / "work" / "log.jsonl")
    assert [line.learning_rate for line in log] == pytest.approx([0.0, 0.01, 0.005])
    assert all(np.isfinite(line.loss) for line in log)
