"""What a file contains, as plain data: the header, a sample of the vocabulary, the table of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ggmlpy.formats.file_types import FTYPES
from ggmlpy.formats.model_file import ModelFile

from .finite import not_finite_tensors

__all__ = ["summarize", "tensor_rows", "vocabulary_sample"]


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
    if tensors:
        summary["tensors"] = tensor_rows(model)
    return summary


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
