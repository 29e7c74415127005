"""One text under several tokenizers, for people: pieces, ids, bytes, and where they disagree.

>>> from .tokenizer import ScoreTokenizer
>>> abc = ScoreTokenizer([b"", b"", b"", *(bytes([b]) for b in range(256)), b"ab"], [0.0] * 260)
>>> print("\\n".join(token_lines(abc, abc.encode("abc"))))
   259  ab  61 62
   102  c   63
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_ref.vocabulary.tokenizer import (
    GreedyTokenizer,
    ScoreTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    disagreements,
    tokenizer_for,
)
from llama_ref.vocabulary.utf8 import printable

from .texts import shown_width

__all__ = ["comparison_lines", "encode_text", "open_tokenizers", "token_lines", "token_records"]

BACKGROUNDS = ("\x1b[48;5;24m", "\x1b[48;5;94m", "\x1b[48;5;22m", "\x1b[48;5;53m")
RESET = "\x1b[0m"


def open_tokenizers(
    path: str | os.PathLike[str], era: str | None = None, sentencepiece: str | os.PathLike[str] | None = None
) -> tuple[str, dict[str, Tokenizer]]:
    """The tokenizer that belongs to a file, by name, and all that can be made of its vocabulary.

    Args:
        path: a GGML file or a ``tokenizer.model``.
        era: for a GGML file: whose tokenizer; None: of the era that its container implies. For a ``tokenizer.model``:
            None is SentencePiece itself.
        sentencepiece: the ``tokenizer.model`` of a GGML file, to compare with.

    Raises:
        FormatError: not such a file.
    """
    if _is_ggml(path):
        pieces, scores, era = _ggml_vocabulary(path, era)
        extra: dict[str, Tokenizer] = {"sentencepiece": SentencePieceTokenizer(sentencepiece)} if sentencepiece else {}
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


def _is_ggml(path: str | os.PathLike[str]) -> bool:
    from ggmlpy.formats.containers import BY_MAGIC

    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError:
        return False  # the tokenizer's reader says what is wrong
    return int.from_bytes(magic, "little") in BY_MAGIC


def _ggml_vocabulary(path: str | os.PathLike[str], era: str | None) -> tuple[list[bytes], list[float], str]:
    import ggmlpy
    from llama_ref.arithmetic import natural_era

    with ggmlpy.open_model(path) as file:
        return list(file.vocab), file.vocab.scores.tolist(), era or natural_era(file)


def encode_text(tokenizer: Tokenizer, text: bytes, *, bos: bool = False, space: bool = True) -> list[int]:
    """The ids of a text with one space in front; SentencePiece puts its own."""
    own = isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer.encode(b" " + text if space and not own else text, bos=bos)


def token_records(tokenizer: Tokenizer, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Each token as id, text and bytes in hexadecimal."""
    return [
        {"id": token, "text": tokenizer.piece(token).decode("utf-8", "backslashreplace"),
         "bytes": tokenizer.piece(token).hex()}
        for token in ids
    ]  # fmt: skip


def token_lines(tokenizer: Tokenizer, ids: Sequence[int], *, color: bool = False) -> Iterator[str]:
    """Id, piece and bytes of each token; in colour, the whole text first, each token on a ground of its own."""
    shown = [_shown(tokenizer.piece(token)) for token in ids]
    if color:
        yield "".join(BACKGROUNDS[i % len(BACKGROUNDS)] + text + RESET for i, text in enumerate(shown))
    width = max(map(shown_width, shown), default=0)
    for i, (token, text) in enumerate(zip(ids, shown, strict=True)):
        ground, reset = (BACKGROUNDS[i % len(BACKGROUNDS)], RESET) if color else ("", "")
        padding = " " * (width - shown_width(text))
        yield f"{token:6d}  {ground}{text}{reset}{padding}  {tokenizer.piece(token).hex(' ')}".rstrip()


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
