"""What the name of a model says: ``Org/Base-7B-chat-v1.1`` taken apart into the fields of GGUF's ``general.*`` keys.

The parts of a name, cut at its dashes, are told apart by their looks: version, type, size, tuning (:func:`_mark`). The
basename is what stands before the first part of another kind than words and versions; unknown parts behind it count as
tuning.

Source: gguf-py/gguf/metadata.py and utility.py of llama.cpp (October 2026).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

__all__ = ["NameParts", "name_parts", "size_label", "title"]

# fmt: off
_VERSION = re.compile(r"(v|iter)?\d+(\.\d+)*", re.IGNORECASE)
_TYPE    = re.compile(r"i?q\d(_\w)*|b?fp?(16|32)", re.IGNORECASE)
_SIZE    = re.compile(r"(A|\d+x)?\d+([._]\d+)?[KMBT]\d?|small|mini|medium|x{0,3}l|large", re.IGNORECASE)
_TUNING  = ("chat", "instruct", "vision", "lora")
# fmt: on
_KEPT_AS_IT_IS = re.compile(r"v\d+(\.\d+)*|\d.*")
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True)
class NameParts:
    """The fields of a name; None where it does not say one."""

    full: str | None = None
    organization: str | None = None
    basename: str | None = None
    finetune: str | None = None
    version: str | None = None
    size_label: str | None = None


@dataclass(frozen=True)
class _Part:
    text: str
    marks: frozenset[str] = frozenset()

    def marked(self, mark: str) -> _Part:
        return replace(self, marks=self.marks | {mark})

    def unmarked(self, mark: str) -> _Part:
        return replace(self, marks=self.marks - {mark})


def name_parts(name: str, total: int = 0) -> NameParts:
    """Take the name of a model apart.

    Args:
        name: of a directory, or ``Org/Name`` as on Hugging Face.
        total: number of parameters, 0 if unknown, negative for an adapter of a model with as many or more. A size that
            is far from it is not the model's: ``200K`` is a context.

    >>> name_parts("Org/Tiny-7B-chat-v1.1")
    NameParts(full='Tiny-7B-chat-v1.1', organization='Org', basename='Tiny', finetune='chat', version='v1.1',
              size_label='7B')
    """
    if " " in name:
        return NameParts(full=name)
    organization, _, full = name.partition("/") if "/" in name else ("", "", name)
    if organization.startswith("."):
        organization = ""
    texts = [text for text in full.split("-") if text]
    parts = _with_basename(_one_kind_of_size([_mark(text, i == 0, total) for i, text in enumerate(texts)]))
    size = "-".join(dict.fromkeys(_texts(parts, "size_label"))) or None
    tuning = "-".join(_texts(parts, "finetune")) or None
    version = "-".join(part.text for part in parts if "version" in part.marks and "basename" not in part.marks) or None
    basename = "-".join(_texts(parts, "basename")) or None
    known = size or tuning or version
    return NameParts(full, organization or None, basename if known else None, tuning, version, size)


def _mark(text: str, first: bool, total: int) -> _Part:
    """What one part looks like; a first part is never a size or a tuning."""
    part = _Part(text)
    if _VERSION.fullmatch(text):
        return part.marked("version")
    if _TYPE.fullmatch(text):
        return _Part(text.upper()).marked("type")
    if first:
        return part
    if _SIZE.fullmatch(text):
        return _as_size(text, total)
    if text.lower() in _TUNING:
        return part.marked("type" if total < 0 and text.lower() == "lora" else "finetune")
    return part


def _as_size(text: str, total: int) -> _Part:
    """A size in one spelling: 7b1 is 7.1B; one that the number of parameters contradicts is a tuning."""
    text = text.replace("_", ".")
    if text[-1].isdecimal():
        text = f"{text[:-2]}.{text[-1]}{text[-2]}"
    if len(text) > 1 and text[-2].isdecimal():
        text = text[:-1] + text[-1].upper()
    if _contradicts(text, total):
        return _Part(text[:-1] + text[-1].lower()).marked("finetune")
    return _Part(text).marked("size_label")


def _contradicts(text: str, total: int) -> bool:
    try:
        said = float(text[:-1]) * _UNITS[text[-1].upper()]
    except (ValueError, KeyError):  # words, and 8x7B
        return False
    if total < 0:
        return said < -total // 8
    return total > 0 and abs(said - total) > 7 * total // 8


def _one_kind_of_size(parts: list[_Part]) -> list[_Part]:
    """Words are no sizes where there is a number."""
    if not any(character.isdecimal() for text in _texts(parts, "size_label") for character in text):
        return parts
    return [part.unmarked("size_label") if part.text.isalpha() else part for part in parts]


def _with_basename(parts: list[_Part]) -> list[_Part]:
    """The parts of the basename and, behind it, unknown ones as tunings; versions at its end are not part of it."""
    made: list[_Part] = []
    beginning = True
    for part in parts:
        beginning = beginning and ("version" in part.marks or (not part.marks and part.text[0].isalpha()))
        made.append(part.marked("basename") if beginning else part if part.marks else part.marked("finetune"))
    for i in range(len(made) - 1, -1, -1):
        if not {"basename", "version"} <= made[i].marks:
            break
        made[i] = made[i].unmarked("basename")
    return made


def _texts(parts: Iterable[_Part], mark: str) -> list[str]:
    return [part.text for part in parts if mark in part.marks]


def title(name: str) -> str:
    """A name as a heading: spaces for dashes, capitals for words in lower case, versions and numbers as they are.

    >>> title("chinese-alpaca-2-7b-16K-v1.1")
    'Chinese Alpaca 2 7b 16K v1.1'
    """
    words = name.strip().replace("-", " ").split()
    return " ".join(w.title() if w.islower() and not _KEPT_AS_IT_IS.fullmatch(w) else w for w in words)


def size_label(total: int) -> str:
    """The number of parameters as a size, with two digits.

    >>> size_label(6738415616), size_label(122880), size_label(1000001), size_label(8)
    ('6.7B', '123K', '1.0M', '0.01K')
    """
    unit = next((unit for unit in "TBM" if total > _UNITS[unit]), "K")
    scaled = total / _UNITS[unit]
    decimals = max(2 - len(str(round(scaled)).lstrip("0")), 0)
    return f"{scaled:.{decimals}f}{unit}"
