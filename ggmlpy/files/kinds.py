"""What a file is by its first bytes: the one table of signatures, for models and for what is mistaken for one.

Readers ask :func:`kind_of`; errors take their cause and next step from :func:`lookalike`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = [
    "FIRST_BYTES",
    "Kind",
    "begins_as_json",
    "first_bytes",
    "guess_by_magic",
    "is_ggml",
    "is_ggml_file",
    "kind_of",
    "lookalike",
]

FIRST_BYTES = 262  # as many as :func:`kind_of` wants to see: the last signature is tar's

_DOCTOR, _IDENTIFY = "`doctor {directory}`", "`identify {path}`"
_ARCHIVE = "unpack it first: the model is inside"
_PAGE = "a web page that was saved instead of the file"
_LORA = "use it with a model: `generate -m MODEL --lora {path}`; or `convert {path} --outfile PEFT_DIR` and merge that"
_DOWNLOAD = "download the file itself"
_GGML = "a GGML model, which is converted already"


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: how code asks for it: "ggml", "gguf", "zip", "pickle", "safetensors", "tokenizer", "page", "pointer", ….
        what: what it is, in words.
        next_step: what to do with it; ``{path}`` and ``{directory}`` stand for the file and its directory.
    """

    name: str
    what: str
    next_step: str


# fmt: off
_SIGNATURES: tuple[tuple[int, bytes, Kind], ...] = (  # offset, bytes, kind
    (0,   b"GGUF",               Kind("gguf",        "a GGUF file, the format since August 2023",        _IDENTIFY)),
    (0,   b"lmgg",               Kind("ggml",        _GGML,                                              _IDENTIFY)),
    (0,   b"fmgg",               Kind("ggml",        _GGML,                                              _IDENTIFY)),
    (0,   b"tjgg",               Kind("ggml",        _GGML,                                              _IDENTIFY)),
    (0,   b"algg",               Kind("ggla",        "a llama.cpp LoRA adapter, not a model", _LORA)),
    (0,   b"PK\x03\x04",         Kind("zip",         "a zip: a torch checkpoint or an adapter download", _DOCTOR)),
    (0,   b"\x80\x02\x8a\nl",    Kind("pickle",      "a torch checkpoint of before version 1.6",         _DOCTOR)),
    (8,   b'{"',                 Kind("safetensors", "a safetensors file",                               _DOCTOR)),
    (0,   b"\n\x0e\n\x05<unk>",  Kind("tokenizer",   "a tokenizer, not a model",                         _DOCTOR)),
    (0,   b"\x93NUMPY",          Kind("npy",         "an array that numpy saved",             "name the model file")),
    (0,   b"\x1f\x8b",           Kind("archive",     "a gzip archive",                                   _ARCHIVE)),
    (0,   b"7z\xbc\xaf\x27\x1c", Kind("archive",     "a 7-Zip archive",                                  _ARCHIVE)),
    (0,   b"Rar!\x1a\x07",       Kind("archive",     "a RAR archive",                                    _ARCHIVE)),
    (0,   b"\xfd7zXZ\x00",       Kind("archive",     "an xz archive",                                    _ARCHIVE)),
    (0,   b"BZh",                Kind("archive",     "a bzip2 archive",                                  _ARCHIVE)),
    (0,   b"\x28\xb5\x2f\xfd",   Kind("archive",     "a Zstandard archive",                              _ARCHIVE)),
    (257, b"ustar",              Kind("tar",         "a tar archive",                                    _ARCHIVE)),
)
_TEXTS: tuple[tuple[bytes, Kind], ...] = (  # the beginning in small letters, after white space
    (b"version https://git-lfs", Kind("pointer", "a git-lfs pointer, not the file it points to", "git lfs pull")),
    (b"<!doctype",               Kind("page",    _PAGE, _DOWNLOAD)),
    (b"<html",                   Kind("page",    _PAGE, _DOWNLOAD)),
    (b"<?xml",                   Kind("page",    _PAGE, _DOWNLOAD)),
)
# fmt: on
_ZEROS = Kind(
    "zeros", "a download that reserved its space and never finished: it begins with zeros", "fetch the file again"
)


def kind_of(first: bytes) -> Kind | None:
    """The kind of a file that begins so, or None if it is none of the table.

    >>> kind_of(b"GGUF").name, kind_of(b" <!DOCTYPE html>").name, kind_of(b"{}")
    ('gguf', 'page', None)
    """
    for offset, signature, kind in _SIGNATURES:
        if first[offset : offset + len(signature)] == signature:
            return kind
    text = first[:FIRST_BYTES].lstrip().lower()
    for beginning, kind in _TEXTS:
        if text.startswith(beginning):
            return kind
    return _ZEROS if len(first) >= 16 and not any(first) else None


def begins_as_json(first: bytes) -> bool:
    """Whether text begins as a JSON object does."""
    return first.lstrip().startswith(b"{")


def first_bytes(path: str | os.PathLike[str]) -> bytes:
    """As many bytes of a file as :func:`kind_of` wants to see.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        return stream.read(FIRST_BYTES)


def is_ggml_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a GGML or GGUF model does; False if it cannot be read, for its reader says why."""
    try:
        return is_ggml(first_bytes(path))
    except OSError:
        return False


def is_ggml(first: bytes) -> bool:
    """Whether a file that begins so is a GGML or GGUF model."""
    kind = kind_of(first)
    return kind is not None and kind.name in ("ggml", "gguf")


def lookalike(first: bytes, path: str | os.PathLike[str] = "") -> tuple[str, str] | None:
    """What a file is that begins so, and the next step; None if unknown.

    >>> lookalike(b"<html>", "m.bin")
    ('a web page that was saved instead of the file', 'download the file itself')
    """
    kind = kind_of(first)
    if kind is None:
        return None
    return kind.what, kind.next_step.format(path=path, directory=os.path.dirname(path) or ".")


def guess_by_magic(first: bytes, path: str) -> tuple[str, str]:
    """Likely cause and next command for a file that is not a GGML container.

    >>> guess_by_magic(b"GGUF", "m.gguf")[0]
    'this is a GGUF file, the format since August 2023'
    """
    known = lookalike(first, path)
    if known is None:
        return "the file is corrupt, or it belongs to another program", f"`identify {path}`"
    return f"this is {known[0]}", known[1]
