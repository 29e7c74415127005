"""What a file contains, as plain data: the header, a sample of the vocabulary, the table of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ggmlpy.formats.file_types import FTYPES
from ggmlpy.formats.ggla import VERSION, GglaFile
from ggmlpy.formats.gguf_kinds import other_kind
from ggmlpy.formats.gguf_model import architecture_of
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.tensor_types import TensorType

from .finite import not_finite_tensors

__all__ = [
    "metadata_rows",
    "summarize",
    "summarize_ggla",
    "tensor_rows",
    "vocabulary_sample",
]


def summarize(
    model: ModelFile,
    *,
    tensors: bool = True,
    sample: int = 10,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """The file as a JSON-ready dictionary.

    Arguments:
        tensors: whether the table of tensors is wanted.
        sample: how many vocabulary entries to show from the beginning, and as many from the end.
        progress: called with the number of bytes of values after each piece.
    """
    ftype = FTYPES.get(model.hparams.ftype)
    summary: dict[str, Any] = {
        "files": [str(path) for path in model.paths],
        "size": model.size,
        "format": model.format_name,
        **(_of_another(model) if model.as_stored else _of_model(model, sample)),
        "ftype": ftype.title if ftype else "unknown",
        "n_tensors": len(model.tensors),
        "not_finite": [found.as_dict() for found in not_finite_tensors(model, progress)],
    }
    if model.metadata:
        summary["metadata"] = metadata_rows(model.metadata)
    if tensors:
        summary["tensors"] = tensor_rows(model)
    return summary


def _of_model(model: ModelFile, sample: int) -> dict[str, Any]:
    return {
        "header": {**model.hparams.header(), "n_ff": model.n_ff},
        "vocabulary": {"size": len(model.vocab), "sample": vocabulary_sample(model, sample)},
    }


def _of_another(model: ModelFile) -> dict[str, Any]:
    architecture, other = architecture_of(model.metadata), other_kind(model.metadata, model.path)
    return {"architecture": architecture, "what": other[0] if other else f"architecture {architecture}"}


def summarize_ggla(file: GglaFile) -> dict[str, Any]:
    """An adapter of llama.cpp's main of 2023, as a JSON-ready dictionary."""
    tensors = file.tensors.values()
    return {
        "files": [str(file.path)],
        "size": file.cursor.size,
        "format": f"ggla v{VERSION}",
        "what": f"LoRA adapter of rank {file.r}, alpha {file.alpha}",
        "r": file.r,
        "alpha": file.alpha,
        "n_tensors": len(tensors),
        "tensors": [_tensor_row(t.name, t.type, t.values.shape, t.offset, t.values.nbytes) for t in tensors],
    }


def metadata_rows(metadata: Mapping[str, Value]) -> list[dict[str, Any]]:
    """One row a key of a GGUF file: key, type, value; of an array its length and its first items."""
    rows = []
    for key, value in metadata.items():
        items = list(value.value[:FIRST_ITEMS]) if value.type == "array" else [value.value]
        plain = [_plain(item) for item in items]
        kind, row = value.type, {"value": plain[0] if plain else None}
        if value.type == "array":
            kind, row = f"array of {value.item}", {"length": len(value.value), "value": plain}
        rows.append({"key": key, "type": kind, **row})
    return rows


FIRST_ITEMS = 5


def _plain(item: Any) -> Any:
    if isinstance(item, bytes):
        return item.decode("utf-8", "backslashreplace")
    if isinstance(item, Value):  # an array in an array
        return f"array of {len(item.value)} {item.item}"
    return item.item() if isinstance(item, np.generic) else item


def vocabulary_sample(model: ModelFile, count: int) -> list[dict[str, Any]]:
    """The first and last ``count`` entries: id, text (escaped where it is no text), bytes, score."""
    total = len(model.vocab)
    ids = [*range(min(count, total)), *range(max(total - count, count), total)]
    scores = model.vocab.scores
    return [
        {
            "id": index,
            "text": model.vocab[index].decode("utf-8", "backslashreplace"),
            "bytes": model.vocab[index].hex(),
            "score": float(scores[index]),
        }
        for index in ids
    ]


def tensor_rows(model: ModelFile) -> list[dict[str, Any]]:
    """One row a tensor: name, type, layout, shape, offset of its data, bytes, number of pieces."""
    tensors = model.tensors.values()
    return [_tensor_row(t.name, t.type, t.shape, t.offset, t.nbytes, len(t.pieces)) for t in tensors]


def _tensor_row(
    name: str, kind: TensorType, shape: Sequence[int], offset: int, nbytes: int, pieces: int = 1
) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind.name,
        "layout": kind.layout,
        "shape": list(shape),
        "offset": offset,
        "bytes": nbytes,
        "pieces": pieces,
    }
