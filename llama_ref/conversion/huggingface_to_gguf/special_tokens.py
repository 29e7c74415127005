"""Which tokens begin, end and fill up a text, and whether a tokenizer adds them by itself.

``tokenizer_config.json`` names tokens, ``tokenizer.json`` gives their ids and says in its post-processor what is put
around a text, ``config.json`` states ids. Where they differ, the ids of the tokenizer count before those of the model,
and the post-processor before ``add_bos_token`` and its kin.

Source: SpecialVocab in gguf-py/gguf/vocab.py of llama.cpp (October 2026).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import VocabularyError
from ggmlpy.formats.gguf_values import Value
from llama_ref.checkpoint.folder import Folder

from .directory import added_entries, json_object, one_or_several

__all__ = ["KEYS", "KINDS", "special_metadata"]

KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
KEYS = {  # the spelling of GGUF; a classifier's token has no key
    **{kind: kind for kind in ("bos", "eos", "eot", "eom", "mask")},
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
}
_ADDED = ("bos", "eos", "sep")


@dataclass
class _Special:
    """What the files say, as far as they were read.

    Attributes:
        has_config: whether there is a tokenizer_config.json that says something.
        named: kind -> its token as tokenizer_config.json has it, a text or an object with one. The converter compares
            these with texts as they are, so that an object never equals the text it holds.
        adds: kind -> whether a tokenizer adds it to every text, in the order found.
        kinds: those that are looked up.
    """

    has_config: bool
    named: dict[str, Any]
    adds: dict[str, bool] = field(default_factory=dict)
    kinds: list[str] = field(default_factory=lambda: list(KINDS))

    @classmethod
    def of(cls, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> _Special:
        """What tokenizer_config.json names; a first or last token is also that of a classifier or between texts."""
        special = cls(bool(config), {kind: config.get(f"{kind}_token") for kind in KINDS})
        for kind, instead in (("bos", "cls"), ("eos", "sep")) if tokenizer else ():
            special.named[kind] = special.named[kind] or special.named[instead]
        return special

    def is_one_of(self, text: str | None, *kinds: str) -> bool:
        """Whether a token is that of one of these kinds."""
        return bool(text) and any(self.named[kind] == text for kind in kinds)

    def text(self, kind: str) -> str | None:
        """The text of a kind's token."""
        entry = self.named.get(kind)
        text = entry.get("content") if isinstance(entry, dict) else entry
        return text if isinstance(text, str) else None


def special_metadata(folder: Folder, n_tokens: int | None) -> dict[str, Value]:
    """The keys of the ids, in the order found, and then those of what is added.

    Args:
        n_tokens: size of the vocabulary, if ids beyond it are to be left out.

    Raises:
        VocabularyError: an id is negative.
    """
    config = json_object(folder, "tokenizer_config.json")
    tokenizer = json_object(folder, "tokenizer.json")
    special = _Special.of(config, tokenizer)
    for processor in one_or_several(tokenizer.get("post_processor"), "processors"):
        _read_processor(special, processor)
    for kind in special.kinds:
        said = config.get(f"add_{kind}_token")
        if isinstance(said, bool):
            special.adds.setdefault(kind, said)
    ids: dict[str, int] = {}
    if config:
        _add_ids(ids, folder.path / "tokenizer.json", n_tokens, _ids_of_texts(special, tokenizer))
    model = json_object(folder, "config.json")
    of_model = ((kind, model.get(f"{kind}_token_id")) for kind in special.kinds)
    _add_ids(ids, folder.path / "config.json", n_tokens, of_model)
    return {
        **{f"tokenizer.ggml.{KEYS[kind]}_token_id": Value("u32", id) for kind, id in ids.items() if kind in KEYS},
        **{
            f"tokenizer.ggml.add_{kind}_token": Value("bool", adds)
            for kind, adds in special.adds.items()
            if kind in _ADDED
        },
    }


def _ids_of_texts(special: _Special, tokenizer: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    ids = {token["content"]: token.get("id") for token in reversed(added_entries(tokenizer))}
    texts = ((kind, special.text(kind)) for kind in special.kinds)
    yield from ((kind, ids.get(text)) for kind, text in texts if text is not None)


def _add_ids(ids: dict[str, int], path: Path, n_tokens: int | None, found: Iterator[tuple[str, Any]]) -> None:
    """Ids of kinds that have none yet; lists of ids say nothing here."""
    for kind, id in found:
        if type(id) is not int:
            continue
        if id < 0:
            raise VocabularyError(
                f"the id of the special token {kind!r} is negative",
                path=path,
                field=f"{kind}_token_id",
                expected="the id of a token, or no such key",
                found=id,
                cause="configurations of 2023 say -1 for none; llama.cpp's converter refuses them too",
                next_step=f"remove {kind}_token_id from {path.name}",
            )
        if n_tokens is None or id < n_tokens:
            ids.setdefault(kind, id)


def _read_processor(special: _Special, processor: Mapping[str, Any]) -> None:
    """What a post-processor puts around a text."""
    if processor.get("type") == "ByteLevel":
        special.adds.setdefault("bos", False)
        special.adds.setdefault("eos", False)
    elif processor.get("type") == "RobertaProcessing":
        special.adds |= {"bos": True, "eos": True, "sep": True}
        for kind in ("cls", "sep"):
            special.named[kind] = special.named[kind] or _first_of(processor.get(kind))
    elif processor.get("type") == "TemplateProcessing":
        first, last = _read_single(special, _parts(processor, "single"))
        _read_pair(special, _parts(processor, "pair"), first, last)


def _first_of(pair: Any) -> Any:
    return pair[0] if isinstance(pair, list) and pair else None


def _parts(processor: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    parts = processor.get(key)
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _read_single(special: _Special, parts: Sequence[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """What stands before and behind one text."""
    if len(parts) < 2:
        return None, None
    first, last = _named(parts[0], "SpecialToken"), _named(parts[-1], "SpecialToken")
    if first:
        _read_first(special, first)
    if last:
        if special.has_config and special.named["eos"] != last:
            former = "eom" if "eot" in special.kinds else "eot"
            special.kinds.append(former)
            special.named[former] = special.named["eos"]
        special.named["eos"] = last
        special.adds["eos"] = True
    return first, last


def _read_first(special: _Special, first: str) -> None:
    """The token before a text begins one, or is a classifier's."""
    if not special.has_config:
        special.named["bos"] = first
    elif not special.is_one_of(first, "bos", "cls"):
        for kind in ("bos", "cls"):
            special.named[kind] = special.named[kind] or first
    special.adds["bos"] = special.is_one_of(first, "bos", "cls")


def _read_pair(special: _Special, parts: Sequence[Mapping[str, Any]], first: str | None, last: str | None) -> None:
    """What stands between two texts."""
    if first and parts and _named(parts[0], "SpecialToken") == first:
        parts = parts[1:]
    if last and parts and _named(parts[-1], "SpecialToken") == last:
        parts = parts[:-1]
    if len(parts) > 2 and _named(parts[0], "Sequence") == "A" and _named(parts[-1], "Sequence") == "B":
        between = [_named(part, "SpecialToken") for part in parts[1:-1]]
        counting = between[1:2] if len(between) == 2 else []
        counting += between[:1] if not last else []
        special.adds["sep"] = any(special.is_one_of(token, "sep", "eos") for token in counting)
        if special.adds["sep"] and special.has_config:
            special.named["sep"] = special.named["sep"] or special.named["eos"]


def _named(part: Mapping[str, Any], kind: str) -> str | None:
    """The id of a part, if it is of this kind."""
    inner = part.get(kind)
    name = inner.get("id") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else None
