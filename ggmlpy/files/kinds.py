"""What a file is that was taken for something else, told by its first bytes."""

from __future__ import annotations

import os

__all__ = ["FIRST_BYTES", "lookalike"]

FIRST_BYTES = 262  # as many as :func:`lookalike` wants to see

_DOCTOR, _IDENTIFY = "python cli.py doctor {directory}", "python cli.py identify {path}"
_ARCHIVE = "unpack it first: the model is inside"
_PAGE = "a web page that was saved instead of the file"
_GGML = "a GGML model, which is converted already"

# fmt: off
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (  # offset, bytes, what it is, what to do
    (0,   b"GGUF",                    "a GGUF file, the format since August 2023",         _IDENTIFY),
    (0,   b"lmgg",                    _GGML,                                               _IDENTIFY),
    (0,   b"fmgg",                    _GGML,                                               _IDENTIFY),
    (0,   b"tjgg",                    _GGML,                                               _IDENTIFY),
    (0,   b"algg",                    "a llama.cpp LoRA adapter, not a model",             "merge PEFT's adapter"),
    (0,   b"PK\x03\x04",              "a zip: a torch checkpoint or an adapter download",  _DOCTOR),
    (0,   b"\x80\x02\x8a\nl",         "a torch checkpoint of before version 1.6",          _DOCTOR),
    (8,   b'{"',                      "a safetensors file",                                _DOCTOR),
    (0,   b"\n\x0e\n\x05<unk>",       "a tokenizer, not a model",                          _DOCTOR),
    (0,   b"<!DOCTYPE",               _PAGE,                                               "download the file itself"),
    (0,   b"<!doctype",               _PAGE,                                               "download the file itself"),
    (0,   b"<html",                   _PAGE,                                               "download the file itself"),
    (0,   b"version https://git-lfs", "a git-lfs pointer, not the file it points to",      "git lfs pull"),
    (0,   b"\x93NUMPY",               "an array that numpy saved",                         "name the model file"),
    (0,   b"\x1f\x8b",                "a gzip archive",                                    _ARCHIVE),
    (0,   b"7z\xbc\xaf\x27\x1c",      "a 7-Zip archive",                                   _ARCHIVE),
    (0,   b"Rar!\x1a\x07",            "a RAR archive",                                     _ARCHIVE),
    (0,   b"\xfd7zXZ\x00",            "an xz archive",                                     _ARCHIVE),
    (0,   b"BZh",                     "a bzip2 archive",                                   _ARCHIVE),
    (0,   b"\x28\xb5\x2f\xfd",        "a Zstandard archive",                               _ARCHIVE),
    (257, b"ustar",                   "a tar archive",                                     _ARCHIVE),
)
# fmt: on


def lookalike(first: bytes, path: str | os.PathLike[str] = "") -> tuple[str, str] | None:
    """What a file is that begins so, and the next step; None if nobody knows.

    >>> lookalike(b"<html>", "m.bin")
    ('a web page that was saved instead of the file', 'download the file itself')
    """
    for offset, signature, what, next_step in _SIGNATURES:
        if first[offset : offset + len(signature)] == signature:
            return what, next_step.format(path=path, directory=os.path.dirname(path) or ".")
    if len(first) >= 16 and not any(first):
        return "a download that reserved its space and never finished: it begins with zeros", "fetch the file again"
    return None


def guess_by_magic(first: bytes, path: str) -> tuple[str, str]:
    """Likely cause and next command for a file that is no GGML container.

    >>> guess_by_magic(b"GGUF", "m.gguf")[0]
    'this is a GGUF file, the format since August 2023'
    """
    known = lookalike(first, path)
    if known is None:
        return "the file is corrupt, or it belongs to another program", f"python cli.py identify {path}"
    return f"this is {known[0]}", known[1]
