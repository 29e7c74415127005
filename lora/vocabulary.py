"""Growing a LLaMA vocabulary: merging and training SentencePiece models.

Chinese-LLaMA-Alpaca grows LLaMA's 32000 pieces by appending every piece of a Chinese model that LLaMA lacks, each with
score 0.0 and no type, and leaves LLaMA's own bytes, trainer specification included, as they are. Bytes are copied here
(:mod:`llama_ref.vocabulary.sentencepiece_model`), never decoded and encoded again, so the result is the published file
to the bit:

======================================  ======  ================
merged from                             pieces  sha256
======================================  ======  ================
LLaMA + chinese_sp (Chinese-LLaMA)      49953   e2676d4ca29ca175…
the same + ``[PAD]`` (Chinese-Alpaca)   49954   2d967e855b1213a4…
======================================  ======  ================
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ggmlpy.files.errors import MissingFileError, UsageError, VocabularyError
from llama_ref.vocabulary.sentencepiece_model import (
    NORMAL,
    Piece,
    SentencePieceModel,
    parse_sentencepiece,
)
from llama_ref.vocabulary.utf8 import printable

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CHINESE_RECIPE", "Growth", "TrainerOptions", "merge_vocabularies", "train_vocabulary"]


@dataclass(frozen=True)
class Growth:
    """What :func:`merge_vocabularies` did: ``base + added + padded = total``; ``skipped`` pieces were there already."""

    base: int
    added: int
    skipped: int
    padded: int

    @property
    def total(self) -> int:
        return self.base + self.added + self.padded


# ── merging ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def merge_vocabularies(
    base: SentencePieceModel, extra: SentencePieceModel, pad_token: str | None = None
) -> tuple[SentencePieceModel, Growth]:
    """Append to ``base`` the pieces of ``extra`` that it lacks, in their order, then ``pad_token`` if one is given.

    The rule of Chinese-LLaMA-Alpaca's ``merge_tokenizers.py``: an appended piece keeps its text only; its score is 0.0
    and its type is absent (NORMAL).

    Raises:
        UsageError: ``pad_token`` is a piece already, or empty.
        VocabularyError: a piece of ``extra`` is empty or there twice; SentencePiece refuses a model with such pieces.

    >>> tiny = lambda *texts: SentencePieceModel(tuple(_appended(text.encode()) for text in texts), b"")
    >>> merged, growth = merge_vocabularies(tiny("a", "b"), tiny("b", "你"), pad_token="[PAD]")
    >>> [piece.text.decode() for piece in merged.pieces], growth
    (['a', 'b', '你', '[PAD]'], Growth(base=2, added=1, skipped=1, padded=1))
    """
    _check_pieces(extra)
    if pad_token == "":
        raise UsageError("the pad token is empty; give it a text such as [PAD], or leave --pad-token out")
    added = tuple(_appended(piece.text) for piece in extra.pieces if piece.text not in base.ids)
    padding = () if pad_token is None else (_appended(pad_token.encode()),)
    grown = SentencePieceModel(base.pieces + added, base.rest)
    if pad_token is not None and pad_token.encode() in grown.ids:
        there = grown.ids[pad_token.encode()]
        raise UsageError(f"the pad token {pad_token!r} is piece {there} already; leave --pad-token out")
    growth = Growth(len(base), len(added), len(extra) - len(added), len(padding))
    return SentencePieceModel(grown.pieces + padding, base.rest), growth


def _check_pieces(extra: SentencePieceModel) -> None:
    for number, piece in enumerate(extra.pieces):
        first = extra.ids[piece.text]
        if piece.text and first == number:
            continue
        raise VocabularyError(
            f"piece {number} of the added vocabulary is " + (f"piece {first} again" if piece.text else "empty"),
            field=f"piece {number}",
            found=repr(printable(piece.text)),
            cause="a model that was put together by hand: SentencePiece refuses to read it",
            next_step="take the pieces from a model that `identify` reads",
        )


def _appended(text: bytes) -> Piece:
    """``0a len | 0a len text | 15 00000000``: what protobuf writes for a piece with text and an explicit score 0.0."""
    body = b"\x0a" + _encode_varint(len(text)) + text + b"\x15" + struct.pack("<f", 0.0)
    return Piece(text, 0.0, NORMAL, b"\x0a" + _encode_varint(len(body)) + body)


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


# ── training ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CHINESE_RECIPE: dict[str, Any] = {
    # What the trainer specification inside the published chinese_sp.model says.
    "model_type": "unigram",
    "vocab_size": 20000,
    "character_coverage": 0.9995,
    "normalization_rule_name": "nmt_nfkc",
    "train_extremely_large_corpus": True,
}


class TrainerOptions(TypedDict, total=False):
    """Options that go to ``sentencepiece`` under its own names.

    For an option that is left out :data:`CHINESE_RECIPE` counts, then the default of ``sentencepiece``.
    """

    model_type: str
    character_coverage: float
    normalization_rule_name: str
    max_sentencepiece_length: int
    split_digits: bool
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    allow_whitespace_only_pieces: bool
    minloglevel: int


def train_vocabulary(
    corpus: Sequence[str | os.PathLike[str]] | Iterable[str],
    *,
    vocab_size: int = CHINESE_RECIPE["vocab_size"],
    byte_fallback: bool = True,
    max_sentences: int = 10_000_000,
    **recipe: Unpack[TrainerOptions],
) -> SentencePieceModel:
    """Train a SentencePiece model by Chinese-LLaMA-Alpaca's recipe, for a corpus of any size.

    Args:
        corpus: paths of UTF-8 text files, one sentence per line (or an iterator of sentences).
        vocab_size: at most this many pieces; a small corpus yields as many as it holds.
        byte_fallback: add the 256 byte pieces, so that no text is unknown (a merge into LLaMA skips them).
        max_sentences: a larger corpus is sampled down to this many sentences, so that memory stays bounded.
        recipe: see :class:`TrainerOptions`.

    The number of threads is fixed at 16, because the sums of the unigram training depend on it: the same corpus gives
    the same model on every machine.

    Raises:
        MissingFileError: a corpus file is missing or empty.
        UsageError: sentencepiece refuses the request, for instance fewer pieces than the corpus has characters.
    """
    source, out = _corpus_argument(corpus), io.BytesIO()
    options = {
        **CHINESE_RECIPE,
        "vocab_size": vocab_size,
        "byte_fallback": byte_fallback,
        "hard_vocab_limit": False,
        "input_sentence_size": max_sentences,
        "shuffle_input_sentence": True,
        "num_threads": 16,
        "minloglevel": 2,
        **recipe,
    }
    import sentencepiece

    try:
        sentencepiece.SentencePieceTrainer.train(**source, model_writer=out, **options)
    except (RuntimeError, OSError, TypeError, AttributeError) as error:
        raise UsageError(f"sentencepiece cannot train this vocabulary: {_last_sentence(error)}") from error
    return parse_sentencepiece(out.getvalue())


def _corpus_argument(corpus: Sequence[str | os.PathLike[str]] | Iterable[str]) -> dict[str, Any]:
    """Paths become ``input=``, checked to be there and to hold text; an iterator becomes ``sentence_iterator=``."""
    if not isinstance(corpus, Sequence):
        return {"sentence_iterator": iter(corpus)}
    for path in corpus:
        if not Path(path).is_file() or Path(path).stat().st_size == 0:
            raise MissingFileError("no text to train on", path=path, next_step="name UTF-8 text, one sentence per line")
    return {"input": [os.fspath(path) for path in corpus]}


def _last_sentence(error: Exception) -> str:
    """sentencepiece's own words without the source line in front: ``INTERNAL: file.cc(1) [cond] words``."""
    return str(error).rsplit("] ", 1)[-1].strip() or type(error).__name__
