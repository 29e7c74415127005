"""Project 2: the vocabulary of a GGML file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ggmlpy.formats.containers import container_named
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.writer import write_model

from ..differences import differing_lines
from ..project import Difference, Mistake, Project
from ..specimens import FROM_THE_ZOO, draw_specimen

KINDS = ("ggjt1", "ggml", "ggmf1", "long pieces", FROM_THE_ZOO)
MODELS = ("models/*-f16.bin", "models/*-f32.bin")  # of all containers before GGUF
CHINESE = "你好世界介绍北京怎么做披萨如何保持健康讲一个故事"


def random_piece(rng: np.random.RandomState, longest: int = 9) -> bytes:
    """Letters, Chinese, raw bytes, or nothing."""
    choice = rng.randint(0, 10)
    if choice == 0:
        return b""
    if choice == 1:
        return bytes([int(rng.randint(0, 256))])
    if choice < 6:
        return "".join(CHINESE[i] for i in rng.randint(0, len(CHINESE), rng.randint(1, 4))).encode()
    return bytes(rng.randint(97, 123, size=rng.randint(1, longest)).tolist())


def make(rng: np.random.RandomState, kind: str, folder: Path) -> Path:
    """A file with a vocabulary, or one of the zoo, which has tensors behind it."""
    path = folder / "model.bin"
    if kind == FROM_THE_ZOO:
        return draw_specimen(rng, path, *MODELS)
    container, version = container_named("ggjt1" if kind == "long pieces" else kind)
    n_vocab, longest = int(rng.randint(20, 60)), 700 if kind == "long pieces" else 9
    pieces = [(random_piece(rng, longest), float(np.float32(rng.randn()))) for _ in range(n_vocab)]
    params = ModelParams(n_embd=32, n_layer=1, n_head=1, n_vocab=n_vocab, ftype=1)
    write_model(path, container.name, version, params, pieces, [])
    return path


def lines_of(pieces: Iterable[tuple[str, str]]) -> bytes:
    """One line for each piece: id, bytes in hex, and the score where there is one."""
    return "".join(
        f"{index} {text or '-'} {score}".rstrip() + "\n" for index, (text, score) in enumerate(pieces)
    ).encode()


def answer(path: Path) -> bytes:
    with open_model(path) as model:
        scores = [f"{score:.9g}" for score in model.vocab.scores.tolist()] if model.declared.scored else []
        texts = [bytes(piece).hex() for piece in model.vocab]
    return lines_of(zip(texts, scores or [""] * len(texts), strict=True))


def _as_text(path: Path) -> bytes:
    """Pieces that went through a string."""
    words = [line.split() for line in answer(path).decode().splitlines()]
    texts = [bytes.fromhex(word[1].replace("-", "")).decode("utf-8", "replace").encode().hex() for word in words]
    return lines_of((text, "".join(word[2:])) for text, word in zip(texts, words))


def _without_scores(path: Path) -> bytes:
    return "".join(" ".join(line.split()[:2]) + "\n" for line in answer(path).decode().splitlines()).encode()


def _without_empty(path: Path) -> bytes:
    return "".join(line + "\n" for line in answer(path).decode().splitlines() if line.split()[1] != "-").encode()


MISTAKES = (
    Mistake("a piece is bytes, not text: a byte piece or a part of a character does not survive decoding", _as_text),
    Mistake("behind each text stands its score, a float32, in every container but the first", _without_scores),
    Mistake("an empty piece counts: write - for its bytes", _without_empty),
)


def same_line(a: str, b: str) -> bool:
    """Scores are the same float32, however they are spelled."""
    words, others = a.split(), b.split()
    if words[:2] != [others[0], others[1].lower()] if len(others) > 1 else True:
        return False
    try:
        scores = [[np.float32(word) for word in line[2:]] for line in (words, others)]
    except ValueError:
        return False
    return scores[0] == scores[1]


def differ(path: Path, expected: bytes, found: bytes) -> Difference | None:
    difference = differing_lines(expected, found, same_line)
    if difference and path.read_bytes()[:4] == b"lmgg" and difference.words.startswith("line 1 "):
        return Difference(difference.words, "files without a version have no scores behind the texts")
    return difference


PROJECT = Project(
    2, "vocabulary", "Walk the vocabulary", "走遍词表", KINDS, make, "vocabulary.txt", answer, differ, MISTAKES
)
