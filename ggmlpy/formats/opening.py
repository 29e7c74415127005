"""Opening a model file: the container is found by its first bytes, the other parts of a model by their names."""

from __future__ import annotations

import os
from pathlib import Path

from ggmlpy.files.errors import FormatError
from ggmlpy.files.mapping import map_file

from .containers import GGUF
from .ggml_reader import read_part
from .model_file import ModelFile
from .multipart import find_parts, join_parts

__all__ = ["is_gguf", "open_model"]


def open_model(
    path: str | os.PathLike[str],
    *,
    n_parts: int | None = None,
    strict: bool = True,
    any_architecture: bool = False,
) -> ModelFile:
    """Open a model of any container, with all its parts.

    Arguments:
        path: the file; for a multi-part model its first file (the others are ``path.1``, ``path.2`` …).
        n_parts: how many files; found by looking if not given.
        strict: raise on what could be survived (otherwise it is collected in ``problems``).
        any_architecture: open a GGUF file of what is not computed here, too, as it stands: for those who only look, or
            carry it (:attr:`.ModelFile.as_stored`).

    Raises:
        MissingFileError: no such file, or a part is missing.
        BadMagicError, UnsupportedError: not a container or version of this library.
        FormatError: anything else that is wrong with it.
    """
    if is_gguf(Path(path)):
        from .gguf_model import open_gguf_model  # 8 ms that other containers need not wait for

        return open_gguf_model(Path(path), any_architecture=any_architecture)
    problems: list[FormatError] = []
    first = read_part(Path(path), 0, strict, problems)
    paths = find_parts(first, n_parts)
    parts = [first, *(read_part(other, index, strict, problems) for index, other in enumerate(paths[1:], 1))]
    return ModelFile(parts, join_parts(parts), problems)


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does."""
    return bytes(map_file(path)[:4]) == GGUF.magic.to_bytes(4, "little")
