"""Many prompts, and a file of answers that grows line by line and goes on where it was interrupted.

Prompts are lines of text, or records of JSON (a list, or one per line) with ``instruction`` and perhaps ``input``, or
with ``prompt``. The file of answers is JSON lines:

============  =====================================================================================================
``index``     the number of the prompt, from 0
``prompt``    what was asked
``text``      the answer
``ended_by``  "end of text", "length", "stop word" or "context"; or ``error`` stands in place of these, with the reason
``tokens``    how many tokens the answer has
``seed``      of its random numbers: each prompt begins with it, so that no answer depends on another
``settings``  a digest of everything else that decides the answer
============  =====================================================================================================
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggmlpy.files.encodings import encoding_doubt
from ggmlpy.files.errors import FormatError, MissingFileError, OutputError, UsageError
from ggmlpy.files.texts import LARGEST_TEXT, read_bounded

__all__ = ["AnswerFile", "read_prompts", "settings_digest"]

KEYS = {"index": int, "prompt": str, "seed": int, "settings": str}


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
    """The prompts of a file.

    Raises:
        MissingFileError: it cannot be read.
        FormatError: a record has no prompt, or there is none at all.
    """
    try:
        data = read_bounded(path, LARGEST_TEXT).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise MissingFileError(f"the prompts cannot be read: {error.strerror}", path=path) from error
    if doubt := encoding_doubt(data):
        raise FormatError("the prompts cannot be read", path=path, found=doubt)
    text = data.decode("utf-8")
    lines = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if text.lstrip()[:1] == "[":
        prompts = [_prompt_of(path, i, record) for i, record in enumerate(_json(path, 0, text))]
    elif text.lstrip()[:1] == "{":
        prompts = [_prompt_of(path, i, _json(path, i, line)) for i, line in enumerate(lines)]
    else:
        prompts = lines
    if not prompts:
        raise FormatError("no prompts", path=path, expected="one per line, or records with `instruction` or `prompt`")
    return prompts


def _json(path: str | os.PathLike[str], number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError("is not JSON", path=path, field=f"record {number}", found=str(error)[:100]) from error


def _prompt_of(path: str | os.PathLike[str], number: int, record: Any) -> str:
    """A record as Chinese-LLaMA-Alpaca's own scripts ask it: an input follows its instruction on a line of its own."""
    if isinstance(record, dict):
        record = {**record, "prompt": record.get("instruction", record.get("prompt"))}
        parts = [record["prompt"], record.get("input") or ""]
        if all(isinstance(part, str) for part in parts) and parts[0]:
            return "\n".join(filter(None, parts))
    if isinstance(record, str) and record:
        return record
    raise FormatError("a record has no prompt", path=path, field=f"record {number}", expected="instruction or prompt")


def settings_digest(settings: Mapping[str, Any]) -> str:
    """A short name for all that decides an answer beside the prompt and the seed.

    >>> settings_digest({"temp": 0.5, "n": 8}) == settings_digest({"n": 8, "temp": 0.5})
    True
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


class AnswerFile:
    """A file of answers that is made line by line.

    Attributes:
        done: the records that an earlier run wrote whole.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Look at what is there.

        Raises:
            UsageError: it is something else.
        """
        self.path = Path(path)
        self.done: list[dict[str, Any]] = []
        self._whole = 0  # bytes up to the end of the last whole line
        if not self.path.exists():
            return
        for line in self.path.read_bytes().splitlines(keepends=True):
            record = _record_of(line)
            if record is None and line.endswith(b"\n"):
                raise UsageError(f"{self.path} is there and is no file of answers; choose another --output")
            if record is None or record["index"] != len(self.done):
                break  # the line that was being written
            self.done.append(record)
            self._whole += len(line)

    def check(self, prompts: list[str], seed: int, settings: str) -> None:
        """Whether this run would go on as the earlier one did.

        Raises:
            UsageError: it would not, and what differs.
        """
        for record in self.done:
            wanted = {"seed": seed, "settings": settings}
            wanted["prompt"] = prompts[record["index"]] if record["index"] < len(prompts) else None
            for name, value in wanted.items():
                if record[name] != value:
                    what = {"prompt": "another prompt", "seed": "another seed"}.get(name, "another model or options")
                    raise UsageError(f"answer {record['index']} in {self.path} is of {what}; choose another --output")

    def __enter__(self) -> AnswerFile:
        try:
            self._file = open(self.path, "ab")
        except OSError as error:
            raise OutputError(f"cannot be written: {error.strerror}", path=self.path) from error
        self._file.truncate(self._whole)
        return self

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a record, whole."""
        self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _record_of(line: bytes) -> dict[str, Any] | None:
    """A record of ours, if the line is one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(record, dict) and all(type(record.get(key)) is kind for key, kind in KEYS.items())
    return record if is_ours and line.endswith(b"\n") else None
