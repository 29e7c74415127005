"""What `bench` measures beside whole tokens: reading alone, multiplying alone, and each kind of matrix by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .arrays import address_of, aligned
from .backend import FastBackend, FastMatrix
from .layouts import CHAINS_OF_PEAK, FLOATS, PANELS, rounded
from .machine_code import call_compiled

if TYPE_CHECKING:
    from llama_ref.arithmetic.transformer import Weights

__all__ = ["Measuring"]

NEARBY = 1 << 16  # bytes between two matrices that are read as one
STEPS = 1 << 18  # of multiplying alone, a call
UNIT = 16 * PANELS  # rows that meet many vectors together


class Measuring:
    """The parts of an evaluation, each on its own, by all threads of a backend.

    Args:
        backend: one that has been prepared.
        n_tokens: vectors that meet a matrix together, at most as many as the backend evaluates in a call.
    """

    def __init__(self, backend: FastBackend, weights: Weights, n_tokens: int) -> None:
        assert backend.kernels is not None
        self.backend, self.products = backend, backend.kernels.products
        self.read_ahead = backend.kernels.read_ahead
        self.read_memory, self.multiply_bytes, self.multiply_floats = backend.kernels.yardsticks
        self.team, self.n_threads = backend.team, backend.n_threads
        self.n_tokens = min(n_tokens, len(backend.x))
        self.matrices = backend.matrices(weights)
        rows, cols = (max(getattr(m, name) for m in self.matrices) for name in ("rows", "cols"))
        n_padded = rounded(max(self.n_tokens, 1), 16)
        self.vectors = aligned(n_padded * rounded(8 * cols, 4096), np.uint8)  # zeros take the time that others take
        self.results = aligned((n_padded, rows), np.float32)

    def of(self, kind: str) -> list[FastMatrix]:
        """The matrices of a kind."""
        return [matrix for matrix in self.matrices if matrix.kind == kind]

    def read(self) -> None:
        """Read every matrix once, each thread long pieces, and do nothing with them."""
        pieces = joined([(address_of(m.blocks), m.blocks.nbytes) for m in self.matrices])

        def share(thread: int) -> None:
            for start, size in pieces:
                first, last = (size * i // self.n_threads // 256 * 256 for i in (thread, thread + 1))
                self.read_memory(start + first, last - first)

        self.team.run(share)

    def multiply(self, kind: str) -> int:
        """Multiply in registers, as a kind of matrix is multiplied; returns how many multiplications that was."""
        function, lanes = self.multiply_floats, 16
        if kind not in FLOATS:
            function, lanes = self.multiply_bytes, 64
        self.team.run(lambda thread: function(STEPS, 0))
        return STEPS * CHAINS_OF_PEAK * lanes * self.n_threads

    def one_vector(self, kind: str) -> None:
        """All matrices of a kind times one vector, as for one token."""
        x, y = address_of(self.vectors), address_of(self.results)

        def share(thread: int) -> None:
            for m in self.of(kind):
                first, last = self._share(m.rows, thread, 4)
                quarter = (last - first) // 4
                ahead = self.read_ahead[kind]
                place = first, quarter, quarter, last
                arguments = x, self._scratch(thread, "sums"), *place, y, 0, ahead.far, ahead.near
                call_compiled(self.products[kind][0], address_of(m.blocks), m.cols, *arguments)

        self.team.run(share)

    def many_vectors(self, kind: str) -> None:
        """All matrices of a kind times as many vectors as there are tokens."""
        x, y = address_of(self.vectors), address_of(self.results)

        def share(thread: int) -> None:
            panel, sums = self._scratch(thread, "panel"), self._scratch(thread, "sums")
            for m in self.of(kind):
                begin, end = self._share(m.rows, thread, UNIT)
                for first in range(begin, end, UNIT):
                    arguments = first, min(first + UNIT, end), self.n_tokens, x, panel, sums, y, 4 * m.rows, 0
                    call_compiled(self.products[kind][1], address_of(m.blocks), m.cols, *arguments)

        self.team.run(share)

    def _share(self, rows: int, thread: int, unit: int) -> tuple[int, int]:
        """A thread's rows, whole units but for the last."""
        first, last = (-(-rows // unit) * i // self.n_threads * unit for i in (thread, thread + 1))
        return min(first, rows), min(last, rows)

    def _scratch(self, thread: int, part: str) -> int:
        plan = self.backend.plan[0]
        return int(plan["scratch_at"] + thread * plan["scratch_bytes"] + plan[f"scratch_{part}"])


def joined(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Address and size of what is in memory one after the other, as few long pieces.

    >>> joined([(100, 50), (0, 90), (1 << 20, 7)])
    [(0, 150), (1048576, 7)]
    """
    result: list[tuple[int, int]] = []
    for start, size in sorted(pieces):
        if result and 0 <= start - sum(result[-1]) < NEARBY:
            result[-1] = result[-1][0], start + size - result[-1][0]
        else:
            result.append((start, size))
    return result
