"""The vocabulary of a GGUF file, as llama.cpp reads it: SentencePiece's scores or byte pairs, and what both share.

GGUF keeps the tokenizer's own spelling beside the type of each token, so nothing is left to guess. Special tokens are
cut out of a text before anything else, the longest first. What lies between them is tokenized by the model:

==========  ========================  ==================================================================================
``model``   class                     between special tokens
==========  ========================  ==================================================================================
``llama``   GgufScoreTokenizer        ▁ for a space, one in front of the text; neighbors merge by score
``gpt2``    GgufPairTokenizer         words of ``tokenizer.ggml.pre``, in the alphabet of bytes; neighbors merge by rank
==========  ========================  ==================================================================================

==============================  ==================  ===============================================================
key (``tokenizer.ggml.…``)      default             meaning
==============================  ==================  ===============================================================
``bos_token_id``                1; gpt2: 11         begins a text, if ``add_bos_token`` (true; gpt2: by ``pre``)
``eos_token_id``                2; gpt2: 11         ends it, if ``add_eos_token`` (false)
``eot_token_id``, ``eom_…``     none                end a turn or a message, and so what is generated
``add_space_prefix``            true; gpt2: false   whether a space is put in front of a text
==============================  ==================  ===============================================================

Older containers keep their own years' tokenizers (:mod:`.tokenizer`).

Source: src/llama-vocab.cpp of llama.cpp, October 2026, and what its libllama answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ggmlpy.files.errors import UnsupportedError, VocabularyError
from ggmlpy.formats.byte_alphabet import in_alphabet
from ggmlpy.formats.eras import AUGUST_21, DEFAULT_ERA, Era, era_of
from ggmlpy.formats.gguf_model import from_gguf_token, gguf_tokens
from ggmlpy.formats.gguf_values import Value

from .merging import PairMerger
from .tokenizer import BOS, EOS, PieceTokenizer, ScoreTokenizer, tokenizer_for
from .utf8 import lenient_text

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile

__all__ = ["GgufPairTokenizer", "GgufScoreTokenizer", "GgufTokenizer", "file_tokenizer", "gguf_tokenizer"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # types of tokens
SPACE, UNDERLINE = b" ", "▁".encode()
KEY = "tokenizer.ggml."
# llama.cpp knows these by their texts, whatever the file says of them: they are control tokens …
TURN_ENDS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>"),
    *("[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>", "<|eom_id|>"),
)
FILL_PADS = ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")
FILL_FILES = ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>")
FILLS = (
    *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>"),
    *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>"),
    *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>"),
)
# … and nothing is generated after these
ENDS = (
    *(*TURN_ENDS, *FILL_PADS, *FILL_FILES, "</s>", "[EOS]", "<eos>", "<|return|>", "<|call|>", "<|calls|>"),
    *("<|flush|>", "<turn|>", "<|tool_response>", "[e~["),
)
CONTROLS = (*ENDS, *FILLS)


def file_tokenizer(file: ModelFile, era: str | Era | None = None) -> PieceTokenizer:
    """The tokenizer of a model file: of the era's llama.cpp, or for GGUF, which is later than all eras, its own.

    Args:
        era: None means the default for older containers, and GGUF's own for GGUF. A vocabulary that the era's
            llama.cpp could not read has its own tokenizer in any era.
    """
    if file.container != "gguf":
        return tokenizer_for(list(file.vocab), file.vocab.scores.tolist(), era_of(era or DEFAULT_ERA))
    own = gguf_tokenizer(file.metadata)
    if era is None or era_of(era) >= AUGUST_21 or isinstance(own, GgufPairTokenizer):
        return own
    older = tokenizer_for(list(file.vocab), file.vocab.scores.tolist(), era_of(era))
    older.bos, older.eos, older.adds_bos = own.bos, own.eos, own.adds_bos
    older.ends = frozenset([own.eos, *own.named_ends])
    return older


def gguf_tokenizer(metadata: Mapping[str, Value]) -> GgufTokenizer:
    """The tokenizer that the metadata of a GGUF file describes, of whatever architecture.

    Raises:
        VocabularyError: there is no vocabulary, or one that contradicts itself.
        UnsupportedError: it is of a kind that is not known here.
    """
    model = metadata.get(KEY + "model")
    name = model.text() if model and model.type == "string" else "llama"
    kind = {"llama": GgufScoreTokenizer, "gpt2": GgufPairTokenizer}.get(name)
    if kind is None:
        raise UnsupportedError(
            f"tokenizer {name!r} is not supported",
            field=KEY + "model",
            expected="llama (SentencePiece) or gpt2 (byte pairs)",
            found=name,
            next_step="use a program for that architecture",
        )
    return kind(metadata)


class GgufTokenizer(PieceTokenizer):
    """What the tokenizers of GGUF files share; ``encode`` puts no space in front, ``encode_first`` does.

    Attributes:
        metadata: of the file.
        texts: the spelling of each token.
        kinds: its type.
        adds_eos: whether a text ends with ``eos``.
        adds_space: whether a space is put in front of a text.
        cleans_spaces: whether :meth:`text_of` removes spaces before punctuation.
    """

    default_ids = (BOS, EOS)
    default_flags = (True, True)  # add_bos_token, add_space_prefix
    cleans_spaces = False

    def __init__(self, metadata: Mapping[str, Value]) -> None:
        self.metadata = metadata
        self.texts, self._scores, kinds = gguf_tokens(metadata)
        self.kinds = kinds.tolist()
        self._by_text = dict(zip(self.texts, range(len(self.texts))))
        self.bos, self.eos = map(self._id, ("bos_token_id", "eos_token_id"), self.default_ids)
        self.adds_bos = self._flag("add_bos_token", self.default_flags[0])
        self.adds_eos = self._flag("add_eos_token", False)
        self.adds_space = self._flag("add_space_prefix", self.default_flags[1])
        self.named_ends = [self._id(name, self.eos) for name in ("eot_token_id", "eom_token_id")]
        self.ends = frozenset([self.eos, *self.named_ends, *self._known(ENDS)])
        self._controls = {token for token, kind in enumerate(self.kinds) if kind in (UNKNOWN, CONTROL)}
        self._controls.update(self._known(CONTROLS))

    def _known(self, texts: Sequence[str]) -> list[int]:
        return [self._by_text[text.encode()] for text in texts if text.encode() in self._by_text]

    def _value(self, name: str) -> Any:
        found = self.metadata.get(KEY + name)
        return None if found is None else found.value

    def _id(self, name: str, default: int) -> int:
        """The id that a key names; one that the vocabulary does not have is as good as none, as in llama.cpp."""
        found = self._value(name)
        return found if isinstance(found, int) and 0 <= found < len(self.texts) else default

    def _flag(self, name: str, default: bool) -> bool:
        found = self._value(name)
        return default if found is None else bool(found)

    # ── from text to ids ─────────────────────────────────────────────────────────────────────────────────────────────

    def encode(self, text: str | bytes, *, bos: bool = False, special: bool = False) -> list[int]:
        """The token ids of ``text``, as it stands; ``special``: texts of control tokens in it are those tokens."""
        return self._encode(text, bos=bos, space=False, special=special)

    def encode_first(self, text: str | bytes, *, special: bool = False) -> list[int]:
        """The token ids of a text from its beginning, between ``bos`` and ``eos`` if it gets them."""
        tokens = self._encode(text, bos=self.adds_bos, space=self.adds_space, special=special)
        return [*tokens, self.eos] if self.adds_eos else tokens

    def encode_raw(self, text: bytes) -> list[int]:
        """As any text from its beginning."""
        return self.encode_first(text)

    def spaced(self, text: str | bytes, *, bos: bool = False, special: bool = False) -> list[int]:
        """The token ids of ``text`` with a space in front, where this vocabulary wants one."""
        return self._encode(text, bos=bos, space=self.adds_space, special=special)

    def _encode(self, text: str | bytes, *, bos: bool, space: bool, special: bool) -> list[int]:
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        tokens, prefix = [self.bos] if bos else [], SPACE if space else b""
        at_start = True  # of the text, or just behind a token that was cut out
        for part in self._parts(data, special):
            if isinstance(part, int):
                tokens.append(part)
            else:
                tokens += self._tokens_of((prefix if at_start else b"") + part)
            at_start = isinstance(part, int)
        return tokens

    def _parts(self, data: bytes, special: bool) -> list[bytes | int]:
        """The text in stretches, and between them the tokens that are cut out; the longest of those first."""
        parts: list[bytes | int] = [data] if data else []
        for word, token in self._cut_out:
            if word in data and (special or token not in self._controls):
                parts = [each for part in parts for each in _without(part, word, token)]
        return parts

    @cached_property
    def _cut_out(self) -> list[tuple[bytes, int]]:
        """The texts that are tokens wherever they stand, the longest first."""
        user_defined = {token for token, kind in enumerate(self.kinds) if kind == USER_DEFINED}
        found = [(self.texts[token], token) for token in sorted(self._controls | user_defined) if self.texts[token]]
        return sorted(found, key=lambda each: -len(each[0]))

    def _tokens_of(self, data: bytes) -> Sequence[int]:
        """The tokens of a stretch of text without special tokens."""
        raise NotImplementedError

    # ── from ids to text ─────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def pieces(self) -> list[bytes]:  # type: ignore[override]
        """What each token shows: control tokens nothing, bytes themselves, others their text."""
        return [b"" if token in self._controls else self._shown(token) for token in range(len(self.texts))]

    def _shown(self, token: int) -> bytes:
        kind, text = self.kinds[token], self.texts[token]
        if token in self._controls or kind == USER_DEFINED:
            return text
        if kind == BYTE:
            return _byte_of(text)
        return self._bytes_of(text) if kind == NORMAL else b""

    def _bytes_of(self, text: bytes) -> bytes:
        """What a normal token of this spelling stands for."""
        raise NotImplementedError

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The pieces one after another."""
        return b"".join(map(self.piece, tokens))

    def text_of(self, tokens: Sequence[int], *, special: bool = False, strip: bool = False) -> bytes:
        """A whole text again, without the space that was put in front of it.

        Args:
            special: control tokens are shown.
            strip: leave out BOS at the beginning and EOS at the end where encoding puts them there.
        """
        tokens, removed = list(tokens), False
        if strip and self.adds_bos and tokens[:1] == [self.bos]:
            tokens, removed = tokens[1:], True
        if strip and self.adds_eos and tokens[-1:] == [self.eos]:
            tokens = tokens[:-1]
        parts = [self._shown(token) if special else self.piece(token) for token in map(self._checked, tokens)]
        if parts and self.adds_space and not removed:
            parts[0] = parts[0].removeprefix(SPACE)
        text = b"".join(parts)
        return _cleaned(text) if self.cleans_spaces else text

    def _checked(self, token: int) -> int:
        self.piece(token)
        return token


class GgufScoreTokenizer(GgufTokenizer):
    """``llama``: SentencePiece's pieces and scores. A literal ▁ is the same as a space; the text may hold NUL."""

    def __init__(self, metadata: Mapping[str, Value]) -> None:
        super().__init__(metadata)
        self._model = _Scores(self.texts, self._scores.tolist(), bytes_by_lookup=True)

    def _tokens_of(self, data: bytes) -> list[int]:
        return self._model.split(data.replace(SPACE, UNDERLINE))

    def _bytes_of(self, text: bytes) -> bytes:
        return text.replace(UNDERLINE, SPACE)


class _Scores(ScoreTokenizer):
    """SentencePiece's spelling of bytes."""

    def _byte_token(self, byte: int) -> int:
        token = self.ids.get(b"<0x%02X>" % byte)
        if token is None:
            raise VocabularyError(
                f"no token for byte 0x{byte:02x}", cause="a vocabulary without byte pieces; llama.cpp refuses such text"
            )
        return token


class GgufPairTokenizer(GgufTokenizer):
    """``gpt2``: byte pairs that merge by rank, inside the words of a pre-tokenizer."""

    default_ids = (11, 11)
    default_flags = (False, False)

    def __init__(self, metadata: Mapping[str, Value]) -> None:
        from .pre_tokenizers import DEFAULT, pre_tokenizer  # these need the package regex

        named = metadata.get(KEY + "pre")
        self.pre = pre_tokenizer(named.text() if named and named.type == "string" else DEFAULT)
        self.default_flags = (self.pre.add_bos, False)
        super().__init__(metadata)
        self.cleans_spaces = self.pre.clean_spaces
        ids = {text.decode("utf-8", "surrogateescape"): token for text, token in self._by_text.items()}
        self._merger = PairMerger(
            ids, self._ranks(), whole_words=self.pre.ignore_merges, spell=self._spelled, leftover=self._letters
        )

    def _ranks(self) -> dict[tuple[str, str], int]:
        """The place of each merge; of one that is listed twice the first."""
        merges = self._value("merges")
        if not isinstance(merges, list):
            raise VocabularyError("byte pairs without merges", field=KEY + "merges", cause="a faulty converter")
        ranks: dict[tuple[str, str], int] = {}
        for rank in range(len(merges) - 1, -1, -1):
            merge = merges[rank].decode("utf-8", "surrogateescape")
            cut = merge.find(" ", 1)  # a space may be the first character of the first part
            if cut > 0:
                ranks[merge[:cut], merge[cut + 1 :]] = rank
        return ranks

    def _tokens_of(self, data: bytes) -> list[int]:
        tokens_of = self._merger.tokens_of
        return [token for word in self.pre.words(lenient_text(data)) for token in tokens_of(word)]

    def _spelled(self, word: str) -> str:
        return in_alphabet(word.encode("utf-8", "surrogatepass")) if self.pre.in_bytes else word

    def _letters(self, symbol: str) -> Iterator[int]:
        """The tokens of the bytes of a symbol that is no token; bytes without one are lost, as in llama.cpp."""
        for byte in symbol.encode("utf-8", "surrogatepass"):
            token = self._by_text.get(bytes([byte]), self._by_text.get(b"<0x%02X>" % byte))
            if token is not None:
                yield token

    def _bytes_of(self, text: bytes) -> bytes:
        return from_gguf_token(text, NORMAL, in_bytes=self.pre.in_bytes)


def _without(part: bytes | int, word: bytes, token: int) -> Iterator[bytes | int]:
    if isinstance(part, int):
        yield part
        return
    for index, stretch in enumerate(part.split(word)):
        if index:
            yield token
        if stretch:
            yield stretch


def _byte_of(text: bytes) -> bytes:
    try:
        return bytes([int(text[3:5], 16)])
    except ValueError:
        return text


_BEFORE_MARKS = tuple(b" " + bytes([mark]) for mark in b"?!.,")
_BEFORE_ENDINGS = (b" 's", b" 'm", b" 're", b" 've")


def _cleaned(text: bytes) -> bytes:
    """A text without the spaces that tokenizers of old left before punctuation, in three passes."""
    for mark in _BEFORE_MARKS:
        text = text.replace(mark, mark[1:])
    text = text.replace(b" ' ", b"'")
    for ending in _BEFORE_ENDINGS:
        text = text.replace(ending, ending[1:])
    return text
