"""What converters are known to do wrong with the tensors of a checkpoint: one :class:`Mistake` each.

A mistake says what a tensor would be if it had been made; a verifier stores that as the output's file would and
compares the bytes. To add a cause, add a line to :func:`mistakes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.bfloat16 import cut_to_bfloat16, rounded_to_bfloat16
from ggmlpy.formats.tensor_names import find
from llama_ref.checkpoint import Checkpoint, LazyTensor, widen_bfloat16
from llama_ref.checkpoint.layout import in_layout

__all__ = ["Mistake", "cut_to_half", "mistakes", "through", "through_bfloat16", "to_half"]

Change = Callable[[LazyTensor], LazyTensor | None]

PERMUTATION_MISSING = {
    "meta": "rows of wq and wk are in Hugging Face's order: the rotary permutation is missing",
    "huggingface": "rows of q_proj and k_proj are in Meta's order: the rotary permutation is missing",
}
PERMUTED_TWICE = {
    "meta": "rows of wq and wk were turned into Meta's order twice",
    "huggingface": "rows of q_proj and k_proj were turned into Hugging Face's order twice",
}


@dataclass(frozen=True)
class Mistake:
    """A known way to get a tensor wrong before it is stored.

    Attributes:
        name: what was done.
        apply: the tensor as it would be then (Meta name, Meta layout); None where the mistake changes nothing.
    """

    name: str
    apply: Callable[[LazyTensor], LazyTensor | None]


def mistakes(checkpoint: Checkpoint, layout: str = "meta") -> list[Mistake]:
    """What converters are known to do wrong with the tensors of a checkpoint.

    Args:
        layout: of the output, in which a missing permutation is described in other words.
    """
    heads = checkpoint.params

    def permuted(tensor: LazyTensor) -> LazyTensor | None:
        return in_layout(tensor, "huggingface", heads) if find(tensor.name)[0].rotary else None

    def unpermuted(tensor: LazyTensor) -> LazyTensor | None:
        once = tensor.with_(layout="huggingface")
        return in_layout(once, "meta", heads) if find(tensor.name)[0].rotary else None

    missing, twice = (permuted, unpermuted) if layout == "meta" else (unpermuted, permuted)
    return [
        Mistake(PERMUTATION_MISSING[layout], missing),
        Mistake(PERMUTED_TWICE[layout], twice),
        Mistake("values went through bfloat16, cut off", through(cut_through_bfloat16)),
        Mistake("values went through bfloat16, rounded", through(through_bfloat16)),
        Mistake("values were cut off to f16 instead of rounded", through(cut_to_half)),
        Mistake("norms were rounded to f16", lambda t: through(to_half)(t) if len(t.shape) == 1 else None),
        *_shard_mistakes(checkpoint.shard_sizes or {}),
    ]


def through(change: Callable[[NDArray[np.float32]], NDArray[Any]]) -> Callable[[LazyTensor], LazyTensor]:
    """Every value changed, a few rows at a time."""

    def apply(tensor: LazyTensor) -> LazyTensor:
        def read(start: int, stop: int) -> NDArray[Any]:
            with np.errstate(all="ignore"):
                return change(tensor.rows(start, stop).astype(np.float32)).astype(np.float32)

        return tensor.with_(read=read, dtype="float32")

    return apply


def cut_through_bfloat16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return widen_bfloat16(cut_to_bfloat16(x))


def through_bfloat16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return widen_bfloat16(rounded_to_bfloat16(x))


def to_half(x: NDArray[np.float32]) -> NDArray[np.float16]:
    return x.astype(np.float16)


def cut_to_half(x: NDArray[np.float32]) -> NDArray[np.float16]:
    """The half below in magnitude."""
    half = x.astype(np.float16)
    too_far = np.abs(half.astype(np.float32)) > np.abs(x)
    return np.where(too_far, np.nextafter(half, np.float16(0)), half)


# ── shards ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _shard_mistakes(sizes: Mapping[str, Sequence[int]]) -> list[Mistake]:
    """Shards in another order or along another axis, and a row lost where they meet.

    Args:
        sizes: rows or columns of each shard, by tensor; empty if there are no shards.
    """
    if not sizes:
        return []
    shards = _Shards(sizes)
    return [
        Mistake("shards were joined along the other axis", shards.along_the_other_axis),
        Mistake("shards were joined in reverse order", shards.reordered(lambda n: list(range(n))[::-1])),
        Mistake(
            "shards were joined in the order of their names as text",
            shards.reordered(lambda n: sorted(range(n), key=str)),
        ),
        Mistake("rows were lost where shards of unequal size meet", shards.cut_to_the_least),
    ]


@dataclass(frozen=True)
class _Shards:
    """Tensors taken apart where their shards were joined, and joined in another way."""

    sizes: Mapping[str, Sequence[int]]

    def along_the_other_axis(self, tensor: LazyTensor) -> LazyTensor | None:
        parts = self._equal_parts(tensor)
        if parts is None:
            return None
        joined = np.concatenate(parts, axis=1 - (_axis(tensor) or 0))
        return _array(tensor, joined.reshape(tensor.shape))

    def reordered(self, order: Callable[[int], list[int]]) -> Change:
        def change(tensor: LazyTensor) -> LazyTensor | None:
            parts = self._equal_parts(tensor)
            if parts is None:
                return None
            return _array(tensor, np.concatenate([parts[i] for i in order(len(parts))], axis=_axis(tensor) or 0))

        return change

    def cut_to_the_least(self, tensor: LazyTensor) -> LazyTensor | None:
        parts = self._parts(tensor)
        if parts is None or _axis(tensor) != 0:
            return None
        least = min(map(len, parts))
        return _array(tensor, np.concatenate([part[:least] for part in parts]))

    def _equal_parts(self, tensor: LazyTensor) -> list[NDArray[Any]] | None:
        parts = self._parts(tensor)
        return None if parts is None or len({part.shape for part in parts}) > 1 else parts

    def _parts(self, tensor: LazyTensor) -> list[NDArray[Any]] | None:
        axis = _axis(tensor)
        if axis is None or tensor.name not in self.sizes:
            return None
        return np.split(tensor.numpy(), np.cumsum(self.sizes[tensor.name])[:-1], axis=axis)


def _axis(tensor: LazyTensor) -> int | None:
    return find(tensor.name)[0].shard_axis


def _array(tensor: LazyTensor, values: NDArray[Any]) -> LazyTensor:
    return LazyTensor.of_array(tensor.name, values, source=tensor.source, layout=tensor.layout)
