"""Damage to JSON texts: values of other types, extreme numbers, repeated keys, lone surrogates, deep nesting."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Pairs", "Raw", "damaged_json", "damaged_tree", "parse", "text_of"]


class Pairs(list):
    """An object as a list of (key, value): keys may repeat."""


class Raw(str):
    """Written as it stands, be it JSON or not."""


NUMBERS = ("0", "-0", "-1", "1", "2", "3", "0.5", "1e-320", "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1e5")
NUMBERS += (
    "2147483647",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "1048577",
    "01",
    "+1",
)
NUMBERS += ("18446744073709551616", "1" + "0" * 40, "1" + "0" * 400, "9" * 4301, "1.0", "4096.0", "0x10", "1_000")
TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "../x",
    "/etc/passwd",
    "\ud800",
    "\udcff",
    "中文",
    "𝕏",
    "\u202e",
    "C:\\x",
    "x" * 300,
    ".",
)
TEXTS += (
    "x" * 300,
    "%s%n",
    "{0}",
    "\x1b[2J",
    "nan",
    "1",
    "true",
    "__class__",
    "(" * 40,
    "(a+)+$",
    "[",
    "(?P<x>",
    "\r\n",
    "..",
)
NESTED = tuple(a * n + b * n for a, b in (("[", "]"), ('{"a":', "}")) for n in (40, 900, 5000))


def parse(text: str) -> Any:
    """The text's value, objects as :class:`Pairs`; the text itself as one :class:`Raw` where it is no such."""
    if text.count("[") + text.count("{") > 300:
        return Raw(text)
    try:
        return json.loads(text, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return Raw(text)


def text_of(value: Any, ascii_only: bool = True) -> str:
    """The value as JSON; what is :class:`Raw` as it stands."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{text_of(key, ascii_only)}: {text_of(v, ascii_only)}" for key, v in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(text_of(item, ascii_only) for item in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def damaged_tree(rng: random.Random, tree: Any, words: Sequence[str] = ()) -> Any:
    """A tree with one place of it changed; ``words`` are texts that the reader may know."""
    places: list[tuple[list, int]] = []
    _collect(tree, places)
    if not places or rng.random() < 0.03:
        return _other(rng, tree, words)
    holder, index = rng.choice(places)
    rng.choice(_CHANGES)(rng, holder, index, words)
    return tree


def _collect(node: Any, places: list[tuple[list, int]]) -> None:
    if isinstance(node, list):
        for index, item in enumerate(node):
            places.append((node, index))
            _collect(item[1] if isinstance(node, Pairs) else item, places)


def _replace(rng: random.Random, holder: list, index: int, words: Sequence[str]) -> None:
    if isinstance(holder, Pairs):
        key, value = holder[index]
        holder[index] = (key, _other(rng, value, words))
    else:
        holder[index] = _other(rng, holder[index], words)


def _rename(rng: random.Random, holder: list, index: int, words: Sequence[str]) -> None:
    if isinstance(holder, Pairs):
        others = [key for key, _ in holder]
        holder[index] = (rng.choice((*others, *words, *TEXTS)), holder[index][1])
    else:
        _replace(rng, holder, index, words)


def _drop(rng: random.Random, holder: list, index: int, words: Sequence[str]) -> None:
    del holder[index]


def _repeat(rng: random.Random, holder: list, index: int, words: Sequence[str]) -> None:
    holder[index:index] = [holder[index]] * rng.choice((1, 1, 2, 50))


def _exchange(rng: random.Random, holder: list, index: int, words: Sequence[str]) -> None:
    other = rng.randrange(len(holder))
    if isinstance(holder, Pairs):
        (a, x), (b, y) = holder[index], holder[other]
        holder[index], holder[other] = (a, y), (b, x)
    else:
        holder[index], holder[other] = holder[other], holder[index]


def _add(rng: random.Random, holder: list, index: int, words: Sequence[str]) -> None:
    new = _other(rng, 1, words)
    holder.insert(index, (rng.choice((*words, *TEXTS)), new) if isinstance(holder, Pairs) else new)


_CHANGES: tuple[Callable[[random.Random, list, int, Sequence[str]], None], ...] = (_replace,) * 6
_CHANGES += (_rename, _rename, _drop, _drop, _repeat, _exchange, _add, _add)


def _other(rng: random.Random, old: Any, words: Sequence[str]) -> Any:
    """A value in the old one's place: near it, or of another type."""
    if isinstance(old, (int, float)) and not isinstance(old, bool) and rng.random() < 0.4:
        return rng.choice((old + 1, old - 1, -old, old * 2, float(old), str(old), old * 8)) if abs(old) < 1e300 else 0
    kind = rng.randrange(12)
    if kind < 4:
        return Raw(rng.choice(NUMBERS))
    if kind < 7:
        return rng.choice((*TEXTS, *words))
    if kind == 7:
        return [old] * rng.choice((0, 1, 2, 9))
    if kind == 8:
        return Pairs([(rng.choice((*TEXTS, *words)), old)])
    if kind == 9 and rng.random() < 0.3:
        return Raw(rng.choice(NESTED))
    return rng.choice((None, True, False, [], Pairs(), 0, 1, -1, "", 1.5))


def damaged_json(rng: random.Random, data: bytes, words: Sequence[str] = ()) -> bytes:
    """A JSON text with one to four places changed; it may end up as no JSON at all."""
    tree = parse(data.decode("utf-8", "surrogateescape"))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        tree = damaged_tree(rng, tree, words)
    text = text_of(tree, ascii_only=rng.random() < 0.7)
    head = rng.choice(("",) * 30 + ("\ufeff", " ", "\0", "// x\n"))
    return (head + text).encode(rng.choice(("utf-8",) * 40 + ("utf-16", "utf-32")), "surrogatepass")
