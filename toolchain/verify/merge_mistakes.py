"""What merges are known to do wrong: the whole merge made again, with one thing done otherwise.

A :class:`Recipe` says how base, changes and sums are rounded and in which order of rows a change is added; the other
mistakes are merges of other adapters. To add a cause, add a line to :func:`merge_mistakes`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.tensor_names import find
from llama_ref.checkpoint import LazyTensor, in_layout
from lora.merging.adapter import Adapter, LoraPair
from lora.merging.merge import MergePlan
from lora.merging.stream import MergedModel

from .as_written import TYPE_NAMES
from .mistakes import Mistake, cut_to_half, through_bfloat16, to_half

__all__ = [
    "NOT_APPLIED",
    "change_in_meta_order",
    "merge_mistakes",
    "precision_mistakes",
    "says_fan_in_fan_out",
    "starting_point",
]

NOT_APPLIED = "the adapter was not applied"
MAX_ORDERS = 23  # of four adapters; nobody has merged five

CHANGE_UNTURNED = {
    "meta": "the changes of wq and wk were added with their rows in Hugging Face's order",
    "huggingface": "the changes of q_proj and k_proj were turned into Hugging Face's order twice",
}
CHANGE_TURNED_TWICE = {
    "meta": "the changes of wq and wk were turned into Meta's order twice",
    "huggingface": "the changes of q_proj and k_proj were added with their rows in Meta's order",
}

Rounding = Callable[[NDArray[np.float32]], NDArray[Any]]
Remake = Callable[[LazyTensor], LazyTensor | None]


def merge_mistakes(plan: MergePlan, layout: str = "meta") -> list[Mistake]:
    """What merges are known to do wrong.

    Args:
        layout: of the output, in which the order of rows is described in other words.
    """
    return [*_other_adapters(plan), *_other_changes(plan, layout), *precision_mistakes(plan)]


# ── other adapters, or the same ones otherwise ────────────────────────────────────────────────────────────────────────


def _other_adapters(plan: MergePlan) -> Iterator[Mistake]:
    model, adapters = plan.model, list(plan.model.adapters)
    touched = {name for adapter in adapters for name in adapter.names}

    def merged(others: Sequence[Adapter]) -> Remake:
        other = MergedModel(plan.base, others, model.fill, model.dtype)
        return lambda tensor: other.tensor(tensor.name) if tensor.name in touched else None

    def with_pairs(change: Callable[[LoraPair], LoraPair]) -> Remake:
        return merged([replace(a, pairs={n: change(p) for n, p in a.pairs.items()}) for a in adapters])

    def rescaled(scale: Callable[[LoraPair], float]) -> Remake:
        return with_pairs(lambda pair: replace(pair, scale=scale(pair)))

    def kept(tensor: LazyTensor) -> LazyTensor | None:
        return plan.base.tensors[tensor.name] if tensor.name in touched else None

    yield Mistake(NOT_APPLIED, kept)
    yield Mistake("the adapter was applied twice", merged([*adapters, *adapters]))
    yield Mistake("alpha / r was forgotten (the change was added unscaled)", rescaled(lambda pair: 1.0))
    yield Mistake("the change was scaled by alpha, not divided by r", rescaled(lambda pair: pair.scale * pair.rank))
    yield Mistake("the change was divided by r, not multiplied by alpha", rescaled(lambda pair: 1.0 / pair.rank))
    yield Mistake(_transposing(adapters), with_pairs(_transposed))
    yield Mistake("the adapter was rounded to f16 before it was multiplied", with_pairs(_rounded_factors(to_half)))
    yield Mistake(
        "the adapter was rounded to bfloat16 before it was multiplied", with_pairs(_rounded_factors(through_bfloat16))
    )
    orders = [order for order in itertools.permutations(adapters) if list(order) != adapters]
    for order in orders[:MAX_ORDERS]:
        yield Mistake(f"adapters were applied in another order: {_names(order)}", merged(order))
    for some in (adapters[:n] for n in range(1, len(adapters))):
        yield Mistake(f"only the first adapters were applied: {_names(some)}", merged(some))


def _names(adapters: Sequence[Adapter]) -> str:
    return ", ".join(adapter.path.name for adapter in adapters)


def _transposing(adapters: Sequence[Adapter]) -> str:
    """The name of adding changes transposed; the v1.1 script does so on purpose where an adapter says so."""
    by_script = ", as the v1.1 script does with fan_in_fan_out (`merge --fan-in-fan-out v1.1`)"
    return "the change was added transposed" + (by_script if says_fan_in_fan_out(adapters) else "")


def says_fan_in_fan_out(adapters: Sequence[Adapter]) -> bool:
    """Whether an adapter's configuration says ``fan_in_fan_out: true``."""
    return any(adapter.config.fan_in_fan_out for adapter in adapters)


def _transposed(pair: LoraPair) -> LoraPair:
    """The change the other way round, where its shape allows."""
    rows, columns = pair.shape
    return replace(pair, transposed=not pair.transposed) if rows == columns else pair


def _rounded_factors(rounding: Rounding) -> Callable[[LoraPair], LoraPair]:
    def rounded(tensor: LazyTensor) -> LazyTensor:
        with np.errstate(over="ignore"):
            return LazyTensor.of_array(tensor.name, rounding(tensor.f32()).astype(np.float32))

    return lambda pair: replace(pair, a=rounded(pair.a), b=rounded(pair.b))


# ── other arithmetic ──────────────────────────────────────────────────────────────────────────────────────────────────


def _as_it_is(x: NDArray[Any]) -> NDArray[Any]:
    return x


ROUNDINGS: dict[str, Rounding] = {"float16": to_half, "bfloat16": through_bfloat16, "float32": _as_it_is}


def change_in_meta_order(plan: MergePlan, pair: LoraPair) -> NDArray[np.float32]:
    """scale * (B @ A) in Meta's order of rows: float32 [rows, columns], the inner product in ascending order."""
    return _turned(plan, pair.name, _change(pair))


def _change(pair: LoraPair) -> NDArray[np.float32]:
    """scale * (B @ A) with the rows as the adapter has them."""
    left, right = pair.factors()
    total = np.zeros((left.shape[0], right.shape[1]), np.float32)
    for k in range(left.shape[1]):
        total += left[:, k : k + 1] * right[k : k + 1]
    return total * np.float32(pair.scale)


def _turned(plan: MergePlan, name: str, change: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of Hugging Face's order in Meta's."""
    if not find(name)[0].rotary:
        return change
    return in_layout(LazyTensor.of_array(name, change, layout="huggingface"), "meta", plan.base.params).numpy()


def starting_point(plan: MergePlan, name: str) -> tuple[LazyTensor | None, list[LoraPair]]:
    """The tensor that changes are added to, and those changes: the last adapter that replaces it counts."""
    replacing = [index for index, adapter in enumerate(plan.adapters) if name in adapter.replaced]
    later = plan.adapters[replacing[-1] :] if replacing else plan.adapters
    pairs = [adapter.pairs[name] for adapter in later if name in adapter.pairs]
    if not replacing:
        return plan.base.tensors.get(name), pairs
    whole = plan.adapters[replacing[-1]].replaced[name].with_(name=name, layout="huggingface")
    return in_layout(whole, "meta", plan.base.params), pairs


@dataclass(frozen=True)
class Recipe:
    """A merge whose base, changes, sums or results are rounded in other ways than ours, or whose changes are others.

    Attributes:
        base, change, result: float32 [rows, columns] -> what becomes of it; None of ``result``: rounded as ours.
        sum: likewise, after each adapter; None: as the result.
        change_of: a pair's change in Meta's order of rows.
        only_changed: whether tensors that no adapter changes stay as they are.
    """

    plan: MergePlan
    base: Rounding = _as_it_is
    change: Rounding = _as_it_is
    sum: Rounding | None = None
    result: Rounding | None = None
    change_of: Callable[[MergePlan, LoraPair], NDArray[np.float32]] = change_in_meta_order
    only_changed: bool = False

    def apply(self, tensor: LazyTensor) -> LazyTensor | None:
        """The tensor as such a merge has it."""
        start_at, pairs = starting_point(self.plan, tensor.name)
        if start_at is None or start_at.shape != tensor.shape or (self.only_changed and not pairs):
            return None
        result = self.result or ROUNDINGS[self.plan.model.dtype_of(tensor.name)]
        after_each = self.sum or result

        def read(start: int, stop: int) -> NDArray[Any]:
            with np.errstate(all="ignore"):
                values = self.base(start_at.rows(start, stop).astype(np.float32)).astype(np.float32)
                for pair in pairs:
                    change = self.change(self.change_of(self.plan, pair)[start:stop]).astype(np.float32)
                    values = after_each(values + change).astype(np.float32)
                return result(values).astype(np.float32)

        return tensor.with_(read=read, dtype="float32")


def _other_changes(plan: MergePlan, layout: str) -> Iterator[Mistake]:
    """Changes rounded, summed or turned otherwise."""

    def unturned(plan: MergePlan, pair: LoraPair) -> NDArray[np.float32]:
        return _change(pair)

    def turned_twice(plan: MergePlan, pair: LoraPair) -> NDArray[np.float32]:
        return _turned(plan, pair.name, change_in_meta_order(plan, pair))

    changed = Recipe(plan, only_changed=True)
    dtype = plan.model.dtype or "bfloat16"
    if dtype != "float32":
        narrow = replace(changed, change=ROUNDINGS[dtype])
        yield Mistake(f"the change was rounded to {TYPE_NAMES[dtype]} before it was added", narrow.apply)
    if len(plan.adapters) > 1:  # with one adapter this is the right way
        yield Mistake("all changes were added before the only rounding", replace(changed, sum=_as_it_is).apply)
    yield Mistake(CHANGE_UNTURNED[layout], replace(changed, change_of=unturned).apply)
    yield Mistake(CHANGE_TURNED_TWICE[layout], replace(changed, change_of=turned_twice).apply)


def precision_mistakes(plan: MergePlan) -> list[Mistake]:
    """The whole merge in another precision: each explains every tensor, those included that no adapter touches."""
    plain = Recipe(plan)
    in_bfloat16 = replace(plain, base=through_bfloat16, result=through_bfloat16)
    all_in_bfloat16 = replace(in_bfloat16, change=through_bfloat16)
    return [
        Mistake("the base went through bfloat16 before it was merged", replace(plain, base=through_bfloat16).apply),
        Mistake("the merge was computed in bfloat16", in_bfloat16.apply),
        Mistake("the merge was computed in bfloat16, the changes too", all_in_bfloat16.apply),
        Mistake("the merge was computed in f32 and not rounded to f16", replace(plain, result=_as_it_is).apply),
        Mistake("values were cut off to f16 instead of rounded", replace(plain, result=cut_to_half).apply),
    ]
