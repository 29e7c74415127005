"""One digest of a model's content: equal for the same tensors in whatever container they lie.

The scheme: for each tensor, in the order of the names, one line ``name layout shape sha256-of-its-bytes``; the
fingerprint is the SHA256 of those lines. Vocabulary, header and padding do not count, so migrating a file, joining
its parts or reordering its tensors leaves the fingerprint as it is; changing one bit of one weight does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.model_file import ModelFile

__all__ = ["Content", "fingerprint", "fingerprint_of"]


class Content(NamedTuple):
    """A tensor as a stream of bytes.

    Attributes:
        layout: what the bytes mean: "f32", "q4_0-2023-03" …
        chunks: arrays of any type and shape, whose bytes follow each other.
    """

    name: str
    layout: str
    shape: tuple[int, ...]
    chunks: Iterable[NDArray[np.generic]]


def fingerprint(model: ModelFile, progress: Callable[[int], object] | None = None) -> str:
    """The fingerprint of an open model, as 64 hexadecimal digits.

    Args:
        progress: called with the number of bytes after each chunk.
    """
    return fingerprint_of(
        (Content(t.name, t.type.layout, t.shape, t.chunks()) for t in model.tensors.values()), progress
    )


def fingerprint_of(tensors: Iterable[Content], progress: Callable[[int], object] | None = None) -> str:
    """The fingerprint of tensors in any order, each read once and in pieces.

    >>> fingerprint_of([Content("norm.weight", "f32", (2,), [np.zeros(2, "<f4")])])[:16]
    'c619ad9ee53aeeed'
    """
    lines = []
    for name, layout, shape, chunks in tensors:
        sha = hashlib.sha256()
        for chunk in chunks:
            sha.update(np.ascontiguousarray(chunk).data)
            if progress:
                progress(chunk.nbytes)
        lines.append((name, layout, shape, sha.hexdigest()))
    text = "".join(f"{name} {layout} {'x'.join(map(str, shape))} {sha}\n" for name, layout, shape, sha in sorted(lines))
    return hashlib.sha256(text.encode()).hexdigest()
