"""The tokenizer in Hugging Face's ``tokenizer.json``, with byte-pair encoding: LLaMA 3's, Qwen's, and LLaMA's own.

A text goes through it like this: added tokens are cut out (the longest at each place); what lies between them is
normalized, cut into words, spelled in the alphabet of bytes, and merged; special tokens are put around all of it.

==============  ======================================================================================================
part            meaning
==============  ======================================================================================================
added_tokens    texts that are one token wherever they stand; ``normalized``: in the normalized text, not the raw one;
                ``lstrip``, ``rstrip`` take the white space beside them; ``single_word``: not inside a word
normalizer      :func:`.json_steps.normalizer`
pre_tokenizer   :func:`.json_steps.cutter`
model           ``vocab``, ``merges`` ("a b" or ["a", "b"]), ``byte_fallback``, ``unk_token``, ``ignore_merges``
post_processor  :func:`.json_steps.frame`
decoder         only whether it is of bytes (``ByteLevel``) or of ▁ and ``<0x0A>``
==============  ======================================================================================================

Source: https://huggingface.co/docs/tokenizers; behavior of tokenizers 0.23.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import regex

from ggmlpy.files.errors import FormatError, UnsupportedError, VocabularyError
from ggmlpy.files.json_files import LARGEST_TOKENIZER, read_json
from ggmlpy.formats.byte_alphabet import from_alphabet

from .json_steps import cutter, frame, normalizer, text_of
from .merging import PairMerger
from .tokenizer import PieceTokenizer

__all__ = ["AddedToken", "JsonTokenizer"]

LARGEST_VOCABULARY = 1 << 24


@dataclass(frozen=True)
class AddedToken:
    """A text that is one token wherever it stands."""

    id: int
    content: str
    special: bool = False
    normalized: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> AddedToken:
        flags = ("special", "normalized", "single_word", "lstrip", "rstrip")
        return cls(record["id"], text_of(record["content"]), **{name: bool(record.get(name)) for name in flags})


class JsonTokenizer(PieceTokenizer):
    """A ``tokenizer.json`` with a byte-pair model.

    Args:
        path: the file, or the folder that holds it.

    Attributes:
        vocab: id of each text of the model.
        merges: the pairs that may merge, in order.
        added: the tokens beside the model, in the order of the file.
        before, after: the ids that its template puts around a text.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is not a tokenizer.json, or contradicts itself.
        UnsupportedError: it has a model or a step that is not known here.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        record = read_json(path, most=LARGEST_TOKENIZER)
        try:
            self._read(record)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise VocabularyError(
                "is not a tokenizer.json",
                path=path,
                found=f"{type(error).__name__}: {error}"[:100],
                cause="another file under this name, or a damaged one",
            ) from error
        except FormatError as error:
            error.name_file(path)
            raise

    def _read(self, record: Mapping[str, Any]) -> None:
        model = record["model"]
        self._check_model(model)
        self.vocab: dict[str, int] = dict(model["vocab"])
        self.merges = [_pair(each) for each in model["merges"]]
        self.added = [AddedToken.of(each) for each in record.get("added_tokens") or ()]
        decoders = _types(record.get("decoder"))
        self.byte_level, self._strips = "ByteLevel" in decoders, "Strip" in decoders or "Metaspace" in decoders
        self._normalize, self._cut = normalizer(record.get("normalizer")), cutter(record.get("pre_tokenizer"))
        self.before, self.after = frame(record.get("post_processor"))
        self._check_ids()
        self._merger = PairMerger(
            self.vocab,
            {pair: rank for rank, pair in enumerate(self.merges)},
            whole_words=bool(model.get("ignore_merges")),
            characters=self._characters,
        )
        self._unknown: str | None = model.get("unk_token")
        self._byte_fallback, self._fuse = bool(model.get("byte_fallback")), bool(model.get("fuse_unk"))
        self._raw = _Finder([each for each in self.added if not each.normalized], lambda text: text)
        self._normalized = _Finder([each for each in self.added if each.normalized], self._normalize)

    @staticmethod
    def _check_model(model: Mapping[str, Any]) -> None:
        kind = model.get("type", "BPE" if "merges" in model else None)
        settings = ("continuing_subword_prefix", "end_of_word_suffix", "dropout")
        unusual = next((key for key in settings if model.get(key)), None)
        if kind != "BPE" or unusual:
            raise UnsupportedError(
                "this model of tokenizer.json is not supported",
                field="model",
                expected="BPE",
                found=unusual or repr(kind),
                next_step="use the model's tokenizer.model, or its GGUF",
            )

    def _check_ids(self) -> None:
        ids = [*self.vocab.values(), *(each.id for each in self.added)]
        if not all(type(each) is int and 0 <= each < LARGEST_VOCABULARY for each in ids):
            raise VocabularyError("an id is not a number of a token", expected=f"0 … {LARGEST_VOCABULARY - 1}")
        around = (*self.before, *self.after)
        unknown = [each for each in around if type(each) is not int or each not in ids]  # 1.0 and true equal 1
        if unknown:
            raise VocabularyError("the ids around a text are no tokens", field="post_processor", found=unknown[:4])
        for left, right in self.merges:
            if left + right not in self.vocab:
                raise VocabularyError(
                    "a merge makes no token",
                    field="model.merges",
                    found=ascii(left + right)[:60],
                    cause="a damaged file",
                )

    # ── from text to ids ─────────────────────────────────────────────────────────────────────────────────────────────

    def encode(self, text: str | bytes, *, bos: bool = False, special: bool = True) -> list[int]:
        """The token ids of ``text``, as it stands; ``special``: special tokens in it are tokens, not letters."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        tokens = list(self.before) if bos else []
        for part, first in self._parts(text, special):
            if isinstance(part, int):
                tokens.append(part)
            else:
                for word in self._cut([part], first):
                    tokens += self._merger.tokens_of(word)
        return tokens + self.after if bos else tokens

    def encode_first(self, text: str | bytes, *, special: bool = True) -> list[int]:
        """The token ids of a text from its beginning, as its template frames it."""
        return self.encode(text, bos=True, special=special)

    def spaced(self, text: str | bytes, *, bos: bool = False, special: bool = True) -> list[int]:
        """Spaces in front are the tokenizer's own business."""
        return self.encode(text, bos=bos, special=special)

    def _parts(self, text: str, special: bool) -> Iterator[tuple[str | int, bool]]:
        """Added tokens, and what lies between them, normalized; and whether each begins the text."""
        at_start = True
        for part in self._raw.cut(text, special):
            inner = [part] if isinstance(part, int) else self._normalized.cut(self._normalize(part), special)
            for each in inner:
                yield each, at_start
                at_start = False

    def _characters(self, word: str) -> Iterator[str]:
        """The symbols that a word begins with: characters that are tokens, bytes of others, or the unknown token."""
        was_unknown = False
        for character in word:
            known = character in self.vocab
            spelled = [] if known or not self._byte_fallback else [f"<0x{byte:02X}>" for byte in _utf8(character)]
            if known:
                yield character
            elif spelled and all(each in self.vocab for each in spelled):
                yield from spelled
            elif self._unknown is not None:
                if not (was_unknown and self._fuse):
                    yield self._unknown
                was_unknown = True
                continue
            was_unknown = False

    # ── from ids to text ─────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def texts(self) -> list[str | None]:
        """The text of each id as the file spells it; None where there is no token."""
        by_id = {number: text for text, number in self.vocab.items()} | {each.id: each.content for each in self.added}
        return [by_id.get(number) for number in range(max(by_id, default=-1) + 1)]

    @cached_property
    def pieces(self) -> list[bytes]:  # type: ignore[override]
        """The bytes that each token stands for."""
        added = {each.id for each in self.added}
        return [
            b"" if text is None else _utf8(text) if number in added else self._bytes_of(text)
            for number, text in enumerate(self.texts)
        ]

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The pieces one after another, without the space that the tokenizer itself puts in front."""
        text = b"".join(map(self.piece, tokens))
        return text.removeprefix(b" ") if self._strips else text

    def _bytes_of(self, text: str) -> bytes:
        if self.byte_level:
            found = from_alphabet(text)
            return _utf8(text) if found is None else found
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            try:
                return bytes.fromhex(text[3:5])
            except ValueError:
                pass
        return _utf8(text.replace("▁", " "))


class _Finder:
    """Cuts added tokens out of a text: at each place the longest that begins there."""

    def __init__(self, added: Sequence[AddedToken], spell: Any) -> None:
        self._by_text = {spell(each.content): each for each in added if each.content}
        words = sorted(self._by_text, key=len, reverse=True)
        self._pattern = regex.compile(r"\L<words>", words=words) if words else None

    def cut(self, text: str, special: bool) -> list[str | int]:
        """Stretches of text and ids of tokens, in order; ``special``: those that are special count too."""
        parts: list[str | int] = []
        done = 0
        for found in self._pattern.finditer(text) if self._pattern else ():
            token = self._by_text[found[0]]
            start, stop = found.span()
            if (token.special and not special) or (token.single_word and _inside_word(text, start, stop)):
                continue
            if token.lstrip:
                start = max(done, len(text[:start].rstrip()))
            if token.rstrip:
                stop = len(text) - len(text[stop:].lstrip())
            if start > done:
                parts.append(text[done:start])
            parts.append(token.id)
            done = stop
        if done < len(text):
            parts.append(text[done:])
        return parts


def _inside_word(text: str, start: int, stop: int) -> bool:
    return any(each.isalnum() or each == "_" for each in (text[start - 1 : start], text[stop : stop + 1]) if each)


def _pair(entry: Any) -> tuple[str, str]:
    left, right = entry.split(" ") if isinstance(entry, str) else entry
    return left, right


def _types(record: Any) -> set[str]:
    """The types of a step and of the steps in it."""
    if not isinstance(record, Mapping):
        return set()
    inner = record.get("decoders") or ()
    return {str(record.get("type")), *(kind for each in inner for kind in _types(each))}


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
