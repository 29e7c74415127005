"""One HTML file out of the page's modules, the tables and a model: it needs no network and no other file.

The modules of ``page/`` are JavaScript as it is written today, with imports and exports, so that they can be read, and
run by node, one by one. A page that is opened from a file may not import others, so here they become one module: in an
order in which each stands behind what it imports, without the lines that say so. No two of them may therefore use the
same name at their top level; a test sees to it.
"""

from __future__ import annotations

import base64
import math
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError
from ggmlpy.files.foreign import visible
from ggmlpy.files.kinds import is_ggml_file
from ggmlpy.formats.opening import open_model
from ggmlpy.look.report import own_script_data
from llama_ref.text.model import Model
from llama_ref.vocabulary.tokenizer import SentencePieceTokenizer

from .tables import tables

__all__ = ["LARGEST_MODEL", "bundle", "modules", "page_of", "write_page"]

LARGEST_MODEL = 64 << 20  # bytes that are embedded; a page takes a third more
FIRST, LAST = "tables.js", "page.js"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:const|class|function|async) )", re.MULTILINE)


def modules() -> dict[str, str]:
    """The modules by the names of their files; ``tables.js`` is made here."""
    folder = files(__package__).joinpath("page")
    found = {each.name: each.read_text("utf-8") for each in folder.iterdir() if each.name.endswith(".js")}
    return {FIRST: f"export const TABLES = {own_script_data(tables())};\n", **dict(sorted(found.items()))}


def bundle(texts: dict[str, str], last: str = LAST) -> str:
    """One module: ``last`` and all that it imports, each once."""
    ordered: dict[str, str] = {}

    def add(name: str) -> None:
        for other in _IMPORT.findall(texts[name]):
            if other not in ordered:
                add(other)
        ordered[name] = f"// ── {name} ──\n\n{_EXPORT.sub('', _IMPORT.sub('', texts[name])).strip()}\n"

    add(last)
    return "\n".join(ordered.values())


def write_page(
    model: str | os.PathLike[str], html: str | os.PathLike[str], beside: str | os.PathLike[str] | None = None
) -> int:
    """Write the page of a model and return its size in bytes.

    Arguments:
        beside: a tokenizer.model, or a model whose vocabulary is shown beside the model's own.

    Raises:
        FormatError: the model can't be read or computed, or is too large to be part of a page.
    """
    text = page_of(model, beside).encode()
    with atomic_write(html, size=len(text)) as stream:
        stream.write(text)
    return len(text)


def page_of(model: str | os.PathLike[str], beside: str | os.PathLike[str] | None = None) -> str:
    """The page as text; see :func:`write_page`."""
    data = {"model": _checked(Path(model)), "beside": _vocabulary(beside) if beside else None}
    folder = files(__package__).joinpath("page")
    parts = {
        "/*STYLE*/": folder.joinpath("page.css").read_text("utf-8"),
        "/*DATA*/null": own_script_data(data),
        "/*SCRIPT*/": bundle(modules()),
    }
    page = folder.joinpath("page.html").read_text("utf-8")
    return re.sub("|".join(map(re.escape, parts)), lambda match: parts[match[0]], page)


def _checked(path: Path) -> dict[str, str]:
    """The bytes of a model that this program can compute."""
    with open_model(path) as file:
        size, parts = file.size, len(file.parts)
        if size > LARGEST_MODEL or parts > 1:
            raise FormatError(
                "the model is too large for a page" if parts == 1 else "a page holds a model of one file",
                path=path,
                expected=f"one file of at most {LARGEST_MODEL:,} bytes",
                found=f"{size:,} bytes in {parts} file{'s' * (parts > 1)}",
                next_step="`explore --html OUT` makes the page of the demo model; drop the file on that page",
            )
        Model.from_file(file, numerics="reference", n_ctx=1)
    return {"name": visible(path.name), "base64": base64.b64encode(path.read_bytes()).decode()}


def _vocabulary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The pieces of a vocabulary, in hexadecimal, and their scores."""
    if is_ggml_file(path):
        with open_model(path) as file:
            if file.container == "gguf":
                raise FormatError(
                    "a vocabulary of GGUF is read by the page itself",
                    path=path,
                    expected="a tokenizer.model, or a ggml, ggmf or ggjt file",
                    found="gguf",
                    next_step="make the page without --beside, and choose this file on it",
                )
            pieces, scores = list(file.vocab), file.vocab.scores.tolist()
    else:
        found = SentencePieceTokenizer(path)
        pieces, scores = found.pieces, found.scores
    if not all(map(math.isfinite, scores)):
        raise FormatError("scores of the vocabulary are NaN or infinite", path=path, cause="a damaged file")
    return {"name": visible(Path(path).name), "pieces": [piece.hex() for piece in pieces], "scores": scores}
