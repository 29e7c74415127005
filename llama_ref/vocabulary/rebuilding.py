"""A ``tokenizer.model`` from the vocabulary of a GGML or GGUF file: the pieces come back, its settings do not.

A GGML file has the text and, since ggmf, the score of each piece, as convert-pth-to-ggml.py wrote them: ``" ⁇ "`` for
the unknown token, nothing for control tokens, the byte itself for a byte piece, and a space for each ``▁``. Kinds
follow from that. How the tokenizer was trained and how it normalizes is not in the file; what is written is what
LLaMA's has: BPE, byte fallback, a space in front, no other normalization. It cuts texts as the published one does; its
bytes, and so its SHA256, are other ones.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ggmlpy.formats.model_file import Vocabulary

from .sentencepiece_model import (
    BYTE,
    CONTROL,
    FIXED32,
    NORMAL,
    PIECE,
    SCORE,
    TEXT,
    TYPE,
    UNKNOWN,
    VARINT,
    SentencePieceModel,
    parse_sentencepiece,
)
from .sentencepiece_model import BYTES as LENGTH_DELIMITED
from .tokenizer_file import GgmlVocabulary

__all__ = ["rebuilt_tokenizer", "same_vocabulary", "tokenizer_of_pieces"]

_FIRST_BYTE, _N_BYTES = 3, 256
_SPACE = "▁".encode()
_UNKNOWN, _BOS, _EOS = b"<unk>", b"<s>", b"</s>"
# fmt: off
_TRAINER = (     # field number in TrainerSpec -> value
    (3,  2),     # model_type: BPE
    (35, 1),     # byte_fallback
)
_NORMALIZER = (  # field number in NormalizerSpec -> value
    (3, 1),      # add_dummy_prefix
    (4, 0),      # remove_extra_whitespaces
    (5, 1),      # escape_whitespaces
)
# fmt: on


def rebuilt_tokenizer(vocab: Vocabulary) -> SentencePieceModel:
    """The tokenizer that has these pieces with these scores under these ids."""
    scores = np.asarray(vocab.scores, dtype=np.float32)
    entries = zip(_entries(vocab), scores, strict=True)
    return parse_sentencepiece(_model(_piece(*entry, float(score)) for entry, score in entries))


def _model(pieces: Iterable[bytes]) -> bytes:
    """A tokenizer.model of encoded pieces."""
    encoded = list(pieces)
    trainer = b"".join(_varint_field(number, value) for number, value in ((4, len(encoded)), *_TRAINER))
    normalizer = _delimited(1, b"identity") + b"".join(_varint_field(number, value) for number, value in _NORMALIZER)
    return b"".join(encoded) + _delimited(2, trainer) + _delimited(3, normalizer)


def tokenizer_of_pieces(texts: Sequence[bytes], scores: Iterable[float], kinds: Iterable[int]) -> bytes:
    """The tokenizer.model with these pieces, as they are spelled there; its settings are LLaMA's."""
    entries = zip(texts, kinds, scores, strict=True)
    return _model(_piece(text, int(kind), float(score)) for text, kind, score in entries)


def same_vocabulary(vocab: Vocabulary, tokenizer: GgmlVocabulary) -> bool:
    """Whether a tokenizer has the pieces and scores of a file; scores count as 32-bit floats."""
    theirs = [*tokenizer]
    if [text for text, _ in theirs] != [*vocab]:
        return False
    return bool(np.array_equal(np.array([score for _, score in theirs], np.float32), vocab.scores))


def _entries(vocab: Vocabulary) -> Iterator[tuple[bytes, int]]:
    """Text and kind of each piece, as SentencePiece has them."""
    seen: set[bytes] = set()
    for i, text in enumerate(vocab):
        special = (_UNKNOWN, _BOS, _EOS)[i] if i < _FIRST_BYTE else None
        if special:
            piece, kind = special, UNKNOWN if i == 0 else CONTROL
        elif i < _FIRST_BYTE + _N_BYTES and text == bytes([i - _FIRST_BYTE]):
            piece, kind = b"<0x%02X>" % (i - _FIRST_BYTE), BYTE
        else:
            piece, kind = text.replace(b" ", _SPACE), NORMAL
        if piece in seen or not piece:  # SentencePiece has each piece once, and none without text
            piece, kind = b"<piece %d>" % i, CONTROL
        seen.add(piece)
        yield piece, kind


def _piece(text: bytes, kind: int, score: float) -> bytes:
    body = _delimited(TEXT, text) + _tag(SCORE, FIXED32) + struct.pack("<f", score)
    return _delimited(PIECE, body + (_varint_field(TYPE, kind) if kind != NORMAL else b""))


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint_field(number: int, value: int) -> bytes:
    return _tag(number, VARINT) + _varint(value)


def _delimited(number: int, body: bytes) -> bytes:
    return _tag(number, LENGTH_DELIMITED) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
