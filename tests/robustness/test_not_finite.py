"""Weights that are NaN or infinite: every command that reads or writes them says so, before it says anything else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ggmlpy import open_model
from ggmlpy.files.errors import FormatError
from llama_ref.arithmetic import finite_numbers
from llama_ref.text.model import Model
from tests.docs.blocks import run
from tests.llama_ref.random_models import Shape, write_random_model

NAME = "layers.0.attention.wq.weight"
SAYS = f"of 4,096 values of tensor {NAME!r} are NaN or infinite, the first (nan) at [3, 0]"


def write_bad(path: Path, kind: str, name: str = NAME, value: float = np.nan) -> Path:
    """A model with one value (or one scale) that is no number."""
    write_random_model(path, Shape(n_vocab=300), kind)
    with open_model(path) as model:
        tensor = model.tensors[name]
        at = tensor.offset + (3 * tensor.row_bytes if len(tensor.shape) == 2 else 0)
    block = tensor.type.block
    data = bytearray(path.read_bytes())
    bad = np.array([value], block["d"] if block.names else block).tobytes()
    data[at : at + len(bad)] = bad
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bad")
    return {kind: write_bad(folder / f"{kind}.bin", kind) for kind in ("f16", "q4_0")}


@pytest.mark.parametrize("kind", ["f16", "q4_0"])
@pytest.mark.parametrize(
    "command",
    [
        "identify MODEL",
        "generate -m MODEL -p a -n 2 -q",
        "generate -m MODEL -p a -n 2 -q --numerics reference",
        "chat -m MODEL a -q",
        "logits -m MODEL --tokens 1,2 --out X",
        "perplexity -m MODEL -f pyproject.toml -c 16",
        "bench -m MODEL -n 2 -r 1 -t 1",
    ],
)
def test_commands_that_refuse(models: dict[str, Path], tmp_path: Path, command: str, kind: str) -> None:
    argv = [str(tmp_path / "x") if a == "X" else a.replace("MODEL", str(models[kind])) for a in command.split()]
    code, said = run(argv)
    assert code == 3, said
    assert SAYS in said
    assert "Warning" not in said
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("inspect MODEL", 0),
        ("verify MODEL", 1),
        ("quantize MODEL X q4_0", 0),
        ("migrate MODEL X --container ggjt3", 0),
    ],
)
def test_commands_that_warn(models: dict[str, Path], tmp_path: Path, command: str, code: int) -> None:
    argv = [str(tmp_path / "x") if a == "X" else a.replace("MODEL", str(models["f16"])) for a in command.split()]
    done, said = run(argv)
    assert done == code, said
    assert SAYS in said


def test_an_output_that_is_right_and_has_such_values(models: dict[str, Path], tmp_path: Path) -> None:
    assert run(["migrate", str(models["f16"]), str(tmp_path / "m.bin"), "--container", "ggjt3", "-q"])[0] == 0
    code, said = run(["verify", str(tmp_path / "m.bin"), "--source", str(models["f16"])])
    assert (code, "identical" in said, f"warning: {tmp_path / 'm.bin'}: 1 {SAYS}" in said) == (0, True, True), said


@pytest.mark.parametrize("numerics", ["fast", "reference", "exact"])
@pytest.mark.parametrize("name", ["tok_embeddings.weight", NAME, "norm.weight", "output.weight"])
def test_every_tensor_counts_in_every_arithmetic(tmp_path: Path, numerics: str, name: str) -> None:
    """Even where quantized activations hide a NaN from the logits, and for tokens that are not evaluated."""
    path = write_bad(tmp_path / "m.bin", "q4_0", name, np.inf)
    with Model.from_file(path, numerics=numerics, n_ctx=32, n_threads=1) as model:
        for _ in range(2):
            with pytest.raises(FormatError, match=f"tensor '{name}' are NaN or infinite"):
                model.evaluate([1], 0)


def test_weights_are_numbers_and_logits_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_random_model(tmp_path / "m.bin", Shape())
    with Model.from_file(path, numerics="reference", n_ctx=32) as model:
        monkeypatch.setattr(model.backend, "forward", lambda *_: np.full((3, 61), -np.inf))
        with pytest.raises(FormatError, match=r"logits are NaN or infinite, though every weight is a number.*overflow"):
            model.evaluate([1, 2, 3], 0)


@pytest.mark.parametrize("memory", [1 << 40, 1 << 10], ids=["large", "larger than memory"])
def test_a_large_file_is_looked_at_in_a_thread(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    """Unless it would have to be read from the disk twice: then its logits have to tell."""
    monkeypatch.setattr(finite_numbers, "SMALL", 1)
    monkeypatch.setattr(finite_numbers, "physical_memory", lambda: memory)
    for kind, hidden in (("f16", False), ("q4_0", memory == 1 << 10)):
        with Model.from_file(models[kind], numerics="fast" if kind == "q4_0" else "reference", n_ctx=32) as model:
            if hidden:
                assert np.isfinite(model.evaluate([1, 2], 0)).all()
                continue
            with pytest.raises(FormatError, match="NaN or infinite"):
                model.evaluate([1, 2], 0)


def test_closing_ends_the_thread(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite_numbers, "SMALL", 1)
    Model.from_file(models["f16"], numerics="reference", n_ctx=32).close()
