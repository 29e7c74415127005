"""What ``main`` says on stderr, in our own words: the settings, the prompt and its tokens, where the time went."""

from __future__ import annotations

from collections.abc import Sequence

from llama_ref.vocabulary.tokenizer import Tokenizer
from llama_ref.vocabulary.utf8 import printable

from .conversation import Timings

__all__ = ["prompt_table", "timings_text"]


def prompt_table(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """The tokens of a prompt, one per line, as ``--verbose-prompt`` shows them."""
    return "\n".join(f"{token:6d} -> '{printable(tokenizer.piece(token))}'" for token in tokens)


def timings_text(load_seconds: float, timings: Timings, total_seconds: float) -> str:
    """Where the time went, for stderr."""

    def line(what: str, tokens: int, seconds: float) -> str:
        rate = f"{tokens / seconds:.2f} tokens/s" if tokens and seconds else "-"
        return f"timings: {what:<10} {seconds * 1000:10.2f} ms  {tokens:6d} tokens  {rate}"

    return "\n".join(
        [
            f"timings: {'load':<10} {load_seconds * 1000:10.2f} ms",
            line("prompt", timings.prompt_tokens, timings.prompt_seconds),
            line("generation", timings.generation_tokens, timings.generation_seconds),
            line("sampling", timings.samples, timings.sampling_seconds),
            f"timings: {'total':<10} {total_seconds * 1000:10.2f} ms",
        ]
    )
