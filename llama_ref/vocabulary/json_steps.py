"""The steps of a ``tokenizer.json`` before its model and after it, each by the ``type`` of its record.

A normalizer makes a text of a text; a pre-tokenizer cuts pieces into pieces; a post-processor puts special tokens
around the ids. What isn't listed here is refused by name.

Source: https://huggingface.co/docs/tokenizers, components; behavior of tokenizers 0.23.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ggmlpy.files.errors import UnsupportedError
from ggmlpy.formats.byte_alphabet import in_alphabet

from .character_sets import WHITE_SPACE
from .expressions import ONIGURUMA, expression

__all__ = ["Cutter", "Frame", "Normalizer", "cutter", "frame", "normalizer"]

Normalizer = Callable[[str], str]
Cutter = Callable[[list[str], bool], list[str]]  # pieces, and whether the first begins the text
Frame = tuple[list[int], list[int]]  # ids before and after those of a text
Record = Mapping[str, Any]

WHITE = "".join(chr(each) for start, stop in WHITE_SPACE.reshape(-1, 2) for each in range(start, stop))
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _refuse(what: str, record: Any) -> UnsupportedError:
    kind = record.get("type") if isinstance(record, Mapping) else record
    return UnsupportedError(
        f"this {what} of tokenizer.json is not supported",
        field=what,
        found=repr(kind)[:60],
        next_step="convert the model with the program that made it, and use its GGUF",
    )


# ── normalizers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def normalizer(record: Record | None) -> Normalizer:
    """The function that a record describes.

    Raises:
        UnsupportedError: a kind that is not known here.
    """
    if record is None:
        return lambda text: text
    make = _NORMALIZERS.get(record.get("type", ""))
    if make is None:
        raise _refuse("normalizer", record)
    return make(record)


def _in_turn(record: Record) -> Normalizer:
    steps = [normalizer(each) for each in record["normalizers"]]

    def run(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return run


def _replace(record: Record) -> Normalizer:
    pattern, content = record["pattern"], text_of(record["content"])
    if "String" in pattern:
        old = text_of(pattern["String"])
        return lambda text: text.replace(old, content)
    found = expression(pattern["Regex"], ONIGURUMA)

    def run(text: str) -> str:
        done, out = 0, []
        for start, stop in found.spans(text):
            out += [text[done:start], content]
            done = stop
        return "".join(out) + text[done:]

    return run


def _prepend(start: str) -> Normalizer:
    return lambda text: start + text if text else text


def _strip(record: Record) -> Normalizer:
    left = WHITE if record.get("strip_left", True) else ""
    right = WHITE if record.get("strip_right", True) else ""
    return lambda text: text.lstrip(left).rstrip(right)


def _without_accents(text: str) -> str:
    return "".join(each for each in text if not unicodedata.category(each).startswith("M"))


# fmt: off
_NORMALIZERS: dict[str, Callable[[Record], Normalizer]] = {
    "Sequence":     _in_turn,
    "Replace":      _replace,
    "Strip":        _strip,
    "Prepend":      lambda record: _prepend(text_of(record["prepend"])),
    "Lowercase":    lambda record: str.lower,
    "StripAccents": lambda record: _without_accents,
    "ByteLevel":    lambda record: lambda text: in_alphabet(_utf8(text)),
    **{form: (lambda record: lambda text: unicodedata.normalize(record["type"], text))
       for form in ("NFC", "NFD", "NFKC", "NFKD")},
}
# fmt: on


# ── pre-tokenizers ───────────────────────────────────────────────────────────────────────────────────────────────────


def cutter(record: Record | None) -> Cutter:
    """The function that a record describes.

    Raises:
        UnsupportedError: a kind that is not known here.
    """
    if record is None:
        return lambda pieces, first: pieces
    if record.get("type") == "Sequence":
        steps = [cutter(each) for each in record["pretokenizers"]]

        def run(pieces: list[str], first: bool) -> list[str]:
            for step in steps:
                pieces = step(pieces, first)
            return pieces

        return run
    make = _CUTTERS.get(record.get("type", ""))
    if make is None:
        raise _refuse("pre-tokenizer", record)
    return make(record)


def _split(record: Record) -> Cutter:
    """Cut at the matches of an expression, or, inverted, at what lies between them."""
    pattern, behavior = record["pattern"], record["behavior"]
    source = pattern["Regex"] if "Regex" in pattern else _literal(pattern["String"])
    found, inverted = expression(source, ONIGURUMA), bool(record.get("invert"))
    if behavior == "Isolated":
        return lambda pieces, first: [part for piece in pieces for part in found.cut(piece)]
    join = _BEHAVIORS.get(behavior)
    if join is None:
        raise _refuse("behavior", behavior)

    def run(pieces: list[str], first: bool) -> list[str]:
        return [part for piece in pieces for part in join(_marked(found.spans(piece), piece, inverted)) if part]

    return run


def _marked(spans: Iterable[tuple[int, int]], piece: str, inverted: bool) -> list[tuple[str, bool]]:
    """The stretches of a piece, and whether each is a delimiter."""
    stretches, done = [], 0
    for start, stop in spans:
        stretches += [(piece[done:start], inverted), (piece[start:stop], not inverted)]
        done = stop
    stretches.append((piece[done:], inverted))
    return [each for each in stretches if each[0]]


def _removed(stretches: list[tuple[str, bool]]) -> list[str]:
    return [text for text, is_delimiter in stretches if not is_delimiter]


def _contiguous(stretches: list[tuple[str, bool]]) -> list[str]:
    out: list[str] = []
    for i, (text, is_delimiter) in enumerate(stretches):
        if i and stretches[i - 1][1] == is_delimiter:
            out[-1] += text
        else:
            out.append(text)
    return out


def _with_previous(stretches: list[tuple[str, bool]]) -> list[str]:
    out: list[str] = []
    for i, (text, is_delimiter) in enumerate(stretches):
        if is_delimiter and i and not stretches[i - 1][1]:
            out[-1] += text
        else:
            out.append(text)
    return out


def _with_next(stretches: list[tuple[str, bool]]) -> list[str]:
    out: list[str] = []
    for i, (text, is_delimiter) in enumerate(reversed(stretches)):
        if is_delimiter and i and not stretches[len(stretches) - i][1]:
            out[-1] = text + out[-1]
        else:
            out.append(text)
    return out[::-1]


_BEHAVIORS = {
    "Removed": _removed,
    "Contiguous": _contiguous,
    "MergedWithPrevious": _with_previous,
    "MergedWithNext": _with_next,
}


def _literal(text: str) -> str:
    return "".join(f"\\x{{{ord(each):x}}}" for each in text)


def _byte_level(record: Record) -> Cutter:
    """GPT-2's: perhaps a space in front, perhaps its expression, and always the alphabet of bytes."""
    prefixed, cuts = bool(record.get("add_prefix_space", True)), bool(record.get("use_regex", True))
    words = expression(GPT2, ONIGURUMA)

    def run(pieces: list[str], first: bool) -> list[str]:
        if prefixed:
            pieces = [piece if piece.startswith(" ") else " " + piece for piece in pieces]
        if cuts:
            pieces = [part for piece in pieces for part in words.cut(piece)]
        return [in_alphabet(_utf8(piece)) for piece in pieces]

    return run


def _metaspace(record: Record) -> Cutter:
    """SentencePiece's: ▁ for a space, one in front (always, or of the text's first piece alone), and cuts before it."""
    mark = record.get("replacement", "▁")
    scheme = record.get("prepend_scheme", "always" if record.get("add_prefix_space", True) else "never")
    before = _split({"pattern": {"String": mark}, "behavior": "MergedWithNext"})

    def run(pieces: list[str], first: bool) -> list[str]:
        pieces = [piece.replace(" ", mark) for piece in pieces]
        for i, piece in enumerate(pieces):
            wanted = scheme == "always" or (scheme == "first" and first and i == 0)
            if wanted and not piece.startswith(mark):
                pieces[i] = mark + piece
        return before(pieces, first) if record.get("split", True) else pieces

    return run


def _fixed(source: str, behavior: str) -> Callable[[Record], Cutter]:
    return lambda record: _split({"pattern": {"Regex": source}, "behavior": behavior})


def _digits(record: Record) -> Cutter:
    behavior = "Isolated" if record.get("individual_digits") else "Contiguous"
    return _split({"pattern": {"Regex": r"\p{N}"}, "behavior": behavior})


# fmt: off
_CUTTERS: dict[str, Callable[[Record], Cutter]] = {
    "Split":           _split,
    "ByteLevel":       _byte_level,
    "Metaspace":       _metaspace,
    "Digits":          _digits,
    "WhitespaceSplit": _fixed(r"\s", "Removed"),
    "Whitespace":      lambda record: _split(
        {"pattern": {"Regex": r"[\w\u200c\u200d]+|[^\w\s\u200c\u200d]+"}, "behavior": "Removed", "invert": True}),
    "Punctuation":     lambda record: _split(
        {"pattern": {"Regex": r"[\p{P}!-/:-@\[-`{-~]"}, "behavior": record.get("behavior", "Isolated")}),
    "CharDelimiterSplit": lambda record: _split(
        {"pattern": {"String": record["delimiter"]}, "behavior": "Removed"}),
}
# fmt: on


# ── post-processors ──────────────────────────────────────────────────────────────────────────────────────────────────


def frame(record: Record | None) -> Frame:
    """The ids that a post-processor puts before and after a single text.

    Raises:
        UnsupportedError: a kind that is not known here, or a template that does not hold the text once.
    """
    kind = None if record is None else record.get("type")
    if record is None or kind == "ByteLevel":
        return [], []
    if kind == "Sequence":
        before: list[int] = []
        after: list[int] = []
        for each in record["processors"]:
            inner = frame(each)
            before, after = inner[0] + before, after + inner[1]
        return before, after
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [record["cls"][1]], [record["sep"][1]]
    if kind != "TemplateProcessing":
        raise _refuse("post-processor", record)
    return _template(record)


def _template(record: Record) -> Frame:
    around: tuple[list[int], ...] = ([],)
    for part in record["single"]:
        if "Sequence" in part:
            around = (*around, [])
        else:
            around[-1].extend(record["special_tokens"][part["SpecialToken"]["id"]]["ids"])
    if len(around) != 2:
        raise _refuse("template", repr(record["single"]))
    return around[0], around[1]


def text_of(value: Any) -> str:
    """A value that must be a text.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a text")
    return value


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
