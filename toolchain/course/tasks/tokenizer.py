"""Project 4: the tokenizer of llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from llama_ref.vocabulary.tokenizer import FIRST_BYTE, GreedyTokenizer, ScoreTokenizer

from ..differences import differing_lines
from ..project import Difference, Mistake, Project
from .vocabulary import CHINESE, lines_of

KINDS = ("letters", "Chinese", "bytes", "scores against lengths")
LETTERS = "abcdefg"
Encode = Callable[[list[bytes], list[float], bytes], list[int]]


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """A directory with vocabulary.txt, as project 2 writes it, and texts.txt, a text on each line."""
    source = folder / "input"
    source.mkdir()
    alphabet = CHINESE if kind == "Chinese" else LETTERS
    pieces = _pieces(rng, alphabet, falling=kind != "scores against lengths")
    (source / "vocabulary.txt").write_bytes(lines_of((text.hex(), f"{score:.9g}") for text, score in pieces))
    more = LETTERS + ("é你€😀z" if kind == "bytes" else " " + alphabet)
    texts = ["".join(more[i] for i in rng.randint(0, len(more), rng.randint(3, 24))) for _ in range(12)]
    (source / "texts.txt").write_text("\n".join(text.strip() or "a" for text in texts) + "\n", "utf-8")
    return source


def _pieces(rng: np.random.RandomState, alphabet: str, falling: bool) -> list[tuple[bytes, float]]:
    """Three names, 256 bytes, single characters, and pieces of two to four of them."""
    found = [b"<unk>", b"", b"", *(bytes([byte]) for byte in range(256))]
    words = list(dict.fromkeys([" ", *alphabet]))
    while len(words) < 60:
        parts = [words[i] for i in rng.randint(0, len(words), 2)]
        if len("".join(parts)) <= 4 and " " not in parts[1]:
            words = list(dict.fromkeys([*words, "".join(parts)]))
    ranks = np.arange(len(words)) if falling else rng.permutation(len(words))
    texts = [word for word in words if word.encode() not in found]
    return [(text, 0.0) for text in found] + [(t.encode(), -float(r)) for t, r in zip(texts, ranks)]


def read_vocabulary(path: Path) -> tuple[list[bytes], list[float]]:
    """Pieces and scores of a vocabulary.txt."""
    words = [line.split() for line in path.read_text("utf-8").splitlines()]
    return [bytes.fromhex(word[1].replace("-", "")) for word in words], [float(word[2]) for word in words]


def _ids(path: Path, encode: Encode) -> bytes:
    pieces, scores = read_vocabulary(path / "vocabulary.txt")
    texts = (path / "texts.txt").read_bytes().splitlines()
    return "".join(" ".join(map(str, encode(pieces, scores, text))) + "\n" for text in texts).encode()


def by_score(pieces: list[bytes], scores: list[float], text: bytes) -> list[int]:
    return ScoreTokenizer(pieces, scores).encode(b" " + text)


def _longest_first(pieces: list[bytes], scores: list[float], text: bytes) -> list[int]:
    """The longest piece that fits, from left to right."""
    ids, found, text = {piece: i for i, piece in enumerate(pieces) if piece}, [], b" " + text
    while text:
        length = max(n for n in range(1, len(text) + 1) if text[:n] in ids)
        found.append(ids[text[:length]])
        text = text[length:]
    return found


def _leftmost(pieces: list[bytes], scores: list[float], text: bytes) -> list[int]:
    """Merges the first two neighbors that make a piece, whatever their score."""
    ids = {piece: i for i, piece in enumerate(pieces)}
    parts = [character.encode() for character in (b" " + text).decode()]
    while True:
        at = next((i for i in range(len(parts) - 1) if parts[i] + parts[i + 1] in ids), None)
        if at is None:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [i for part in parts for i in ([ids[part]] if part in ids else [byte + FIRST_BYTE for byte in part])]


def _unknown(pieces: list[bytes], scores: list[float], text: bytes) -> list[int]:
    """<unk> for a character that is no piece."""
    known, tokenizer, found = set(pieces), ScoreTokenizer(pieces, scores), []
    marked = "".join(c if c.encode() in known else "\0" for c in f" {text.decode()}")
    for index, part in enumerate(marked.split("\0")):
        found += [0] * bool(index) + tokenizer.encode(part)
    return found


MISTAKES = (
    Mistake("llama.cpp puts a space in front of the text",
            lambda path: _ids(path, lambda p, s, text: ScoreTokenizer(p, s).encode(text))),
    Mistake("no beginning-of-text token here: only the tokens of the text",
            lambda path: _ids(path, lambda p, s, text: [1, *by_score(p, s, text)])),
    Mistake("a character that is no piece becomes one token for each of its UTF-8 bytes: byte + 3",
            lambda path: _ids(path, _unknown)),
    Mistake("not the leftmost pair: of all pairs of neighbors that make a piece, the one with the highest score",
            lambda path: _ids(path, _leftmost)),
    Mistake("not the longest piece from the left: merge the two neighbors whose piece has the highest score",
            lambda path: _ids(path, _longest_first)),
    Mistake("that is the tokenizer of 2023-03-19; a day later pairs were merged by their score",
            lambda path: _ids(path, lambda p, s, text: GreedyTokenizer(p).encode(b" " + text))),
)  # fmt: skip


def answer(path: Path) -> bytes:
    return _ids(path, by_score)


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    return differing_lines(expected, found)


PROJECT = Project(4, "tokenizer", "Tokenize", "分词", KINDS, make, "ids.txt", answer, differ, MISTAKES)
