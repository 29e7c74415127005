"""One nursery for all tests of robustness, and the commands that write."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs import scenes
from tests.robustness.nursery import Nursery


@dataclass(frozen=True)
class Writer:
    """A command that writes: the folder it runs in, its arguments, and what it makes (a file or a folder)."""

    scene: Callable[[Path], None]
    argv: tuple[str, ...]
    output: str


_MERGE = ("merge", "--base", "models/7B", "--lora", "llama-lora", "--output")
WRITERS = {
    "quantize": Writer(scenes.quantized, ("quantize", "ggml-model-f16.bin", "out.bin", "q4_0"), "out.bin"),
    "migrate": Writer(scenes.old_files, ("migrate", "p0-q4_0.bin", "out.bin"), "out.bin"),
    "convert": Writer(scenes.base, ("convert", "models/7B", "--outfile", "out.bin"), "out.bin"),
    "merge to q4_0": Writer(scenes.merge, (*_MERGE, "out.bin", "--output-type", "ggml-q4_0"), "out.bin"),
    "merge": Writer(scenes.merge, (*_MERGE, "out"), "out"),
    "to-hf": Writer(scenes.base, ("to-hf", "models/7B", "out"), "out"),
    "from-hf": Writer(scenes.huggingface, ("from-hf", "llama-7b-hf", "out"), "out"),
}


def contents(path: Path) -> dict[str, str]:
    """SHA256 of a file, or of all files below a folder that have final names, by name."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not is_partial(p)]
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def is_partial(path: Path) -> bool:
    """Is this a file that anybody can see is unfinished?"""
    return path.name.endswith(".partial") or ".merge-partial" in path.parts


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and is_partial(path)]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="session")
def right(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """What each command makes when nothing goes wrong."""
    known: dict[str, dict[str, str]] = {}

    def of(name: str) -> dict[str, str]:
        if name not in known:
            folder = tmp_path_factory.mktemp("right")
            WRITERS[name].scene(folder)
            code, said = nursery.run(list(WRITERS[name].argv), folder)
            assert code == 0, said
            known[name] = contents(folder / WRITERS[name].output)
        return known[name]

    return of
