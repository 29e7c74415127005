"""From text to token ids and back, three ways.

==================  ==========================================  ==================================================
tokenizer           used by                                     how it decides
==================  ==========================================  ==================================================
GreedyTokenizer     llama.cpp of 2023-03-19 (commit da5303c1e)   the split with the largest sum of squared lengths
ScoreTokenizer      llama.cpp from 2023-03-20 (074bea2eb) on     merge the neighbours with the highest score first
SentencePiece-      Meta, Hugging Face, training                 the reference; also puts a space in front itself
Tokenizer
==================  ==========================================  ==================================================

The first two know only the vocabulary inside a GGML file: a list of byte strings, and since 2023-03-20 a score each.
They agree with SentencePiece on nearly all text *if a space is put in front*, which llama.cpp's ``main`` does.
Input is a C string there: it ends at the first NUL. If a piece occurs twice in a vocabulary, the last one wins.

Pieces that a vocabulary merge appended have score 0.0, and every trained piece of LLaMA is negative: the appended
ones therefore merge first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Protocol

from ggmlpy.files.errors import VocabularyError
from ggmlpy.formats.eras import AUGUST_21, DEFAULT_ERA, MARCH_19, Era, era_of

from .merging import REMEMBERED_LENGTH, REMEMBERED_WORDS, merged_neighbors

__all__ = [
    "BOS",
    "EOS",
    "Disagreement",
    "GreedyTokenizer",
    "PieceTokenizer",
    "ScoreTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "disagreements",
    "tokenizer_for",
]

BOS = 1
EOS = 2
FIRST_BYTE = 3  # token 3 is byte 0x00, token 258 is byte 0xff
LONGEST_GREEDY_PIECE = 18  # bytes; MAX_TOKEN_LEN of da5303c1e
FEW_CHARACTERS = 4096  # that aren't worth cutting into spans: to know where to cut takes a look at the whole vocabulary


class Tokenizer(Protocol):
    """What generation needs of a tokenizer."""

    def encode(self, text: str | bytes, *, bos: bool = False) -> list[int]: ...

    def spaced(self, text: str | bytes, *, bos: bool = False) -> list[int]: ...

    def piece(self, token: int) -> bytes: ...

    def __len__(self) -> int: ...


def _c_string(text: str | bytes) -> bytes:
    """The bytes that a C program sees of ``text``: UTF-8, up to the first NUL.

    Lone surrogates stand for bytes that were not UTF-8 to begin with (``os.fsdecode``), and become them again.
    """
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return data.partition(b"\0")[0]


class PieceTokenizer:
    """A vocabulary as a GGML file holds it: piece ``i`` is the text of token ``i``.

    Attributes:
        bos: the token that begins a text.
        eos: the token that ends one.
        ends: the tokens after which nothing more is generated; ``eos`` is one of them.
        adds_bos: whether a text begins with ``bos``.
    """

    bos = BOS
    eos = EOS
    ends: frozenset[int] = frozenset({EOS})
    adds_bos = True

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = list(pieces)
        self.ids = dict(zip(self.pieces, range(len(self.pieces))))  # the last duplicate wins

    def __len__(self) -> int:
        return len(self.pieces)

    def piece(self, token: int) -> bytes:
        """The bytes of a token.

        Raises:
            VocabularyError: there is no such token.
        """
        if not 0 <= token < len(self.pieces):
            raise VocabularyError(
                "token outside the vocabulary", field="token", expected=f"0 … {len(self.pieces) - 1}", found=token
            )
        return self.pieces[token]

    def encode_first(self, text: str | bytes) -> list[int]:
        """The token ids of a text from its beginning: with a space in front, as ``main`` puts it there, and ``bos``."""
        return self.spaced(text, bos=self.adds_bos)

    def encode(self, text: str | bytes, *, bos: bool = False) -> list[int]:
        """The token ids of ``text``."""
        raise NotImplementedError

    def spaced(self, text: str | bytes, *, bos: bool = False) -> list[int]:
        """The token ids of ``text`` with the space in front that this tokenizer is used with."""
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        return self.encode(b" " + data, bos=bos)

    def encode_raw(self, text: bytes) -> list[int]:
        """The token ids of a text to measure, from its beginning: the space in front is left to the tokenizer."""
        return self.encode(text, bos=self.adds_bos)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The pieces one after another, each as a C string (the piece of byte 0 is empty)."""
        return b"".join(_c_string(self.piece(token)) for token in tokens)


def utf8_characters(data: bytes) -> list[bytes]:
    """``data`` cut by the high nibble of each first byte, valid or not; the last piece may be short.

    >>> utf8_characters("né".encode())
    [b'n', b'\\xc3\\xa9']
    """
    characters, start = [], 0
    while start < len(data):
        high = data[start] >> 4
        stop = start + (1 if high < 0xC else 2 if high < 0xE else high - 0xB)
        characters.append(data[start:stop])
        start = stop
    return characters


class ScoreTokenizer(PieceTokenizer):
    """Merge the neighbouring pair with the highest score; of equals the leftmost; until nothing merges.

    Args:
        pieces: the vocabulary's texts.
        scores: a score for each.
        bytes_by_lookup: what is left over becomes byte tokens; False: byte + 3 (until July 2023); True: the token
            whose text is that byte (from llama.cpp #2420 on, era 2023-08-21).

    >>> tokenizer = ScoreTokenizer([b"", b"", b"", *(bytes([b]) for b in range(256)), b"ab", b"abc"], [0.0] * 261)
    >>> tokenizer.encode("abcd")
    [260, 103]
    """

    def __init__(self, pieces: Sequence[bytes], scores: Sequence[float], *, bytes_by_lookup: bool = False) -> None:
        super().__init__(pieces)
        if len(scores) != len(self.pieces):
            raise VocabularyError(
                "a vocabulary needs one score a piece", field="scores", expected=len(self.pieces), found=len(scores)
            )
        self.scores = list(map(float, scores))
        self.bytes_by_lookup = bytes_by_lookup
        self._known_spans: dict[bytes, tuple[int, ...]] = {}
        self._characters_seen = 0

    def encode(self, text: str | bytes, *, bos: bool = False) -> list[int]:
        """The token ids of ``text``; an empty text gives none at all, not even the beginning-of-sequence token."""
        data = _c_string(text)
        if not data:
            return []
        return ([self.bos] if bos else []) + self.split(data)

    def split(self, data: bytes) -> list[int]:
        """The tokens of a stretch of text."""
        tokens: list[int] = []
        characters = utf8_characters(data)
        self._characters_seen += len(characters)
        if self._characters_seen <= FEW_CHARACTERS:
            return self._merge(characters)
        for span in self._independent_spans(characters):
            tokens.extend(self._encode_span(span))
        return tokens

    @cached_property
    def _inner_pairs(self) -> set[tuple[bytes, bytes]]:
        """Every pair of characters that stands side by side inside some piece.

        No merge can cross any other pair, so text may be cut there and the cuts be tokenized one by one.
        """
        pairs: set[tuple[bytes, bytes]] = set()
        for piece in self.ids:
            characters = utf8_characters(piece)
            pairs.update(pairwise(characters))
        return pairs

    def _independent_spans(self, characters: list[bytes]) -> list[tuple[bytes, ...]]:
        pairs, spans, start = self._inner_pairs, [], 0
        for i in range(1, len(characters)):
            if (characters[i - 1], characters[i]) not in pairs:
                spans.append(tuple(characters[start:i]))
                start = i
        spans.append(tuple(characters[start:]))
        return spans

    def _encode_span(self, characters: tuple[bytes, ...]) -> tuple[int, ...]:
        key = b"".join(characters)
        known = self._known_spans.get(key)
        if known is None:
            known = tuple(self._merge(list(characters)))
            if len(self._known_spans) < REMEMBERED_WORDS and len(key) <= REMEMBERED_LENGTH:
                self._known_spans[key] = known
        return known

    def _merge(self, symbols: list[bytes]) -> list[int]:
        """Merge ``symbols``, which are used up, and look the result up."""
        ids, scores = self.ids, self.scores

        def rank_of(left: bytes, right: bytes) -> float | None:
            token = ids.get(left + right)
            return None if token is None else -scores[token]

        return [token for symbol in merged_neighbors(symbols, rank_of) for token in self._lookup(symbol)]

    def _lookup(self, symbol: bytes) -> list[int]:
        token = self.ids.get(symbol)
        return [token] if token is not None else [self._byte_token(byte) for byte in symbol]

    def _byte_token(self, byte: int) -> int:
        if not self.bytes_by_lookup:
            return byte + FIRST_BYTE
        token = self.ids.get(bytes([byte]))
        if token is None:
            raise VocabularyError(
                f"no token for byte 0x{byte:02x}",
                cause="a vocabulary without byte pieces; llama.cpp of this era aborts on such text",
            )
        return token


class GreedyTokenizer(PieceTokenizer):
    """Of all splits into pieces of at most 18 bytes, the one with the largest sum of squared lengths.

    A vocabulary without scores has nothing better. Of equally good splits, the one found first when pieces are tried
    from short to long stays.

    >>> tokenizer = GreedyTokenizer([b"", b"", b"", *(bytes([b]) for b in range(256)), b"ab", b"bcd"])
    >>> tokenizer.encode("abcd")
    [100, 260]
    """

    def encode(
        self, text: str | bytes, *, bos: bool = False, on_failure: Callable[[int], None] | None = None
    ) -> list[int]:
        """The token ids of ``text``.

        If no split reaches some position, llama.cpp says "failed to tokenize string!" and goes on with what comes
        after it; so does this, after calling ``on_failure`` with the number of bytes lost at the front.
        """
        data = _c_string(text)
        last_token = self._forward(data)
        tokens: list[int] = []
        stop = len(data)
        while stop > 0:
            token = last_token[stop]
            if token == 0 or not self.pieces[token]:
                if on_failure is not None:
                    on_failure(stop)
                break
            tokens.append(token)
            stop -= len(self.pieces[token])
        if bos:
            tokens.append(self.bos)
        return tokens[::-1]

    def _forward(self, data: bytes) -> list[int]:
        """The last token of the best split of each prefix of ``data``; 0 where there is none."""
        best = [0] * (len(data) + 1)
        token_at = [0] * (len(data) + 1)
        ids = self.ids
        for start in range(len(data)):
            so_far = best[start]
            for stop in range(start + 1, min(start + LONGEST_GREEDY_PIECE, len(data)) + 1):
                token = ids.get(data[start:stop])
                if token is not None:
                    score = so_far + (stop - start) ** 2
                    if score > best[stop]:
                        best[stop] = score
                        token_at[stop] = token
        return token_at


class SentencePieceTokenizer(PieceTokenizer):
    """A ``tokenizer.model`` read by Google's library: the reference for the other two.

    Its pieces are those that a GGML file would hold: "" for control pieces, one raw byte, ▁ as a space.

    Args:
        path: the file, or the directory that holds it.

    Raises:
        MissingFileError: there is no such file.
        VocabularyError: the library cannot read it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from .tokenizer_file import pieces_of, read_tokenizer  # SentencePiece is loaded only when it is needed

        self._processor: Any = read_tokenizer(path)
        vocabulary = list(pieces_of(self._processor, path))
        super().__init__([piece for piece, _ in vocabulary])
        self.scores = [score for _, score in vocabulary]

    def encode(self, text: str | bytes, *, bos: bool = False) -> list[int]:
        """The token ids of ``text``. SentencePiece itself puts a space in front."""
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        tokens = [int(token) for token in self._processor.encode(data)]
        return [self.bos, *tokens] if bos else tokens

    def spaced(self, text: str | bytes, *, bos: bool = False) -> list[int]:
        """SentencePiece puts the space itself."""
        return self.encode(text, bos=bos)


def tokenizer_for(
    pieces: Sequence[bytes], scores: Sequence[float], era: str | Era = DEFAULT_ERA
) -> ScoreTokenizer | GreedyTokenizer:
    """The tokenizer that llama.cpp of ``era`` applies to a file's vocabulary."""
    moment = era_of(era)
    if moment == MARCH_19:
        return GreedyTokenizer(pieces)
    return ScoreTokenizer(pieces, scores, bytes_by_lookup=moment >= AUGUST_21)


@dataclass(frozen=True)
class Disagreement:
    """One stretch of text that two tokenizers split differently.

    Attributes:
        start, stop: the byte range in the text.
        tokens: the ids with which each tokenizer covers that range, by the tokenizer's name.
    """

    start: int
    stop: int
    tokens: dict[str, list[int]]


def disagreements(text: bytes, encodings: dict[str, tuple[Tokenizer, list[int]]]) -> list[Disagreement]:
    """Where tokenizations of the same ``text`` differ: the smallest ranges between boundaries that all share.

    If the pieces of one do not spell ``text`` (SentencePiece turns a literal ▁ into a space), the whole text is one
    disagreement.

    Args:
        text: what was tokenized.
        encodings: by name, the tokenizer and its ids.
    """
    ends = {name: _ends(tokenizer, ids) for name, (tokenizer, ids) in encodings.items()}
    for tokenizer, ids in encodings.values():
        if b"".join(map(tokenizer.piece, ids)) != text:
            return [Disagreement(0, len(text), {name: ids for name, (_, ids) in encodings.items()})]
    shared = sorted(set.intersection(*map(set, ends.values())))
    found = []
    for start, stop in pairwise([0, *shared]):
        tokens = {
            name: [token for token, end in zip(ids, ends[name], strict=True) if start < end <= stop]
            for name, (_, ids) in encodings.items()
        }
        if len(set(map(tuple, tokens.values()))) > 1:
            found.append(Disagreement(start, stop, tokens))
    return found


def _ends(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The byte position after each token."""
    return list(accumulate(len(tokenizer.piece(token)) for token in ids))
