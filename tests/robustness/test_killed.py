"""Interrupted or killed at any moment: under a final name stands the old content or the whole new one."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.robustness.conftest import WRITERS, contents, partials
from tests.robustness.nursery import until

SIGNALS = [signal.SIGINT, getattr(signal, "SIGKILL", signal.SIGTERM)]


def interrupt(name: str, number: signal.Signals, nursery, right, tmp_path: Path, seed: int) -> None:
    """Run a command, end it at some moment (every second time once it writes), look, and run it again."""
    chance, writer, expected = random.Random(f"{name} {number} {seed}"), WRITERS[name], right(name)
    folder = tmp_path / f"run-{int(number)}-{seed}"
    folder.mkdir()
    writer.scene(folder)
    before = contents(folder)
    child = nursery.start(list(writer.argv), folder)
    if seed % 2:
        until(lambda: partials(folder) or (folder / writer.output).exists())
        time.sleep(chance.uniform(0, 0.004))
    else:
        time.sleep(chance.uniform(0, 0.25))
    child.kill(number)
    code = child.wait()
    assert "Traceback" not in child.said, child.said
    assert code in (0, 130) if number == signal.SIGINT else code in (0, -number), child.said
    assert contents(folder).items() >= before.items(), "the input is as it was"
    left = contents(folder / writer.output) if (folder / writer.output).exists() else {}
    assert left.items() <= expected.items(), "no half file under a final name"
    if code == 0:
        assert left == expected
    if number == signal.SIGINT and writer.output.endswith(".bin"):
        assert partials(folder) == [], "an interrupted command clears up after itself"
    again = ["--force"] if name.startswith("merge") else []  # it may have been finished when the signal came
    code, said = nursery.run([*writer.argv, *again], folder)
    assert code == 0, said
    assert contents(folder / writer.output) == expected


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("name", WRITERS)
def test_at_two_moments(name: str, number: signal.Signals, nursery, right, tmp_path: Path) -> None:
    for seed in range(2):
        interrupt(name, number, nursery, right, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("name", WRITERS)
def test_at_twenty_moments(name: str, number: signal.Signals, nursery, right, tmp_path: Path) -> None:
    for seed in range(2, 22):
        interrupt(name, number, nursery, right, tmp_path, seed)


def test_ctrl_c_while_a_compiled_module_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compiled modules turn it into an ImportError; other ImportErrors stay what they are."""
    from toolchain.commands import main as cli

    def import_interrupted(_: object) -> None:
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr(cli, "_run", import_interrupted)
    assert cli.main([]) == 130
    assert capsys.readouterr().err == "interrupted\n"

    def import_failed(_: object) -> None:
        raise ImportError("no such module")

    monkeypatch.setattr(cli, "_run", import_failed)
    with pytest.raises(ImportError, match="no such module"):
        cli.main([])
