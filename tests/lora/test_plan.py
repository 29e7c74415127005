"""Plans of real sizes: the published percentages, memory as users met it, days, and what does not fit."""

from __future__ import annotations

import json

import pytest

import cli
from ggmlpy.files.errors import UsageError
from lora.training.plan import GIB, plan_stage
from lora.training.recipe import load_recipe


def plan(argv: str, capsys: pytest.CaptureFixture[str]) -> dict:
    assert cli.main(["train", *argv.split(), "--json"]) == 0
    found: dict = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("argv", "trained", "percent"),
    [
        ("stage1 --plan 7B", 204607488, 2.9716),
        ("stage2 --plan 7B", 417603584, 6.0576),
        ("instruct --plan 7B", 429211648, 6.2155),
        ("stage2 --plan 7B --targets q_proj,k_proj,v_proj,o_proj,gate_proj,down_proj,up_proj", 429203456, 6.2154),
        ("stage2 --plan 7B --modules-to-save none", 8388608, 0.1217),
    ],
)
def test_trainable_parameters(argv: str, trained: int, percent: float, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(argv, capsys)
    assert (found["trained"], round(found["percent"], 4)) == (trained, percent)


WEIGHTS = {  # GiB of one card: alone, ZeRO-2 on 8 and 16, ZeRO-3 on 8 and 16
    "7B": (18.5, 13.6, 13.2, 2.3, 1.2),
    "13B": (31.7, 25.5, 25.1, 4.0, 2.0),
    "33B": (70.6, 62.3, 61.7, 8.8, 4.4),
    "65B": (134.3, 123.8, 123.1, 16.8, 8.4),
}


@pytest.mark.parametrize("model", WEIGHTS)
def test_memory_of_weights_and_optimizer(model: str) -> None:
    of = plan_stage(model, load_recipe("original").stage("instruct"))
    ways = (("DDP", 1), ("ZeRO-2", 8), ("ZeRO-2", 16), ("FSDP", 8), ("ZeRO-3", 16))
    assert tuple(round(of.weight_bytes(mode, n) / GIB, 1) for mode, n in ways) == WEIGHTS[model]


def test_what_does_not_fit_names_what_does(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan("instruct --plan 13B --card v100-32 --cards 1", capsys)
    assert found["bytes"]["DDP"] > 32 * GIB  # as users met it
    assert found["smallest"] == {"DDP": None, "ZeRO-2": 2, "ZeRO-3": 2, "FSDP": 2}
    assert cli.main(["train", "instruct", "--plan", "33B", "--cards", "8", "--card", "V100-32"]) == 0
    out = capsys.readouterr().out
    assert "does not fit; no number of these cards does, A100-80 does" in out
    assert "fits; smallest machine: 4 cards" in out


def test_the_torch_engine_keeps_its_weights_in_float32(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan("stage2 --plan 7B --cards 1 --card RTX-4090", capsys)
    assert found["bytes"]["FSDP"] < 24 * GIB < found["engine_bytes"] < 40 * GIB
    assert found["smallest"]["FSDP"] == 1 < found["engine_smallest"] == 2
    assert plan("stage2 --plan 7B --cards 2 --card RTX-4090", capsys)["engine_bytes"] < 24 * GIB
    assert cli.main(["train", "stage2", "--plan", "7B", "--card", "RTX-4090", "--cards", "1"]) == 0
    assert "(18.3)  fits, with little room; smallest machine: 1 card" in (out := capsys.readouterr().out)
    assert "--engine torch (FSDP, with weights in float32):" in out


def test_a_card_without_bfloat16_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "stage2", "--plan", "7B", "--cards", "1", "--card", "V100-32"]) == 0
    told = capsys.readouterr().out
    assert "1 card x 1 row x accumulation 1024" in told
    assert told.splitlines()[-1].startswith("V100-32 cannot multiply in bfloat16, as --engine torch does")
    assert cli.main(["train", "stage2", "--plan", "7B", "--card", "A100-80"]) == 0
    assert "bfloat16" not in capsys.readouterr().out


def test_days_of_the_authors() -> None:
    of = plan_stage("7B", load_recipe("original").stage("stage2"), 16, "A100-80")
    slow = of.days()[1]
    assert slow * 24 / 6 == pytest.approx(6, rel=0.15)  # they needed about 6 hours for 1000 updates


def test_batches_of_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan("stage2 --plan 7B --batch 64 --cards 8 --rows 2", capsys)
    assert (found["batch"], found["rows"], found["accumulation"], found["tokens"]) == (64, 2, 4, 64 * 512 * 6000)
    assert plan("instruct --plan 7B --recipe alpaca-2", capsys)["length"] == 1024
    assert plan("stage2 --plan 7B --accumulation 32", capsys)["batch"] == 32
    assert plan("stage2 --plan 7B --accumulation 32 --rows 4 --batch 128", capsys)["batch"] == 128


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("stage2 --plan 8B", "unknown model"),
        ("stage2 --plan 7B --card T4", "no card 'T4'"),
        ("stage2 --plan 7B --cards 0", "at least one card"),
        ("stage2 --plan 7B --recipe mine", "no recipe 'mine'"),
        ("stage1 --plan 7B --recipe alpaca-2", "has no stage stage1"),
        ("stage2 --plan 7B --targets query", "no matrix of a layer is called 'query'"),
        ("stage2 --plan 7B --modules-to-save norm", "no tensor 'norm'"),
        ("stage2 --plan 7B --batch 64 --accumulation 3", "64 rows does not consist of 3 batches of 1"),
        ("stage2 --plan 7B --targets none --modules-to-save none", "nothing is left to train"),
        ("stage2 --plan 7B --learning-rate -1", "learning rate must be above 0"),
        ("stage2 --plan 7B --warmup 2", "from 0 to 1"),
        ("stage2 --plan 7B --weight-decay -1", "at least 0"),
        ("stage2 --plan 7B --alpha 0", "alpha must be above 0"),
        ("stage2 --plan 7B --r 0", "rank must be at least 1"),
        ("stage2 --plan 7B --rows 0", "rows must be at least 1"),
    ],
)
def test_wrong_plans(argv: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *argv.split()]) == 2
    assert words in capsys.readouterr().err


def test_without_a_plan_there_must_be_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "stage2", "--tokenizer", "t", "-o", "out"])
    assert stopped.value.code == 2
    assert "required: FILE" in capsys.readouterr().err


def test_what_memory_cannot_hold_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from ggmlpy.formats.model_params import model_named
    from lora.training import memory

    monkeypatch.setattr(memory, "physical_memory", lambda: 16_000_000_000)
    shape, stage = model_named("7B").changed(n_vocab=49953), load_recipe("original").stage("stage2")
    with pytest.raises(UsageError, match=r"about [34]\d\.\d GB of memory, and this machine has 16\.0 GB"):
        memory.require_memory(shape, stage, "base")
