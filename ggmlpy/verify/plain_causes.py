"""Causes that need no recomputing: they are seen in what was found beside what was expected.

Each is a function of the difference and the two tensors, tried on every tensor that differs, whatever the step.
:data:`EXACT` holds those that account for every byte; they are tried before any mistake is. Those of :data:`SEEN` say
what the differing values are, not how they came about: they are tried where no mistake explains a tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .tensors import Found, TensorDifference, decoded

__all__ = ["EXACT", "SEEN"]


def _same_values(found: Found, difference: TensorDifference) -> str | None:
    expected, there = difference.types
    if not difference.odd or difference.n_different or not difference.n_values:
        return None
    ours, theirs = expected.split("-20")[0], there.split("-20")[0]  # layouts carry the date of their codes
    return None if ours == theirs else f"same values, stored as {theirs} instead of {ours}"


def _one_bit(found: Found, difference: TensorDifference) -> str | None:
    """A single value (or code) that differs in a single bit: a faulty disk, memory or download."""
    ours, theirs = difference.a, difference.b
    if difference.odd or difference.n_different != 1 or ours is None or theirs is None:
        return None
    if ours.codes or theirs.codes:
        changed = [a ^ b for a, b in zip(ours.codes, theirs.codes, strict=True) if a != b]
        same = ours.fields == theirs.fields
    elif found.type.quantized:
        return None
    else:
        kind = np.float16 if found.type.name == "f16" else np.float32
        bits = np.array([ours.values[0], theirs.values[0]], np.float32).astype(kind)
        pair = bits.view(f"u{bits.itemsize}").tolist()
        same, changed = True, [(pair[0] ^ pair[1]) >> (16 if found.type.name == "bf16" else 0)]
    one = same and len(changed) == 1 and changed[0].bit_count() == 1
    return f"one bit is flipped (bit {changed[0].bit_length() - 1} of the value)" if one else None


def _not_finite(found: Found, difference: TensorDifference) -> str | None:
    every = difference.n_different and difference.n_not_finite == difference.n_different
    return "values are NaN or infinite" if every else None


def _zeroed(found: Found, difference: TensorDifference) -> str | None:
    every = difference.n_different and difference.n_zero == difference.n_different
    return "values are zero" if every else None


def _ones(found: Found, difference: TensorDifference) -> str | None:
    """A norm that was made and never loaded."""
    if difference.odd or len(found.shape) != 1:
        return None
    return "all values are 1: never loaded" if (decoded(found.row_of(0, 1), found.type) == 1).all() else None


SEEN: tuple[Callable[[Found, TensorDifference], str | None], ...] = (_one_bit, _not_finite, _zeroed, _ones)
EXACT: tuple[Callable[[Found, TensorDifference], str | None], ...] = (_same_values,)
