"""One GGUF file or several: which tensors go into which, and what each says of itself.

A new file begins where the one before would get more tensors or more bytes than allowed. All keys of the model stand in
the first, the numbers of the file in each. It may hold no tensors at all, so that a program can show the model before
the rest has arrived.

Source: gguf-py/gguf/gguf_writer.py of llama.cpp (October 2026).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.out_tensor import OutTensor

__all__ = ["Splitting", "parse_split_size", "split"]

_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Splitting:
    """When a new file begins.

    Attributes:
        max_tensors: tensors of a file at most; 0: any number.
        max_bytes: bytes of its tensors at most; 0: any number.
        tensors_in_first: False: the first file has the keys only.
    """

    max_tensors: int = 0
    max_bytes: int = 0
    tensors_in_first: bool = True

    @property
    def is_asked_for(self) -> bool:
        """Whether there can be more than one file."""
        return self.max_tensors > 0 or self.max_bytes > 0


def parse_split_size(text: str) -> int:
    """Bytes of "100K", "2M", "4G", 1000 to the step.

    >>> parse_split_size("100K")
    100000
    """
    match = re.fullmatch(r"(\d{1,12})([KMG])", text)
    if not match:
        raise UsageError(f"cannot understand the size {text!r}: write for example 500M or 4G")
    return int(match[1]) * _UNITS[match[2]]


def split(
    path: Path, metadata: Mapping[str, Value], tensors: Sequence[OutTensor], how: Splitting
) -> list[tuple[Path, dict[str, Value], list[OutTensor]]]:
    """The files: path, keys and tensors of each."""
    parts = _parts(tensors, how)
    if len(parts) == 1:
        return [(path, dict(metadata), parts[0])]
    files = []
    for i, part in enumerate(parts):
        numbers = {
            "split.no": Value("u16", i),
            "split.count": Value("u16", len(parts)),
            "split.tensors.count": Value("i32", len(tensors)),
        }
        name = path.with_name(f"{path.stem}-{i + 1:05}-of-{len(parts):05}{path.suffix}")
        files.append((name, {**(metadata if i == 0 else {}), **numbers}, part))
    return files


def _parts(tensors: Sequence[OutTensor], how: Splitting) -> list[list[OutTensor]]:
    parts: list[list[OutTensor]] = [[]] if how.tensors_in_first or not how.is_asked_for else [[], []]
    for tensor in tensors:
        size = sum(other.nbytes for other in parts[-1])
        full = how.max_tensors and len(parts[-1]) >= how.max_tensors
        if parts[-1] and (full or (how.max_bytes and size + tensor.nbytes > how.max_bytes)):
            parts.append([])
        parts[-1].append(tensor)
    return parts
