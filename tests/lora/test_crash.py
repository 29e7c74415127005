"""Killed at any moment: under the final names stands the old state or the finished new one; --resume goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ggmlpy.files.errors import OutputError, UsageError
from ggmlpy.formats.model_params import ModelParams
from llama_ref.checkpoint import open_pth
from lora.merging import targets
from lora.merging.merge import merge
from tests.lora.test_merge import assert_same_files, inputs, make_adapter, make_base

ROOT = Path(__file__).resolve().parents[2]


class Killed(Exception):
    """Stands for kill -9 where the test itself must go on."""


def test_resume_takes_finished_shards(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapters = inputs(data, "two-shard-13b")
    write, written = targets.write_weights, []

    def dies_at_the_second(path: Path, *args: object, **how: object) -> None:
        written.append(path.name)
        if len(written) == 2:
            raise Killed
        write(path, *args, **how)

    monkeypatch.setattr(targets, "write_weights", dies_at_the_second)
    with pytest.raises(Killed):
        merge(base, adapters, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [targets.STAGE]
    report = merge(base, adapters, tmp_path / "out", resume=True)
    assert report.resumed == ("consolidated.00.pth",)
    assert written == ["consolidated.00.pth", "consolidated.01.pth", "consolidated.01.pth"]
    assert_same_files(tmp_path / "out", data / "merge" / "two-shard-13b" / "out")


def test_resume_refuses_another_merge(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapters = inputs(data, "two-shard-13b")
    write = targets.write_weights

    def dies_at_the_second(path: Path, *args: object, **how: object) -> None:
        if path.name == "consolidated.01.pth":
            raise Killed
        write(path, *args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(targets, "write_weights", dies_at_the_second)
        with pytest.raises(Killed):
            merge(base, adapters, tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds another merge \(different: output\)"):
        merge(base, adapters, tmp_path / "out", resume=True, torch_format="2.6")
    (tmp_path / "out" / targets.STAGE / "merge.json").write_text("{")
    with pytest.raises(UsageError, match="holds another merge"):
        merge(base, adapters, tmp_path / "out", resume=True)
    merge(base, adapters, tmp_path / "out")  # without --resume it starts again
    assert_same_files(tmp_path / "out", data / "merge" / "two-shard-13b" / "out")


def test_a_failure_at_the_first_file_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(targets, "write_weights", dies)
    with pytest.raises(Killed):
        merge(*inputs(data, "two-shard-13b"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_killed_while_renaming(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapters = inputs(data, "two-shard-13b")
    rename = os.replace

    def dies_at_the_second(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "out" / "consolidated.01.pth":
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("lora.merging.targets.os.replace", dies_at_the_second)
        with pytest.raises(Killed):
            merge(base, adapters, tmp_path / "out")
    assert (tmp_path / "out" / "consolidated.00.pth").exists()
    assert not (tmp_path / "out" / "params.json").exists()
    merge(base, adapters, tmp_path / "out", resume=True)
    assert_same_files(tmp_path / "out", data / "merge" / "two-shard-13b" / "out")


def test_resume_with_nothing_to_resume(data: Path, tmp_path: Path) -> None:
    assert merge(*inputs(data, "two-shard-13b"), tmp_path / "out", resume=True).resumed == ()
    assert_same_files(tmp_path / "out", data / "merge" / "two-shard-13b" / "out")


def test_a_failed_merge_leaves_the_old_one(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge(*inputs(data, "v11-llama"), tmp_path / "out")

    def disk_full(*_: object, **__: object) -> None:
        raise OutputError("cannot write: No space left on device")

    monkeypatch.setattr(targets, "write_weights", disk_full)
    with pytest.raises(OutputError):
        merge(*inputs(data, "v11-alpaca-pad"), tmp_path / "out", force=True)
    golden = data / "merge" / "v11-llama" / "out"
    for path in golden.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_an_output_that_cannot_be_made(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        merge(*inputs(data, "v11-llama"), tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write"):
        merge(*inputs(data, "v11-llama"), tmp_path / "file" / "below")


# ── kill -9 ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _killed_run(command: list[str], delay: float) -> bool:
    """Start the command, kill it after ``delay`` seconds; whether it had not finished by then."""
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive


def _loop(tmp_path: Path, times: int, params: ModelParams, output_type: str) -> None:
    rng = np.random.default_rng(0)
    weights = make_base(tmp_path / "base", params, 320)
    tokenizer = ROOT / "tests" / "data" / "merge" / "v11-llama" / "base" / "tokenizer.model"
    (tmp_path / "base" / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    pairs = {
        name: (
            rng.standard_normal((array.shape[0], 8)).astype("f2"),
            rng.standard_normal((8, array.shape[1])).astype("f2"),
        )
        for name, array in weights.items()
        if array.ndim == 2
    }
    adapter = make_adapter(tmp_path / "lora", pairs, {})
    options = ["--output-type", output_type, *(["--shards", "4"] if output_type == "pth" else [])]
    command = [sys.executable, "cli.py", "merge", "--base", str(tmp_path / "base"), "--lora", str(adapter), *options]
    started = time.monotonic()
    subprocess.run([*command, "--output", str(tmp_path / "whole")], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    duration = time.monotonic() - started
    whole, out = tmp_path / "whole", tmp_path / "out"
    chance, n_killed = random.Random(1), 0
    for _ in range(times):
        n_killed += _killed_run(
            [*command, "--output", str(out), "--force", "--resume"], chance.uniform(0.3, 1) * duration
        )
        _assert_old_or_new(out, whole)
    assert n_killed > 0
    subprocess.run(
        [*command, "--output", str(out), "--force", "--resume"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL
    )
    if whole.is_dir():
        assert_same_files(out, whole)
    else:
        assert out.read_bytes() == whole.read_bytes()


def _assert_old_or_new(out: Path, whole: Path) -> None:
    """Whatever stands under a final name is complete."""
    if whole.is_file():
        assert not out.exists() or out.read_bytes() == whole.read_bytes()
        return
    for path in out.iterdir() if out.is_dir() else []:
        if path.name != targets.STAGE:
            assert path.read_bytes() == (whole / path.name).read_bytes(), path.name
    if (out / "params.json").exists():
        for path in whole.glob("*.pth"):
            with open_pth(out / path.name) as file:
                file.verify()


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.parametrize("output_type", ["pth", "ggml-q4_0"])
def test_kill_9_twice(tmp_path: Path, output_type: str) -> None:
    _loop(tmp_path, 2, ModelParams(n_embd=512, n_mult=256, n_head=8, n_layer=4), output_type)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.parametrize("output_type", ["pth", "huggingface", "ggml-q4_0"])
def test_kill_9_twenty_times(tmp_path: Path, output_type: str) -> None:
    _loop(tmp_path, 20, ModelParams(n_embd=1024, n_mult=256, n_head=8, n_layer=16), output_type)
