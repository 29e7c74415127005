"""A word of warning before a chat: which vocabularies belong to models that do not follow instructions."""

from __future__ import annotations

from ggmlpy.formats.vocabulary_names import known_vocabulary, size_of_vocabulary

__all__ = ["instruction_warning"]


def instruction_warning(n_vocab: int) -> str | None:
    """Why a model of this vocabulary may disappoint in a chat, None if nothing speaks against it.

    >>> instruction_warning(49954) is None
    True
    """
    known = known_vocabulary(n_vocab)
    if known is None or known.instructions is not False:
        return None
    if known.name == "LLaMA":
        return (
            f"{n_vocab} tokens are the vocabulary of the original LLaMA: unless this is an English Alpaca, it "
            "completes text and does not follow instructions"
        )
    return (
        f"{n_vocab} tokens are the vocabulary of {known.name}, which completes text and does not follow instructions; "
        f"Chinese-Alpaca has {size_of_vocabulary('Chinese-Alpaca')}"
    )
