"""How llama.cpp cuts a text into words before byte pairs merge, by the name in ``tokenizer.ggml.pre``.

A pre-tokenizer is a list of expressions: the second one cuts the pieces that the first one left, and so on. Names and
expressions are data (``pre_tokenizers.json``).

>>> pre_tokenizer("llama-bpe").words("Hello world 12345")
['Hello', ' world', ' ', '123', '45']
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Any

from ggmlpy.files.errors import UnsupportedError

from .expressions import LLAMA_CPP, Expression, expression

__all__ = ["PreTokenizer", "all_settings", "pre_tokenizer"]

DEFAULT = "default"  # of files that name none


@dataclass(frozen=True)
class PreTokenizer:
    """One way to cut, and what goes with it.

    Attributes:
        name: as in ``tokenizer.ggml.pre``.
        kind: whose expressions it has.
        ignore_merges: a word that is a token is taken as it is.
        add_bos: a text begins with BOS unless the file says otherwise.
        clean_spaces: a text that is put together again loses the spaces before punctuation.
        escape_whitespaces: spaces become ▁ first.
        bos_none: there is no BOS unless the file names one.
    """

    name: str
    kind: str
    ignore_merges: bool = False
    add_bos: bool = False
    clean_spaces: bool = False
    escape_whitespaces: bool = False
    bos_none: bool = False

    @property
    def sources(self) -> list[str]:
        """The expressions as they are written."""
        return list(_data()["kinds"][self.kind])

    @cached_property
    def expressions(self) -> list[Expression]:
        return [expression(source, LLAMA_CPP) for source in self.sources]

    @property
    def in_bytes(self) -> bool:
        """Whether words are spelled in the alphabet of bytes."""
        return self.kind not in _data()["without_bytes"]

    def words(self, text: str) -> list[str]:
        """The words of a text, which are all of it."""
        pieces = [text.replace(" ", "▁") if self.escape_whitespaces else text]
        for each in self.expressions:
            pieces = [part for piece in pieces for part in each.cut(piece)]
        return pieces


@lru_cache
def _data() -> dict[str, Any]:
    return dict(json.loads(files("llama_ref.vocabulary").joinpath("pre_tokenizers.json").read_text("utf-8")))


def all_settings() -> dict[str, Any]:
    """The table itself: ``kinds`` (expressions), ``names`` (kind and settings of each) and ``without_bytes``."""
    return {name: _data()[name] for name in ("kinds", "names", "without_bytes")}


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer of a name.

    Raises:
        UnsupportedError: no such name.
    """
    settings = _data()["names"].get(name)
    if settings is None:
        raise UnsupportedError(
            f"pre-tokenizer {name!r} is not supported",
            field="tokenizer.ggml.pre",
            expected="one of " + ", ".join(list(_data()["names"])[:8]) + " …",
            found=name,
            cause="a file for a later llama.cpp",
        )
    kind, *flags = settings.split()
    return PreTokenizer(name, kind, **dict.fromkeys(flags, True))
