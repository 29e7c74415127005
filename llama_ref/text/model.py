"""A model that continues texts: the front door for programs.

The transformer itself is :func:`llama_ref.arithmetic.transformer.forward`; what evaluates tokens with it is
:class:`llama_ref.arithmetic.evaluator.Evaluator`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llama_ref.arithmetic.evaluator import Evaluator

if TYPE_CHECKING:
    from .conversation import Token
    from .sampling import SamplingOptions

__all__ = ["Model"]


class Model(Evaluator):
    """A model file, the arithmetic chosen for it, and a key/value cache: evaluates tokens and continues texts.

    Example:
        >>> model = Model.from_file("model.bin", numerics="exact", build="avx2")  # doctest: +SKIP
        >>> logits = model.evaluate([1, 15043], n_past=0)  # doctest: +SKIP
        >>> logits.shape  # doctest: +SKIP
        (2, 32000)
    """

    def generate(
        self, prompt: str | bytes | Sequence[int], *, max_tokens: int = 128, sampling: SamplingOptions | None = None
    ) -> Iterator[Token]:
        """Continue a prompt in a conversation of its own: yields tokens with .id, .bytes, .text and .logprob.

        Several continuations may go on at the same time, in turns or in threads; each gives the text that it would
        give alone. Each takes the memory of a key/value cache, as much as it has filled, until its iterator is gone.

        Example:
            >>> for token in model.generate("你好", max_tokens=20):  # doctest: +SKIP
            ...     print(token.text, end="", flush=True)
        """
        from .conversation import Conversation
        from .sampling import SamplingOptions

        return Conversation(self, sampling or SamplingOptions()).say(prompt, max_tokens=max_tokens)
