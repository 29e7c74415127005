"""One digest of a model's content: equal for the same tensors in whatever container they lie.

The scheme: for each tensor, in the order of the names, one line ``name layout shape sha256-of-its-bytes``; the
fingerprint is the SHA256 of those lines. Vocabulary, header and padding do not count, so migrating a file, joining
its parts or reordering its tensors leaves the fingerprint as it is; changing one bit of one weight does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from ggmlpy.formats.model_file import ModelFile

__all__ = ["digest_lines", "fingerprint"]


def fingerprint(model: ModelFile, progress: Callable[[int], object] | None = None) -> str:
    """The fingerprint of an open model, as 64 hexadecimal digits.

    Arguments:
        progress: called with the number of bytes after each chunk.
    """
    lines = []
    for tensor in model.tensors.values():
        sha = hashlib.sha256()
        for chunk in tensor.chunks():
            sha.update(chunk.tobytes() if not chunk.flags.c_contiguous else chunk.data)
            if progress:
                progress(chunk.nbytes)
        lines.append((tensor.name, tensor.type.layout, tensor.shape, sha.hexdigest()))
    return digest_lines(lines)


def digest_lines(lines: Iterable[tuple[str, str, tuple[int, ...], str]]) -> str:
    """The digest of (name, layout, shape, sha256 of the bytes) lines, in the order of the names.

    >>> digest_lines([("norm.weight", "f32", (64,), "00")])[:16]
    '5d5c69fa8e6b18a5'
    """
    text = "".join(f"{name} {layout} {'x'.join(map(str, shape))} {sha}\n" for name, layout, shape, sha in sorted(lines))
    return hashlib.sha256(text.encode()).hexdigest()
