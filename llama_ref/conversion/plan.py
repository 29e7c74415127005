"""A conversion to GGML or GGUF that has been checked and not yet begun."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ggmlpy.files.atomic import require_space
from ggmlpy.files.ordered import Workers
from ggmlpy.formats.containers import Container
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.writer import write_model
from llama_ref.checkpoint import Checkpoint
from llama_ref.vocabulary.tokenizer_file import GgmlVocabulary

from .huggingface_to_gguf.vocabulary import FoundVocabulary

__all__ = ["Plan", "Progress"]

Progress = Callable[[int], object]


@dataclass
class Plan:
    """A conversion that has been checked and not yet begun; a context manager (it keeps the checkpoint open).

    Attributes:
        files: what will be written, with the size of each in bytes.
        container, version, hparams: of the files.
        vocab: the vocabulary that goes in.
        parts: the tensors of each file.
        notes: what the user should know; values that overflow f16 are added while writing.
        keys: of GGUF, all keys of each file, where they are more than ``hparams`` and ``vocab`` say.
    """

    files: dict[Path, int]
    container: Container
    version: int
    hparams: ModelParams
    vocab: GgmlVocabulary | FoundVocabulary
    parts: list[list[OutTensor]]
    notes: list[str] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    overflows: dict[str, int] = field(default_factory=dict)
    keys: Sequence[Mapping[str, Value]] = ()
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *_: object) -> None:
        if self.checkpoint:
            self.checkpoint.close()

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors: what ``progress`` will add up to."""
        return sum(tensor.nbytes for part in self.parts for tensor in part)

    def count_overflow(self, name: str, count: int) -> None:
        """Remember that values of a tensor became infinite; any thread may say so."""
        with self._counting:
            self.overflows[name] = self.overflows.get(name, 0) + count

    def write(self, progress: Progress | None = None, workers: Workers | None = None) -> list[Path]:
        """Write the files and return their paths. Each appears under its name when it is complete.

        Arguments:
            progress: called with the number of bytes after each piece.
            workers: who converts and writes; by default one thread per processor.

        Raises:
            DiskSpaceError: they would not fit; nothing was written.
            FormatError: a tensor could not be read, or a file not be written.
        """
        require_space(next(iter(self.files)), self.nbytes)
        keys: Iterable[Mapping[str, Value] | None] = self.keys or [None] * len(self.files)
        for path, part, metadata in zip(self.files, self.parts, keys, strict=True):
            name, version = self.container.name, self.version
            write_model(path, name, version, self.hparams, self.vocab, part, progress, metadata, workers)
        self.notes += [
            f"{count} values of {name} exceed the range of f16 and became infinite: use --outtype f32"
            for name, count in self.overflows.items()
        ]
        return list(self.files)
