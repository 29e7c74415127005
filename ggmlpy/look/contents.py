"""What a file contains, as plain data: the header, a sample of the vocabulary, the table of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ggmlpy.formats.file_types import FTYPES
from ggmlpy.formats.gguf_model import architecture_of
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_file import ModelFile

from .finite import not_finite_tensors

__all__ = [
    "metadata_rows",
    "summarize",
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
    return {"architecture": architecture_of(model.metadata)}


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
    return [
        {
            "name": tensor.name,
            "type": tensor.type.name,
            "layout": tensor.type.layout,
            "shape": list(tensor.shape),
            "offset": tensor.offset,
            "bytes": tensor.nbytes,
            "pieces": len(tensor.pieces),
        }
        for tensor in model.tensors.values()
    ]
