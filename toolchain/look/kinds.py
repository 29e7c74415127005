"""Which reader a file that is no GGML or GGUF model is for, by its first bytes and its name."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ggmlpy.files.kinds import begins_as_json, first_bytes
from ggmlpy.files.npy import ZIP_TROUBLE
from ggmlpy.formats.importance import looks_like_dat
from llama_ref.checkpoint.weights import is_safetensors

__all__ = ["names_in_zip", "other_kind"]


def other_kind(path: Path) -> str:
    """One of torch (a zip), pickle (torch before 1.6), zip, safetensors, tokenizer, ggla, imatrix and json; or "".

    Raises:
        OSError: the file cannot be read.
    """
    head = first_bytes(path)
    if head[:2] == b"PK":
        return "torch" if "data.pkl" in names_in_zip(path) else "zip"
    if is_safetensors(path) or (head[8:10] in (b'{"', b"{}", b"{ ") and b"\0" in head[:8]):
        return "safetensors"
    if path.suffix == ".model" or head[:1] == b"\n":
        return "tokenizer"
    if head[:1] == b"\x80":
        return "pickle"
    if head[:4] == b"algg":
        return "ggla"
    if looks_like_dat(head, path.stat().st_size):
        return "imatrix"
    return "json" if begins_as_json(head) or head.lstrip()[:1] == b"[" else ""


def names_in_zip(path: Path) -> list[str]:
    """The names of an archive's files, without their directories; of a damaged one as if torch had written it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [Path(name).name for name in archive.namelist()]
    except ZIP_TROUBLE:
        return ["data.pkl"]  # torch's reader says exactly what is wrong
