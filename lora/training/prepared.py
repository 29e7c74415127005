"""Prepared data: token ids, where labels begin, and order, in one file that every engine and every process reads alike.

The file is a safetensors file, so that other programs can read it, too:

==================  ==================  ===============================================================================
tensor              type                meaning
==================  ==================  ===============================================================================
``ids``             U16 or I32 [n]      the tokens of all rows, one behind the other
``starts``          I64 [rows + 1]      where each row begins in ``ids``; at last, n
``first_targets``   I32 [rows]          labels are a row's ids from here on, and -100 before
``train``           I64 [rows - k]      rows to train on, in the order in which the data was split
``validation``      I64 [k]             rows to evaluate with
==================  ==================  ===============================================================================

Its ``__metadata__`` says what was prepared: recipe, kind, length, tokenizer, files. :class:`Blocks` makes batches of
it, of an endless stream of epochs, each in ``torch.randperm``'s order of seed + epoch, and says which of them make an
update: the same for every number of processes.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.files.kinds import first_bytes, kind_of
from llama_ref.checkpoint.safetensors_file import SafetensorsFile, open_safetensors
from llama_ref.checkpoint.weights import is_safetensors

from .data import Batch, Document, stack
from .order import torch_order

__all__ = ["KIND", "Blocks", "PreparedData", "is_prepared", "open_prepared", "rows_without_target"]

KIND = "ggmlpy prepared training data"
TENSORS: dict[str, tuple[str, ...]] = {  # and the types they may have
    "ids": ("uint16", "int32"),
    "starts": ("int64",),
    "first_targets": ("int32",),
    "train": ("int64",),
    "validation": ("int64",),
}
IGNORED = -100  # the label of a token that is no target


class PreparedData:
    """An open file of prepared data; rows are read when they are asked for.

    Args:
        file: the same file, where it is open already; it is closed with this.

    Attributes:
        metadata: what was prepared.
        train, validation: numbers of rows.

    Raises:
        FormatError: another kind of file, or a damaged one.
    """

    def __init__(self, path: str | os.PathLike[str], file: SafetensorsFile | None = None) -> None:
        self.path, self._file = path, open_safetensors(path) if file is None else file
        try:
            self.metadata = self._file.metadata
            self._check_kind()
            self.ids = self._file["ids"]
            self.starts, self.first_targets, self.train, self.validation = (
                self._file[name].numpy() for name in list(TENSORS)[1:]
            )
            self._check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PreparedData:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _check_kind(self) -> None:
        if self.metadata.get("kind") != KIND or set(self._file) != set(TENSORS):
            raise self._bad("these tensors are not prepared data", "`train prepare FILE`")
        for name, types in TENSORS.items():
            tensor = self._file[name]
            if tensor.dtype not in types or len(tensor.shape) != 1:
                raise self._bad(f"tensor {name} is not a list of {' or '.join(types)}")
        if not 0 < len(self.metadata.get("n_vocab", "")) < 12 or not self.metadata["n_vocab"].isdecimal():
            raise self._bad("the size of the tokenizer is not a number")

    def _check(self) -> None:
        ends = self.starts[[0, -1]].tolist() if self.starts.size else []
        lengths = np.diff(self.starts)
        used = np.concatenate([self.train, self.validation])
        if (
            ends != [0, self.ids.size]
            or len(self.first_targets) != len(lengths)
            or (self.starts[1:] <= self.starts[:-1]).any()
            or (self.first_targets < 0).any()
            or (self.first_targets > lengths).any()
            or (used.size and not 0 <= used.min() <= used.max() < len(lengths))
        ):
            raise self._bad("rows, labels and order do not fit together")
        self.targets = targets_of(lengths, self.first_targets)

    def _bad(self, words: str, step: str = "prepare the data again") -> FormatError:
        return FormatError(words, path=self.path, cause="a damaged file", next_step=step)

    @property
    def n_vocab(self) -> int:
        """Pieces of the tokenizer that made the ids."""
        return int(self.metadata["n_vocab"])

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(np.diff(self.starts).max(initial=0))

    def row(self, number: int) -> np.ndarray:
        """The ids of a row; raises :class:`FormatError` where one is not a piece of the tokenizer."""
        ids = self.ids.rows(int(self.starts[number]), int(self.starts[number + 1])).astype(np.int32)
        if not 0 <= ids.min() <= ids.max() < self.n_vocab:
            raise self._bad(f"row {number} has a token that the tokenizer does not have")
        return ids

    def labels(self, number: int) -> np.ndarray:
        """The labels of a row."""
        labels = self.row(number)
        labels[: self.first_targets[number]] = IGNORED
        return labels

    def n_targets(self, number: int) -> int:
        """How many tokens of a row are learned."""
        return int(self.targets[number])

    def document(self, number: int) -> Document:
        """A row as a document of the numpy engine."""
        ids = self.row(number)
        return Document(ids, (np.arange(len(ids)) >= max(1, self.first_targets[number])).astype(np.float32))


def targets_of(lengths: np.ndarray, first_targets: np.ndarray) -> np.ndarray:
    """How many tokens of each row are learned: those from its first target on, but never its first token."""
    return (lengths - np.maximum(first_targets, 1)).clip(0)


def open_prepared(path: str | os.PathLike[str], n_vocab: int | None = None) -> PreparedData:
    """Open a file of prepared data.

    Args:
        n_vocab: rows of the model's embeddings; None leaves the tokenizer unchecked.

    Raises:
        FormatError: another kind of file, a damaged one, or one that another tokenizer made.
    """
    data = PreparedData(path)
    if n_vocab is not None and data.n_vocab != n_vocab:
        data.close()
        raise FormatError(
            "was prepared with another tokenizer",
            path=path,
            expected=f"{n_vocab} pieces, as the tokenizer given",
            found=f"{data.n_vocab} pieces",
            next_step="prepare the data again with this tokenizer",
        )
    return data


def is_prepared(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one of prepared data, whole or damaged: safetensors, by its name or by how it begins."""
    if is_safetensors(path):
        return True
    try:
        first, size = first_bytes(path), os.path.getsize(path)
    except OSError:
        return False  # whoever reads it says why
    kind = kind_of(first)
    return kind is not None and kind.name == "safetensors" and int.from_bytes(first[:8], "little") < size


def rows_without_target(data: PreparedData) -> int:
    """How many rows to train on have no token to learn.

    Raises:
        UsageError: there is no row, or none has one.
    """
    if not len(data.train):
        raise UsageError(f"{data.path} has no row to train on")
    without = int((data.targets[data.train] == 0).sum())
    if without == len(data.train):
        raise UsageError(
            f"{data.path} has no token to learn: each row, of at most {data.longest} tokens, ends before its answer"
            " begins; prepare longer rows (--length)"
        )
    return without


class Blocks:
    """Batches of prepared rows, each row one document; padded on the right to the longest of the batch.

    Args:
        rows: of a batch; an epoch's last batch has what is left.
        seed: of the order; epoch e has the order of seed + e.
        epoch_end: "carried over": the next epoch's batches complete an update; or "smaller update": an epoch's last
            update has the batches that are left.

    Attributes:
        without_target: rows of an epoch that teach nothing; a batch of them alone has no loss (NaN) and no gradient.

    Raises:
        UsageError: there is no row, or in none a token to learn.
    """

    def __init__(self, data: PreparedData, *, rows: int, seed: int = 0, epoch_end: str = "carried over") -> None:
        self.without_target = rows_without_target(data)
        self.data, self.rows, self.seed, self.epoch_end = data, rows, seed, epoch_end
        self.n_batches = -(-len(data.train) // rows)  # of an epoch
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def of_update(self, step: int, accumulation: int) -> range:
        """The batches of update ``step``."""
        if self.epoch_end == "carried over":
            return range(step * accumulation, (step + 1) * accumulation)
        epoch, within = divmod(step, -(-self.n_batches // accumulation))
        first, end = epoch * self.n_batches, (epoch + 1) * self.n_batches
        return range(first + within * accumulation, min(first + (within + 1) * accumulation, end))

    def rows_of(self, number: int) -> list[int]:
        """The rows of batch ``number`` of an endless stream of epochs."""
        epoch, within = divmod(number, self.n_batches)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, torch_order(len(self.data.train), self.seed + epoch)
        return self.data.train[self._order[within * self.rows : (within + 1) * self.rows]].tolist()

    def batch(self, number: int) -> Batch:
        """The same as an array."""
        documents = [self.data.document(row) for row in self.rows_of(number)]
        return stack([[document] for document in documents], max(1, *(len(each) - 1 for each in documents), 1))

    def identity(self) -> dict[str, Any]:
        """What tells this stream of batches from another one."""
        return {"data": [len(self.data.train), self.rows, self.seed], "prepared": self.data.metadata}
