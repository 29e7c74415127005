"""One look at a directory: what is in it, which files are weights, and what its small JSON files say.

Opening a checkpoint lists its directory once, into a :class:`Folder`; layouts, parameters, notes and errors are taken
from that record. A JSON file is read at most once, when it is first asked for.

=============  ===================  ===============================  ============================================
layout         one file             index                            one of several
=============  ===================  ===============================  ============================================
Meta           consolidated.00.pth                                   consolidated.NN.pth
Hugging Face   model.safetensors    model.safetensors.index.json     model-IIIII-of-NNNNN.safetensors
Hugging Face   pytorch_model.bin    pytorch_model.bin.index.json     pytorch_model-IIIII-of-NNNNN.bin
=============  ===================  ===============================  ============================================
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ggmlpy.files.errors import FormatError, MissingFileError
from ggmlpy.files.json_files import LARGEST_JSON, read_json
from ggmlpy.files.kinds import first_bytes, kind_of, lookalike
from ggmlpy.files.paths import stays_inside

__all__ = ["Folder", "Layout", "directory_of", "is_weight_file", "weight_file_names"]

Layout = Literal["meta", "huggingface"]

_SHARD = re.compile(r"consolidated\.(\d{2,})\.pth")
# fmt: off
_PARTS = {  # kind of weights: suffix of its files, the one file, its index, one of several
    "safetensors": ("model", ".safetensors", re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")),
    "bin":         ("pytorch_model", ".bin", re.compile(r"pytorch_model-(\d{5})-of-(\d{5})\.bin")),
}
# fmt: on
_WEIGHTS = ("consolidated.*.pth", "model*.safetensors*", "pytorch_model*.bin*")


def is_weight_file(name: str) -> bool:
    """Whether a file of this name counts as weights of a model, or as their index, in either layout.

    >>> [is_weight_file(name) for name in ("consolidated.01.pth", "model.safetensors.index.json", "adapter_model.bin")]
    [True, True, False]
    """
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _WEIGHTS)


def weight_file_names(kind: str, count: int) -> tuple[list[str], str]:
    """The names of ``count`` weight files of a kind ("safetensors" or "bin") in Hugging Face's layout, and their index.

    >>> weight_file_names("bin", 2)
    (['pytorch_model-00001-of-00002.bin', 'pytorch_model-00002-of-00002.bin'], 'pytorch_model.bin.index.json')
    """
    stem, suffix, _ = _PARTS[kind]
    parts = [f"{stem}-{i:05}-of-{count:05}{suffix}" for i in range(1, count + 1)]
    return parts if count > 1 else [stem + suffix], f"{stem}{suffix}.index.json"


@dataclass(frozen=True)
class Folder:
    """What one look at a directory saw.

    Attributes:
        path: the directory.
        names: of everything in it, sorted.
        files: the names of regular files, or of links to them.
        directories: the names of directories, sorted.
    """

    path: Path
    names: tuple[str, ...]
    files: frozenset[str]
    directories: tuple[str, ...]
    _records: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, directory: str | os.PathLike[str]) -> Folder:
        """Look at a directory."""
        with os.scandir(directory) as entries:
            seen = sorted(entries, key=lambda entry: entry.name)
            return cls(
                Path(directory),
                tuple(entry.name for entry in seen),
                frozenset(entry.name for entry in seen if _answers(entry.is_file)),
                tuple(entry.name for entry in seen if _answers(entry.is_dir)),
            )

    def json(self, name: str, most: int = LARGEST_JSON) -> dict[str, Any]:
        """The JSON object in a file of the directory, read once.

        Args:
            most: how many bytes an honest file of this name has at most.

        Raises:
            MissingFileError, FormatError: see :func:`.read_json`.
        """
        if name not in self._records:
            self._records[name] = read_json(self.path / name, most=most)
        return self._records[name]

    def matching(self, pattern: str) -> list[Path]:
        """The paths whose names match a shell pattern, sorted."""
        return [self.path / name for name in self.names if fnmatch.fnmatchcase(name, pattern)]

    @property
    def holds_weights(self) -> bool:
        """Whether anything in it counts as weights, be they complete or not."""
        return any(map(is_weight_file, self.names))

    @cached_property
    def shards(self) -> list[Path]:
        """The ``consolidated.NN.pth`` in numeric order; an empty list if there are none.

        Raises:
            MissingFileError: one of the sequence is missing; names it.
        """
        found = {int(match[1]): match[0] for name in self.names if (match := _SHARD.fullmatch(name))}
        absent = [f"consolidated.{i:02}.pth" for i in range(max(found, default=-1) + 1) if i not in found]
        if absent:
            raise MissingFileError(
                f"{', '.join(absent)} missing",
                path=self.path,
                expected=f"shards 00 to {max(found):02}",
                found=", ".join(found[i] for i in sorted(found)),
                next_step="copy the missing shard into the directory",
            )
        return [self.path / found[i] for i in sorted(found)]

    @cached_property
    def parts(self) -> list[Path]:
        """The weight files of Hugging Face's layout in order, safetensors before ``.bin``; empty if there are none.

        Raises:
            MissingFileError: the index, or the numbers in the names, promise a file that is not there.
            FormatError: the index is bad, or the parts belong to different models.
        """
        for kind, (_, _, pattern) in _PARTS.items():
            (single,), index = weight_file_names(kind, 1)
            if index in self.files:
                return self._from_index(index)
            if single in self.files:
                return [self.path / single]
            numbered = {name: match for name in self.names if (match := pattern.fullmatch(name))}
            if numbered:
                return self._from_numbers(numbered)
        return []

    @property
    def layout(self) -> Layout | None:
        """The layout to read: where there are weights of both, the one with ``params.json``; None without weights.

        Raises:
            FormatError: see :attr:`shards` and :attr:`parts`.
        """
        if self.shards and self.parts:
            return "meta" if "params.json" in self.files else "huggingface"
        return "meta" if self.shards else "huggingface" if self.parts else None

    def _from_index(self, name: str) -> list[Path]:
        index, weight_map = self.path / name, self.json(name).get("weight_map")
        if (
            not isinstance(weight_map, dict)
            or not weight_map
            or not all(isinstance(value, str) for value in weight_map.values())
        ):
            raise FormatError("has no weight_map", path=index, field="weight_map", found=str(weight_map)[:80])
        names = sorted({re.sub(r"^\.[/\\]", "", value) for value in weight_map.values()})
        for part in names:
            if PurePosixPath(part).name != part or not stays_inside(part):
                raise FormatError(
                    "names a file outside its directory",
                    path=index,
                    found=repr(part)[:120],
                    cause="a damaged or forged index",
                )
        return self._all_there(names, name)

    def _from_numbers(self, parts: Mapping[str, re.Match[str]]) -> list[Path]:
        if len({match[2] for match in parts.values()}) > 1:
            raise FormatError(
                "parts of different models",
                path=self.path,
                found=", ".join(sorted(parts)),
                cause="two downloads mixed",
            )
        first = next(iter(parts.values()))
        begin, end = first.string[: first.start(1)], first.string[first.end(1) :]
        start = min(1, *(int(match[1]) for match in parts.values()))  # the first converter of LLaMA counted from 0
        names = [f"{begin}{i:05}{end}" for i in range(start, start + int(first[2]))]
        return self._all_there(names, "the numbers in their names")

    def _all_there(self, names: list[str], source: str) -> list[Path]:
        absent = [name for name in names if name not in self.files]
        if absent:
            raise MissingFileError(
                f"{', '.join(absent[:8])} missing",
                path=self.path,
                expected=f"{len(names)} weight files by {source}",
                found=len(names) - len(absent),
                cause="the download is incomplete",
                next_step="fetch the missing files",
            )
        return [self.path / name for name in names]


def _answers(question: Callable[[], bool]) -> bool:
    """False for what cannot be asked, such as a link to itself."""
    try:
        return question()
    except OSError:
        return False


def directory_of(path: str | os.PathLike[str]) -> Path:
    """The directory, or that of a file in it.

    Raises:
        MissingFileError: no such directory or file, or a file that is a model of its own or an archive.
    """
    given = Path(path)
    if given.is_dir():
        return given
    if given.is_file():
        _refuse_other_kinds(given)
        return given.parent
    raise MissingFileError("no such directory", path=path, next_step="name the directory that holds the weights")


_IN_CHECKPOINTS = ("zip", "pickle", "safetensors", "tokenizer")


_WAY_BACK = "`to-meta {path} OUT_DIR` makes a checkpoint of it"


def _refuse_other_kinds(path: Path) -> None:
    """A file stands for its directory, unless it is a model of its own, or an archive."""
    try:
        first = first_bytes(path)
    except OSError:
        return  # its reader says what is wrong
    kind, known = kind_of(first), lookalike(first, path)
    if kind and known and kind.name not in _IN_CHECKPOINTS:
        raise MissingFileError(
            "is not a checkpoint",
            path=path,
            expected="the directory of a checkpoint, or one of its files",
            found=known[0],
            next_step=_WAY_BACK.format(path=path) if kind.name in ("ggml", "gguf") else known[1],
        )
