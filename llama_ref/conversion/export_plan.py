"""A model about to be written in another layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggmlpy.files.atomic import atomic_write, require_space
from ggmlpy.files.errors import OutputError
from llama_ref.checkpoint import Checkpoint, LazyTensor
from llama_ref.checkpoint.weights import write_weights

__all__ = ["ExportPlan", "Progress", "json_text"]

Progress = Callable[[int], object]


@dataclass
class ExportPlan:
    """A model about to be written in another layout, checked; a context manager (it keeps the checkpoint open).

    Attributes:
        checkpoint: the source.
        directory: the target.
        files: weight files to be written, with the tensors of each under their final names.
        sizes: the size of each of them in bytes.
        texts: small files by name.
        copies: files copied as they are.
        torch_format: which bytes of torch.save to write in .pth and .bin files.
        notes: what the user should know.
        made: other small files by name, which no source has.
    """

    checkpoint: Checkpoint
    directory: Path
    files: dict[str, list[LazyTensor]]
    sizes: dict[str, int]
    texts: dict[str, str]
    copies: list[Path]
    torch_format: str
    notes: list[str] = field(default_factory=list)
    made: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> ExportPlan:
        return self

    def __exit__(self, *_: object) -> None:
        self.checkpoint.close()

    @property
    def nbytes(self) -> int:
        """Bytes of all weight files."""
        return sum(self.sizes.values())

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors: what ``progress`` will add up to."""
        return sum(tensor.nbytes for tensors in self.files.values() for tensor in tensors)

    def write(self, progress: Progress | None = None) -> list[Path]:
        """Write everything into the directory and return the paths, weights first.

        Arguments:
            progress: called with the number of bytes after each piece.

        Raises:
            DiskSpaceError: it would not fit; nothing was written.
            FormatError: a tensor could not be read, or a file not be written.
        """
        require_space(self.directory / next(iter(self.files)), self.nbytes)
        _make_directory(self.directory)
        for name, tensors in self.files.items():
            self._write_weights(self.directory / name, tensors, progress)
        for name, text in self.texts.items():
            with atomic_write(self.directory / name) as stream:
                stream.write(text.encode())
        for name, content in self.made.items():
            with atomic_write(self.directory / name) as stream:
                stream.write(content)
        copied = [_copy(path, self.directory / path.name) for path in self.copies]
        return [self.directory / name for name in (*self.files, *self.texts, *self.made)] + copied

    def _write_weights(self, path: Path, tensors: Sequence[LazyTensor], progress: Progress | None) -> None:
        def release(n: int) -> None:
            self.checkpoint.release()
            if progress:
                progress(n)

        write_weights(path, tensors, self.torch_format, release)


def json_text(value: Mapping[str, Any]) -> str:
    """A JSON file as transformers writes it."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot be made: {error.strerror}", path=directory, next_step="choose another directory"
        ) from error


def _copy(source: Path, target: Path) -> Path:
    with open(source, "rb") as stream, atomic_write(target) as out:
        shutil.copyfileobj(stream, out)
    return target
