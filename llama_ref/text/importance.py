"""Measuring an importance matrix: the sums of squares of what each matrix is multiplied by while a model reads a text.

The text is cut into chunks of n_ctx tokens, each read from an empty cache, its first token replaced by the beginning of
sequence where there is one, as llama-imatrix does. Squares add up token by token in float32, as there; activations are
those of the reference arithmetic, so that the numbers are the same within float rounding.

Source: tools/imatrix/imatrix.cpp in llama.cpp (2026).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import UsageError
from llama_ref.arithmetic.reference import ReferenceBackend

from .model import Model

__all__ = ["measure_importance"]

F32 = npt.NDArray[np.float32]

#: results of operations, and the matrices that are multiplied by them
FED = {
    "attn_norm": ("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"),
    "kqv_out": ("blk.{}.attn_output",),
    "ffn_norm": ("blk.{}.ffn_gate", "blk.{}.ffn_up"),
    "ffn_swiglu": ("blk.{}.ffn_down",),
    "result_norm": ("output",),
}


def measure_importance(
    model: Model,
    tokens: Sequence[int],
    *,
    n_chunks: int | None = None,
    with_output: bool = False,
    progress: Callable[[int], object] | None = None,
) -> tuple[dict[str, F32], int, int]:
    """Sums of squares by GGUF's names of matrices (float32 [columns]), how many tokens, and how many chunks.

    Args:
        model: with the reference arithmetic; its cache is overwritten. Its n_ctx is the length of a chunk.
        tokens: the whole text, beginning of sequence included.
        n_chunks: at most so many.
        with_output: measure the output matrix too.
        progress: called with 1 after each chunk.

    Raises:
        UsageError: the text is shorter than one chunk, or the arithmetic is another.
    """
    backend, n_ctx = model.backend, model.n_ctx
    if not isinstance(backend, ReferenceBackend):
        raise UsageError("importance is measured with the reference arithmetic")
    chunks = min(len(tokens) // n_ctx, n_chunks or len(tokens))
    if chunks < 1:
        raise UsageError(
            f"the text has {len(tokens)} tokens, fewer than one chunk of {n_ctx}; give a longer text or a smaller -c"
        )
    sums: dict[str, F32] = {}

    fed = FED if with_output else {name: matrices for name, matrices in FED.items() if name != "result_norm"}

    def add(name: str, x: F32) -> None:
        result, _, layer = name.partition("-")
        for matrix in fed.get(result, ()):
            total = sums.setdefault(f"{matrix.format(layer)}.weight", np.zeros(x.shape[1], np.float32))
            for row in x:
                total += row * row

    bos = model.file.hparams.bos_id
    backend.watch = add
    try:
        for chunk in range(chunks):
            ids = [int(token) for token in tokens[chunk * n_ctx : (chunk + 1) * n_ctx]]
            model.evaluate([1 if bos is None else bos, *ids[1:]], 0)
            if progress:
                progress(1)
    finally:
        backend.watch = None
    return sums, chunks * n_ctx, chunks
