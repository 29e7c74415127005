"""Values that are NaN or infinite, in checkpoints and in what a command has just written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from ggmlpy.files.errors import BadMagicError
from ggmlpy.formats.opening import open_model
from ggmlpy.look.finite import NotFinite, not_finite, not_finite_tensors, not_finite_words
from llama_ref.checkpoint import LazyTensor, open_checkpoint
from llama_ref.checkpoint.weights import open_weights
from toolchain.verify.as_written import TYPE_NAMES, stored, type_of

__all__ = ["not_finite_anywhere", "not_finite_weights", "warnings_of"]


def not_finite_weights(
    tensors: Iterable[LazyTensor], progress: Callable[[int], object] | None = None
) -> Iterator[NotFinite]:
    """The tensors of a checkpoint that have such values.

    Args:
        progress: called with the number of bytes after each piece.
    """
    for tensor in tensors:
        if tensor.dtype in TYPE_NAMES and tensor.size and tensor.shape:
            found = not_finite(stored(tensor, type_of(tensor)), progress)
            if found is not None:
                yield found


def not_finite_anywhere(path: str | os.PathLike[str]) -> list[NotFinite]:
    """Such values of a model in any form: a GGML or GGUF file, a checkpoint's directory, a file of weights."""
    if os.path.isdir(path):
        with open_checkpoint(path) as checkpoint:
            return list(not_finite_weights(checkpoint.tensors.values()))
    try:
        with open_model(path, strict=False, any_architecture=True) as model:
            return list(not_finite_tensors(model))
    except BadMagicError:
        with open_weights(path) as weights:
            return list(not_finite_weights(weights.values()))


def warnings_of(*paths: str | os.PathLike[str]) -> Iterator[str]:
    """What to say of the values of models that were written, or are verified."""
    for path in paths:
        found = not_finite_anywhere(path)
        if found:
            yield f"{os.fspath(path)}: {not_finite_words(found)}"
