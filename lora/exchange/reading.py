"""An adapter in one of llama.cpp's own files, whichever it is: pairs of matrices in the rows of the model's file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError, ShapeError, UnsupportedError
from ggmlpy.files.kinds import FIRST_BYTES, first_bytes, kind_of
from ggmlpy.files.mapping import map_file
from ggmlpy.formats.dequantize import dequantize
from ggmlpy.formats.ggla import SIDES
from ggmlpy.formats.gguf import GgufFile, GgufTensor, open_gguf
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import meta_name
from ggmlpy.formats.tensor_types import type_named
from ggmlpy.look.finite import not_finite, not_finite_problem

from .ggla import read_ggla

__all__ = ["FilePair", "LoraFile", "is_lora_file", "open_lora_file"]

F32 = NDArray[np.float32]
GGUF_SIDES = (".lora_a", ".lora_b")


@dataclass(frozen=True)
class FilePair:
    """The change of one matrix: ``scale * b @ a``, float32, b [rows, r] and a [r, columns]."""

    name: str
    a: F32
    b: F32
    scale: float


@dataclass
class LoraFile:
    """An adapter file, read.

    Attributes:
        path: the file.
        kind: "gguf" or "ggla".
        alpha: as the file has it.
        pairs: by Meta name; rows as in a GGUF of the model, in ggla in Hugging Face's order.
        architecture: of the base model, where the file says it.
        ignored: whole tensors in it, which llama.cpp does not look at.
    """

    path: Path
    kind: str
    alpha: float
    pairs: dict[str, FilePair]
    architecture: str = "llama"
    ignored: list[str] = field(default_factory=list)


def is_lora_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a ggla adapter or a GGUF of type "adapter"."""
    if not Path(path).is_file():
        return False
    kind = kind_of(first_bytes(path))
    if kind is None or kind.name not in ("ggla", "gguf"):
        return False
    return kind.name == "ggla" or _says(open_gguf(Path(path)), "general.type") == "adapter"


def open_lora_file(path: str | os.PathLike[str]) -> LoraFile:
    """Read an adapter file of llama.cpp.

    Raises:
        MissingFileError: it is not here, or cannot be read.
        UnsupportedError: a GGUF that is a model, or another kind of adapter.
        ShapeError: halves without partners, or that don't fit together.
        FormatError: it is damaged, or has values that are NaN or infinite.
    """
    if Path(path).is_dir():
        raise UnsupportedError(
            "an adapter of PEFT, where a file of llama.cpp is added to a model",
            path=path,
            expected="a .gguf, or a .bin of April 2023",
            found="a directory",
            next_step=f"`convert {path} --base MODEL_DIR --outfile lora.gguf`",
        )
    kind = kind_of(bytes(map_file(path)[:FIRST_BYTES]))
    if kind is not None and kind.name == "ggla":
        found = read_ggla(path)
        halves = {name: np.asarray(values, np.float32) for name, values in found.halves.items()}
        return LoraFile(Path(path), "ggla", found.alpha, _pairs(path, halves, SIDES, lambda r: found.alpha / found.r))
    file = open_gguf(Path(path))
    if _says(file, "general.type") != "adapter" or _says(file, "adapter.type") != "lora":
        raise UnsupportedError(
            "not a LoRA adapter",
            path=path,
            field="general.type",
            expected="adapter",
            found=_says(file, "general.type") or "nothing",
            cause="a model, not an adapter",
            next_step=f"`identify {path}`",
        )
    alpha = float(file.number("adapter.lora.alpha", 0.0))
    halves = {name: _values(path, tensor) for name, tensor in file.tensors.items() if name.endswith(GGUF_SIDES)}
    pairs = _pairs(path, halves, GGUF_SIDES, lambda r: alpha / r if alpha else 1.0)
    ignored = [name for name in file.tensors if name not in halves]
    return LoraFile(Path(path), "gguf", alpha, pairs, _says(file, "general.architecture"), ignored)


def _says(file: GgufFile, key: str) -> str:
    value = file.metadata.get(key)
    return value.text() if value is not None and value.type == "string" else ""


def _values(path: object, tensor: GgufTensor) -> F32:
    if len(tensor.shape) != 2:
        raise ShapeError(
            "half of a LoRA pair is not a matrix",
            path=str(path),
            field=tensor.name,
            expected="two dimensions",
            found=list(tensor.shape),
            cause="a damaged file",
        )
    return (
        dequantize(tensor.data.view(tensor.type.block), tensor.type)
        .reshape(tensor.shape)
        .astype(np.float32, copy=False)
    )


def _check_finite(path: object, halves: Mapping[str, F32]) -> None:
    bad = [found for name, half in halves.items() if (found := not_finite(_in_memory(name, half))) is not None]
    if bad:
        raise not_finite_problem(bad, path)


def _in_memory(name: str, values: F32) -> OutTensor:
    return OutTensor(name, type_named("f32", "gguf", 3), values.shape, lambda: [values])


def _pairs(path: object, halves: Mapping[str, F32], sides: tuple[str, str], scale_of: object) -> dict[str, FilePair]:
    """The halves, joined; an embedding's A lies the other way round in GGUF."""
    _check_finite(path, halves)
    stems = dict.fromkeys(name[: -len(sides[0])] for name in halves)
    pairs = {}
    for stem in stems:
        a, b = (halves.get(stem + side) for side in sides)
        if a is None or b is None:
            raise ShapeError("a LoRA pair lacks one half", path=str(path), field=stem, cause="a damaged file")
        name = meta_name(stem)
        if name == "tok_embeddings.weight":
            a, b = b.T, a  # the change of the embedding is a row of A for each token
        if a.shape[0] != b.shape[1]:
            raise ShapeError(
                "the halves of a LoRA pair don't fit together", path=str(path), field=stem,
                expected="[r, columns] and [rows, r]", found=f"{list(a.shape)} and {list(b.shape)}",
            )  # fmt: skip
        pairs[name] = FilePair(name, a, b, float(scale_of(a.shape[0])))  # type: ignore[operator]
    if not pairs:
        raise FormatError(
            "an adapter without LoRA pairs", path=str(path), cause="nothing was trained, or a damaged file"
        )
    return pairs
