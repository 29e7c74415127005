"""Project 1: the header of a GGML file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from ggmlpy.formats.containers import HPARAMS, container_named
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.writer import write_model

from ..differences import differing_lines
from ..project import Difference, Mistake, Project
from ..specimens import FROM_THE_ZOO, draw_specimen

KINDS = ("ggjt1", "ggml", "ggmf1", "ggjt3", "ggjt2", FROM_THE_ZOO)
MODELS = ("models/*-f16.bin", "models/*-f32.bin")  # of all containers before GGUF


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """A file of one container, with numbers of its own and a few tokens; or one of the zoo."""
    path = folder / "model.bin"
    if kind == FROM_THE_ZOO:
        return draw_specimen(rng, path, *MODELS)
    container, version = container_named(kind)
    head = int(rng.randint(4, 17)) * 4
    params = ModelParams(
        n_vocab=int(rng.randint(5, 60)),
        n_head=int(rng.randint(1, 9)),
        n_embd=head * 8 * 9 * 5 * 7,
        n_mult=int(rng.randint(8, 300)),
        n_layer=int(rng.randint(1, 90)),
        ftype=int(rng.randint(0, 4)),
    )
    pieces = [(bytes(rng.randint(97, 123, size=3).tolist()), -float(i)) for i in range(params.n_vocab)]
    write_model(path, container.name, version, params, pieces, [])
    return path


def answer(path: Path) -> bytes:
    with open_model(path) as model:
        numbers = {"version": model.version, **model.hparams.header()}
        lines = [f"container {model.container}", *(f"{name} {value}" for name, value in numbers.items())]
    return ("\n".join(lines) + "\n").encode()


def _misread(path: Path, order: str = "<", version: bool = True, name: str = "", swapped: bool = False) -> bytes:
    """The header as a program reads it that takes every file for a ggjt, or bytes in another order."""
    data = path.read_bytes()
    container = name or data[:4][::-1].decode("ascii", "replace")
    numbers = list(struct.unpack_from(f"{order}{8 if version else 7}i", data, 4))
    values = numbers if version else [0, *numbers]
    if swapped:
        values[4], values[5] = values[5], values[4]
    names = ["version", *(field.name for field in HPARAMS)]
    lines = [f"container {container}", *(f"{n} {v}" for n, v in zip(names, values, strict=True))]
    return ("\n".join(lines) + "\n").encode()


def _is_ggml(path: Path) -> bool:
    return path.read_bytes()[:4] == b"lmgg"


MISTAKES = (
    Mistake("the file without a version has its n_vocab where others have the version", _misread),
    Mistake("numbers are little-endian: the first byte counts least", lambda p: _misread(p, ">", not _is_ggml(p))),
    Mistake(
        "the magic is a little-endian number: as text, its bytes stand backwards in the file",
        lambda path: answer(path).replace(
            path.read_bytes()[:4][::-1], path.read_bytes()[:4], 1
        ),
    ),
    Mistake("n_head comes before n_layer", lambda path: _misread(path, version=not _is_ggml(path), swapped=True)),
    Mistake("a file of three containers can be read: all were taken for ggjt",
            lambda path: _misread(path, version=not _is_ggml(path), name="ggjt")),
)  # fmt: skip


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    return differing_lines(expected, found)


PROJECT = Project(1, "header", "Read a header", "读文件头", KINDS, make, "header.txt", answer, differ, MISTAKES)
