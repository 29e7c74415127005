"""One text under several tokenizers, for people: pieces, ids, bytes, and where they disagree.

>>> from llama_ref.vocabulary.tokenizer import ScoreTokenizer
>>> abc = ScoreTokenizer([b"", b"", b"", *(bytes([b]) for b in range(256)), b"ab"], [0.0] * 260)
>>> print("\\n".join(token_lines(abc, abc.encode("abc"))))
   259  ab  61 62
   102  c   63
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ggmlpy
from ggmlpy.files.errors import UsageError
from ggmlpy.files.kinds import FIRST_BYTES, begins_as_json, is_ggml, is_ggml_file
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.eras import AUGUST_21, era_of
from llama_ref.vocabulary.gguf_tokenizer import GgufTokenizer
from llama_ref.vocabulary.opening import is_tokenizer_json, open_tokenizer
from llama_ref.vocabulary.sentencepiece_model import BYTE, MAX_MODEL_BYTES, parse_sentencepiece, tokenizer_bytes
from llama_ref.vocabulary.tokenizer import (
    GreedyTokenizer,
    ScoreTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    disagreements,
    tokenizer_for,
)
from llama_ref.vocabulary.utf8 import printable
from toolchain.terminal.colors import on_ground
from toolchain.terminal.foreign import one_line
from toolchain.terminal.widths import padded, shown_width

__all__ = [
    "Comparison",
    "compare_tokenizers",
    "comparison_lines",
    "encode_text",
    "in_a_row",
    "open_tokenizers",
    "side_by_side",
    "token_lines",
    "token_records",
]


def open_tokenizers(
    path: str | os.PathLike[str], era: str | None = None, sentencepiece: str | os.PathLike[str] | None = None
) -> tuple[str, dict[str, Tokenizer]]:
    """The tokenizer that belongs to a file, by name, and all that can be made of its vocabulary.

    Args:
        path: a GGML or GGUF file, a ``tokenizer.model``, a ``tokenizer.json``, or the folder of one of these two.
        era: for a GGML file: whose tokenizer; None: of the era that its container implies. For a ``tokenizer.model``:
            None is SentencePiece itself.
        sentencepiece: the ``tokenizer.model`` of a GGML file, to compare with.

    Raises:
        FormatError: not such a file.
    """
    extra: dict[str, Tokenizer] = {"sentencepiece": SentencePieceTokenizer(sentencepiece)} if sentencepiece else {}
    if is_tokenizer_json(path):
        return "tokenizers", {"tokenizers": open_tokenizer(path), **extra}
    if is_ggml_file(path):
        own = open_tokenizer(path)
        if isinstance(own, GgufTokenizer) and (era is None or era_of(era) >= AUGUST_21):
            return "gguf", {"gguf": own, "greedy": GreedyTokenizer(own.pieces), **extra}
        with ggmlpy.open_model(path) as file:
            pieces, scores, era = list(file.vocab), file.vocab.scores.tolist(), era or era_of_file(file).date
    else:
        model = SentencePieceTokenizer(path)
        pieces, scores, extra = model.pieces, model.scores, {"sentencepiece": model}
    tokenizers: dict[str, Tokenizer] = {
        "score": ScoreTokenizer(pieces, scores),
        "greedy": GreedyTokenizer(pieces),
        **extra,
    }
    if era is None:
        return "sentencepiece", tokenizers
    chosen = tokenizer_for(pieces, scores, era)
    name = "greedy" if isinstance(chosen, GreedyTokenizer) else "score"
    return name, {**tokenizers, name: chosen}


def encode_text(
    tokenizer: Tokenizer, text: bytes, *, bos: bool = False, space: bool = True, special: bool = False
) -> list[int]:
    """The ids of a text, with the space in front that the tokenizer is used with.

    Args:
        special: texts of control tokens in it are those tokens.

    Raises:
        UsageError: this tokenizer knows no such texts.
    """
    if not special:
        return tokenizer.spaced(text, bos=bos) if space else tokenizer.encode(text, bos=bos)
    if isinstance(tokenizer, GreedyTokenizer | ScoreTokenizer | SentencePieceTokenizer):
        raise UsageError("--special is for GGUF files and tokenizer.json: no text is a control token in this tokenizer")
    encode: Any = tokenizer.spaced if space else tokenizer.encode
    return encode(text, bos=bos, special=True)


def _spelling(tokenizer: Tokenizer, token: int) -> bytes:
    """What a token shows; of a control token, which shows nothing, its name."""
    return tokenizer.piece(token) or (tokenizer.texts[token] if isinstance(tokenizer, GgufTokenizer) else b"")


def token_records(tokenizer: Tokenizer, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Each token as id, text and bytes in hexadecimal."""
    return [
        {"id": token, "text": _spelling(tokenizer, token).decode("utf-8", "backslashreplace"),
         "bytes": tokenizer.piece(token).hex()}
        for token in ids
    ]  # fmt: skip


def token_lines(tokenizer: Tokenizer, ids: Sequence[int], *, color: bool = False) -> Iterator[str]:
    """Id, piece and bytes of each token; in color, the whole text first, each token on a ground of its own."""
    pieces = [_shown(_spelling(tokenizer, token)) for token in ids]
    if color:
        yield in_a_row(pieces, color=True)
    width = max(map(shown_width, pieces), default=0)
    for i, (token, piece) in enumerate(zip(ids, pieces, strict=True)):
        cell = (on_ground(piece, i) if color else piece) + padded("", width - shown_width(piece))
        yield f"{token:6d}  {cell}  {tokenizer.piece(token).hex(' ')}".rstrip()


def in_a_row(pieces: Sequence[str], *, color: bool) -> str:
    """Tokens side by side, each on its own ground, or between bars.

    >>> in_a_row(["▁你", "好"], color=False)
    '|▁你|好|'
    """
    shown = map(one_line, pieces)
    if color:
        return "".join(on_ground(piece, i) for i, piece in enumerate(shown))
    return "|" + "|".join(shown) + "|"


def comparison_lines(text: bytes, results: Mapping[str, tuple[Tokenizer, list[int]]]) -> Iterator[str]:
    """Every stretch of ``text`` (with its space in front) that is not split alike, and how each splits it."""
    found = disagreements(text, dict(results))
    names = ", ".join(results)
    yield f"{names}: {f'{len(found)} disagreements' if found else 'all agree'}"
    for each in found:
        yield f"bytes {each.start}-{each.stop}: {_shown(text[each.start : each.stop])}"
        for name, ids in each.tokens.items():
            tokenizer = results[name][0]
            pieces = " | ".join(f"{_shown(tokenizer.piece(token))} {token}" for token in ids)
            yield f"    {name:<14} {pieces}"


def _shown(piece: bytes) -> str:
    """A piece on one line, spaces as ▁."""
    return printable(piece).replace(" ", "▁")


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
    """Cut ``text`` with each tokenizer: Chinese-LLaMA-Alpaca's FAQ on why the vocabulary was grown, as numbers.

    Raises as :func:`.open_tokenizer` does.
    """
    return [_measure(Path(path), text) for path in paths]


def _measure(path: Path, text: str) -> Comparison:
    lines = text.splitlines()
    n_pieces, pieces, n_byte_tokens = _cut_lines(path, lines)
    characters = [character for line in lines for character in line]
    return Comparison(
        name=f"{path.parent.name}/{path.name}" if path.name in ("tokenizer.model", "tokenizer.json") else path.name,
        n_pieces=n_pieces,
        n_tokens=len(pieces),
        n_characters=len(characters),
        n_chinese=sum(_is_chinese(character) for character in characters),
        n_byte_tokens=n_byte_tokens,
        pieces=tuple(pieces),
    )


def _cut_lines(path: Path, lines: Sequence[str]) -> tuple[int, list[str], int]:
    """The size of the vocabulary, the tokens of some lines, and how many of those are single bytes of a character."""
    data = _sentencepiece_bytes(path)
    if data is None:
        tokenizer = open_tokenizer(path)
        found = [tokenizer.piece(token) for line in lines for token in tokenizer.spaced(line)]
        n_byte_tokens = sum(len(piece) == 1 and piece[0] >= 0x80 for piece in found)
        return len(tokenizer), [piece.decode("utf-8", "replace").replace(" ", "▁") for piece in found], n_byte_tokens
    from llama_ref.vocabulary.tokenizer_file import load_processor

    model, processor = parse_sentencepiece(data, path), load_processor(data, path)
    ids = [i for line in lines for i in processor.encode(line)]
    pieces = [model.pieces[i].text.decode("utf-8", "replace") for i in ids]
    return len(model), pieces, sum(model.pieces[i].type == BYTE for i in ids)


def _sentencepiece_bytes(path: Path) -> bytes | None:
    """The content of a ``tokenizer.model``, None where a path leads to another kind of tokenizer."""
    is_other = is_tokenizer_json(path) if path.is_dir() else path.is_file() and path.stat().st_size > MAX_MODEL_BYTES
    data = None if is_other else tokenizer_bytes(path)
    return None if data is None or is_ggml(data) or begins_as_json(data[:FIRST_BYTES]) else data


def _is_chinese(character: str) -> bool:
    return unicodedata.name(character, "").startswith("CJK UNIFIED")


def side_by_side(comparisons: Iterable[Comparison], *, color: bool = True) -> str:
    """The same text under each tokenizer, one block per tokenizer.

    >>> print(side_by_side([Comparison("tiny", 3, 2, 2, 2, 0, ("▁你", "好"))], color=False))
    tiny (3 pieces): 2 tokens for 2 characters, 1.00 tokens a character, 1.00 characters a token
    |▁你|好|
    """
    return "\n".join(f"{_headline(item)}\n{in_a_row(item.pieces, color=color)}" for item in comparisons)


def _headline(item: Comparison) -> str:
    return (
        f"{one_line(item.name)} ({item.n_pieces} pieces): {item.n_tokens} tokens for {item.n_characters} characters, "
        f"{item.tokens_per_character:.2f} tokens a character, {item.characters_per_token:.2f} characters a token"
        + (f", {item.n_byte_tokens} of them single bytes" if item.n_byte_tokens else "")
    )
