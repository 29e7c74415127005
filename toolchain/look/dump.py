"""The bytes of any file with what they mean: by the reader that it is for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ggmlpy.files.errors import IntegrityError, MissingFileError
from ggmlpy.files.kinds import is_ggml_file
from ggmlpy.files.mapping import map_file
from ggmlpy.formats.fields import Cursor
from ggmlpy.look.hexdump import hexdump
from ggmlpy.look.json_lines import BETWEEN, json_lines
from ggmlpy.look.lines import Line, run_lines, without_gaps
from llama_ref.checkpoint.dump import (
    Element,
    elements_of_pth,
    elements_of_safetensors,
    pth_lines,
    safetensors_lines,
    zip_lines,
)
from llama_ref.vocabulary.dump import tokenizer_lines

from .kinds import other_kind

__all__ = ["dump_any", "elements_at", "has_own_reader"]

Lines = Callable[[Path, bool], Iterator[Line]]


def dump_any(path: str | os.PathLike[str], *, fold: bool = True) -> Iterator[Line]:
    """The fields of a model, checkpoint, adapter, tokenizer, importance matrix, ZIP archive or JSON file.

    Arguments:
        fold: show only the ends of long runs.

    Raises:
        FormatError: the file is of none of these kinds, or can't be read.
    """
    lines = LINES.get(_kind(Path(path)))
    return lines(Path(path), fold) if lines else hexdump(path, fold=fold)


def elements_at(path: str | os.PathLike[str], offset: int) -> list[Element]:
    """The elements of a checkpoint's tensors that a byte is a part of."""
    elements = ELEMENTS.get(_kind(Path(path)))
    return elements(path, offset) if elements else []


def has_own_reader(path: Path) -> bool:
    """Whether a file is none of those that ggmlpy's own dump reads."""
    return _kind(path) in LINES


def _kind(path: Path) -> str:
    if is_ggml_file(path):
        return ""
    try:
        return other_kind(path)
    except OSError as error:
        raise MissingFileError(f"cannot be opened: {error.strerror}", path=path) from error


def _json_file_lines(path: Path, fold: bool) -> Iterator[Line]:
    """A JSON file, such as params.json."""
    cursor = Cursor(map_file(path), str(path))
    try:
        json.loads(bytes(cursor.buffer))
    except (ValueError, RecursionError) as error:
        raise IntegrityError("not JSON", path=path, found=str(error)[:80], cause="a damaged file") from error
    found = list(json_lines(cursor, cursor.size, path.stem))
    lines = list(without_gaps(found, cursor, f"{path.stem}.json", BETWEEN))
    return run_lines(len(lines), "lines", fold, lambda index: iter([lines[index]]))


LINES: dict[str, Lines] = {
    "torch": pth_lines,
    "pickle": pth_lines,
    "zip": zip_lines,
    "safetensors": safetensors_lines,
    "tokenizer": tokenizer_lines,
    "json": _json_file_lines,
}
ELEMENTS = {"torch": elements_of_pth, "pickle": elements_of_pth, "safetensors": elements_of_safetensors}
