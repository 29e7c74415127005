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


def texts(at: Path) -> None:
    """A model in half precision, tokenizers, and a text."""
    scenes.quantized(at)
    scenes.tokenizers(at)
    (at / "t.txt").write_text("The model reads this text, word by word.\n" * 300, encoding="utf-8")


_MERGE = ("merge", "--base", "models/7B", "--lora", "llama-lora", "--output")
_IMATRIX = ("imatrix", "-m", "ggml-model-f16.bin", "-f", "t.txt", "-o", "out.dat", "-c", "16", "--chunks", "2", "-q")
_PREPARE = ("train", "prepare", "t.txt", "--tokenizer", "llama.model", "--length", "16", "-o", "out.st")
WRITERS = {
    "quantize": Writer(scenes.quantized, ("quantize", "ggml-model-f16.bin", "out.bin", "q4_0"), "out.bin"),
    "migrate": Writer(scenes.old_files, ("migrate", "p0-q4_0.bin", "out.bin"), "out.bin"),
    "convert": Writer(scenes.base, ("convert", "models/7B", "--outfile", "out.bin"), "out.bin"),
    "merge to q4_0": Writer(scenes.merge, (*_MERGE, "out.bin", "--output-type", "ggml-q4_0"), "out.bin"),
    "merge": Writer(scenes.merge, (*_MERGE, "out"), "out"),
    "to-hf": Writer(scenes.base, ("to-hf", "models/7B", "out"), "out"),
    "from-hf": Writer(scenes.huggingface, ("from-hf", "llama-7b-hf", "out"), "out"),
    "to-meta": Writer(scenes.quantized, ("to-meta", "ggml-model-f16.bin", "out"), "out"),
    "ggml-to-pth": Writer(scenes.quantized, ("ggml-to-pth", "ggml-model-q4_0.bin", "out.pth"), "out.pth"),
    "convert to GGUF": Writer(
        scenes.huggingface, ("convert", "llama-7b-hf", "--container", "gguf", "--outfile", "out.gguf"), "out.gguf"
    ),
    "imatrix": Writer(texts, _IMATRIX, "out.dat"),
    "train prepare": Writer(texts, _PREPARE, "out.st"),
}


RESUMED = ".st.part"  # the folder of what is prepared so far, from which the next run goes on


def contents(path: Path) -> dict[str, str]:
    """Size and SHA256 of a file, or of all files below a folder that have final names, by name."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not is_partial(p)]
    return {str(p.relative_to(path)): f"{p.stat().st_size} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files}


def largest_of(found: dict[str, str]) -> int:
    """Bytes of the largest of these files."""
    return max(int(content.split()[0]) for content in found.values())


def is_partial(path: Path) -> bool:
    """Is this a file that anybody can see is unfinished?"""
    return path.name.endswith(".partial") or ".merge-partial" in path.parts or is_resumed(path)


def is_resumed(path: Path) -> bool:
    return any(part.endswith(RESUMED) for part in path.parts)


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and is_partial(path) and not is_resumed(path)]


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
