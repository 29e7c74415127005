"""From a SentencePiece ``tokenizer.model`` to the vocabulary inside a GGML file.

Each piece becomes raw bytes: the unknown piece `` ⁇ ``, control pieces nothing, a byte piece its one byte, any other
piece its text with ``▁`` (U+2581) turned into a space. Its score goes with it. Tokens of Hugging Face's
``added_tokens.json`` follow with the score -1000 (convert.py of llama.cpp, 3e5aa8a1c).

Source: ``write_tokens`` of convert-pth-to-ggml.py, llama.cpp 352589927.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import MissingFileError, VocabularyError
from ggmlpy.files.json_files import read_json

from .sentencepiece_model import tokenizer_bytes, unreadable

__all__ = [
    "GgmlVocabulary",
    "find_tokenizer",
    "load_processor",
    "load_vocabulary",
    "piece_text",
    "pieces_of",
    "read_tokenizer",
]

UNKNOWN = " \u2047 ".encode()
ADDED_SCORE = -1000.0
LARGEST_VOCABULARY = 1 << 24


@dataclass(frozen=True)
class GgmlVocabulary:
    """The pieces of a tokenizer as a GGML file stores them.

    Attributes:
        path: the tokenizer.
        base: bytes and score of each piece of the tokenizer itself.
        added: the texts of added_tokens.json in order of their ids.
        added_path: where those came from.
        padding: how many pieces ``<dummy00001>`` … follow, to reach the size of the embedding.
    """

    path: Path
    base: tuple[tuple[bytes, float], ...]
    added: tuple[str, ...] = ()
    added_path: Path | None = None
    padding: int = 0

    def __len__(self) -> int:
        return len(self.base) + len(self.added) + self.padding

    def __iter__(self) -> Iterator[tuple[bytes, float]]:
        yield from self.base
        yield from ((text.encode(), ADDED_SCORE) for text in self.added)
        yield from ((f"<dummy{i:05}>".encode(), ADDED_SCORE) for i in range(1, self.padding + 1))

    def without_added(self) -> GgmlVocabulary:
        """The tokenizer alone."""
        return replace(self, added=(), added_path=None)

    def padded(self, size: int) -> GgmlVocabulary:
        """With dummy pieces up to ``size``."""
        return replace(self, padding=max(0, size - len(self.base) - len(self.added)))


def find_tokenizer(directory: str | os.PathLike[str], explicit: str | os.PathLike[str] | None = None) -> Path:
    """``tokenizer.model`` in the directory or its parent, or the one that was named.

    Raises:
        MissingFileError: none there; lists the paths that were tried.
    """
    directory = Path(directory)
    if explicit is not None:
        candidates = [Path(explicit) / "tokenizer.model" if Path(explicit).is_dir() else Path(explicit)]
    else:
        candidates = [directory / "tokenizer.model", Path(os.path.abspath(directory)).parent / "tokenizer.model"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise MissingFileError(
        "tokenizer.model not found",
        path=directory,
        expected=" or ".join(map(str, candidates)),
        cause="only tokenizer.json is there, as transformers saves it today: it does not hold the SentencePiece model"
        if explicit is None and (directory / "tokenizer.json").is_file()
        else "Meta's download keeps it one level above the weights; a merged model has its own beside them",
        next_step=f"copy the model's tokenizer.model into {directory}, or name it with --tokenizer",
    )


def load_vocabulary(
    tokenizer: str | os.PathLike[str], added_tokens: str | os.PathLike[str] | None = None, *, fill: bool = False
) -> GgmlVocabulary:
    """Read a tokenizer, and the tokens that a file beside it adds: the first of :data:`ADDED_TOKENS` that is there.

    Args:
        fill: whether ids may be left out; ``[PAD7]`` stands there then, as llama.cpp's converter puts it.

    Raises:
        MissingFileError: no such file.
        VocabularyError: not a SentencePiece model, or the ids of the added tokens do not continue the tokenizer's.
    """
    tokenizer = Path(tokenizer)
    base = tuple(pieces_of(read_tokenizer(tokenizer), tokenizer))
    beside = (tokenizer.parent / name for name in ADDED_TOKENS)
    for path in [Path(added_tokens)] if added_tokens is not None else filter(Path.is_file, beside):
        added = _added_tokens(path, base, fill)
        if added or path.name == ADDED_TOKENS[0] or added_tokens is not None:
            return GgmlVocabulary(tokenizer, base, added, path)
    return GgmlVocabulary(tokenizer, base)


def read_tokenizer(path: str | os.PathLike[str]) -> Any:
    """The SentencePiece processor of a ``tokenizer.model``, or of the one in a directory.

    Raises:
        MissingFileError, VocabularyError: no such file, or not a SentencePiece model.
    """
    return load_processor(tokenizer_bytes(path), path)


def load_processor(data: bytes, path: str | os.PathLike[str]) -> Any:
    """The SentencePiece processor of the bytes of a ``tokenizer.model``; ``path`` serves the error messages.

    Raises:
        VocabularyError: they are not a SentencePiece model.
    """
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except (RuntimeError, ValueError, TypeError) as error:
        raise unreadable(data, path) from error
    return processor


def pieces_of(processor: Any, path: str | os.PathLike[str]) -> Iterator[tuple[bytes, float]]:
    """The bytes and the score of each piece of a processor, as a GGML file has them.

    Raises:
        VocabularyError: a piece is not text.
    """
    for i in range(processor.vocab_size()):
        yield _piece_bytes(processor, i, path), float(processor.get_score(i))


def _piece_bytes(tokenizer: Any, i: int, path: str | os.PathLike[str]) -> bytes:
    """One piece as the GGML file has it."""
    if tokenizer.is_unknown(i):
        return UNKNOWN
    if tokenizer.is_control(i):
        return b""
    piece = piece_text(tokenizer, i, path)
    if tokenizer.is_byte(i):
        return _byte_of(piece, i, path)
    return piece.replace("\u2581", " ").encode()


def piece_text(tokenizer: Any, i: int, path: str | os.PathLike[str]) -> str:
    """The text of a piece as sentencepiece spells it.

    Raises:
        VocabularyError: it is not UTF-8; the library looks at that only when it is asked.
    """
    try:
        return str(tokenizer.id_to_piece(i))
    except UnicodeDecodeError as error:
        raise VocabularyError(
            "a piece is not text", path=path, field=f"piece {i}", expected="UTF-8", cause="a damaged file"
        ) from error


def _byte_of(piece: str, i: int, path: str | os.PathLike[str]) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes.fromhex(piece[3:5])
        except ValueError:
            pass
    raise VocabularyError(
        "a byte piece has another form", path=path, field=f"piece {i}", expected="<0xNN>", found=repr(piece)
    )


# Where tokens stand that tokenizer.model lacks; transformers of today writes only the last two.
ADDED_TOKENS = ("added_tokens.json", "tokenizer_config.json", "tokenizer.json")


def _ids_of_tokens(path: Path) -> dict[str, Any]:
    """Text -> id in one of :data:`ADDED_TOKENS`."""
    record = read_json(path)
    if path.name == "tokenizer_config.json":
        decoder = record.get("added_tokens_decoder") or {}
        entries = [(token, number) for number, token in decoder.items()] if isinstance(decoder, dict) else []
    elif path.name == "tokenizer.json":
        tokens = record.get("added_tokens") or []
        entries = [(t, t.get("id")) for t in tokens if isinstance(t, dict)] if isinstance(tokens, list) else []
    else:
        return record
    return {
        str(token["content"]): int(number) if str(number).isdecimal() and len(str(number)) < 10 else -1
        for token, number in entries
        if isinstance(token, dict) and "content" in token
    }


def _added_tokens(path: Path, base: Sequence[object], fill: bool) -> tuple[str, ...]:
    """Texts of added tokens by id; tokens that repeat ids of the tokenizer itself are its own and left out."""
    record = _ids_of_tokens(path)
    if not all(type(number) is int and number >= 0 for number in record.values()):
        raise VocabularyError("ids must be numbers", path=path, found=str(record)[:80])
    _check_encodable(path, record)
    added = {number: text for text, number in record.items() if number >= len(base)}
    is_twice = len(added) != sum(number >= len(base) for number in record.values())
    if fill and max(added, default=0) < LARGEST_VOCABULARY:
        added = {i: f"[PAD{i}]" for i in range(len(base), max(added, default=-1) + 1)} | added
    missing = sorted(set(range(len(base), len(base) + len(added))) - set(added))
    if missing or is_twice:
        raise VocabularyError(
            "the ids of the added tokens do not follow the tokenizer's",
            path=path,
            expected=f"{len(base)} to {len(base) + len(added) - 1} without a gap",
            found=f"{sorted(record.values())[:12]}" + (f", without {missing[:12]}" if missing else ", one id twice"),
            cause=f"{path.name} belongs to another tokenizer",
            next_step=f"use the tokenizer.model and {path.name} of one and the same model",
        )
    return tuple(added[number] for number in sorted(added))


def _check_encodable(path: Path, texts: Iterable[str]) -> None:
    """JSON can spell halves of characters (lone surrogates), which are not text and have no bytes."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise VocabularyError("an added token is not text", path=path, found=ascii(text)[:80]) from error
