"""The small files of a Hugging Face directory: JSON objects, read once, and texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ggmlpy.files.json_files import LARGEST_TOKENIZER
from llama_ref.checkpoint.folder import Folder

__all__ = ["added_entries", "json_object", "one_or_several", "text_of"]


LARGEST_TEXT = 16 << 20


def json_object(folder: Folder, name: str) -> dict[str, Any]:
    """The JSON object in a file of the directory; an empty one where there is no such file.

    Raises:
        FormatError: the file is not JSON, or far too large.
    """
    if name not in folder.files:
        return {}
    if name == "tokenizer.json":
        return folder.json(name, LARGEST_TOKENIZER)
    return folder.json(name)


def text_of(folder: Folder, name: str) -> str | None:
    """A text file with ``\\n`` at the end of every line; None where there is none."""
    path = folder.path / name
    if not path.is_file():
        return None
    with open(path, "rb") as stream:
        content = stream.read(LARGEST_TEXT)
    return content.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


def one_or_several(step: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """A step of tokenizer.json's pipeline, or the steps of a sequence of them.

    >>> [step["type"] for step in one_or_several({"type": "Sequence", "normalizers": [{"type": "NFC"}]}, "normalizers")]
    ['NFC']
    """
    if not isinstance(step, dict):
        return
    inner = step.get(key) if step.get("type") == "Sequence" else [step]
    yield from (each for each in (inner if isinstance(inner, list) else ()) if isinstance(each, dict))


def added_entries(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tokens that tokenizer.json has beside its model, those that have a text."""
    added = record.get("added_tokens")
    entries = added if isinstance(added, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("content"), str)]
