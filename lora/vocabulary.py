"""Growing a LLaMA vocabulary: reading, merging, training and comparing SentencePiece models.

A ``tokenizer.model`` is one protobuf message, ``ModelProto`` of sentencepiece's ``sentencepiece_model.proto``::

    field 1, repeated   SentencePiece    {1: piece (string), 2: score (float), 3: type (enum, absent: NORMAL)}
    field 2             TrainerSpec      how it was trained
    field 3             NormalizerSpec   how text is normalized before it is cut into pieces
    field 4, 5          self test data, denormalizer

and a protobuf field is ``varint(number << 3 | wire type)`` followed by a varint (wire type 0), 8 bytes (1),
``varint(length)`` and as many bytes (2), or 4 bytes (5).

The seed grows LLaMA's 32000 pieces by appending every piece of a Chinese model that LLaMA lacks, each with score 0.0
and no type, and leaves LLaMA's own bytes, trainer specification included, as they are. Bytes are copied here, never
decoded and encoded again, so the result is the published file to the bit:

======================================  ======  ================
merged from                             pieces  sha256
======================================  ======  ================
LLaMA + chinese_sp (Chinese-LLaMA)      49953   e2676d4ca29ca175…
the same + ``[PAD]`` (Chinese-Alpaca)   49954   2d967e855b1213a4…
======================================  ======  ================
"""

from __future__ import annotations

import io
import json
import os
import struct
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, MissingFileError, TruncatedError, UsageError, VocabularyError

__all__ = [
    "SEED_RECIPE",
    "Comparison",
    "Growth",
    "Piece",
    "SentencePieceModel",
    "compare_tokenizers",
    "merge_vocabularies",
    "read_sentencepiece",
    "side_by_side",
    "tokenizer_side_files",
    "train_vocabulary",
    "write_tokenizer",
]

MAX_MODEL_BYTES = 256 << 20  # fifty times the largest tokenizer.model in public use; a weights file is larger
PIECE, TEXT, SCORE, TYPE = 1, 1, 2, 3  # field numbers in ModelProto and SentencePiece
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # SentencePiece.Type


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary: ``text`` as raw UTF-8 bytes, and ``encoded``, the bytes it has in the file."""

    text: bytes
    score: float
    type: int
    encoded: bytes


@dataclass(frozen=True)
class SentencePieceModel:
    """A ``tokenizer.model`` taken apart into its pieces and everything after them, without losing a byte."""

    pieces: tuple[Piece, ...]
    rest: bytes  # trainer, normalizer, …: as found, in the order of their field numbers

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Piece bytes -> id. Of a piece that occurs twice the first id counts, as in sentencepiece."""
        return {piece.text: i for i, piece in reversed(list(enumerate(self.pieces)))}

    def to_bytes(self) -> bytes:
        """The file's content."""
        return b"".join(piece.encoded for piece in self.pieces) + self.rest


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


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_sentencepiece(path: str | os.PathLike[str]) -> SentencePieceModel:
    """Read a ``tokenizer.model``, or the one in a directory.

    Raises:
        MissingFileError: there is no such file.
        VocabularyError: it is not a SentencePiece model (a web page, a Git LFS pointer, weights).
        TruncatedError: it ends inside a field.
    """
    path = Path(path) / "tokenizer.model" if Path(path).is_dir() else path
    try:
        size = Path(path).stat().st_size
        if size > MAX_MODEL_BYTES:
            raise _not_a_tokenizer(path, f"{size:,} bytes", "this is another kind of file, such as model weights")
        data = Path(path).read_bytes()
    except OSError as error:
        raise MissingFileError(
            f"cannot read the tokenizer: {error.strerror}", path=path, next_step="name a SentencePiece tokenizer.model"
        ) from error
    return parse_sentencepiece(data, path)


def parse_sentencepiece(data: bytes, path: str | os.PathLike[str] | None = None) -> SentencePieceModel:
    """Take the bytes of a ``tokenizer.model`` apart; ``path`` serves the error messages. Raises as the reader does.

    >>> model = parse_sentencepiece(bytes.fromhex("0a0c 0a03e4bda0 15000080bf 1801"))
    >>> model.pieces[0].text.decode(), model.pieces[0].score, model.pieces[0].type == NORMAL
    ('你', -1.0, True)
    """
    _reject_lookalikes(data, path)
    pieces, rest = [], []
    for number, wire, start, body, end in _fields(data, 0, len(data), path):
        if number == PIECE and wire == BYTES:
            pieces.append(_piece(data, start, body, end, path))
        else:
            rest.append((number, data[start:end]))
    if not pieces:
        raise _not_a_tokenizer(path, "0 pieces", "an empty or foreign protobuf file")
    rest.sort(key=lambda field: field[0])  # what protobuf writes: ascending field numbers, equal ones in their order
    return SentencePieceModel(tuple(pieces), b"".join(encoded for _, encoded in rest))


def _piece(data: bytes, start: int, body: int, end: int, path: Any) -> Piece:
    text, score, kind = None, 0.0, NORMAL
    for number, wire, _, value, stop in _fields(data, body, end, path):
        if number == TEXT and wire == BYTES:
            text = data[value:stop]
        elif number == SCORE and wire == FIXED32:
            (score,) = struct.unpack_from("<f", data, value)
        elif number == TYPE and wire == VARINT:
            kind, _ = _varint(data, value, stop, path)
    if text is None:
        raise _not_a_tokenizer(path, "a piece without text", "not a SentencePiece model", offset=start)
    return Piece(text, score, kind, data[start:end])


def _fields(data: bytes, at: int, stop: int, path: Any) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (field number, wire type, start of the tag, start of the value, end) of each field in data[at:stop]."""
    while at < stop:
        start = at
        tag, at = _varint(data, at, stop, path)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, (_, at) = at, _varint(data, at, stop, path)
        elif wire == BYTES:
            length, value = _varint(data, at, stop, path)
            at = value + length
        elif wire in (FIXED64, FIXED32):
            value, at = at, at + (8 if wire == FIXED64 else 4)
        else:
            raise _not_a_tokenizer(path, f"wire type {wire}", "not a protobuf message, or damaged", offset=start)
        if number == 0:
            raise _not_a_tokenizer(path, "field number 0", "not a protobuf message, or damaged", offset=start)
        if at > stop:
            raise _truncated(path, start, f"{at - start:,} bytes", f"{stop - start:,}")
        yield number, wire, start, value, at


def _varint(data: bytes, at: int, stop: int, path: Any) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            raise _truncated(path, at, "a varint", "the end of the data")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise _not_a_tokenizer(path, "a varint of more than ten bytes", "not a protobuf message, or damaged", offset=at)


def _reject_lookalikes(data: bytes, path: Any) -> None:
    """Name the three things that most often lie under the name tokenizer.model without being one."""
    head = data[:200].lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise _not_a_tokenizer(path, "a Git LFS pointer", "the repository was cloned without Git LFS", "git lfs pull")
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise _not_a_tokenizer(path, "a web page", "the download returned a page", "download the file itself again")
    if head.startswith(b"{"):
        raise _not_a_tokenizer(path, "JSON", "this is a tokenizer.json", "use the tokenizer.model beside it")


def _not_a_tokenizer(path: Any, found: str, cause: str, step: str | None = None, offset: int = 0) -> FormatError:
    return VocabularyError(
        "not a SentencePiece model",
        path=path,
        offset=offset,
        expected="a tokenizer.model",
        found=found,
        cause=cause,
        next_step=step or "use the tokenizer.model that was published with the model",
    )


def _truncated(path: Any, offset: int, expected: str, found: str) -> FormatError:
    return TruncatedError(
        "the tokenizer ends inside a field",
        path=path,
        offset=offset,
        expected=expected,
        found=found,
        cause="an interrupted download",
        next_step="download tokenizer.model again",
    )


# ── merging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def merge_vocabularies(
    base: SentencePieceModel, extra: SentencePieceModel, pad_token: str | None = None
) -> tuple[SentencePieceModel, Growth]:
    """Append to ``base`` the pieces of ``extra`` that it lacks, in their order, then ``pad_token`` if one is given.

    The rule of the seed's ``merge_tokenizers.py``: an appended piece keeps its text only; its score is 0.0 and its
    type is absent (NORMAL).

    Raises:
        UsageError: ``pad_token`` is a piece already.

    >>> tiny = lambda *texts: SentencePieceModel(tuple(_appended(text.encode()) for text in texts), b"")
    >>> merged, growth = merge_vocabularies(tiny("a", "b"), tiny("b", "你"), pad_token="[PAD]")
    >>> [piece.text.decode() for piece in merged.pieces], growth
    (['a', 'b', '你', '[PAD]'], Growth(base=2, added=1, skipped=1, padded=1))
    """
    added = tuple(_appended(piece.text) for piece in extra.pieces if piece.text not in base.ids)
    padding = () if pad_token is None else (_appended(pad_token.encode()),)
    grown = SentencePieceModel(base.pieces + added, base.rest)
    if pad_token is not None and pad_token.encode() in grown.ids:
        there = grown.ids[pad_token.encode()]
        raise UsageError(f"the pad token {pad_token!r} is piece {there} already; leave --pad-token out")
    growth = Growth(len(base), len(added), len(extra) - len(added), len(padding))
    return SentencePieceModel(grown.pieces + padding, base.rest), growth


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


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_tokenizer(
    path: str | os.PathLike[str], model: SentencePieceModel, pad_token: str | None = None
) -> tuple[Path, ...]:
    """Write ``path`` if it ends in ``.model``; otherwise make it a directory that transformers' LlamaTokenizer loads.

    Returns the paths written. Raises OutputError if the disk refuses.
    """
    target = Path(path)
    if target.suffix == ".model":
        files = {target: model.to_bytes()}
    else:
        target.mkdir(parents=True, exist_ok=True)
        sides = {target / name: content for name, content in tokenizer_side_files(pad_token).items()}
        files = {target / "tokenizer.model": model.to_bytes(), **sides}
    for name, content in files.items():
        with atomic_write(name, size=len(content)) as stream:
            stream.write(content)
    return tuple(files)


def tokenizer_side_files(pad_token: str | None = None) -> dict[str, bytes]:
    """``special_tokens_map.json`` and ``tokenizer_config.json`` as transformers 4.28.1 saves them for LLaMA."""
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    special: dict[str, Any] = {
        f"{kind}_token": {"content": text, **token} for kind, text in (("bos", "<s>"), ("eos", "</s>"))
    }
    special |= {} if pad_token is None else {"pad_token": pad_token}
    special["unk_token"] = {"content": "<unk>", **token}
    added = {f"{k}_token": {"__type": "AddedToken", **special[f"{k}_token"]} for k in ("bos", "eos", "unk")}
    config: dict[str, Any] = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": added["bos_token"],
        "clean_up_tokenization_spaces": False,
        "eos_token": added["eos_token"],
        "model_max_length": int(1e30),  # transformers' VERY_LARGE_INTEGER
        "pad_token": None,
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": added["unk_token"],
    }
    named = {"special_tokens_map.json": special, "tokenizer_config.json": config}
    return {name: (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode() for name, value in named.items()}


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SEED_RECIPE: dict[str, Any] = {
    # What the trainer specification inside the published chinese_sp.model says.
    "model_type": "unigram",
    "vocab_size": 20000,
    "character_coverage": 0.9995,
    "normalization_rule_name": "nmt_nfkc",
    "train_extremely_large_corpus": True,
}


def train_vocabulary(
    corpus: Sequence[str | os.PathLike[str]] | Iterable[str],
    *,
    vocab_size: int = SEED_RECIPE["vocab_size"],
    byte_fallback: bool = True,
    max_sentences: int = 10_000_000,
    **recipe: Any,
) -> SentencePieceModel:
    """Train a SentencePiece model by the seed's recipe, made to work for a corpus of any size.

    Arguments:
        corpus: paths of UTF-8 text files, one sentence a line (or an iterator of sentences).
        vocab_size: at most this many pieces; a small corpus yields as many as it holds.
        byte_fallback: add the 256 byte pieces, so that no text is unknown (a merge into LLaMA skips them).
        max_sentences: a larger corpus is sampled down to this many sentences, so that memory stays bounded.
        recipe: anything else that ``sentencepiece`` takes; overrides :data:`SEED_RECIPE`.

    The number of threads is fixed at 16, because the sums of the unigram training depend on it: the same corpus gives
    the same model on every machine.

    Raises:
        MissingFileError: a corpus file is missing or empty.
        UsageError: sentencepiece refuses the request, for instance fewer pieces than the corpus has characters.
    """
    source, out = _corpus_argument(corpus), io.BytesIO()
    options = {
        **SEED_RECIPE,
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
            raise MissingFileError("no text to train on", path=path, next_step="name UTF-8 text, one sentence a line")
    return {"input": [os.fspath(path) for path in corpus]}


def _last_sentence(error: Exception) -> str:
    """sentencepiece's own words without the source line in front: ``INTERNAL: file.cc(1) [cond] words``."""
    return str(error).rsplit("] ", 1)[-1].strip() or type(error).__name__


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Comparison:
    """How one tokenizer cuts a text: ``n_tokens`` for ``n_characters`` (and the part of those that are Chinese)."""

    name: str
    n_pieces: int  # size of the vocabulary
    n_tokens: int
    n_characters: int
    n_chinese: int
    n_byte_tokens: int  # tokens that are single bytes of a character the vocabulary lacks
    pieces: tuple[str, ...]  # the text's tokens

    @property
    def tokens_per_character(self) -> float:
        return self.n_tokens / self.n_characters if self.n_characters else 0.0

    @property
    def characters_per_token(self) -> float:
        return self.n_characters / self.n_tokens if self.n_tokens else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ratios = {name: getattr(self, name) for name in ("tokens_per_character", "characters_per_token")}
        return {**asdict(self), **ratios}


def compare_tokenizers(paths: Iterable[str | os.PathLike[str]], text: str) -> list[Comparison]:
    """Cut ``text`` with each tokenizer: the seed's FAQ on why the vocabulary was grown, as numbers.

    Raises as :func:`read_sentencepiece` does.
    """
    return [_measure(Path(path), text) for path in paths]


def _measure(path: Path, text: str) -> Comparison:
    from llama_ref.vocabulary.tokenizer_file import read_tokenizer

    model = read_sentencepiece(path)
    processor = read_tokenizer(path / "tokenizer.model" if path.is_dir() else path)
    ids = [i for line in text.splitlines() for i in processor.encode(line)]
    characters = [character for line in text.splitlines() for character in line]
    return Comparison(
        name=f"{path.parent.name}/{path.name}" if path.name == "tokenizer.model" else path.name,
        n_pieces=len(model),
        n_tokens=len(ids),
        n_characters=len(characters),
        n_chinese=sum(_is_chinese(character) for character in characters),
        n_byte_tokens=sum(model.pieces[i].type == BYTE for i in ids),
        pieces=tuple(model.pieces[i].text.decode("utf-8", "replace") for i in ids),
    )


def _is_chinese(character: str) -> bool:
    return unicodedata.name(character, "").startswith("CJK UNIFIED")


_BACKGROUNDS = (153, 159, 187, 183, 223, 115)  # xterm-256 pastels that black text is readable on


def side_by_side(comparisons: Iterable[Comparison], *, colour: bool = True) -> str:
    """The same text under each tokenizer, one block a tokenizer, each token on its own background (or between bars).

    >>> print(side_by_side([Comparison("tiny", 3, 2, 2, 2, 0, ("▁你", "好"))], colour=False))
    tiny (3 pieces): 2 tokens for 2 characters, 1.00 tokens a character, 1.00 characters a token
    |▁你|好|
    """
    return "\n".join(f"{_headline(item)}\n{_tokens(item.pieces, colour)}" for item in comparisons)


def _headline(item: Comparison) -> str:
    return (
        f"{item.name} ({item.n_pieces} pieces): {item.n_tokens} tokens for {item.n_characters} characters, "
        f"{item.tokens_per_character:.2f} tokens a character, {item.characters_per_token:.2f} characters a token"
        + (f", {item.n_byte_tokens} of them single bytes" if item.n_byte_tokens else "")
    )


def _tokens(pieces: Sequence[str], colour: bool) -> str:
    if not colour:
        return "|" + "|".join(pieces) + "|"
    shades = (f"\x1b[48;5;{_BACKGROUNDS[i % len(_BACKGROUNDS)]}m\x1b[30m{piece}" for i, piece in enumerate(pieces))
    return "".join(shades) + "\x1b[0m"
