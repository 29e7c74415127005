"""Errors that tell the user what is wrong with a file and what to do next.

Every error about a file derives from :class:`FormatError` and carries, as attributes, where it is (``path``,
``offset``, ``field``), what was ``expected`` and ``found``, the likely ``cause`` and the ``next_step``. ``str(error)``
joins them into one line, in which control characters and line breaks of foreign names are escapes; the attributes have
them as they are. A command in a next step stands between backticks and without the program's name, which a library does
not know: ``next_step="`identify m.bin`"``. The library raises; only the command line puts the name in front, prints,
and exits (code 3 for a :class:`FormatError`, code 2 for a :class:`UsageError`).
"""

from __future__ import annotations

import os
from typing import Any

from .foreign import visible
from .unpacked import archive_for, shown

__all__ = [
    "BadMagicError",
    "DiskSpaceError",
    "FormatError",
    "IntegrityError",
    "MissingFileError",
    "OutputError",
    "ShapeError",
    "TruncatedError",
    "UnsupportedError",
    "UsageError",
    "VocabularyError",
]


class FormatError(Exception):
    """A file is bad, missing, or not what the operation needs.

    >>> print(FormatError("bad magic", path="m.bin", offset=0, field="magic",
    ...                   expected="0x67676a74", found="0x46554747", cause="this is a GGUF file",
    ...                   next_step="`identify m.bin`"))
    m.bin: bad magic (offset 0, field magic, expected 0x67676a74, found 0x46554747). Likely cause: this is a
    GGUF file. Next: `identify m.bin`

    An error about a file whose raiser knows no next step has the usual one of its class.
    """

    usual_next_step = "compare {path} with its source, and get or make it again"

    def __init__(
        self,
        problem: str,
        *,
        path: str | os.PathLike[str] | None = None,
        offset: int | None = None,
        field: str | None = None,
        expected: Any = None,
        found: Any = None,
        cause: str | None = None,
        next_step: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: str | None = None
        self.offset = offset
        self.field = field
        self.expected = expected
        self.found = found
        self.cause = cause
        self.next_step = None if next_step is None else archive_for(next_step)
        if path is not None:
            self.name_file(path)

    def name_file(self, path: str | os.PathLike[str]) -> None:
        """Say which file it is about, where the raiser did not know.

        >>> error = VocabularyError("no piece for byte 0x41")
        >>> error.name_file("m.gguf")
        >>> print(error)
        m.gguf: no piece for byte 0x41. Next: `doctor .`
        """
        if self.path is None:
            self.path, given = shown(path), archive_for(os.fspath(path))
            usual = self.usual_next_step.format(path=given, directory=os.path.dirname(given) or ".")
            self.next_step = usual if self.next_step is None else self.next_step

    def __str__(self) -> str:
        where = [
            f"offset {self.offset}" if self.offset is not None else "",
            f"field {self.field}" if self.field is not None else "",
            f"expected {self.expected}" if self.expected is not None else "",
            f"found {self.found}" if self.found is not None else "",
        ]
        details = ", ".join(part for part in where if part)
        text = f"{self.path}: {self.problem}" if self.path is not None else self.problem
        text += f" ({details})" if details else ""
        text += f". Likely cause: {self.cause}" if self.cause else ""
        text += f". Next: {self.next_step}" if self.next_step else ""
        return visible(text)


class MissingFileError(FormatError):
    """A file or a part of a model that must be there is not."""

    usual_next_step = "check the name and the directory"


class BadMagicError(FormatError):
    """The first bytes belong to no format that this reader knows."""

    usual_next_step = "`identify {path}`"


class UnsupportedError(FormatError):
    """The file is well formed as far as can be seen, but a version, type or feature in it is not supported."""

    usual_next_step = "`doctor {directory}`"


class TruncatedError(FormatError):
    """The file ends before the bytes that its own header promises."""

    usual_next_step = "compare the file's size with its source, and fetch it again"


class ShapeError(FormatError):
    """A tensor is missing, unknown, or of another shape than the header implies."""

    usual_next_step = "`doctor {directory}`"


class VocabularyError(FormatError):
    """Tokenizer, embedding, output and header do not agree on the vocabulary."""

    usual_next_step = "`doctor {directory}`"


class IntegrityError(FormatError):
    """A checksum or a structural invariant does not hold: the file was damaged or tampered with."""

    usual_next_step = "get the file again from its publisher and compare its SHA256"


class OutputError(FormatError):
    """The result could not be written."""

    usual_next_step = "check the disk and its free space, then run the command again"


class DiskSpaceError(OutputError):
    """The result would not fit on the disk; nothing was written."""


class UsageError(ValueError):
    """The request itself is wrong: an unknown type name, an era that lacks a type, options that exclude each other."""

    def __str__(self) -> str:
        return visible(super().__str__())
