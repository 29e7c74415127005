"""Documents become batches: token ids with a weight each, packed into rows of a fixed length.

A document is a list of parts; a part is text and whether it counts towards the loss, so that an instruction's prompt is
read but not learned. Several documents share a row; each has its own positions from 0 and sees only itself, so that
packing changes the speed and nothing else.

What batch number ``i`` holds depends on the data, the seed and ``i`` alone. A run that is resumed therefore needs to
know nothing but its step.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggmlpy.files.errors import FormatError, MissingFileError, UsageError

__all__ = ["Batch", "Document", "Packing", "encode", "read_documents", "text_document"]

BOS, EOS = 1, 2
SPECIAL = {"<s>": BOS, "</s>": EOS}


@dataclass(frozen=True)
class Document:
    """Token ids [n] and the weight [n] with which each counts as a target (the first never is one)."""

    tokens: np.ndarray  # int32
    weights: np.ndarray  # float32

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Batch:
    """Rows of packed documents; all arrays are [rows, length]."""

    tokens: np.ndarray  # int32
    targets: np.ndarray  # int32: the token that follows
    weights: np.ndarray  # float32: how much predicting it counts
    positions: np.ndarray  # int32, from 0 in each document
    documents: np.ndarray  # int32: which document of the row; -1 behind the last

    def visible(self) -> np.ndarray:
        """bool [rows, length, length]: which position (second axis) sees which: its own document's, up to itself."""
        same = self.documents[:, :, None] == self.documents[:, None, :]
        return same & np.tri(self.tokens.shape[1], dtype=bool)

    @property
    def n_targets(self) -> float:
        """The sum of weights."""
        return float(self.weights.sum())


def encode(processor: Any, parts: Iterable[tuple[str, bool]], *, end: bool = True) -> Document:
    """A document of parts ``(text, counts)``: <s>, the text, </s>.

    ``<s>`` and ``</s>`` inside a text stand for these tokens, which llama.cpp's ``-ins`` puts between the turns. Each
    part is cut into tokens by itself, as prompt and answer are when the model is used.

    Args:
        processor: a SentencePieceProcessor.
        end: close with </s>, which counts if the last part does.
    """
    tokens, weights, first, counts = [BOS], [0.0], True, False
    for text, counts in parts:
        for piece in re.split("(</?s>)", text):
            ids = [SPECIAL[piece]] if piece in SPECIAL else _ids(processor, piece, first)
            first = False
            tokens += ids
            weights += [float(counts)] * len(ids)
    if end:
        tokens.append(EOS)
        weights.append(float(counts))
    return Document(np.array(tokens, np.int32), np.array(weights, np.float32))


def _ids(processor: Any, text: str, first: bool) -> list[int]:
    """Ids of a text; only the first of a document gets the space that SentencePiece puts in front."""
    if not text:
        return []
    if first:
        return processor.encode(text)
    ids = processor.encode("\n" + text)  # the space goes in front of the new line, and both are dropped again
    return ids[len(processor.encode("\n")) :]


def text_document(processor: Any, text: str) -> Document:
    """A text to be learned as a whole."""
    return encode(processor, [(text, True)])


class Packing:
    """Documents in rows of ``length`` positions, ``rows`` rows per batch, in an order that follows from the seed.

    A document that is longer than a row is cut into pieces of a row's length. A piece in which nothing counts is left
    out.

    Raises:
        UsageError: there is no document of at least two tokens, or none in which a token counts.
    """

    def __init__(self, documents: Sequence[Document], *, rows: int, length: int, seed: int = 0) -> None:
        self.documents = [
            piece for document in documents for piece in _pieces(document, length) if piece.weights[1:].any()
        ]
        if not self.documents:
            raise UsageError("there is nothing to train on: no document of two tokens or more, in which one counts")
        self.rows, self.length, self.seed = rows, length, seed
        self._epoch, self._packed = -1, []  # type: tuple[int, list[list[int]]]
        self.n_batches = max(1, len(self._rows(0)) // rows)

    def batch(self, number: int) -> Batch:
        """Batch ``number`` of an endless stream of epochs, each in another order.

        An epoch has ``n_batches``; the few rows that its packing needs beyond them wait for another epoch's order.
        """
        epoch, within = divmod(number, self.n_batches)
        packed = self._rows(epoch)
        wanted = range(within * self.rows, (within + 1) * self.rows)
        return stack([[self.documents[i] for i in packed[row % len(packed)]] for row in wanted], self.length)

    def of_update(self, step: int, accumulation: int) -> range:
        """The batches of update ``step``."""
        return range(step * accumulation, (step + 1) * accumulation)

    def identity(self) -> dict[str, Any]:
        """What tells this stream of batches from another one."""
        return {
            "data": [len(self.documents), self.rows, self.length, self.seed],
            "n_tokens": sum(map(len, self.documents)),
        }

    def epoch(self) -> Iterable[Batch]:
        """Every document exactly once, in order of the data, for an evaluation."""
        packed = _pack(self.documents, range(len(self.documents)), self.length)
        for start in range(0, len(packed), self.rows):
            yield stack([[self.documents[i] for i in row] for row in packed[start : start + self.rows]], self.length)

    def _rows(self, epoch: int) -> list[list[int]]:
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.documents))
            packed = _pack(self.documents, order.tolist(), self.length)
            mixed = np.random.default_rng([self.seed, epoch, 1]).permutation(len(packed))
            self._epoch, self._packed = epoch, [packed[i] for i in mixed]
        return self._packed


def _pieces(document: Document, length: int) -> Iterable[Document]:
    """Parts of at most ``length`` predictions, each beginning with the token that the one before ended with."""
    for start in range(0, max(1, len(document) - 1), length):
        yield Document(document.tokens[start : start + length + 1], document.weights[start : start + length + 1])


def _pack(documents: Sequence[Document], order: Iterable[int], length: int, open_rows: int = 32) -> list[list[int]]:
    """First fit over the rows that are still open; the fullest is closed when there are too many.

    >>> of_length = lambda n: Document(np.zeros(n + 1, np.int32), np.ones(n + 1, np.float32))
    >>> _pack([of_length(n) for n in (5, 4, 3, 2)], range(4), 8)
    [[0, 2], [1, 3]]
    """
    closed: list[list[int]] = []
    rows: list[tuple[int, list[int]]] = []  # room left, documents
    for i in order:
        needed = len(documents[i]) - 1
        fits = next((n for n, (room, _) in enumerate(rows) if room >= needed), None)
        if fits is None:
            rows.append((length - needed, [i]))
        else:
            room, members = rows[fits]
            rows[fits] = (room - needed, [*members, i])
        if len(rows) > open_rows:
            closed.append(rows.pop(min(range(len(rows)), key=lambda n: rows[n][0]))[1])
    return closed + [members for _, members in rows]


def stack(rows: Sequence[Sequence[Document]], length: int) -> Batch:
    """A batch of the given documents, each row's one behind the other."""
    shape = (len(rows), length)
    batch = Batch(
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.int32),
        np.full(shape, -1, np.int32),
    )
    for row, documents in enumerate(rows):
        at = 0
        for number, document in enumerate(documents):
            n = len(document) - 1
            place = (row, slice(at, at + n))
            batch.tokens[place] = document.tokens[:-1]
            batch.targets[place] = document.tokens[1:]
            batch.weights[place] = document.weights[1:]
            batch.positions[place] = np.arange(n)
            batch.documents[place] = number
            at += n
    return batch


def read_documents(path: str | os.PathLike[str]) -> list[str]:
    """Texts of a file, one a paragraph: documents are separated by empty lines.

    Raises:
        MissingFileError: the file is missing or can't be read.
        FormatError: it is not UTF-8, or holds no text.
    """
    try:
        with open(path, encoding="utf-8") as file:
            documents = [text.strip() for text in file.read().split("\n\n") if text.strip()]
    except OSError as error:
        words = f"cannot read the texts: {error.strerror}"
        raise MissingFileError(words, path=path, next_step="name files of UTF-8 text") from error
    except UnicodeDecodeError as error:
        raise FormatError(
            "is not UTF-8 text",
            path=path,
            offset=error.start,
            found=f"byte 0x{error.object[error.start]:02x}",
            cause="another encoding (GB18030, UTF-16), or no text at all",
            next_step="save it as UTF-8",
        ) from error
    if not documents:
        raise FormatError("holds no text", path=path, next_step="name a file of UTF-8 text")
    return documents
