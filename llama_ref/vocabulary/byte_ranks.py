"""The ``tokenizer.model`` of Meta's LLaMA 3, which is not SentencePiece's: a line per token, its bytes and its rank.

::

    IQ== 0
    Ig== 1
    …
    IHRo 270

The bytes are written in base 64, the rank is the token's id. Two neighbors of a text merge where their bytes together
are a token, the lowest rank first; so merges need no list, and :func:`huggingface_files` makes that list for
tokenizer.json: of each token every pair of tokens that gives it. The 256 special tokens behind the ranks stand in
Meta's program, not in the file.

Sources: llama3/llama/tokenizer.py and llama-models, convert_slow_tokenizer.py of transformers 4.45 (TikTokenConverter).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ggmlpy.files.errors import MissingFileError, VocabularyError
from ggmlpy.files.json_files import LARGEST_TOKENIZER, read_json
from ggmlpy.formats.byte_alphabet import from_alphabet, in_alphabet

from .json_document import BYTES, byte_level_document, template
from .pre_tokenizers import pre_tokenizer

__all__ = ["huggingface_files", "is_byte_ranks", "ranks_of_json", "read_byte_ranks", "special_tokens"]

MOST_BYTES = 64 << 20  # that of LLaMA 3 has 2 MB
_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d{1,9}\r?\n")
# fmt: off
_NAMED = {  # whether the model is LLaMA 3.1 or later -> the special tokens with names, by their number
    False: {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"},
    True:  {0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id",
            7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag"},
}
# fmt: on


def is_byte_ranks(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a list of ranks does."""
    try:
        with open(path, "rb") as stream:
            return _LINE.match(stream.read(200)) is not None
    except OSError:
        return False


def read_byte_ranks(path: str | os.PathLike[str]) -> list[bytes]:
    """The bytes of each token, by rank.

    Raises:
        MissingFileError: there is no such file.
        VocabularyError: a line is of another form, or ranks have gaps.
    """
    try:
        with open(path, "rb") as stream:
            lines = stream.read(MOST_BYTES).split(b"\n")
    except OSError as error:
        raise MissingFileError(f"cannot read the tokenizer: {error.strerror}", path=path) from error
    tokens = []
    for number, line in enumerate(lines[:-1] if lines[-1:] == [b""] else lines):
        text, _, rank = line.rstrip(b"\r").partition(b" ")
        try:
            tokens.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise _bad_line(path, number, line) from None
        if rank != b"%d" % number or not tokens[-1]:
            raise _bad_line(path, number, line)
    return tokens


def _bad_line(path: str | os.PathLike[str], number: int, line: bytes) -> VocabularyError:
    return VocabularyError(
        "a line is not a token and its rank",
        path=path,
        field=f"line {number + 1}",
        expected=f"base 64, a space, {number}",
        found=repr(line[:40]),
        cause="a damaged download",
    )


def special_tokens(count: int, later: bool) -> list[str]:
    """The special tokens of LLaMA 3, those without a use numbered.

    Args:
        count: how many; 256 in the published models.
        later: whether the model is LLaMA 3.1 or later.

    >>> special_tokens(12, False)[-4:]
    ['<|reserved_special_token_4|>', '<|eot_id|>', '<|reserved_special_token_5|>', '<|reserved_special_token_6|>']
    """
    named = _NAMED[later]
    reserved = iter(range(count))
    return [f"<|{named[i]}|>" if i in named else f"<|reserved_special_token_{next(reserved)}|>" for i in range(count)]


def huggingface_files(path: Path, n_vocab: int, later: bool) -> dict[str, str]:
    """tokenizer.json and tokenizer_config.json of a model of LLaMA 3.

    Args:
        n_vocab: rows of the embedding: the ranks, and the special tokens behind them.
        later: whether the model is LLaMA 3.1 or later.

    Raises:
        VocabularyError: the file is bad, or leaves no room for the special tokens.
    """
    tokens = read_byte_ranks(path)
    if n_vocab - len(tokens) <= max(_NAMED[later]):
        raise VocabularyError(
            "the tokenizer is not that of the weights",
            path=path,
            expected=f"at most {n_vocab - max(_NAMED[later]) - 1} ranks, for {n_vocab} rows of the embedding",
            found=len(tokens),
        )
    special = special_tokens(n_vocab - len(tokens), later)
    config = {
        "bos_token": special[0],
        "eos_token": special[1],
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    files = {"tokenizer.json": _document(tokens, special), "tokenizer_config.json": config}
    return {name: json.dumps(record, indent=2, ensure_ascii=False) + "\n" for name, record in files.items()}


def ranks_of_json(path: Path) -> bytes:
    """The tokenizer.model whose tokenizer.json this is.

    Raises:
        VocabularyError: its merges are not those that follow from ranks, or it is not of bytes.
    """
    record = read_json(path, most=LARGEST_TOKENIZER)
    model = record.get("model")
    model = model if isinstance(model, dict) else {}
    vocab = model["vocab"] if isinstance(model.get("vocab"), dict) else {}
    texts = sorted(vocab, key=lambda text: str(vocab[text]).zfill(12))
    tokens = [from_alphabet(text) for text in texts]
    if not texts or None in tokens or [vocab[text] for text in texts] != list(range(len(texts))):
        raise _no_ranks(path, "tokens are not bytes under the ids 0, 1, 2 …")
    known = [token for token in tokens if token is not None]
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model.get("merges") or ()]
    if merges != _merges(known):
        raise _no_ranks(path, "the merges do not follow from the ids of their results")
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(known))


def _no_ranks(path: Path, found: str) -> VocabularyError:
    return VocabularyError(
        "this tokenizer cannot be written as Meta's tokenizer.model",
        path=path,
        expected="a byte-level BPE whose merges follow from ranks, as that of LLaMA 3",
        found=found,
        next_step="write the weights alone (--weights-only), and keep tokenizer.json",
    )


def _document(tokens: Sequence[bytes], special: Sequence[str]) -> dict[str, object]:
    begin = [(len(tokens), special[0])]
    return byte_level_document(
        {in_alphabet(token): i for i, token in enumerate(tokens)},
        _merges(tokens),
        [(len(tokens) + i, text, True) for i, text in enumerate(special)],
        pre_tokenizer("llama-bpe").sources,
        {"type": "Sequence", "processors": [BYTES, template(begin, (), begin)]},
        ignore_merges=True,
    )


def _merges(tokens: Sequence[bytes]) -> list[str]:
    """All pairs of tokens that make a token, in the order of what they make."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for token in tokens:
        cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
        pairs = [(ranks[left], ranks[right]) for left, right in cuts if left in ranks and right in ranks]
        merges += [f"{in_alphabet(tokens[left])} {in_alphabet(tokens[right])}" for left, right in sorted(pairs)]
    return merges
