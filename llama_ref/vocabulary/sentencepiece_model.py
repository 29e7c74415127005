"""A ``tokenizer.model`` as bytes: SentencePiece's protobuf message, read piece by piece and written again.

A ``tokenizer.model`` is one protobuf message, ``ModelProto`` of sentencepiece's ``sentencepiece_model.proto``::

    field 1, repeated   SentencePiece    {1: piece (string), 2: score (float), 3: type (enum, absent: NORMAL)}
    field 2             TrainerSpec      how it was trained
    field 3             NormalizerSpec   how text is normalized before it is cut into pieces
    field 4, 5          self test data, denormalizer

and a protobuf field is ``varint(number << 3 | wire type)`` followed by a varint (wire type 0), 8 bytes (1),
``varint(length)`` and as many bytes (2), or 4 bytes (5).

Every piece keeps its bytes, and whatever follows the pieces is kept as it was found: ``to_bytes`` gives the file that
was read, to the bit.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, MissingFileError, TruncatedError, VocabularyError
from ggmlpy.files.kinds import FIRST_BYTES, begins_as_json, kind_of

__all__ = [
    "BYTE",
    "BYTES",
    "CONTROL",
    "FIXED32",
    "NORMAL",
    "PIECE",
    "UNKNOWN",
    "UNUSED",
    "USER_DEFINED",
    "VARINT",
    "Piece",
    "SentencePieceModel",
    "fields_of",
    "parse_sentencepiece",
    "read_sentencepiece",
    "tokenizer_bytes",
    "tokenizer_side_files",
    "varint_at",
    "write_sentencepiece",
]

PIECE, TEXT, SCORE, TYPE = 1, 1, 2, 3  # field numbers in ModelProto and SentencePiece
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # SentencePiece.Type
MAX_MODEL_BYTES = 256 << 20  # fifty times the largest tokenizer.model in public use; a weights file is larger


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


def read_sentencepiece(path: str | os.PathLike[str]) -> SentencePieceModel:
    """Read a ``tokenizer.model``, or the one in a directory.

    Raises:
        MissingFileError: there is no such file.
        VocabularyError: it is not a SentencePiece model (a web page, a Git LFS pointer, weights).
        TruncatedError: it ends inside a field.
    """
    return parse_sentencepiece(tokenizer_bytes(path), path)


def tokenizer_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a ``tokenizer.model``, or of the one in a directory.

    Raises:
        MissingFileError: there is no such file.
        VocabularyError: it is far too large for a tokenizer.
    """
    file = Path(path) / "tokenizer.model" if Path(path).is_dir() else Path(path)
    try:
        size = file.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise _not_a_tokenizer(file, f"{size:,} bytes", "this is another kind of file, such as model weights")
        return file.read_bytes()
    except OSError as error:
        raise MissingFileError(
            f"cannot read the tokenizer: {error.strerror}", path=file, next_step="name a SentencePiece tokenizer.model"
        ) from error


def parse_sentencepiece(data: bytes, path: str | os.PathLike[str] | None = None) -> SentencePieceModel:
    """Take the bytes of a ``tokenizer.model`` apart; ``path`` serves the error messages. Raises as the reader does.

    >>> model = parse_sentencepiece(bytes.fromhex("0a0c 0a03e4bda0 15000080bf 1801"))
    >>> model.pieces[0].text.decode(), model.pieces[0].score, model.pieces[0].type == NORMAL
    ('你', -1.0, True)
    """
    try:
        return _parsed(data, path)
    except FormatError:
        if _lookalike(data):
            raise unreadable(data, path) from None
        raise


def _parsed(data: bytes, path: Any) -> SentencePieceModel:
    pieces, rest = [], []
    for number, wire, start, body, end in fields_of(data, 0, len(data), path):
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
    for number, wire, _, value, stop in fields_of(data, body, end, path):
        if number == TEXT and wire == BYTES:
            text = data[value:stop]
        elif number == SCORE and wire == FIXED32:
            (score,) = struct.unpack_from("<f", data, value)
        elif number == TYPE and wire == VARINT:
            kind, _ = varint_at(data, value, stop, path)
    if text is None:
        raise _not_a_tokenizer(path, "a piece without text", "not a SentencePiece model", offset=start)
    return Piece(text, score, kind, data[start:end])


def fields_of(data: bytes, at: int, stop: int, path: Any) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (field number, wire type, start of the tag, start of the value, end) of each field in data[at:stop]."""
    while at < stop:
        start = at
        tag, at = varint_at(data, at, stop, path)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, (_, at) = at, varint_at(data, at, stop, path)
        elif wire == BYTES:
            length, value = varint_at(data, at, stop, path)
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


def varint_at(data: bytes, at: int, stop: int, path: Any) -> tuple[int, int]:
    """A number of seven bits a byte, and the offset behind it."""
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


_AGAIN = "fetch tokenizer.model again"
# fmt: off
_LOOKALIKES = {  # kind of file that often lies under the name tokenizer.model: cause, next step
    "pointer": ("this is a Git LFS pointer, not the file it points to",          "git lfs pull"),
    "page":    ("this is a web page that was saved under the name of the file",  _AGAIN),
    "json":    ("this is a tokenizer.json, which is another format",             "use the tokenizer.model beside it"),
}
# fmt: on


def _lookalike(data: bytes) -> tuple[str, str] | None:
    """Cause and next step for one of the usual other things, or None."""
    first = data[:FIRST_BYTES]
    kind = kind_of(first)
    return _LOOKALIKES.get("json" if begins_as_json(first) else kind.name if kind else "")


def unreadable(data: bytes, path: str | os.PathLike[str] | None) -> VocabularyError:
    """The error for bytes that are not a SentencePiece model, whatever they are instead."""
    cause, next_step = _lookalike(data) or ("the download is broken", _AGAIN)
    if next_step == _AGAIN and path:
        next_step += f" and check it: `verify {os.fspath(path)}`"
    found = f"{len(data):,} bytes that begin {data[:12].hex(' ') or 'with nothing'}"
    return VocabularyError("is not a SentencePiece model", path=path, found=found, cause=cause, next_step=next_step)


def _not_a_tokenizer(path: Any, found: str, cause: str, step: str | None = None, offset: int = 0) -> VocabularyError:
    return VocabularyError(
        "is not a SentencePiece model",
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


def write_sentencepiece(
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
