"""The SentencePiece vocabulary of a GGUF file, as llama.cpp reads it, which is as SentencePiece does.

GGUF keeps SentencePiece's own spelling (▁ for a space, ``<0x0A>`` for a byte) and the type of each token, so nothing
is left to guess: a literal ▁ is the same as a space, the text may hold NUL, an empty text has no tokens, and the space
in front is the tokenizer's own business. User-defined tokens are cut out of the text before anything else; control
tokens and the unknown one are never shown.

==============================  =======  ==========================================================================
key (``tokenizer.ggml.…``)      default  meaning
==============================  =======  ==========================================================================
``bos_token_id``                1        begins a text, if ``add_bos_token`` (default true)
``eos_token_id``                2        ends it
``eot_token_id``, ``eom_…``     none     end a turn or a message, and so what is generated
``add_space_prefix``            true     whether a space is put in front of a text
==============================  =======  ==========================================================================

Older containers keep their own years' tokenizers (:mod:`.tokenizer`).

Source: src/llama-vocab.cpp of llama.cpp c392e5094, and what its libllama answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ggmlpy.files.errors import VocabularyError
from ggmlpy.formats.eras import AUGUST_21, DEFAULT_ERA, Era, era_of

from .tokenizer import BOS, EOS, GreedyTokenizer, ScoreTokenizer, tokenizer_for

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile

__all__ = ["GgufTokenizer", "file_tokenizer"]

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # types of tokens; a byte is 6
SPACE, UNDERLINE = b" ", "▁".encode()
KEY = "tokenizer.ggml."
# llama.cpp knows these by their texts, whatever the file says of them: they are control tokens, and nothing is
# generated after them
CONTROL_ENDS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>"),
    *("[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>", "<|eom_id|>"),
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
)
ENDS = (*CONTROL_ENDS, "</s>", "[EOS]", "<eos>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>")


def file_tokenizer(file: ModelFile, era: str | Era | None = None) -> ScoreTokenizer | GreedyTokenizer:
    """The tokenizer of a model file: of the era's llama.cpp, or for GGUF, which is later than all eras, its own.

    Args:
        era: None means the default for older containers, and GGUF's own for GGUF.
    """
    moment = era_of(era) if era is not None else AUGUST_21 if file.container == "gguf" else era_of(DEFAULT_ERA)
    scores = file.vocab.scores.tolist()
    if file.container != "gguf":
        return tokenizer_for(list(file.vocab), scores, moment)
    own = moment >= AUGUST_21
    tokenizer = GgufTokenizer(file) if own else tokenizer_for(list(file.vocab), scores, moment)
    tokenizer.bos = _id(file, "bos_token_id", BOS)
    tokenizer.eos = _id(file, "eos_token_id", EOS)
    named = (_id(file, name, tokenizer.eos) for name in ("eot_token_id", "eom_token_id"))
    by_text = (tokenizer.ids[text.encode()] for text in ENDS if own and text.encode() in tokenizer.ids)
    tokenizer.ends = frozenset([tokenizer.eos, *named, *by_text])
    tokenizer.adds_bos = _flag(file, "add_bos_token", True)
    return tokenizer


class GgufTokenizer(ScoreTokenizer):
    """What GGUF files of the ``llama`` tokenizer have; ``encode`` puts no space in front, ``encode_first`` does."""

    def __init__(self, file: ModelFile) -> None:
        vocab, texts = file.vocab, list(file.vocab.spellings or file.vocab)
        kinds = [] if vocab.types is None else vocab.types.tolist()
        super().__init__(texts, vocab.scores.tolist(), bytes_by_lookup=True)
        self.adds_space = _flag(file, "add_space_prefix", True)
        hidden = {token for token, kind in enumerate(kinds) if kind in (UNKNOWN, CONTROL)}
        hidden |= {self.ids[text.encode()] for text in CONTROL_ENDS if text.encode() in self.ids}
        self.pieces = [b"" if token in hidden else piece for token, piece in enumerate(vocab)]
        cut = [
            (texts[token], token) for token, kind in enumerate(kinds) if kind == USER_DEFINED and token not in hidden
        ]
        self._cut_first = sorted((each for each in cut if each[0]), key=lambda each: -len(each[0]))

    def encode(self, text: str | bytes, *, bos: bool = False) -> list[int]:
        """The token ids of ``text``, as it stands."""
        return self._encode(text, bos=bos, space=False)

    def encode_first(self, text: str | bytes) -> list[int]:
        """The token ids of a text from its beginning."""
        return self._encode(text, bos=self.adds_bos, space=self.adds_space)

    def spaced(self, text: str | bytes, *, bos: bool = False) -> list[int]:
        """The token ids of ``text`` with a space in front, where this vocabulary wants one."""
        return self._encode(text, bos=bos, space=self.adds_space)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The pieces one after another."""
        return b"".join(map(self.piece, tokens))

    def _encode(self, text: str | bytes, *, bos: bool, space: bool) -> list[int]:
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        tokens, prefix = [self.bos] if bos else [], SPACE if space else b""
        at_start = True  # of the text, or just behind a token that was cut out
        for part in self._parts(data):
            if isinstance(part, int):
                tokens.append(part)
            else:
                tokens += self._tokens_of((prefix if at_start else b"") + part)
            at_start = isinstance(part, int)
        return tokens

    def _parts(self, data: bytes) -> list[bytes | int]:
        """The text in stretches, and between them the user-defined tokens; the longest of those are cut out first."""
        parts: list[bytes | int] = [data] if data else []
        for word, token in self._cut_first:
            if word in data:
                parts = [each for part in parts for each in _without(part, word, token)]
        return parts

    def _tokens_of(self, data: bytes) -> list[int]:
        return self._split(data.replace(SPACE, UNDERLINE))

    def _byte_token(self, byte: int) -> int:
        token = self.ids.get(b"<0x%02X>" % byte)
        if token is None:
            raise VocabularyError(
                f"no token for byte 0x{byte:02x}", cause="a vocabulary without byte pieces; llama.cpp refuses such text"
            )
        return token


def _without(part: bytes | int, word: bytes, token: int) -> Iterator[bytes | int]:
    if isinstance(part, int):
        yield part
        return
    for index, stretch in enumerate(part.split(word)):
        if index:
            yield token
        if stretch:
            yield stretch


def _value(file: ModelFile, name: str) -> Any:
    found = file.hparams.other.get(KEY + name)
    return None if found is None else found.value


def _id(file: ModelFile, name: str, default: int) -> int:
    """The id that a key names; one that the vocabulary does not have is as good as none, as in llama.cpp."""
    own = {"bos_token_id": file.hparams.bos_id, "eos_token_id": next(iter(file.hparams.eos_ids), None)}
    found = own[name] if name in own else _value(file, name)
    return found if isinstance(found, int) and 0 <= found < len(file.vocab) else default


def _flag(file: ModelFile, name: str, default: bool) -> bool:
    found = _value(file, name)
    return default if found is None else bool(found)
