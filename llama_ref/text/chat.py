"""A word of warning before a chat: which models do not follow instructions, by their vocabulary or their file."""

from __future__ import annotations

from ggmlpy.formats.vocabulary_names import known_vocabulary, size_of_vocabulary

__all__ = ["instruction_warning"]


def instruction_warning(n_vocab: int, container: str = "ggjt") -> str | None:
    """Why a model of this vocabulary may disappoint in a chat without a template of its own, None if nothing does.

    >>> instruction_warning(49954) is None, instruction_warning(128256, "gguf")[:33]
    (True, 'the file has no chat template: a ')
    """
    known = known_vocabulary(n_vocab)
    if container == "gguf" and (known is None or known.instructions is None):
        return "the file has no chat template: a base model, it seems, which completes text and follows no instructions"
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
