"""Causes that need no recomputing: they are seen in what was found beside what was expected.

Each is a function of the difference and the two tensors, tried on every tensor that differs, whatever the step.
:data:`EXACT` holds those that account for every byte; they are tried before any mistake is.
"""

from __future__ import annotations

from collections.abc import Callable

from .tensors import Found, TensorDifference

__all__ = ["EXACT"]


def _same_values(found: Found, difference: TensorDifference) -> str | None:
    expected, there = difference.types
    if not difference.odd or difference.n_different or not difference.n_values:
        return None
    ours, theirs = expected.split("-20")[0], there.split("-20")[0]  # layouts carry the date of their codes
    return None if ours == theirs else f"same values, stored as {theirs} instead of {ours}"


EXACT: tuple[Callable[[Found, TensorDifference], str | None], ...] = (_same_values,)
