"""One digest of a checkpoint's content: equal for the same weights in Meta's layout, Hugging Face's, and a GGML file.

The scheme is that of :mod:`ggmlpy.verify.fingerprint`: a line ``name type shape sha256`` a tensor. Names are Meta's,
rows stand in Meta's order, shards are joined, and tensors of one dimension count as f32 (as GGML stores them). So a
.pth of f16, the same model as safetensors, and the GGML f16 file converted from either have one fingerprint.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable

import numpy as np

from ggmlpy.verify.fingerprint import digest_lines

from .layout import Checkpoint
from .tensor import LazyTensor

__all__ = ["fingerprint_checkpoint", "fingerprint_tensors"]

_TYPES = {"float16": "f16", "float32": "f32", "bfloat16": "bf16", "float64": "f64"}
_CHUNK = 16 << 20


def fingerprint_checkpoint(checkpoint: Checkpoint, progress: Callable[[int], object] | None = None) -> str:
    """The fingerprint of an open model, as 64 hexadecimal digits.

    Args:
        progress: called with the number of bytes after each piece.
    """
    return fingerprint_tensors(checkpoint.tensors.values(), checkpoint.release, progress)


def fingerprint_tensors(
    tensors: Iterable[LazyTensor],
    release: Callable[[], object] = lambda: None,
    progress: Callable[[int], object] | None = None,
) -> str:
    """The fingerprint of tensors under the names that they have; ``release`` is called after each of them."""
    lines = []
    for tensor in tensors:
        as_f32 = len(tensor.shape) == 1 and tensor.dtype in _TYPES
        kind = "f32" if as_f32 else _TYPES.get(tensor.dtype, tensor.dtype)
        lines.append((tensor.name, kind, tensor.shape, _digest(tensor, as_f32, progress)))
        release()
    return digest_lines(lines)


def _digest(tensor: LazyTensor, as_f32: bool, progress: Callable[[int], object] | None) -> str:
    sha = hashlib.sha256()
    n_rows = tensor.shape[0] if tensor.shape else 1
    step = max(1, _CHUNK // max(1, 8 * math.prod(tensor.shape[1:])))
    for start in range(0, n_rows if tensor.size else 0, step):
        stop = min(start + step, n_rows)
        rows = tensor.rows(start, stop).astype("<f4") if as_f32 else tensor.stored(start, stop)
        sha.update(np.ascontiguousarray(rows).data)
        if progress:
            progress(rows.nbytes)
    return sha.hexdigest()
