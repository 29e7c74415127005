"""Nothing is said with numbers that are none: a model whose weights or logits are NaN or infinite is refused.

Logits alone do not tell. Where activations are quantized before a product, a NaN among them gets some code, and what
comes out is finite and wrong. So the weights are looked at: a large file's in a thread of their own, beside the rest
of a program's start and the first evaluation, which waits for the result. They are read through the map, as the kernels
will read them: 0.2 s of a processor's time for 4 GB. A file of more than half of the machine's memory would be read
twice from the disk; it is looked at only if its logits are not finite.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError
from ggmlpy.files.mapping import SMALL, physical_memory
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.look.finite import not_finite, not_finite_problem

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile, Tensor

    from .transformer import F32

__all__ = ["FiniteNumbers"]

CHUNK_BYTES = 1 << 20


class _Stopped(Exception):
    """Nobody wants to know any more."""


def _mapped(tensor: Tensor) -> OutTensor:
    """The tensor, read through the map."""

    def chunks() -> Iterator[NDArray[np.uint8]]:
        step = max(1, CHUNK_BYTES // max(1, tensor.row_bytes))
        for start in range(0, tensor.n_rows, step):
            yield tensor.raw_rows(start, start + step)

    return OutTensor(tensor.name, tensor.type, tensor.shape, chunks)


class FiniteNumbers:
    """The weights of an open file, looked at once; and each batch of logits."""

    def __init__(self, file: ModelFile) -> None:
        self._path, self._tensors = file.path, [_mapped(tensor) for tensor in file.stored]
        self._wanted, self._looked = True, False
        self._problem: FormatError | None = None
        self._thread: threading.Thread | None = None
        self._late = file.size > physical_memory() // 2 > 0
        if file.size >= SMALL and not self._late:
            self._thread = threading.Thread(target=self._look, name="finite", daemon=True)
            self._thread.start()

    def check(self, logits: F32) -> None:
        """After an evaluation: are the weights, and what was computed with them, numbers?

        Raises:
            FormatError: they are not.
            TruncatedError: the file has become shorter meanwhile.
        """
        finite = bool(np.isfinite(logits).all())
        if not self._looked and not (finite and self._late):
            if self._thread is not None:
                self._thread.join()
            if not self._looked:  # a small file; or a forked child, which the thread is not in
                self._look()
        if self._problem is not None:
            raise self._problem
        if not finite:
            raise FormatError(
                "logits are NaN or infinite, though every weight is a number",
                path=self._path,
                cause="weights so large that the arithmetic, or keys and values kept in f16, overflow",
                next_step=f"try --memory-f32, or compare with the source: `verify {self._path} --source SOURCE`",
            )

    def stop(self) -> None:
        """Look no further, and have nothing of the file in use."""
        self._wanted = False
        if self._thread is not None:
            self._thread.join()
        self._tensors = []

    def _look(self) -> None:
        try:
            found = [bad for tensor in self._tensors if (bad := not_finite(tensor, self._go_on))]
        except FormatError as error:
            self._problem = error
        except _Stopped:
            return
        else:
            self._problem = not_finite_problem(found, self._path) if found else None
        self._looked = True

    def _go_on(self, _: int) -> None:
        if not self._wanted:
            raise _Stopped
