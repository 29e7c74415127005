"""Whether differences are no more than what the order of a sum allows: adapters in f32 have no one right result.

The products of f16 numbers are exact in f32, and sums of a few of them mostly are, so every way to multiply f16
adapters gives the same bits. With f32 adapters each order of the sum rounds otherwise, and a BLAS chooses its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.tensor_names import find
from ggmlpy.verify.judge import OutputReport
from ggmlpy.verify.tensors import Found, TensorDifference
from llama_ref.checkpoint import LazyTensor, in_layout
from lora.merging.adapter import LoraPair
from lora.merging.merge import MergePlan

from .merge_mistakes import ROUNDINGS, starting_point
from .scaled import meta_name, meta_values

__all__ = ["OrderOfSums", "within_rounding"]

ALLOWED = "the order of torch's sums allows it"
HALF_STEP = 2.0**-24  # of f32, relative
ROWS = 256  # looked at together

Interval = tuple[NDArray[np.float64], NDArray[np.float64]]  # least and largest, [rows, columns]


@dataclass(frozen=True)
class OrderOfSums:
    """The explainer of values that some order of f32 sums gives, where an adapter is stored in f32."""

    plan: MergePlan

    def explain(self, found: Found, difference: TensorDifference) -> str | None:
        """:data:`ALLOWED`, if every value lies where a sum in f32 may end."""
        name = meta_name(found.name)
        start_at, pairs = starting_point(self.plan, name)
        if start_at is None or start_at.shape != found.shape or difference.odd:
            return None
        if not any("float32" in (pair.a.dtype, pair.b.dtype) for pair in pairs):
            return None
        there = meta_values(found, self.plan.base.params)
        rounding = ROUNDINGS[self.plan.model.dtype_of(name)]
        for start in range(0, len(there), ROWS):
            stop = min(start + ROWS, len(there))
            low, high = self._reach(start_at, pairs, start, stop, rounding)
            if not ((there[start:stop] >= low) & (there[start:stop] <= high)).all():
                return None
        return ALLOWED

    def _reach(
        self, start_at: LazyTensor, pairs: list[LoraPair], start: int, stop: int, rounding: Callable[..., NDArray]
    ) -> Interval:
        """Between which values the merged rows may lie."""

        def rounded(x: NDArray[np.float64]) -> NDArray[np.float64]:
            with np.errstate(over="ignore"):
                return rounding(x.astype(np.float32)).astype(np.float64)

        values = rounded(start_at.rows(start, stop).astype(np.float64))
        low, high = values, values
        for pair in pairs:
            left, right = self._factors(pair, start, stop)
            change, magnitude = left @ right * pair.scale, np.abs(left) @ np.abs(right) * abs(pair.scale)
            error = (left.shape[1] + 2) * HALF_STEP * magnitude
            error = error + 2 * HALF_STEP * (np.maximum(np.abs(low), np.abs(high)) + np.abs(change))
            low, high = rounded(low + change - error), rounded(high + change + error)
        return low, high

    def _factors(self, pair: LoraPair, start: int, stop: int) -> Interval:
        """float64 [rows, r] and [r, columns], rows in Meta's order."""
        left, right = pair.factors()
        if find(pair.name)[0].rotary:
            turned = LazyTensor.of_array(pair.name, left, layout="huggingface")
            left = in_layout(turned, "meta", self.plan.base.params).numpy()
        return left[start:stop].astype(np.float64), right.astype(np.float64)


def within_rounding(report: OutputReport) -> str:
    """How far values are off, in words, if the order of sums accounts for everything that differs; else ""."""
    if report.unexplained or [cause.name for cause in report.causes] != [ALLOWED]:
        return ""
    steps = max(tensor.max_ulp for tensor in report.differing)
    within = f"within {'one' if steps == 1 else steps} {report.differing[0].types[0]} step{'s' if steps > 1 else ''}"
    different, values = (sum(getattr(t, key) for t in report.tensors) for key in ("n_different", "n_values"))
    return f"{within}, {different:,} of {values:,} values: {ALLOWED}"
