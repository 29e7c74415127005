"""How a conversation is written out: the templates of a directory, and their keys in GGUF.

They stand in ``tokenizer_config.json``, or in files of their own: ``chat_template.jinja`` (with more of them in
``additional_chat_templates``) or ``chat_template.json``. A directory without ``tokenizer_config.json`` has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ggmlpy.formats.gguf_values import Value
from llama_ref.checkpoint.folder import Folder

from .directory import json_object, text_of

__all__ = ["chat_metadata"]

KEY = "tokenizer.chat_template"
MORE = "additional_chat_templates"


def chat_metadata(folder: Folder) -> dict[str, Value]:
    """The keys of the templates: named ones first, then their names, then the usual one."""
    found = _templates(folder)
    if isinstance(found, str):
        return {KEY: _text(found)}
    named = dict(_named(found))
    usual = named.pop("default", None)
    metadata = {f"{KEY}.{name}": _text(template) for name, template in named.items()}
    if named:
        metadata["tokenizer.chat_templates"] = Value("array", [name.encode() for name in named], "string")
    return metadata | ({} if usual is None else {KEY: _text(usual)})


def _templates(folder: Folder) -> Any:
    """One template, a list of named ones, or an empty list."""
    if "tokenizer_config.json" not in folder.files:
        return []
    said = json_object(folder, "tokenizer_config.json").get("chat_template")
    if said is None:
        said = _in_files(folder)
    return said if isinstance(said, (str, list)) else []


def _in_files(folder: Folder) -> Any:
    usual = text_of(folder, "chat_template.jinja")
    if usual is None:
        return json_object(folder, "chat_template.json").get("chat_template")
    if MORE not in folder.directories:
        return usual
    more = Folder.of(folder.path / MORE)
    others = [{"name": path.stem, "template": text_of(more, path.name)} for path in more.matching("*.jinja")]
    return [{"name": "default", "template": usual}, *others]


def _named(entries: list[Any]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        name, template = entry.get("name"), entry.get("template")
        if isinstance(name, str) and name and isinstance(template, str):
            yield re.sub(r"[^A-Za-z0-9]", "_", name), template


def _text(template: str) -> Value:
    return Value("string", template.encode("utf-8", "replace"))
