"""What a file contains, as plain data: the header, a sample of the vocabulary, the table of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.kinds import first_bytes, kind_of
from ggmlpy.formats.file_types import FTYPES
from ggmlpy.formats.gguf import GgufFile, open_gguf
from ggmlpy.formats.gguf_model import ARCHITECTURES
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_file import ModelFile

from .finite import not_finite_tensors

__all__ = [
    "architecture_of",
    "metadata_rows",
    "other_gguf",
    "summarize",
    "summarize_gguf",
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
        "header": {**model.hparams.header(), "n_ff": model.n_ff},
        "ftype": ftype.title if ftype else "unknown",
        "vocabulary": {"size": len(model.vocab), "sample": vocabulary_sample(model, sample)},
        "n_tensors": len(model.tensors),
        "not_finite": [found.as_dict() for found in not_finite_tensors(model, progress)],
    }
    if model.metadata:
        summary["metadata"] = metadata_rows(model.metadata)
    if tensors:
        summary["tensors"] = tensor_rows(model)
    return summary


def summarize_gguf(file: GgufFile) -> dict[str, Any]:
    """A GGUF file of whatever architecture, as a JSON-ready dictionary: what its keys and its table of tensors say."""
    return {
        "files": [str(file.path)],
        "size": file.cursor.size,
        "format": f"gguf v{file.version}",
        "architecture": architecture_of(file.metadata),
        "n_tensors": len(file.tensors),
        "metadata": metadata_rows(file.metadata),
        "tensors": [
            {
                "name": tensor.name,
                "type": tensor.type.name,
                "layout": tensor.type.layout,
                "shape": list(tensor.shape),
                "offset": tensor.offset,
                "bytes": tensor.data.nbytes,
                "pieces": 1,
            }
            for tensor in file.tensors.values()
        ],
    }


def other_gguf(path: Path) -> GgufFile | None:
    """A GGUF file of an architecture that is not opened as a model here; None for everything else."""
    kind = kind_of(first_bytes(path))
    if kind is None or kind.name != "gguf":
        return None
    file = open_gguf(path)
    return None if architecture_of(file.metadata) in ARCHITECTURES else file


def architecture_of(metadata: Mapping[str, Value]) -> str:
    """What a GGUF file says that it is; "none" if it says nothing."""
    value = metadata.get("general.architecture")
    return value.text() if value is not None and value.type == "string" else "none"


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
