"""Perplexity, as llama.cpp's `perplexity` of 2023-03-31 computes it.

The text is cut into chunks of n_ctx tokens. Of each chunk the first n_ctx - 1 tokens are evaluated at once from an
empty cache, and the tokens of its second half are scored, so that each has at least n_ctx / 2 tokens before it. The
result is exp(mean of -log p). Numbers of two models compare only over the same tokens: where vocabularies differ, bits
per byte and bits per character of the scored text do.

Source: examples/perplexity/perplexity.cpp, llama.cpp 352589927.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import MissingFileError, UsageError
from ggmlpy.files.texts import LARGEST_TEXT, read_bounded
from llama_ref.arithmetic.exact.libm import expf, logf

from .model import Model

__all__ = ["Perplexity", "chunk_count", "perplexity", "read_text", "scored_chunks", "surprises"]


@dataclass(frozen=True)
class Perplexity:
    """The state after a chunk; the last one is the result.

    Attributes:
        chunk, n_chunks: how far we are; chunks count from 1.
        nll: sum of -log p over the scored tokens, in nats.
        n_tokens: how many tokens were scored.
        n_bytes, n_characters: the text that they stand for, in bytes and in UTF-8 characters.
    """

    chunk: int
    n_chunks: int
    nll: float
    n_tokens: int
    n_bytes: int
    n_characters: int

    @property
    def value(self) -> float:
        """The perplexity over all chunks so far."""
        return math.exp(self.nll / self.n_tokens)

    @property
    def bits_per_byte(self) -> float:
        """Bits of information a byte of the scored text; nan if it has none."""
        return self.nll / math.log(2) / self.n_bytes if self.n_bytes else math.nan

    @property
    def bits_per_character(self) -> float:
        """Bits of information a character of the scored text; nan if it has none."""
        return self.nll / math.log(2) / self.n_characters if self.n_characters else math.nan

    def as_dict(self) -> dict[str, float]:
        """Every figure by name, for JSON."""
        derived = ("bits_per_byte", "bits_per_character")
        return {"perplexity": self.value, **asdict(self), **{name: getattr(self, name) for name in derived}}


def perplexity(
    model: Model, tokens: Sequence[int], progress: Callable[[float], object] | None = None
) -> Iterator[Perplexity]:
    """Yield the running perplexity of `tokens` after each chunk of ``model.n_ctx`` tokens.

    Args:
        model: its cache is overwritten. Its n_ctx is the length of a chunk.
        tokens: the whole text, beginning of sequence included.
        progress: called with how many chunks are done, the part of the current one included.

    Raises:
        UsageError: see :func:`chunk_count`.
    """
    n_chunks = chunk_count(len(tokens), model.n_ctx)
    nll, n_tokens, n_bytes, n_characters = 0.0, 0, 0, 0
    for chunk, (rows, scored) in enumerate(scored_chunks(model, tokens, progress)):
        for surprise in surprises(rows, scored).tolist():
            nll += surprise
        text = b"".join(model.vocab[token] for token in scored)
        n_tokens, n_bytes = n_tokens + len(scored), n_bytes + len(text)
        n_characters += sum(byte & 0xC0 != 0x80 for byte in text)
        yield Perplexity(chunk + 1, n_chunks, nll, n_tokens, n_bytes, n_characters)


def chunk_count(n_tokens: int, n_ctx: int) -> int:
    """Into how many chunks a text is cut.

    Raises:
        UsageError: the text is shorter than one chunk, or a chunk than four tokens.
    """
    if n_ctx < 4:
        raise UsageError(f"a chunk of {n_ctx} tokens has no second half to score; give a context of 4 or more")
    if n_tokens < n_ctx:
        raise UsageError(
            f"the text has {n_tokens} tokens, fewer than one chunk of {n_ctx}; give a longer text or a smaller -c"
        )
    return n_tokens // n_ctx


def scored_chunks(
    model: Model, tokens: Sequence[int], progress: Callable[[float], object] | None = None, first: int = 0
) -> Iterator[tuple[npt.NDArray[np.float32], list[int]]]:
    """Of each chunk the logits [scored, n_vocab] by which its second half is scored, and the tokens there.

    Args:
        progress: called with how many chunks are done, the part of the current one included.
        first: the chunk to begin with.
    """
    n_ctx = model.n_ctx
    try:
        for chunk in range(first, chunk_count(len(tokens), n_ctx)):
            if progress:
                model.backend.progress = lambda part, chunk=chunk: progress(chunk + part)
            ids = [int(token) for token in tokens[chunk * n_ctx : (chunk + 1) * n_ctx]]
            yield model.evaluate(ids[:-1], 0)[n_ctx // 2 :], ids[n_ctx // 2 + 1 :]
    finally:
        model.backend.progress = None


def read_text(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a text file.

    Raises:
        MissingFileError: there is no such file, or it can't be read.
        FormatError: there is more than 256 MB of it.
    """
    try:
        return read_bounded(path, LARGEST_TEXT)
    except OSError as error:
        raise MissingFileError(
            f"cannot read the text: {error.strerror}", path=path, next_step="check the name and the directory"
        ) from error


def surprises(rows: npt.NDArray[np.float32], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """-log p of each token under its row of logits [n, n_vocab]: float32 [n], rounded as the C++ does.

    exp and log are glibc's float functions; the sum of the exponentials is a double, added in order.
    """
    e = expf(rows - rows.max(axis=1, keepdims=True))  # [n, n_vocab]
    total = np.cumsum(e, axis=1, dtype=np.float64)[:, -1]  # cumsum adds in order, where sum adds in pairs
    p = (e[np.arange(len(tokens)), tokens].astype(np.float64) / total).astype(np.float32)
    with np.errstate(divide="ignore"):
        return -logf(p)
