"""A word of warning before a chat: which vocabularies belong to models that do not follow instructions."""

from __future__ import annotations

__all__ = ["instruction_warning"]

# fmt: off
NOT_FOR_INSTRUCTIONS = {
    32000: "32000 tokens are the vocabulary of the original LLaMA: unless this is an English Alpaca, it completes text "
           "and does not follow instructions",
    49953: "49953 tokens are the vocabulary of Chinese-LLaMA, which completes text and does not follow instructions; "
           "Chinese-Alpaca has 49954",
}
# fmt: on


def instruction_warning(n_vocab: int) -> str | None:
    """Why a model of this vocabulary may disappoint in a chat, None if nothing speaks against it.

    >>> instruction_warning(49954) is None
    True
    """
    return NOT_FOR_INSTRUCTIONS.get(n_vocab)
