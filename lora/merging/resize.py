"""Rows for tokens that were never trained: growing an embedding or output matrix by a named initialization.

A vocabulary that grows without trained embeddings makes a model that cannot use its new tokens until it is trained; a
merge therefore does this only when asked to. The ways to begin:

=========  ===========================================================================================================
zeros      all zeros
mean       the mean of the base's rows
normal     N(0, 0.02), what transformers does silently; here from a seed, so that the result can be made again
pieces     the mean of the rows of the old pieces that spell the new one (Chinese-LLaMA's successors train from this)
=========  ===========================================================================================================
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from ggmlpy.files.errors import UsageError
from llama_ref.checkpoint import LazyTensor
from llama_ref.vocabulary.tokenizer_file import read_tokenizer

__all__ = ["INITIALIZATIONS", "grow", "spellings"]

INITIALIZATIONS = ("zeros", "mean", "normal", "pieces")
STANDARD_DEVIATION = 0.02  # initializer_range of LLaMA's config.json
BLOCK = 256  # rows drawn from one generator, so that any part can be drawn without the rest


def grow(
    tensor: LazyTensor,
    n_vocab: int,
    init: str,
    *,
    seed: int = 0,
    pieces: Sequence[Sequence[int]] = (),
) -> LazyTensor:
    """``tensor`` [old, n_embd] with rows added up to ``n_vocab``, made as they are read.

    Args:
        init: one of :data:`INITIALIZATIONS`.
        seed: for "normal"; another tensor gets other numbers from the same seed.
        pieces: for "pieces": the old ids that spell each new token, see :func:`spellings`.

    Returns a tensor in the same element type, or float32 for bfloat16.

    Raises:
        UsageError: an unknown name, fewer rows than there are, or not one spelling for each new token.

    >>> old = LazyTensor.of_array("tok_embeddings.weight", np.array([[1, 2], [3, 6]], np.float16))
    >>> grow(old, 3, "mean").numpy().tolist(), grow(old, 3, "pieces", pieces=[[1]]).numpy()[2].tolist()
    ([[1.0, 2.0], [3.0, 6.0], [2.0, 4.0]], [3.0, 6.0])
    """
    n_old, n_embd = tensor.shape
    n_new = n_vocab - n_old
    if n_new < 0:
        raise UsageError(f"{tensor.name} has {n_old} rows; it cannot be grown to {n_vocab}")
    if init == "pieces" and len(pieces) != n_new:
        raise UsageError(f"{n_new} new tokens, {len(pieces)} spellings")
    make = _maker(tensor, init, seed, pieces)
    dtype = np.dtype(np.float32 if tensor.dtype == "bfloat16" else tensor.dtype)

    def read(start: int, stop: int) -> np.ndarray:
        old = tensor.rows(min(start, n_old), min(stop, n_old))
        new = make(max(start - n_old, 0), max(stop - n_old, 0))  # [rows, n_embd]
        return np.concatenate((old, new.astype(dtype)), dtype=dtype) if len(new) else old

    return LazyTensor(
        tensor.name, (n_vocab, n_embd), dtype.name, read, f"{tensor.source}, {n_new} rows added ({init})", tensor.layout
    )


def _maker(
    tensor: LazyTensor, init: str, seed: int, pieces: Sequence[Sequence[int]]
) -> Callable[[int, int], np.ndarray]:
    """``make(start, stop)`` returns those of the new rows as float32 [stop - start, n_embd]."""
    n_embd = tensor.shape[1]
    if init == "zeros":
        return lambda start, stop: np.zeros((stop - start, n_embd), np.float32)
    if init == "mean":
        mean = lru_cache(maxsize=1)(lambda: _mean_row(tensor))
        return lambda start, stop: np.repeat(mean()[None], stop - start, axis=0)
    if init == "normal":
        return lambda start, stop: _normal_rows(tensor.name, n_embd, seed, start, stop)
    if init == "pieces":
        return lambda start, stop: _spelled_rows(tensor, pieces[start:stop])
    raise UsageError(f"unknown initialization {init!r}; choose one of {', '.join(INITIALIZATIONS)}")


def _mean_row(tensor: LazyTensor, step: int = 4096) -> np.ndarray:
    total = np.zeros(tensor.shape[1], np.float64)
    for start in range(0, tensor.shape[0], step):
        total += tensor.rows(start, min(start + step, tensor.shape[0])).sum(axis=0, dtype=np.float64)
    return (total / tensor.shape[0]).astype(np.float32)


def _normal_rows(name: str, n_embd: int, seed: int, start: int, stop: int) -> np.ndarray:
    first = start // BLOCK
    blocks = [
        np.random.default_rng([seed, zlib.crc32(name.encode()), block]).standard_normal((BLOCK, n_embd), np.float32)
        for block in range(first, -(-stop // BLOCK))
    ]
    drawn = np.concatenate(blocks) if blocks else np.zeros((0, n_embd), np.float32)
    return drawn[start - first * BLOCK : stop - first * BLOCK] * np.float32(STANDARD_DEVIATION)


def _spelled_rows(tensor: LazyTensor, pieces: Sequence[Sequence[int]]) -> np.ndarray:
    rows = [np.concatenate([tensor.rows(i, i + 1) for i in ids]).mean(axis=0, dtype=np.float32) for ids in pieces]
    return np.array(rows, np.float32).reshape(len(rows), tensor.shape[1])


def spellings(tokenizer: str | os.PathLike[str], texts: Sequence[bytes]) -> list[list[int]]:
    """The ids of the old ``tokenizer`` (a tokenizer.model) that spell each new piece.

    A piece without a leading ``▁`` is spelled without the one that SentencePiece puts in front of a text.
    """
    processor = read_tokenizer(tokenizer)
    space = processor.piece_to_id("▁")
    spelled = []
    for text in (raw.decode("utf-8", "replace") for raw in texts):
        ids = processor.encode(text.removeprefix("▁").replace("▁", " "))
        bare = ids[1:] if len(ids) > 1 and ids[0] == space and not text.startswith("▁") else ids
        spelled.append(bare or [processor.unk_id()])
    return spelled
