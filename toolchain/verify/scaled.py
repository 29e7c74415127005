"""By how much a change was scaled: fitted, then held against every value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.tensor_names import is_known, rename
from ggmlpy.verify.tensors import Found, TensorDifference, decoded
from llama_ref.checkpoint import Checkpoint, LazyTensor, in_layout
from llama_ref.checkpoint.layout import HasHeads
from lora.merging.adapter import Adapter, LoraPair

__all__ = ["Scaled", "meta_name", "meta_values"]

NEAR = 0.02  # a factor nearer to 1 is no factor but rounding
STEPS = 2  # of f16: two roundings in another place


@dataclass(frozen=True)
class Scaled:
    """The explainer of a change that was added with another factor than alpha / r: another alpha, sign, or weight.

    Attributes:
        base, adapters: of the merge.
        change: a pair's change in Meta's order of rows, float32 [rows, columns].
    """

    base: Checkpoint
    adapters: Sequence[Adapter]
    change: Callable[[LoraPair], NDArray[np.float32]]

    def explain(self, found: Found, difference: TensorDifference) -> str | None:
        """The factor of each adapter, if these factors give every value to within rounding."""
        name = meta_name(found.name)
        base = self.base.tensors.get(name)
        pairs = [(a, a.pairs[name]) for a in self.adapters if name in a.pairs]
        replaced = any(name in adapter.replaced for adapter in self.adapters)
        if base is None or not pairs or replaced or found.type.quantized or base.shape != found.shape:
            return None
        there, start = meta_values(found, self.base.params), base.f16().astype(np.float32)
        changes = [self.change(pair) for _, pair in pairs]
        factors = _fitted(there - start, changes)
        if factors is None or all(abs(factor - 1) < NEAR for factor in factors):
            return None
        made = start + sum(np.float32(factor) * change for factor, change in zip(factors, changes, strict=True))
        largest = np.maximum.reduce([np.abs(part) for part in (start, *changes, there)])
        if not _close(made, there, largest):
            return None
        said = [_words(a.path.name if len(pairs) > 1 else "", p, f) for (a, p), f in zip(pairs, factors, strict=True)]
        return "; ".join(said)


def meta_name(key: str) -> str:
    """The Meta name of a tensor, from its name in a report."""
    name = key.rsplit(": ", 1)[-1]
    return rename(name, "meta") if is_known(name) else name


def meta_values(found: Found, heads: HasHeads) -> NDArray[np.float32]:
    """The values of a tensor that was found, rows in Meta's order: float32 [rows, columns]."""
    name = found.name.rsplit(": ", 1)[-1]
    values = decoded(found.row_of(0, found.shape[0]), found.type).reshape(found.shape)
    if name == meta_name(found.name):
        return values
    tensor = LazyTensor.of_array(meta_name(found.name), values, layout="huggingface")
    return in_layout(tensor, "meta", heads).f32()


def _fitted(difference: NDArray[np.float32], changes: Sequence[NDArray[np.float32]]) -> list[float] | None:
    """The factors with which the changes come nearest to a difference."""
    flat = np.stack([change.ravel().astype(np.float64) for change in changes], axis=1)
    target = difference.ravel().astype(np.float64)
    if not np.isfinite(target).all() or not flat.any():
        return None
    return [float(factor) for factor in np.linalg.lstsq(flat.T @ flat, flat.T @ target, rcond=None)[0]]


def _close(made: NDArray[np.float32], there: NDArray[np.float32], largest: NDArray[np.float32]) -> bool:
    """Whether values agree to a few steps of f16 at the size of the largest term, for sums may cancel."""
    with np.errstate(over="ignore", invalid="ignore"):
        step = np.spacing(largest.astype(np.float16)).astype(np.float32)
        return bool(np.all(np.abs(made - there) <= STEPS * step))


def _words(adapter: str, pair: LoraPair, factor: float) -> str:
    of = f" of {adapter}" if adapter else ""
    rank, alpha = pair.rank, pair.scale * pair.rank
    if abs(factor) < NEAR:
        return f"the change{of} was left out"
    if abs(factor - 1) < NEAR:
        return f"the change{of} was added rightly"
    if abs(factor + 1) < NEAR:
        return f"the change{of} was subtracted instead of added"
    if abs(factor / math.sqrt(rank) - 1) < NEAR:
        return f"the change{of} was scaled by alpha / sqrt(r) (rank-stabilized) instead of alpha / r"
    if abs(factor * math.sqrt(rank) - 1) < NEAR:
        return f"the change{of} was scaled by alpha / r instead of alpha / sqrt(r) (rank-stabilized)"
    return f"the change{of} was scaled by {factor:.2g}: alpha {factor * alpha:.3g} for {alpha:.3g}"
