"""One file of weights, whichever of the two kinds it is: what ``torch.save`` writes, or safetensors.

The name decides, as it does for PyTorch and transformers: ``.safetensors`` is one, everything else the other. What a
file with the wrong name is instead, its reader says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ggmlpy.files.ordered import Workers

from .pth import PthFile, open_pth
from .pth_writer import pth_size, write_pth
from .safetensors_file import SafetensorsFile, safetensors_size, write_safetensors
from .tensor import LazyTensor

__all__ = ["METADATA", "WeightFile", "is_safetensors", "open_weights", "weights_kind", "weights_size", "write_weights"]

WeightFile = PthFile | SafetensorsFile

METADATA = {"format": "pt"}  # of a safetensors file; transformers insists on it


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a file of this name is safetensors.

    >>> is_safetensors("model-00001-of-00002.safetensors"), is_safetensors("pytorch_model.bin")
    (True, False)
    """
    return Path(path).suffix == ".safetensors"


def weights_kind(path: str | os.PathLike[str]) -> str:
    """The kind of a weight file by its name: "safetensors" or "bin"."""
    return "safetensors" if is_safetensors(path) else "bin"


def open_weights(path: str | os.PathLike[str]) -> WeightFile:
    """Open a weight file of either kind: a mapping from names to lazy tensors, and a context manager.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is bad; see :func:`.open_pth` and :class:`.SafetensorsFile`.
    """
    return SafetensorsFile(path) if is_safetensors(path) else open_pth(path)


def weights_size(path: str | os.PathLike[str], tensors: Sequence[LazyTensor], torch_format: str = "1.13") -> int:
    """The size in bytes of the file that :func:`write_weights` would write."""
    if is_safetensors(path):
        return safetensors_size(tensors, METADATA)
    return pth_size(path, [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors], torch_format)


def write_weights(
    path: str | os.PathLike[str],
    tensors: Sequence[LazyTensor],
    torch_format: str = "1.13",
    progress: Callable[[int], object] | None = None,
    workers: Workers | None = None,
) -> None:
    """Write a weight file of the kind that its name says, atomically and a few megabytes at a time.

    Args:
        path: the file.
        tensors: in the order of the model.
        torch_format: whose ``torch.save`` to follow for a ``.pth`` or ``.bin``: a key of :data:`.TORCH_FORMATS`.
        progress: called with the number of bytes after each piece.
        workers: who makes and writes the tensors; by default one thread per processor.

    Raises:
        UsageError: an unknown ``torch_format``, a name given twice, a type that the file cannot hold.
        DiskSpaceError, OutputError: the file could not be written.
    """
    if is_safetensors(path):
        write_safetensors(path, tensors, METADATA, progress, workers)
    else:
        write_pth(path, tensors, torch_format, progress=progress, workers=workers)
