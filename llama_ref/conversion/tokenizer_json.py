"""Hugging Face's ``tokenizer.json`` of a LLaMA tokenizer: the vocabulary, and the merges that a BPE model implies.

SentencePiece stores pieces with scores and no merges. A merge is any pair of pieces whose concatenation is a piece; the
pairs are ordered by the score of the result, then by the ids of left and right. transformers tries every pair of
pieces (about a billion, minutes); trying every cut of every piece finds the same ones in a fraction of a second.

A piece with the score 0 takes no part, as there. A trained model has at most one; a vocabulary grown by appending
pieces (Chinese-LLaMA's) has thousands and cannot be expressed so: :func:`tokenizer_json` returns None for it.

Source: convert_slow_tokenizer.py of transformers 4.28.1 (LlamaConverter, SentencePieceExtractor), tokenizers 0.13.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llama_ref.vocabulary.tokenizer_file import piece_text, read_tokenizer

__all__ = ["tokenizer_json"]

SPECIAL = ("<unk>", "<s>", "</s>")


def tokenizer_json(path: Path) -> str | None:
    """The text of tokenizer.json, or None where the format cannot express the tokenizer.

    Raises:
        VocabularyError: not a SentencePiece model.
    """
    processor = read_tokenizer(path)
    pieces = [piece_text(processor, i, path) for i in range(processor.vocab_size())]
    scores = {piece: float(processor.get_score(i)) for i, piece in enumerate(pieces)}
    plain = [i for i in range(len(SPECIAL), len(pieces)) if not processor.is_byte(i)]
    if tuple(pieces[: len(SPECIAL)]) != SPECIAL or sum(scores[pieces[i]] == 0 for i in plain) > 1:
        return None
    ids = {piece: i for i, piece in enumerate(pieces)}
    return json.dumps(_document(ids, _merges(ids, scores)), indent=2, ensure_ascii=False)


def _merges(ids: dict[str, int], scores: dict[str, float]) -> list[str]:
    """ "left right" of each pair that makes a piece, best score first."""
    found = [
        (-score, ids[piece[:cut]], ids[piece[cut:]], f"{piece[:cut]} {piece[cut:]}")
        for piece, score in scores.items()
        if score
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    return [pair for *_, pair in sorted(found)]


def _document(ids: dict[str, int], merges: list[str]) -> dict[str, Any]:
    """Everything but vocabulary and merges is the same for every LLaMA tokenizer."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": True}
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **flags} for i, text in enumerate(SPECIAL)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "▁"}, _replace(" ", "▁")],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, first],
            "pair": [bos, first, second],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                _replace("▁", " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": merges,
        },
    }


def _replace(text: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}
