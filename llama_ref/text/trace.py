"""Intermediate values: what every operation of an evaluation gave, by the names that llama.cpp has for them.

==================================  ============================  ==============================================
name                                shape                         what it is
==================================  ============================  ==============================================
inp_embd                            [n_tokens, n_embd]            rows of the embedding matrix
attn_norm-0                         [n_tokens, n_embd]            the first norm of layer 0
Qcur-0, Kcur-0                      [n_tokens, heads, head_dim]   queries and keys, roped
Qcur_normed-0, Kcur_normed-0        [n_tokens, heads, head_dim]   the same not yet roped, where heads are normed
Vcur-0                              [n_tokens, n_kv]              values
kq-0, kq_soft_max-0                 [n_head, n_tokens, n_seen]    scores before they are scaled; probabilities
kqv-0                               [n_head, n_tokens, head_dim]  attention, head by head
kqv_out-0                           [n_tokens, n_q]               the same, joined
attn_out-0                          [n_tokens, n_embd]            the same, through the output matrix
ffn_inp-0, ffn_norm-0               [n_tokens, n_embd]            the residual, and the second norm
ffn_gate-0, ffn_up-0, ffn_swiglu-0  [n_tokens, n_ff]              the feed-forward layer
ffn_out-0, l_out-0                  [n_tokens, n_embd]            its result, and that of the layer
result_norm                         [n_tokens, n_embd]            the last norm
result_output                       [n_tokens, n_vocab]           the logits
==================================  ============================  ==============================================

Only the reference arithmetic looks into the attention (kq, kq_soft_max, kqv). The fast one computes a layer in one
piece and has none of them. Where llama.cpp uses a name twice (queries before and after they are roped), the last one
counts.

Source: src/llama-graph.cpp and src/models/llama.cpp of llama.cpp (2026).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import OutputError, UsageError

from .logits import logits, write_logits
from .model import Model

__all__ = ["trace_logits", "watched"]

F32 = npt.NDArray[np.float32]


def trace_logits(
    model: Model,
    tokens: Sequence[int],
    folder: str | os.PathLike[str],
    progress: Callable[[float], object] | None = None,
) -> tuple[F32, list[str]]:
    """The logits of tokens, all evaluated at once, and the names of what was written on the way.

    Args:
        folder: gets a ``.npy`` of float32 for each name; it is made if need be.

    Raises:
        UsageError: the arithmetic has no intermediate values, or as :func:`~llama_ref.text.logits.logits`.
        OutputError: a file could not be written.
    """
    folder, names = Path(folder), dict[str, None]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words, step = f"the trace cannot be written: {error.strerror}", "name a folder"
        raise OutputError(words, path=folder, next_step=step) from error

    def write(name: str, x: F32) -> None:
        names[name] = None
        write_logits(folder / f"{name}.npy", x)

    with watched(model, write):
        return logits(model, tokens, progress=progress), list(names)


@contextmanager
def watched(model: Model, watch: Callable[[str, F32], object]) -> Iterator[None]:
    """Call ``watch`` with the name and the values of each operation's result.

    Raises:
        UsageError: the arithmetic has no intermediate values.
    """
    if model.backend.name == "fast":
        raise UsageError(
            "the fast arithmetic computes a layer in one piece and keeps no intermediate values: take "
            "--numerics reference, or exact"
        )
    model.backend.watch = watch
    try:
        yield
    finally:
        model.backend.watch = None
