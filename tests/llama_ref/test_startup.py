"""What a program that starts leaves out. How long it takes is measured in benchmarks/bench_startup.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ggmlpy import ModelParams
from llama_ref.text.model import Model
from tests.ggmlpy.models import write_tiny

ROOT = Path(__file__).resolve().parents[2]
SLOW = {"numba", "sentencepiece", "tqdm", "fractions", "safetensors"}
#: numpy 1 imports these itself
SLOW_PARTS = {"numpy.random", "numpy.ma"} if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else set()


def imported_by(*arguments: str) -> set[str]:
    """The modules that a process has imported when the command is done."""
    code = f"import sys, cli\ntry:\n cli.main({list(arguments)})\nfinally:\n print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    return set(done.stderr.decode().split())


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    hparams = ModelParams.from_header(300, 64, 32, 2, 1, 32, 2)
    path = write_tiny(tmp_path_factory.mktemp("model") / "m.bin", hparams=hparams)
    with Model.from_file(path) as model:
        model.evaluate([1], 0)  # the kernels are compiled now, if they weren't
    return path


def test_help_imports_no_package_of_ours() -> None:
    assert not imported_by("--help") & {"numpy", "ggmlpy", "llama_ref", "lora"}


@pytest.mark.parametrize("command", ["inspect", "identify", "hexdump"])
def test_looking_at_a_file_imports_no_compiler(command: str, path: Path) -> None:
    assert not imported_by(command, str(path)) & (SLOW - {"tqdm"} | SLOW_PARTS | {"llvmlite"})


def test_a_token_is_made_without_what_takes_long_to_import(path: Path) -> None:
    modules = imported_by("generate", "-m", str(path), "-p", "", "-n", "1", "-q")
    assert "llvmlite" in modules
    assert not modules & (SLOW | SLOW_PARTS)


def test_only_the_wanted_command_is_described() -> None:
    from toolchain.commands import main

    assert set(main.COMMANDS) >= {"generate", "to-hf"}
    assert "generate" in main.build_parser("generate").format_help()
    assert main.build_parser("to-hf").parse_args(["to-hf", "a", "b"]).command == "to-hf"
    for anything in ("", "--version", "to_hf", "no such command"):
        assert main.build_parser(anything).format_help() == main.build_parser().format_help()
