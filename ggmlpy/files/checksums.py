"""Digests of files, and the lists of digests that travel with models.

=========================  =========  ==========================================================================
list                       digest     lines
=========================  =========  ==========================================================================
``checklist.chk``,         MD5        ``hex  name``: what Meta's download script checks
``tokenizer_checklist.chk``
``SHA256SUMS`` and alike   SHA256     ``hex  name`` or ``hex *name`` (sha256sum), ``SHA256 (name) = hex`` (BSD)
=========================  =========  ==========================================================================
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .errors import FormatError, MissingFileError
from .json_files import each_key_once
from .paths import stays_inside

__all__ = ["LIST_NAMES", "Listed", "digests", "read_list", "same_json_meaning"]

CHUNK = 4 << 20
LARGEST_LIST = 1 << 22
LARGEST_MEANING = 1 << 17  # of a JSON file that is written anew in all ways; an index of 65B has about 60 kB
LIST_NAMES = re.compile(r"(?:.*checklist\.chk|sha256sums?(?:\.txt)?|.*\.sha256|md5sums?(?:\.txt)?)", re.IGNORECASE)
_LINE = re.compile(r"(?P<hex>[0-9a-fA-F]{32}|[0-9a-fA-F]{64})[ \t]+\*?(?P<name>\S.*?)\s*")
_BSD = re.compile(r"(?:SHA256|MD5) \((?P<name>.+)\) = (?P<hex>[0-9a-fA-F]{32}|[0-9a-fA-F]{64})\s*")


@dataclass(frozen=True)
class Listed:
    """A digest that a list promises for a file.

    Attributes:
        path: the file.
        algorithm: "md5" or "sha256".
        digest: in lower-case hexadecimal.
        source: the list.
    """

    path: Path
    algorithm: str
    digest: str
    source: Path


def digests(
    path: str | os.PathLike[str],
    algorithms: tuple[str, ...] = ("sha256",),
    progress: Callable[[int], object] | None = None,
) -> dict[str, str]:
    """Digests of a file in one pass, four megabytes at a time.

    Raises:
        MissingFileError: it cannot be opened.
        FormatError: it cannot be read to its end.
    """
    states = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(CHUNK):
                for state in states.values():
                    state.update(chunk)
                if progress:
                    progress(len(chunk))
    except FileNotFoundError as error:
        raise MissingFileError("no such file", path=path) from error
    except OSError as error:
        raise FormatError(
            f"cannot be read: {error.strerror}", path=path, cause="a failing disk, or no permission"
        ) from error
    return {name: state.hexdigest() for name, state in states.items()}


def read_list(path: str | os.PathLike[str]) -> list[Listed]:
    """The promises of a list of digests; empty lines and ``#`` comments are skipped.

    Raises:
        FormatError: a line is not a digest and a name, or names a file outside the list's directory.
    """
    path = Path(path)
    if path.stat().st_size > LARGEST_LIST:
        raise FormatError("too large for a list of digests", path=path, found=f"{path.stat().st_size:,} bytes")
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            entries.append(_parse_line(path, number, line))
    return entries


def _parse_line(path: Path, number: int, line: str) -> Listed:
    match = _LINE.fullmatch(line) or _BSD.fullmatch(line)
    if not match:
        raise FormatError(
            "is not a list of digests", path=path, field=f"line {number}", expected="DIGEST  NAME", found=line[:60]
        )
    name = PurePosixPath(match["name"].replace("\\", "/"))
    if not stays_inside(str(name)):
        raise FormatError("names a file outside its directory", path=path, field=f"line {number}", found=str(name))
    algorithm = "md5" if len(match["hex"]) == 32 else "sha256"
    return Listed(path.parent / name, algorithm, match["hex"].lower(), path)


def same_json_meaning(path: str | os.PathLike[str], algorithm: str, digest: str) -> bool:
    """Whether some usual way to write this JSON file's content has the promised digest.

    Tools write the same values with another indentation, order of keys, or final newline. None writes a key twice.
    """
    try:
        if os.path.getsize(path) > LARGEST_MEANING:
            return False
        value = json.loads(Path(path).read_bytes(), object_pairs_hook=each_key_once)
    except (OSError, ValueError, RecursionError):
        return False
    if _is_deep(value):
        return False
    spellings = (spelling.encode("utf-8", "surrogatepass") for spelling in _spellings(value))
    return any(hashlib.new(algorithm, data, usedforsecurity=False).hexdigest() == digest for data in spellings)


def _spellings(value: object) -> Iterator[str]:
    """The usual ways to write a value as JSON."""
    choices = itertools.product((None, 2, 1, 4), (None, (",", ":")), (False, True), (True, False))
    for indent, separators, sort_keys, ascii_only in choices:
        text = json.dumps(value, indent=indent, separators=separators, sort_keys=sort_keys, ensure_ascii=ascii_only)
        yield from (text + end for end in ("", "\n", "\r\n"))


def _is_deep(value: object, levels: int = 20) -> bool:
    """No configuration is nested so deep, and json writes such values slower with every level."""
    if not levels:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_is_deep(item, levels - 1) for item in inner)
