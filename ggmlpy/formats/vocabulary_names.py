"""Whose vocabulary has how many pieces. The number of pieces is all that most files tell about where they come from.

Sources: the tokenizers that Meta and Chinese-LLaMA-Alpaca (versions 1 and 2) published.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KNOWN_VOCABULARIES", "KnownVocabulary", "known_vocabulary", "size_of_vocabulary", "vocabulary_name"]


@dataclass(frozen=True)
class KnownVocabulary:
    """One vocabulary that is recognized by its size.

    Attributes:
        size: the number of pieces.
        name: whose it is.
        instructions: whether the models published with it follow instructions; None where both kinds were published.
        merged: whether Chinese-LLaMA-Alpaca published the SHA256 of merged models with it.
    """

    size: int
    name: str
    instructions: bool | None
    merged: bool = False


# fmt: off
KNOWN_VOCABULARIES = (
    #               size    name              instructions
    KnownVocabulary(32000,  "LLaMA",           False),               # LLaMA 2 too
    KnownVocabulary(49953,  "Chinese-LLaMA",   False, merged=True),
    KnownVocabulary(49954,  "Chinese-Alpaca",  True,  merged=True),  # Chinese-LLaMA's and [PAD]
    KnownVocabulary(55296,  "Chinese-LLaMA-2", None),                # Chinese-Alpaca-2 too
    KnownVocabulary(128256, "LLaMA-3",         None),
)
# fmt: on

_BY_SIZE = {vocabulary.size: vocabulary for vocabulary in KNOWN_VOCABULARIES}


def known_vocabulary(size: int) -> KnownVocabulary | None:
    """The known vocabulary of that size, if there is one."""
    return _BY_SIZE.get(size)


def size_of_vocabulary(name: str) -> int:
    """The number of pieces of the known vocabulary of that name.

    >>> size_of_vocabulary("Chinese-Alpaca")
    49954
    """
    return next(vocabulary.size for vocabulary in KNOWN_VOCABULARIES if vocabulary.name == name)


def vocabulary_name(size: int) -> str:
    """A vocabulary in words: whose it is where that is known, else its size.

    >>> vocabulary_name(49953), vocabulary_name(1000)
    ('Chinese-LLaMA (49953)', '1000 pieces')
    """
    return f"{_BY_SIZE[size].name} ({size})" if size in _BY_SIZE else f"{size} pieces"
