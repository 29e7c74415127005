"""The fingerprint of anything that holds tensors: a checkpoint's directory, a GGML file, a file of weights.

The scheme is :mod:`ggmlpy.verify.fingerprint`'s. Names are Meta's, rows are in Meta's order, shards are joined, and
tensors of one dimension count as f32 (as GGML stores them). So a .pth of f16, the same model as safetensors, and the
GGML f16 file converted from either have one fingerprint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ggmlpy import open_model
from ggmlpy.files.errors import FormatError, MissingFileError
from ggmlpy.files.kinds import first_bytes, is_ggml
from ggmlpy.verify.fingerprint import Content, fingerprint, fingerprint_of
from llama_ref.checkpoint import Checkpoint, LazyTensor, open_checkpoint
from llama_ref.checkpoint.weights import open_weights

from .as_written import TYPE_NAMES
from .published_tensors import weight_files

__all__ = ["content_fingerprint", "fingerprint_checkpoint"]

Progress = Callable[[int], object]
CHUNK_VALUES = 1 << 20
_LAYOUTS = {**TYPE_NAMES, "float64": "f64"}


def content_fingerprint(path: str | os.PathLike[str], progress: Progress | None = None) -> str:
    """The fingerprint of a model directory, a GGML file, or a file of tensors.

    Raises:
        FormatError: there is nothing there that has one.
    """
    path = Path(path)
    if path.is_dir():
        with open_checkpoint(path) as checkpoint:
            return fingerprint_checkpoint(checkpoint, progress)
    if is_ggml(_beginning(path)):
        with open_model(path, any_architecture=True) as model:
            return fingerprint(model, progress)
    if weight_files(path.parent) == [path]:
        try:
            with open_checkpoint(path.parent) as checkpoint:
                return fingerprint_checkpoint(checkpoint, progress)
        except FormatError:
            pass  # weights without their params.json: the file by itself
    with open_weights(path) as file:
        return fingerprint_of(contents(file.state_dict.values(), file.release), progress)


def _beginning(path: Path) -> bytes:
    try:
        return first_bytes(path)
    except OSError as error:
        raise MissingFileError(f"cannot be opened: {error.strerror}", path=path) from error


def fingerprint_checkpoint(checkpoint: Checkpoint, progress: Progress | None = None) -> str:
    """The fingerprint of an open checkpoint, as 64 hexadecimal digits.

    Args:
        progress: called with the number of bytes after each piece.
    """
    return fingerprint_of(contents(checkpoint.tensors.values(), checkpoint.release), progress)


def contents(tensors: Iterable[LazyTensor], release: Callable[[], object]) -> Iterator[Content]:
    """Tensors under the names that they have; ``release`` is called after each of them."""
    for tensor in tensors:
        layout = _LAYOUTS.get(tensor.dtype, tensor.dtype)
        if len(tensor.shape) == 1 and tensor.dtype in _LAYOUTS:
            yield Content(tensor.name, "f32", tensor.shape, _as_f32(tensor))
        else:
            yield Content(tensor.name, layout, tensor.shape, tensor.chunks())
        release()


def _as_f32(tensor: LazyTensor) -> Iterator[np.ndarray]:
    for start in range(0, tensor.size, CHUNK_VALUES):
        yield tensor.rows(start, min(start + CHUNK_VALUES, tensor.size)).astype("<f4")
