"""The tokens of a model as GGUF lists them: text, score and type of each, or text, type and the merges.

==============================  ========================================================================================
in the directory                in the file
==============================  ========================================================================================
``tokenizer.model``             SentencePiece ("llama"): its pieces, and what side files add to or put in their place
``tokenizer.json``, BPE that    "llama" too, without scores: all have -1000
falls back to bytes
``tokenizer.json``, BPE over    "gpt2": with the merges, and the name of the rules that split a text into words
bytes
==============================  ========================================================================================

The file has as many tokens as config.json says, and ``[PAD7]`` where the tokenizer has none.

Source: conversion/ of llama.cpp (October 2026): _set_vocab_sentencepiece, LlamaHfVocab, _set_vocab_gpt2.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.errors import MissingFileError, VocabularyError
from ggmlpy.formats.gguf_values import Value
from llama_ref.checkpoint.folder import Folder
from llama_ref.vocabulary.pre_tokenizers import pre_tokenizer as known_rules
from llama_ref.vocabulary.sentencepiece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    read_sentencepiece,
)

from .directory import added_entries, json_object
from .word_rules import word_rules

__all__ = ["FoundVocabulary", "find_vocabulary"]

PADDING_SCORE, ADDED_SCORE = -10000.0, -1000.0
_SPACE = "▁"
_LOOKS_SPECIAL = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_SPECIAL_ENDS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
_SPECIAL_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
LARGEST_VOCABULARY = 1 << 24


@dataclass(frozen=True)
class FoundVocabulary:
    """The keys of a vocabulary.

    Attributes:
        path: the file that has the tokens.
        metadata: tokens, scores, types and merges, in the order of the file.
        n_tokens: how many there are.
        notes: tokens that were left out.
    """

    path: Path
    metadata: dict[str, Value]
    n_tokens: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.n_tokens

    def __iter__(self) -> Iterator[tuple[bytes, float]]:
        """Text and score of each token, as GGUF spells them."""
        scores = self.metadata.get("tokenizer.ggml.scores")
        listed = map(float, scores.value) if scores else itertools.repeat(0.0)
        yield from zip(self.metadata["tokenizer.ggml.tokens"].value, listed)

    @property
    def is_sentencepiece(self) -> bool:
        """Whether tokens have scores rather than merges."""
        return "tokenizer.ggml.scores" in self.metadata


@dataclass
class _Tokens:
    """The tokens as they are gathered: first padding everywhere."""

    texts: list[bytes]
    scores: list[float]
    types: list[int]

    @classmethod
    def padding(cls, count: int) -> _Tokens:
        return cls([b"[PAD%d]" % i for i in range(count)], [PADDING_SCORE] * count, [UNUSED] * count)

    def put(self, index: int, text: str | bytes, score: float, kind: int) -> bool:
        """Whether there is such an index."""
        if not 0 <= index < len(self.texts):
            return False
        self.texts[index] = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
        self.scores[index], self.types[index] = score, kind
        return True


def find_vocabulary(
    folder: Folder,
    n_vocab: int,
    *,
    prefers_pieces: bool,
    pre_tokenizer: str | None = None,
    tokenizer: Path | None = None,
) -> FoundVocabulary:
    """The vocabulary of a directory.

    Args:
        n_vocab: how many tokens config.json states; -1 leaves it to the tokenizer.
        prefers_pieces: whether a tokenizer.json that falls back to bytes counts as SentencePiece, as in LLaMA's family.
        pre_tokenizer: the name of the rules that split a text into words, where it is known better.
        tokenizer: a tokenizer.model elsewhere.

    Raises:
        MissingFileError: there is no tokenizer.
        VocabularyError: it can't be used, or nobody knows how it splits a text into words.
    """
    pieces = tokenizer or folder.path / "tokenizer.model"
    if tokenizer or "tokenizer.model" in folder.files:
        return _from_pieces(folder, pieces, n_vocab)
    if "tokenizer.json" not in folder.files:
        raise MissingFileError(
            "no tokenizer here",
            path=folder.path,
            expected="tokenizer.model or tokenizer.json",
            next_step="copy the model's tokenizer files beside the weights",
        )
    record = json_object(folder, "tokenizer.json")
    model = record.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise _not_bpe(folder.path / "tokenizer.json", model)
    decoder = record.get("decoder")
    if (
        prefers_pieces
        and model.get("byte_fallback") is True
        and isinstance(decoder, dict)
        and decoder.get("type") == "Sequence"
    ):
        return _from_byte_fallback(folder, record, model["vocab"])
    return _from_bytes(folder, record, n_vocab, pre_tokenizer)


# ---------------------------------------------------------------------------------------------------- SentencePiece


def _from_pieces(folder: Folder, path: Path, n_vocab: int) -> FoundVocabulary:
    pieces = read_sentencepiece(path).pieces
    tokens = _Tokens.padding(len(pieces) if n_vocab < 1 else n_vocab)
    for i, piece in enumerate(pieces[: len(tokens.texts)]):
        kind = piece.type if piece.type in (UNKNOWN, CONTROL, UNUSED, BYTE) else NORMAL
        tokens.put(i, piece.text, piece.score, kind)
    notes = []
    if len(pieces) > len(tokens.texts):
        notes.append(f"{len(pieces) - len(tokens.texts)} pieces of {path} are left out: config.json says {n_vocab}")
    notes += _put_added(tokens, folder)
    return FoundVocabulary(path, _pieces_metadata(tokens), len(tokens.texts), tuple(notes))


def _put_added(tokens: _Tokens, folder: Folder) -> Iterator[str]:
    """What the side files add, or put in the place of a piece."""
    beyond = []
    for text, index in json_object(folder, "added_tokens.json").items():
        if not _put(tokens, folder.path / "added_tokens.json", index, text, USER_DEFINED):
            beyond.append(text)
    path = folder.path / "tokenizer_config.json"
    for index, text, special in _decoder(folder):
        kind = CONTROL if special or _looks_special(text) else USER_DEFINED
        if not _put(tokens, path, index, text if kind == CONTROL else text.replace(_SPACE, " "), kind):
            beyond.append(text)
    if beyond:
        said = f"config.json says {len(tokens.texts)} tokens"
        yield f"{len(beyond)} added tokens are left out, {beyond[0]!r} first: {said}"


def _put(tokens: _Tokens, path: Path, index: Any, text: str, kind: int) -> bool:
    if not (isinstance(index, int) or (isinstance(index, str) and index.isdecimal() and len(index) < 10)):
        raise VocabularyError("ids must be numbers", path=path, found=str(index)[:40])
    return tokens.put(int(index), text, ADDED_SCORE, kind)


def _decoder(folder: Folder) -> Iterator[tuple[str, str, bool]]:
    """Index, text and whether it is special, of each token of tokenizer_config.json's added_tokens_decoder."""
    decoder = json_object(folder, "tokenizer_config.json").get("added_tokens_decoder")
    for index, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            yield index, token["content"], token.get("special") is True


def _looks_special(text: str) -> bool:
    """Whether a token that nothing calls special is one by its looks.

    >>> _looks_special("<|im_end|>"), _looks_special("[PAD]")
    (True, False)
    """
    return text in _LOOKS_SPECIAL or any(text.startswith(begin) and text.endswith(end) for begin, end in _SPECIAL_ENDS)


def _from_byte_fallback(folder: Folder, record: Mapping[str, Any], vocab: Mapping[str, Any]) -> FoundVocabulary:
    """A SentencePiece vocabulary that only transformers' own file has."""
    path = folder.path / "tokenizer.json"
    special = _special_texts(folder)
    in_order = [text for text, _ in sorted(_indexed(path, vocab.items()), key=lambda entry: entry[1])]
    added = sorted((index, text) for text, index in _added_of(path, record) if index >= len(in_order))
    tokens = _Tokens([], [], [])
    for text in in_order:
        is_byte = len(text) == 6 and text.startswith("<0x") and text.endswith(">")
        _append(tokens, text, BYTE if is_byte else CONTROL if text in special else NORMAL)
    for _, text in added:
        _append(tokens, text, CONTROL if text in special else USER_DEFINED)
    return FoundVocabulary(path, _pieces_metadata(tokens), len(tokens.texts))


def _append(tokens: _Tokens, text: str, kind: int) -> None:
    tokens.texts.append(text.encode("utf-8", "replace"))
    tokens.scores.append(ADDED_SCORE)
    tokens.types.append(kind)


def _special_texts(folder: Folder) -> set[str]:
    """The texts that tokenizer_config.json names as special."""
    config = json_object(folder, "tokenizer_config.json")
    more = config.get("additional_special_tokens")
    entries = [config.get(f"{kind}_token") for kind in _SPECIAL_KINDS] + (more if isinstance(more, list) else [])
    texts = (entry.get("content") if isinstance(entry, dict) else entry for entry in entries)
    return {text for text in texts if isinstance(text, str)}


def _pieces_metadata(tokens: _Tokens) -> dict[str, Value]:
    return {
        "tokenizer.ggml.model": Value("string", b"llama"),
        "tokenizer.ggml.pre": Value("string", b"default"),
        "tokenizer.ggml.tokens": Value("array", tokens.texts, "string"),
        "tokenizer.ggml.scores": Value("array", np.array(tokens.scores, np.float32), "f32"),
        "tokenizer.ggml.token_type": Value("array", np.array(tokens.types, np.int32), "i32"),
    }


# -------------------------------------------------------------------------------------------------- byte-level BPE


def _from_bytes(folder: Folder, record: Mapping[str, Any], n_vocab: int, pre_tokenizer: str | None) -> FoundVocabulary:
    path = folder.path / "tokenizer.json"
    added, special = _added_and_special(folder, record)
    every = {**dict(_indexed(path, record["model"]["vocab"].items())), **added}
    size = max(every.values(), default=-1) + 1
    if 0 < n_vocab < size:
        raise VocabularyError(
            "the tokenizer has more tokens than the model",
            path=path,
            field="model.vocab",
            expected=f"ids below {n_vocab}, config.json's vocab_size",
            found=f"ids up to {size - 1}",
            next_step="use the tokenizer.json and the config.json of one and the same model",
        )
    tokens = _Tokens.padding(n_vocab if n_vocab > 0 else size)
    for text, index in every.items():
        if text not in added:
            tokens.put(index, text, 0.0, NORMAL)
        elif text in special or _looks_special(text):
            tokens.put(index, text, 0.0, CONTROL)
        else:
            tokens.put(index, text.replace(_SPACE, " "), 0.0, USER_DEFINED)
    rules = word_rules(path) if pre_tokenizer is None else known_rules(pre_tokenizer).name
    merges = [merge.encode("utf-8", "replace") for merge in _merges(folder, record)]
    metadata = {
        "tokenizer.ggml.model": Value("string", b"gpt2"),
        "tokenizer.ggml.pre": Value("string", rules.encode()),
        "tokenizer.ggml.tokens": Value("array", tokens.texts, "string"),
        "tokenizer.ggml.token_type": Value("array", np.array(tokens.types, np.int32), "i32"),
        "tokenizer.ggml.merges": Value("array", merges, "string"),
    }
    return FoundVocabulary(path, metadata, len(tokens.texts))


def _merges(folder: Folder, record: Mapping[str, Any]) -> Iterator[str]:
    """Two tokens with a space between; a space inside of one is Ġ."""
    found = record["model"].get("merges")
    if isinstance(found, list) and found:
        for merge in found:
            if isinstance(merge, str):
                yield merge
            elif isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge):
                yield " ".join(part.replace(" ", "\u0120") for part in merge)
        return
    if "merges.txt" in folder.files:
        lines = (folder.path / "merges.txt").read_text("utf-8", "replace").split("\n")
        for line in lines[1:] if lines[0].startswith("#") else lines:
            if len(line.split()) == 2:
                yield " ".join(line.split())


def _indexed(path: Path, entries: Any) -> Iterator[tuple[str, int]]:
    """Text and id of each token.

    Raises:
        VocabularyError: an id is not a number, or far too large.
    """
    for text, index in entries:
        if type(index) is not int or not 0 <= index < LARGEST_VOCABULARY:
            raise VocabularyError("not a plausible id", path=path, field=text[:40], found=str(index)[:40])
        yield text, index


def _added_of(path: Path, record: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    yield from _indexed(path, ((entry["content"], entry.get("id")) for entry in added_entries(record)))


def _added_and_special(folder: Folder, record: Mapping[str, Any]) -> tuple[dict[str, int], set[str]]:
    """Text and id of each added token, and which of them are special; tokenizer_config.json has the last word."""
    path = folder.path / "tokenizer.json"
    added = dict(_added_of(path, record))
    special = {token["content"] for token in added_entries(record) if token.get("special") is True}
    for index, text, is_special in _decoder(folder):
        if index.isdecimal() and len(index) < 10:
            added[text] = int(index)
            special = special | {text} if is_special else special - {text}
    return added, special


def _not_bpe(path: Path, model: Any) -> VocabularyError:
    return VocabularyError(
        "the tokenizer is not a BPE model",
        path=path,
        field="model.type",
        expected="BPE",
        found=str(model.get("type") if isinstance(model, dict) else model)[:40],
        cause="a tokenizer of another kind of model, which has no place in a GGUF file of a LLaMA",
    )
