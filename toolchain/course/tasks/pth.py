"""Project 5: what torch.save wrote, read without running anything."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_ref.checkpoint import LazyTensor, open_pth, write_pth
from toolchain.zoo.pickles import PROTO, STOP, call, dictionary, name, storage, tensor, text
from toolchain.zoo.spoiling import zipped

from ..differences import differing_lines
from ..project import Difference, Mistake, Project
from ..specimens import FROM_THE_ZOO, draw_specimen

ATTACK = "a pickle that runs something"
KINDS = ("torch 1.13", "torch 2.13", "views of one storage", "many tensors", FROM_THE_ZOO, ATTACK)
DTYPES = ("float16", "float32", "int32")
STORAGES = {"float16": "HalfStorage", "float32": "FloatStorage", "int32": "IntStorage"}
ORDER = ("layers.0.attention.wq.weight", "norm.weight", "tok_embeddings.weight", "output.weight", "rope.freqs")


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """A checkpoint of a few small tensors."""
    path = folder / "consolidated.00.pth"
    if kind == ATTACK:
        harm = call(name("os", "mkdir"), text(str(folder / "executed")))
        zipped({"x/data.pkl": PROTO + dictionary([("w", harm)]) + STOP, "x/version": b"3\n"})(path)
    elif kind == FROM_THE_ZOO:
        draw_specimen(rng, path, "torch/1.13.pth", "torch/2.*.pth")
    elif kind == "views of one storage":
        _write_views(rng, path)
    else:
        names = [f"layers.{i}.w" for i in range(12)] if kind == "many tensors" else list(ORDER)
        rng.shuffle(names)
        tensors = [LazyTensor.of_array(each, random_values(rng)) for each in names]
        write_pth(path, tensors, "2.13" if kind == "torch 2.13" else "1.13")
    return path


def random_values(rng: np.random.RandomState) -> NDArray[np.generic]:
    shape = tuple(rng.randint(2, 5, size=rng.randint(1, 3)).tolist())
    return (rng.randn(*shape) * 100).astype(DTYPES[rng.randint(0, 3)])


def _write_views(rng: np.random.RandomState, path: Path) -> None:
    """Several tensors in one storage: a matrix, one of its rows, and its transpose."""
    dtype = DTYPES[rng.randint(0, 3)]
    rows, columns = int(rng.randint(2, 5)), int(rng.randint(2, 5))
    data = (rng.randn(rows * columns) * 100).astype(dtype)
    whole = storage(name("torch", STORAGES[dtype]), key="7", numel=data.size)
    row = int(rng.randint(1, rows))
    views = [
        ("whole", tensor(whole, 0, (rows, columns), (columns, 1))),
        ("row", tensor(whole, row * columns, (columns,), (1,))),
        ("transposed", tensor(whole, 0, (columns, rows), (1, columns))),
    ]
    records = {"data.pkl": PROTO + dictionary(views) + STOP, "data/7": data.tobytes(), "version": b"3\n"}
    zipped({f"x/{member}": content for member, content in records.items()})(path)


Values = Callable[[LazyTensor], NDArray[np.generic]]


def _lines(path: Path, values: Values) -> bytes:
    with open_pth(path) as file:
        lines = [
            f"{each} {t.dtype} {'x'.join(map(str, t.shape))} {np.ascontiguousarray(values(t)).tobytes().hex()}\n"
            for each, t in file.items()
        ]
    return "".join(lines).encode()


def answer(path: Path) -> bytes:
    return _lines(path, lambda t: t.numpy())


def _from_the_beginning(path: Path) -> bytes:
    """The first bytes of the storage, whatever offset and strides say."""
    with open_pth(path) as file:
        whole = next(iter(file.values())).numpy().reshape(-1)
    return _lines(path, lambda t: whole[: t.numpy().size] if "x/data/7" in _members(path) else t.numpy())


def _at(path: Path, place: Callable[[int, int], int]) -> bytes:
    """Every tensor with its strides, but beginning elsewhere; ``place`` gets an offset and the size of a value."""

    def values(t: LazyTensor) -> NDArray[np.generic]:
        view = file.views[t.name]
        whole = next(other for other in file.values() if file.views[other.name].storage == view.storage).numpy()
        whole = np.ascontiguousarray(whole).reshape(-1)
        strides = tuple(step * whole.itemsize for step in view.strides)
        return np.ndarray(
            t.shape, whole.dtype, whole.tobytes(), place(view.offset, whole.itemsize) * whole.itemsize, strides
        )

    with open_pth(path) as file:
        return _lines(path, values)


def _without_strides(path: Path) -> bytes:
    if "x/data/7" not in _members(path):
        raise ValueError("no view")
    return _lines(path, lambda t: t.numpy().T if t.name == "transposed" else t.numpy())


def _members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _in_order(path: Path) -> bytes:
    return b"".join(sorted(answer(path).splitlines(keepends=True)))


def _backwards(path: Path) -> bytes:
    return _lines(path, lambda t: t.numpy().byteswap())


MISTAKES = (
    Mistake("a tensor begins at its storage offset, counted in values, and has strides", _from_the_beginning),
    Mistake("a tensor begins at its storage offset", lambda path: _at(path, lambda offset, size: 0)),
    Mistake("the storage offset is counted in values, not in bytes",
            lambda path: _at(path, lambda offset, size: offset // size)),
    Mistake("strides tell how many values lie between two rows and between two columns", _without_strides),
    Mistake("keep the order of the dictionary", _in_order),
    Mistake("write the bytes as they stand, little-endian", _backwards),
)  # fmt: skip


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    return differing_lines(expected, found)


def watch(path: Path) -> str:
    harmed = (path.parent / "executed").exists()
    return "the program ran what the pickle says: a directory was made. Never unpickle a stranger's file" * harmed


PROJECT = Project(
    5, "pth", "Read a .pth without running it", "读 .pth，而不执行它", KINDS, make, "tensors.txt", answer, differ,
    MISTAKES, frozenset({ATTACK}), watch,
)  # fmt: skip
