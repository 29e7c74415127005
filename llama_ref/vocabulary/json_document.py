"""The ``tokenizer.json`` of a byte-level BPE, put together from its parts: the way back of :mod:`.json_tokenizer`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["BYTES", "AddedTexts", "byte_level_document", "template"]

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
AddedTexts = Iterable[tuple[int, str, bool]]  # id, text, whether it is special
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_NOTHING = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")


def byte_level_document(
    vocab: Mapping[str, int],
    merges: Sequence[str],
    added: AddedTexts,
    expressions: Iterable[str],
    post_processor: Mapping[str, Any] | None,
    *,
    ignore_merges: bool,
    normalizer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The document.

    Args:
        vocab: id of each token of the model, spelled in the alphabet of bytes.
        merges: "a b", in order.
        added: the tokens beside the model.
        expressions: that cut a text into words, one after the other.
        post_processor: what is put around a text, see :func:`template`.
        ignore_merges: whether a word that is a token is taken whole.
    """
    cuts = [
        {"type": "Split", "pattern": {"Regex": each}, "behavior": "Isolated", "invert": False} for each in expressions
    ]
    model = {"type": "BPE", **dict.fromkeys(_NOTHING), "fuse_unk": False, "byte_fallback": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **_PLAIN, "special": special} for i, text, special in added],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, BYTES]},
        "post_processor": post_processor,
        "decoder": BYTES,
        "model": {**model, "ignore_merges": ignore_merges, "vocab": dict(vocab), "merges": list(merges)},
    }


def template(
    before: Sequence[tuple[int, str]], after: Sequence[tuple[int, str]], between: Sequence[tuple[int, str]]
) -> dict[str, Any]:
    """What is put before and after a text, and between two; each special token by its id and text."""
    first, second = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    begin, end, middle = (
        [{"SpecialToken": {"id": text, "type_id": 0}} for _, text in part] for part in (before, after, between)
    )
    used = {text: {"id": text, "ids": [i], "tokens": [text]} for i, text in (*before, *between, *after)}
    return {
        "type": "TemplateProcessing",
        "single": [*begin, first, *end],
        "pair": [*begin, first, *middle, second, *end],
        "special_tokens": used,
    }
