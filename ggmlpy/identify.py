"""What a file is, from its first bytes."""

from __future__ import annotations

__all__ = ["guess_by_magic"]

_FIRST_BYTES: tuple[tuple[bytes, str, str], ...] = (
    (b"GGUF", "this is a GGUF file, the format since August 2023", "python cli.py identify {path}"),
    (
        b"PK\x03\x04",
        "this is a zip: a torch checkpoint (.pth, .bin) or an adapter download",
        "python cli.py convert DIRECTORY",
    ),
    (b"\x80\x02\x8a\x0al", "this is a torch checkpoint of before version 1.6", "python cli.py convert DIRECTORY"),
    (b"<!DOCTYPE", "this is a web page that was saved instead of the file", "download the file itself"),
    (b"<html", "this is a web page that was saved instead of the file", "download the file itself"),
    (b"version https://git-lfs", "this is a git-lfs pointer, not the file it points to", "git lfs pull"),
    (b"ggla", "this is a llama.cpp LoRA adapter, not a model", "merge the PEFT adapter instead: python cli.py merge"),
)


def guess_by_magic(first: bytes, path: str) -> tuple[str, str]:
    """Likely cause and next command for a file that is no GGML container.

    >>> guess_by_magic(b"GGUF", "m.gguf")[0]
    'this is a GGUF file, the format since August 2023'
    """
    for magic, cause, next_step in _FIRST_BYTES:
        if first.startswith(magic):
            return cause, next_step.format(path=path)
    if first and not any(first):
        return "the file begins with zeros: a download that reserved its space and never finished", "fetch it again"
    return "the file is corrupt, or it belongs to another program", f"python cli.py identify {path}"
