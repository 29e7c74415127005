"""The torch engine against the golden runs: one process and two, going on with another number, signals, cards."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import toolchain.demo.files as demo
from ggmlpy.files.errors import UsageError
from lora.merging.adapter import open_adapter
from lora.merging.merge import merge
from lora.training.prepare import Preparation, prepare_data
from lora.training.prepared import open_prepared

pytest.importorskip("torch")
pytest.importorskip("transformers")

Golden = Callable[[str], Path]
ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = demo.FOLDER / demo.ADAPTERS[0] / "tokenizer.model"
RUNS = Path(__file__).with_name("torch_runs.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SEVERAL = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def run(n: int, golden: Path, base: Path, stage: str, recipe: str, until: int, out: Path) -> list[dict]:
    """The log of a golden run by ``n`` processes, to step ``until``."""
    start = [sys.executable] if n == 1 else [*SEVERAL, str(n)]
    words = [str(RUNS), str(golden), str(base), stage, recipe, str(until), str(out)]
    subprocess.run([*start, *words], check=True, env=ENVIRONMENT, timeout=300, capture_output=True)
    return [json.loads(line) for line in (out / "work" / "log.jsonl").read_text().splitlines()]


def check(log: list[dict], golden: Path, stage: str, recipe: str) -> None:
    if recipe == "original":
        steps = json.loads((golden / stage / "original.json").read_bytes())["steps"]
        losses = [float(np.mean(step["micro_losses"])) for step in steps]
    else:
        steps = json.loads((golden / stage / "today.json").read_bytes())["runs"]["one process"]
        losses = [step["loss"] for step in steps]
    n = len(log)
    assert [line["loss"] for line in log] == pytest.approx(losses[:n], rel=1e-4)
    assert [line["gradient"] for line in log] == pytest.approx([step["grad_norm"] for step in steps[:n]], rel=2e-4)
    assert [line["learning_rate"] for line in log] == pytest.approx([step["lr"] for step in steps[:n]], rel=1e-12)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("merged") / "model"
    merge(demo.FOLDER / "base", [demo.FOLDER / demo.ADAPTERS[0]], out)
    return out


def test_stage_one_as_the_original(golden: Golden, tmp_path: Path) -> None:
    folder = golden("recipe")
    check(run(1, folder, demo.FOLDER / "base", "stage1", "original", 20, tmp_path), folder, "stage1", "original")


@pytest.mark.parametrize("recipe", ["original", "today"])
def test_two_processes_train_as_one(recipe: str, golden: Golden, merged: Path, tmp_path: Path) -> None:
    folder = golden("recipe")
    logs = [run(n, folder, merged, "instruct", recipe, 20, tmp_path / str(n)) for n in (1, 2)]
    for log in logs:
        check(log, folder, "instruct", recipe)
    one, two = ([line["loss"] for line in log] for log in logs)
    assert one[:3] == pytest.approx(two[:3], rel=1e-7)
    assert one == pytest.approx(two, rel=1e-4)


def test_two_processes_are_gone_on_with_by_one(golden: Golden, tmp_path: Path) -> None:
    folder, base = golden("recipe"), demo.FOLDER / "base"
    run(2, folder, base, "stage2", "today", 10, tmp_path)
    log = run(1, folder, base, "stage2", "today", 20, tmp_path)
    assert [line["step"] for line in log] == list(range(1, 21))
    check(log, folder, "stage2", "today")


def command(out: Path, *more: str) -> list[str]:
    texts = demo.FOLDER / "held-out" / "chinese.txt"
    given = ["--tokenizer", str(TOKENIZER), "--base", str(demo.FOLDER / "base"), "-o", str(out), "--engine", "torch"]
    sizes = ["--batch", "2", "--length", "32", "--learning-rate", "0.001"]
    return [str(ROOT / "cli.py"), "train", "stage2", str(texts), *given, *sizes, *more]


def test_an_adapter_is_published_and_merges(tmp_path: Path) -> None:
    start = [*SEVERAL, "2"]
    subprocess.run([*start, *command(tmp_path / "a", "--steps", "3")], check=True, env=ENVIRONMENT, timeout=300)
    written = list((tmp_path / "a" / "work" / "tensorboard").glob("events.out.tfevents.*"))
    assert len(written) == (importlib.util.find_spec("tensorboard") is not None), "by the first process alone"
    with open_adapter(tmp_path / "a") as adapter:
        assert len(adapter.pairs) == 4 * 4
        assert set(adapter.replaced) == {"tok_embeddings.weight", "output.weight"}
        assert all(pair.b.f32().any() for pair in adapter.pairs.values())
    merge(demo.FOLDER / "base", [tmp_path / "a"], tmp_path / "merged")


def test_the_end_of_an_epoch(tmp_path: Path) -> None:
    """Three batches are left for an epoch's last update, the last of them smaller, and two processes share them."""
    lines = (demo.FOLDER / "held-out" / "chinese.txt").read_text("utf-8").splitlines()[:24]
    (tmp_path / "texts.txt").write_text("\n".join(lines), "utf-8")
    prepare_data([tmp_path / "texts.txt"], TOKENIZER, tmp_path / "t.safetensors", Preparation(length=16, validation=0))
    with open_prepared(tmp_path / "t.safetensors") as data:
        n_rows = len(data.train)
    accumulation = next(n for n in (4, 6, 8, 10) if -(-n_rows // 2) % n % 2)
    own = ["--tokenizer", str(TOKENIZER), "--base", str(demo.FOLDER / "base"), "--recipe", "today", "--length", "16"]
    sizes = ["--rows", "2", "--batch", str(2 * accumulation), "--steps", "12", "--learning-rate", "0.001"]
    words = [str(ROOT / "cli.py"), "train", "stage1", str(tmp_path / "t.safetensors"), *own, *sizes]
    logs = []
    for engine, start in (("numpy", [sys.executable]), ("torch", [sys.executable]), ("torch", [*SEVERAL, "2"])):
        out = tmp_path / f"{engine}-{len(start)}"
        subprocess.run([*start, *words, "--engine", engine, "-o", str(out)], check=True, env=ENVIRONMENT, timeout=300)
        logs.append([json.loads(line) for line in (out / "work" / "log.jsonl").read_text().splitlines()])
    tokens = [line["n_tokens"] for line in logs[1]]
    assert len(set(tokens)) > 1, "no update is smaller than another"
    assert [line["n_tokens"] for line in logs[2]] == tokens
    for log in logs[1:]:
        assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in logs[0]], rel=1e-5)
        assert [line["gradient"] for line in log] == pytest.approx([line["gradient"] for line in logs[0]], rel=1e-4)


def test_a_signal_saves_and_the_run_goes_on(tmp_path: Path) -> None:
    whole = ["--steps", "40"]
    running = subprocess.Popen([sys.executable, *command(tmp_path / "a", *whole)], env=ENVIRONMENT)
    log, ends = tmp_path / "a" / "work" / "log.jsonl", time.monotonic() + 120
    while time.monotonic() < ends and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 0
    assert not (tmp_path / "a" / "adapter_model.bin").exists()
    assert (tmp_path / "a" / "work" / "checkpoint.safetensors").is_file()
    again = [sys.executable, *command(tmp_path / "a", *whole, "--resume")]
    subprocess.run(again, check=True, env=ENVIRONMENT, timeout=300)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(1, 41))
    assert (tmp_path / "a" / "adapter_model.bin").is_file()


def test_small_cards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from ggmlpy.formats.model_params import model_named
    from lora.training import run_torch
    from lora.training.recipe import load_recipe
    from lora.training.torch_engine import Processes

    class Card:
        total_memory = 24 << 30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    shape, stage = model_named("7B").changed(n_vocab=49953), load_recipe("original").stage("stage2")
    with pytest.raises(UsageError, match=r"about [34]\d\.\d GiB of memory, and this one has 24\.0 GiB; [24] such"):
        run_torch.require_card(shape, stage, Processes(0, 1, torch.device("cuda")))
