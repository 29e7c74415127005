"""JSON that strangers wrote: bounded in size, in any of Unicode's encodings, an object or a clear refusal.

A key that stands in an object twice with two values is refused: some programs take the first, some the last, so that
two of them read two different files.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import FormatError, MissingFileError

__all__ = ["LARGEST_JSON", "LARGEST_TOKENIZER", "RepeatedKey", "each_key_once", "read_json"]

LARGEST_JSON = 1 << 24  # an honest config has a few hundred bytes, an index of 65B about 60 kB
LARGEST_TOKENIZER = 1 << 27  # a tokenizer.json of 128,000 tokens has 17 MB, of 256,000 33 MB


class RepeatedKey(ValueError):
    """A key of an object that has two values; its argument is the key."""


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs, as ``object_pairs_hook`` of :func:`json.loads`.

    Raises:
        RepeatedKey: a key has two values.

    >>> each_key_once([("a", 1), ("b", 2), ("a", 1)])
    {'a': 1, 'b': 2}
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if json.dumps(found[key]) != json.dumps(value):
                raise RepeatedKey(key)
    return found


def read_json(path: str | os.PathLike[str], *, most: int = LARGEST_JSON) -> dict[str, Any]:
    """A JSON object from a file of at most ``most`` bytes.

    Raises:
        MissingFileError: there is no such file.
        FormatError: not JSON, not an object, a key with two values, or far too large for what it should be.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > most:
            what = "configuration" if most == LARGEST_JSON else "tokenizer"
            raise FormatError(f"too large for a {what}", path=path, expected=f"<= {most}", found=size)
        value = json.loads(
            path.read_bytes(), object_pairs_hook=each_key_once
        )  # UTF-8 or UTF-16, with or without a byte order mark
    except FileNotFoundError as error:
        raise MissingFileError("is missing", path=path, next_step=f"copy {path.name} beside the weights") from error
    except RepeatedKey as error:
        raise FormatError(
            f"the key {error.args[0]!r} stands twice in an object, with two values",
            path=path,
            field=error.args[0],
            cause="edited by hand, or made to be read differently by different programs",
            next_step="take out the line that is wrong",
        ) from error
    except (ValueError, RecursionError) as error:
        raise FormatError(
            "is not JSON",
            path=path,
            found=str(error)[:100],
            cause="a broken download, or an HTML page or a Git LFS pointer saved under this name",
            next_step=f"fetch {path.name} again",
        ) from error
    if not isinstance(value, dict):
        raise FormatError("is not a JSON object", path=path, expected="{…}", found=type(value).__name__)
    return value
