"""``general.*``: who made a model from what, under which license; from the model card, the configuration and the name.

A model card is ``README.md``, its facts the YAML between two lines ``---`` at its beginning. For each field the first
source counts that has it: the card, then ``_name_or_path`` of config.json if it is a name rather than a path, then the
name of the directory (:mod:`.model_names`).

Source: gguf-py/gguf/metadata.py of llama.cpp (October 2026).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggmlpy.formats.gguf_values import Value
from llama_ref.checkpoint.folder import Folder

from .directory import json_object, text_of
from .model_names import NameParts, name_parts, size_label, title

__all__ = ["card_from_metadata", "card_of", "general_metadata", "is_on_card"]

_NAMES = ("name", "author", "version", "organization", "description", "finetune", "basename", "size_label")
_LINKS = ("url", "doi", "uuid", "repo_url")
# fmt: off
_FIELDS: tuple[tuple[str, str], ...] = (  # key of the card -> field of the model; the first that is said counts
    *((name, name) for name in _NAMES),
    *((name, f"source.{name}") for name in _LINKS),
    *((f"model_{name}", name) for name in _NAMES),
    *((f"model_{name}", f"source.{name}") for name in _LINKS),
    ("model_creator", "author"),
    ("model_type",    "basename"),
    ("license",       "license"),
    ("license_name",  "license.name"),
    ("license_link",  "license.link"),
)
_ORDER = (  # in which the fields are written
    *("name", "author", "version", "organization", "finetune", "basename", "description", "size_label"),
    *("license", "license.name", "license.link"),
    *(f"source.{name}" for name in _LINKS),
)
_PARENTS = {  # a kind of what a model was made from -> keys of the card that name some
    "base_model": ("base_model", "base_models", "base_model_sources"),
    "dataset":    ("datasets", "dataset", "dataset_sources"),
}
_LISTS = {
    "tags":      ("tags", "pipeline_tag"),
    "languages": ("languages", "language"),
}
# fmt: on
_OF_A_PARENT = ("name", "author", "version", "organization", "description", *_LINKS)
_MOST_PARENTS = 1000
_WEB = ("http://", "https://", "ssh://")
_ON_HUB = re.compile(r"https?://huggingface\.co/([^/]+/[^/]+)")


def general_metadata(folder: Folder, total: int = 0) -> dict[str, Value]:
    """The keys about the model as such, in the order of the file.

    Args:
        total: number of parameters; 0 where only the vocabulary is written.
    """
    card = card_of(folder)
    fields = _fields(folder, card, total)
    metadata = {f"general.{name}": _text(fields[name]) for name in _ORDER if fields.get(name) is not None}
    for kind, keys in _PARENTS.items():
        metadata |= _parents(kind, _listed(card, keys))
    for kind, (several, one) in _LISTS.items():
        words = [str(word).encode() for word in _listed(card, (several, one))]
        metadata[f"general.{kind}"] = Value("array", words, "string")
    return metadata


def card_of(folder: Folder) -> dict[str, Any]:
    """The facts of README.md; an empty dictionary where there are none, or none that can be read."""
    text = text_of(folder, "README.md")
    lines = text.split("\n") if text else []
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    front = "\n".join(lines[1 : lines.index("---", 1)]).replace("\t", "  ")
    front = re.sub(r"- no(?=\n|$)", '- "no"', front)  # Norwegian is no falsehood
    import yaml  # only needed where there is a card

    try:
        card = yaml.safe_load(front)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def _fields(folder: Folder, card: Mapping[str, Any], total: int) -> dict[str, Any]:
    """The single facts, from the first source that has each."""
    fields: dict[str, Any] = {}
    for key, name in _FIELDS:
        if card.get(key) is not None:
            fields.setdefault(name, card[key])
    path = json_object(folder, "config.json").get("_name_or_path")
    if isinstance(path, str) and path.count("/") <= 1:
        _add_name(fields, name_parts(path, total))
    _add_name(fields, name_parts(Path(os.path.abspath(folder.path)).name, total))
    if total > 0:
        fields.setdefault("size_label", size_label(total))
    if isinstance(fields.get("license"), list):
        fields["license"] = ",".join(map(str, fields["license"]))
    return fields


def _add_name(fields: dict[str, Any], parts: NameParts) -> None:
    for name, value in _spoken(parts).items():
        fields.setdefault(name, value)
    for name in ("basename", "finetune", "size_label"):
        if getattr(parts, name) is not None:
            fields.setdefault(name, getattr(parts, name))


def _spoken(parts: NameParts) -> dict[str, str]:
    """Name, organization and version, the first two as headings."""
    found: dict[str, str] = {}
    if parts.full is not None:
        found["name"] = title(parts.full)
    if parts.organization is not None:
        found["organization"] = title(parts.organization)
    if parts.version is not None:
        found["version"] = parts.version
    return found


def _listed(card: Mapping[str, Any], keys: tuple[str, ...]) -> list[Any]:
    """What several keys say, each a thing or a list of things."""
    found: list[Any] = []
    for key in keys:
        value = card.get(key)
        found += value if isinstance(value, list) else [value] if isinstance(value, (str, dict)) else []
    return found


def _parents(kind: str, entries: list[Any]) -> dict[str, Value]:
    """Models or data that the model was made from, numbered."""
    if not entries:
        return {}
    metadata = {f"general.{kind}.count": Value("u32", len(entries))}
    for i, entry in enumerate(entries):
        said = _parent(entry)
        metadata |= {f"general.{kind}.{i}.{key}": _text(said[key]) for key in _OF_A_PARENT if said.get(key) is not None}
    return metadata


def _parent(entry: Any) -> dict[str, Any]:
    """One of them: a dictionary of its own, an address, or ``Org/Name``."""
    if isinstance(entry, dict):
        return entry
    if not isinstance(entry, str):
        return {}
    if entry.startswith(_WEB):
        on_hub = _ON_HUB.fullmatch(entry)
        return {**(_spoken(name_parts(on_hub[1])) if on_hub else {}), "repo_url": entry}
    parts = name_parts(entry)
    address = {"repo_url": f"https://huggingface.co/{parts.organization}/{parts.full}"} if parts.organization else {}
    return {**_spoken(parts), **address}


def _text(value: Any) -> Value:
    return Value("string", str(value).encode("utf-8", "replace"))


def card_from_metadata(metadata: Mapping[str, Value]) -> str:
    """A README.md that says what the keys say, and of what they don't that there is nothing to say.

    >>> print(card_from_metadata({"general.name": Value("string", b"Tiny")}).split("author")[0])
    ---
    name: Tiny
    <BLANKLINE>
    """
    import yaml

    key_of: dict[str, str] = {}
    for key, field in _FIELDS:
        key_of.setdefault(field, key)
    said = {name: metadata.get(f"general.{name}") for name in _ORDER}
    card: dict[str, Any] = {
        key_of[name]: value.text() if value else ""
        for name, value in said.items()
        if value or (name in _NAMES and name != "description")
    }
    for kind, (key, *_) in _PARENTS.items():
        count = metadata.get(f"general.{kind}.count")
        if count:
            card[key] = [_entry(metadata, f"general.{kind}.{i}") for i in range(min(int(count.value), _MOST_PARENTS))]
    for kind, (key, *_) in _LISTS.items():
        words = metadata.get(f"general.{kind}")
        if words:
            card[key] = [bytes(word).decode("utf-8", "replace") for word in words.value]
    return f"---\n{yaml.safe_dump(card, allow_unicode=True, sort_keys=False)}---\n"


def is_on_card(key: str) -> bool:
    """Whether :func:`card_from_metadata` says what a key says.

    >>> is_on_card("general.name"), is_on_card("general.base_model.0.name"), is_on_card("general.alignment")
    (True, True, False)
    """
    field = key.removeprefix("general.")
    return field != key and (field in _ORDER or field.split(".")[0] in (*_PARENTS, *_LISTS))


def _entry(metadata: Mapping[str, Value], prefix: str) -> Any:
    """A model or data that the model was made from: ``Org/Name`` where that says it all."""
    found = {key: metadata.get(f"{prefix}.{key}") for key in _OF_A_PARENT}
    said = {key: value.text() for key, value in found.items() if value}
    short = said.get("repo_url", "").removeprefix("https://huggingface.co/")
    return short if short.count("/") == 1 and _parent(short) == said else said
