"""A model whose logits are decided by a function, for tests of what is built upon one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ggmlpy import ModelParams
from llama_ref.arithmetic.transformer import KVCache

__all__ = ["FakeModel", "Pieces"]


class Pieces(list[bytes]):
    """A vocabulary with scores."""

    @property
    def scores(self) -> np.ndarray:
        return np.zeros(len(self), np.float32)


class FakeModel:
    """Answers to the tokens of the whole text; remembers every batch that it was given."""

    def __init__(self, answer: Callable[[list[int]], int], words: Sequence[bytes] = (), n_ctx: int = 64) -> None:
        self.vocab = Pieces([b"?", b"", b"", *(bytes([byte]) for byte in range(256)), *words])
        self.hparams = ModelParams.from_header(len(self.vocab), 4, 4, 1, 1, 4, 0)
        self.n_ctx, self.n_vocab = n_ctx, len(self.vocab)
        self.cache = self.new_cache()
        self.batches: list[tuple[list[int], int]] = []
        self._answer = answer

    def new_cache(self) -> KVCache:
        return KVCache(1, self.n_ctx, 1, 4)

    def evaluate(
        self, tokens: Sequence[int], n_past: int, *, last_only: bool = False, cache: KVCache | None = None
    ) -> np.ndarray:
        cache = cache or self.cache
        seen = [*cache.k[0, :n_past, 0, 0].astype(int).tolist(), *tokens]  # the cache holds the tokens themselves
        cache.k[0, n_past : len(seen), 0, 0] = list(tokens)
        cache.length = len(seen)
        self.batches.append((list(tokens), n_past))
        logits = np.zeros(self.n_vocab, np.float32)
        logits[self._answer(seen)] = 50.0
        return logits
