"""Which bytes a version of torch saves: what differs between them, by version.

================  ==========================================================  ============  =========================
torch             records, in this order                                      ``data/k``    prefix of a path that is
                                                                              sorted as     not ASCII
================  ==========================================================  ============  =========================
1.13, 2.0         data.pkl, data/k..., version                                text          base name
2.1 ... 2.6.x     data.pkl, byteorder, data/k..., version,                    text          ``archive``
                  .data/serialization_id
2.7 ... 2.13      data.pkl, .format_version, .storage_alignment, byteorder,   numbers       ``archive``
                  data/k..., version, .data/serialization_id
================  ==========================================================  ============  =========================

The name ``2.6`` stands for the last row, as it does on the command line; torch 2.6.0 itself still wrote the row above,
which ``2.6.0`` asks for.

Sources: torch/serialization.py of 1.13.1, 2.0.1, 2.1.2, 2.3.1, 2.5.1, 2.6.0, 2.7.0, 2.8.0 and 2.13.0.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from ggmlpy.files.errors import OutputError, UsageError

__all__ = ["TORCH_FORMATS", "Layout", "layout_of", "prefix_of"]


@dataclass(frozen=True)
class Layout:
    """What differs between the versions of torch."""

    first: tuple[tuple[str, bytes], ...]  # records between data.pkl and the data
    numeric: bool  # data/10 after data/9, not after data/1
    identified: bool  # .data/serialization_id at the end
    unsigned: bool  # uint16, uint32 and uint64 can be saved
    ascii_prefix: bool  # a path that is not ASCII is written through a stream, which has no name


_BYTEORDER = ("byteorder", b"little")
_1_13 = Layout((), numeric=False, identified=False, unsigned=False, ascii_prefix=False)
_2_1 = Layout((_BYTEORDER,), numeric=False, identified=True, unsigned=False, ascii_prefix=True)
_2_6 = replace(_2_1, unsigned=True)
_2_7 = Layout(
    ((".format_version", b"1"), (".storage_alignment", b"64"), _BYTEORDER),
    numeric=True,
    identified=True,
    unsigned=True,
    ascii_prefix=True,
)
TORCH_FORMATS: dict[str, Layout] = {
    **dict.fromkeys(("1.13", "2.0"), _1_13),
    **dict.fromkeys(("2.1", "2.2", "2.3", "2.4", "2.5"), _2_1),
    "2.6.0": _2_6,
    **dict.fromkeys(("2.6", "2.7", "2.8", "2.9", "2.10", "2.11", "2.12", "2.13"), _2_7),
}


def layout_of(torch_format: str) -> Layout:
    """The layout of a version: ``2.0``, ``2.0.1`` and ``2.0.1+cpu`` are the same."""
    short = re.match(r"\d+\.\d+", torch_format)
    for name in (torch_format, re.sub(r"\+.*", "", torch_format), short[0] if short else ""):
        if name in TORCH_FORMATS and re.fullmatch(r"[0-9.]+(\+\w+)?", torch_format):
            return TORCH_FORMATS[name]
    raise UsageError(f"unknown torch format {torch_format!r}; known: {', '.join(TORCH_FORMATS)}")


def prefix_of(path: str | os.PathLike[str], layout: Layout) -> str:
    """The directory inside the archive, as torch derives it from the path it was given."""
    text = os.fspath(path)
    if layout.ascii_prefix and not text.isascii():
        return "archive"
    base = re.split(r"[/\\]", text)[-1]
    prefix = base.rpartition(".")[0] if "." in base else base
    if not prefix:
        raise OutputError("no name before the extension; torch.save refuses that", path=path, next_step="name the file")
    return prefix
