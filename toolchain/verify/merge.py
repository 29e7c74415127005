"""Verifying what another program made of a base and its adapters.

What is expected is the merge that :mod:`lora.merging.merge` would write; :func:`merge_mistakes` are what merges are
known to get wrong, beside what converters do (:func:`toolchain.verify.mistakes.mistakes`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import UsageError
from ggmlpy.files.ordered import Workers
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.file_types import FTYPES
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import find
from ggmlpy.verify.judge import Deviation, Expected, Explainer, OutputReport, Progress, verify_model
from ggmlpy.verify.tensors import Found, TensorDifference, decoded
from llama_ref.checkpoint import Checkpoint, LazyTensor, open_checkpoint
from llama_ref.checkpoint.weights import weights_kind
from lora.merging.adapter import Adapter, LoraPair
from lora.merging.merge import MergePlan, plan_merge
from lora.merging.stream import MergedModel
from lora.merging.targets import DirectoryTarget, GgmlTarget, target_of

from .beside import folder_differences
from .conversion import deviations_of
from .mistakes import Mistake, cut_to_half, mistakes, through_bfloat16, to_half
from .scaled import Scaled, meta_name
from .weights import verify_weights

__all__ = ["merge_mistakes", "verify_merge"]

NOT_APPLIED = "the adapter was not applied"
MAX_ORDERS = 23  # of four adapters; nobody has merged five


def verify_merge(
    output: Path,
    base: Path,
    adapters: Sequence[str | os.PathLike[str]],
    *,
    era: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> OutputReport:
    """Is ``output`` what merging the adapters, in this order, into the base gives?

    Args:
        output: directory of a merged checkpoint in either layout, or a GGML file.

    If an adapter says ``fan_in_fan_out: true``, PEFT's way (ignored) and the v1.1 script's (transposed) are both right;
    the step of the report names the latter.
    """
    options: dict[str, Any] = {"tokenizer": Path(tokenizer) if tokenizer else None}
    report, says_fan_in_fan_out = _verified(output, base, adapters, era, options, progress)
    if report.exit_code and says_fan_in_fan_out:
        transposed, _ = _verified(output, base, adapters, era, options | {"fan_in_fan_out": "v1.1"}, progress)
        if not transposed.exit_code:
            transposed.step = "merge --fan-in-fan-out v1.1"
            return transposed
    return report


def _verified(
    output: Path,
    base: Path,
    adapters: Sequence[str | os.PathLike[str]],
    era: str | None,
    given: dict[str, Any],
    progress: Progress | None,
) -> tuple[OutputReport, bool]:
    """The report with the merge options that are given, and whether an adapter says ``fan_in_fan_out: true``."""
    nowhere = output.parent / f".{output.name}.expected"  # nothing is ever written there
    options = dict(given)
    name = " + ".join([str(base), *(str(path) for path in adapters)])
    if output.is_dir():
        with open_checkpoint(output) as theirs:
            if theirs.layout == "meta":
                options |= {"output_type": "pth", "n_shards": len(theirs.files)}
            else:
                options |= {"output_type": "huggingface", "weights": weights_kind(theirs.files[0])}
            with plan_merge(base, adapters, nowhere, **options) as plan, Workers(None) as plan.model.workers:
                return _checkpoint(plan, theirs, name, progress), _says_fan_in_fan_out(plan.adapters)
    with open_model(output) as model:
        options["era"] = era or era_of_file(model).date
        with plan_merge(base, adapters, nowhere, output_type=_output_type(model), **options) as plan:
            return _ggml(plan, model, name, progress), _says_fan_in_fan_out(plan.adapters)


def _checkpoint(plan: MergePlan, theirs: Checkpoint, name: str, progress: Progress | None) -> OutputReport:
    merged, target = plan.model.checkpoint, target_of(plan)
    assert isinstance(target, DirectoryTarget)  # the output types of directories
    files = {theirs.path / name: tensors for name, tensors in target.tensors().items()}
    known = [*merge_mistakes(plan), *mistakes(merged, theirs.layout)]
    params = replace(plan.base.params, n_vocab=plan.chain.n_vocab)
    beside = folder_differences(theirs, params, plan.base.layout, list(plan.chain.tokenizer), target.small_content())
    more: list[Explainer] = [_Resized(plan), scaled(plan)]
    report = verify_weights(
        "merge",
        theirs.path,
        name,
        files,
        merged,
        known,
        progress,
        explainers=more,
        beside=beside,
    )
    return _worded(report, plan)


def _ggml(plan: MergePlan, output: ModelFile, name: str, progress: Progress | None) -> OutputReport:
    target = GgmlTarget(plan)
    merged = plan.model.checkpoint
    known = [*merge_mistakes(plan), *mistakes(merged)]
    vocab = list(plan.chain.tokenizer)
    if output.container == "ggml":
        vocab = [(text, 0.0) for text, _ in vocab]
    explainers: list[Explainer] = [
        *deviations_of(output, merged, known, target.era),
        *_other_eras(plan, target),
        _Resized(plan),
        scaled(plan),
    ]
    place = target.container, target.version
    hparams = replace(target.hparams, other={})  # its own keys are not GGUF's
    expected = Expected("merge", *place, hparams, vocab, target.tensors(), explainers)
    return _worded(verify_model(output, expected, name, progress), plan)


def _other_eras(plan: MergePlan, target: GgmlTarget) -> list[Deviation]:
    """Other eras' quantizers of the same merge."""
    from ggmlpy.formats.eras import ERAS

    if target.file_type is None:
        return []
    found = []
    for era in ERAS.values():
        if era == target.era or not era.writes(target.era.type(target.file_type.type)):
            continue
        options = replace(plan.options, era=era.date)
        other = {t.name: t for t in GgmlTarget(replace(plan, options=options)).tensors()}
        found.append(Deviation(f"the quantizer of {era}", _getter(other), era.date))
    return found


def _getter(tensors: dict[str, OutTensor]) -> Callable[[str], OutTensor | None]:
    return lambda name: tensors.get(name)


def _output_type(model: ModelFile) -> str:
    family = "gguf" if model.container == "gguf" else "ggml"
    wanted = FTYPES.get(model.hparams.ftype)
    if wanted is None or wanted.first is None or wanted.name == "F32":
        raise UsageError(f"{model.path}: merges are verified as f16 or quantized GGML files, not as ftype "
                         f"{model.hparams.ftype}")  # fmt: skip
    return f"{family}-{wanted.name.lower()}"


# ---- known mistakes


def merge_mistakes(plan: MergePlan) -> list[Mistake]:
    """What merges are known to do wrong."""
    model = plan.model

    def tensors_of(adapters: Sequence[Adapter]) -> Callable[[LazyTensor], LazyTensor | None]:
        other = MergedModel(plan.base, adapters, model.fill, model.dtype)
        return lambda tensor: other.tensor(tensor.name) if tensor.name in touched(model.adapters) else None

    def rescaled(scale: Callable[[LoraPair], float]) -> Callable[[LazyTensor], LazyTensor | None]:
        return tensors_of([_with_pairs(a, lambda pair: replace(pair, scale=scale(pair))) for a in model.adapters])

    def kept(tensor: LazyTensor) -> LazyTensor | None:
        return plan.base.tensors[tensor.name] if tensor.name in touched(model.adapters) else None

    orders = [order for order in itertools.permutations(model.adapters) if list(order) != list(model.adapters)]
    firsts = [list(model.adapters[:n]) for n in range(1, len(model.adapters))]
    return [
        Mistake(NOT_APPLIED, kept),
        Mistake("the adapter was applied twice", tensors_of([*model.adapters, *model.adapters])),
        Mistake("alpha / r was forgotten (the change was added unscaled)", rescaled(lambda pair: 1.0)),
        Mistake("the change was scaled by alpha, not divided by r", rescaled(lambda pair: pair.scale * pair.rank)),
        Mistake("the change was divided by r, not multiplied by alpha", rescaled(lambda pair: 1.0 / pair.rank)),
        Mistake("the change was rounded to f16 before it was added", _rounded_changes(plan)),
        Mistake(_transposing(model.adapters), tensors_of([_with_pairs(a, _transposed) for a in model.adapters])),
        *(
            Mistake(
                f"adapters were applied in another order: {', '.join(a.path.name for a in order)}", tensors_of(order)
            )
            for order in orders[:MAX_ORDERS]
        ),
        *(Mistake(f"only the first adapters were applied: {_names(some)}", tensors_of(some)) for some in firsts),
        Mistake("all changes were added before the only rounding", _unrounded_sum(plan)),
        *precision_mistakes(plan),
    ]


def scaled(plan: MergePlan) -> Scaled:
    """The explainer of other factors than alpha / r."""
    return Scaled(plan.base, plan.adapters, lambda pair: _change(plan, pair))


def precision_mistakes(plan: MergePlan) -> list[Mistake]:
    """The whole merge in another precision: each explains every tensor, those included that no adapter touches."""
    changes = [_with_pairs(adapter, lambda pair: pair) for adapter in plan.adapters]
    wide = _Precision(plan, changes)
    return [
        Mistake("the base went through bfloat16 before it was merged", replace(wide, base=through_bfloat16).apply),
        Mistake(
            "the merge was computed in bfloat16",
            replace(wide, base=through_bfloat16, result=through_bfloat16).apply,
        ),
        Mistake(
            "the merge was computed in bfloat16, the changes too",
            replace(wide, base=through_bfloat16, change=through_bfloat16, result=through_bfloat16).apply,
        ),
        Mistake("the merge was computed in f32 and not rounded to f16", replace(wide, result=_as_it_is).apply),
        Mistake("values were cut off to f16 instead of rounded", replace(wide, result=cut_to_half).apply),
    ]


def _as_it_is(x: NDArray[Any]) -> NDArray[Any]:
    return x


@dataclass(frozen=True)
class _Precision:
    """A merge whose base, changes and results are rounded in other ways than ours.

    Attributes:
        base, change, result: float32 [rows, columns] -> what becomes of it.
    """

    plan: MergePlan
    adapters: Sequence[Adapter]
    base: Callable[[NDArray[np.float32]], NDArray[Any]] = _as_it_is
    change: Callable[[NDArray[np.float32]], NDArray[Any]] = _as_it_is
    result: Callable[[NDArray[np.float32]], NDArray[Any]] = to_half

    def apply(self, tensor: LazyTensor) -> LazyTensor | None:
        """The tensor as such a merge has it."""
        replaced = [a.replaced[tensor.name] for a in self.adapters if tensor.name in a.replaced]
        start_at = replaced[-1] if replaced else self.plan.base.tensors.get(tensor.name)
        if start_at is None or start_at.shape != tensor.shape:
            return None
        pairs = [a.pairs[tensor.name] for a in self.adapters if tensor.name in a.pairs]

        def read(start: int, stop: int) -> NDArray[Any]:
            with np.errstate(all="ignore"):
                values = self.base(start_at.rows(start, stop).astype(np.float32)).astype(np.float32)
                for pair in pairs:
                    change = self.change(_change(self.plan, pair)[start:stop]).astype(np.float32)
                    values = self.result(values + change).astype(np.float32)
                return (values if pairs else self.result(values)).astype(np.float32)

        return tensor.with_(read=read, dtype="float32")


def _names(adapters: Sequence[Adapter]) -> str:
    return ", ".join(adapter.path.name for adapter in adapters)


def touched(adapters: Sequence[Adapter]) -> set[str]:
    """Meta names of the tensors that an adapter changes or replaces."""
    return {name for adapter in adapters for name in (*adapter.pairs, *adapter.replaced)}


def _with_pairs(adapter: Adapter, change: Callable[[LoraPair], LoraPair]) -> Adapter:
    return replace(adapter, pairs={name: change(pair) for name, pair in adapter.pairs.items()})


def _transposing(adapters: Sequence[Adapter]) -> str:
    """The name of adding changes transposed; the v1.1 script does so on purpose where an adapter says so."""
    by_script = ", as the v1.1 script does with fan_in_fan_out (`merge --fan-in-fan-out v1.1`)"
    return "the change was added transposed" + (by_script if _says_fan_in_fan_out(adapters) else "")


def _says_fan_in_fan_out(adapters: Sequence[Adapter]) -> bool:
    return any(adapter.config.fan_in_fan_out for adapter in adapters)


def _transposed(pair: LoraPair) -> LoraPair:
    """The change the other way round, where its shape allows."""
    rows, columns = pair.shape
    return replace(pair, transposed=not pair.transposed) if rows == columns else pair


def _change(plan: MergePlan, pair: LoraPair) -> NDArray[np.float32]:
    """scale * (B @ A) in Meta's order of rows: float32 [rows, columns], the inner product in ascending order."""
    left, right = pair.factors()
    total = np.zeros((left.shape[0], right.shape[1]), np.float32)
    for k in range(left.shape[1]):
        total += left[:, k : k + 1] * right[k : k + 1]
    change = LazyTensor.of_array(pair.name, total * np.float32(pair.scale), layout="huggingface")
    if find(pair.name)[0].rotary:
        from llama_ref.checkpoint import in_layout

        change = in_layout(change, "meta", plan.base.params)
    return change.numpy()


def _summed(
    plan: MergePlan, add: Callable[[NDArray[Any], NDArray[np.float32]], NDArray[Any]]
) -> Callable[[LazyTensor], LazyTensor | None]:
    """The base's tensor with each change added by ``add`` (a whole tensor at a time)."""

    def apply(tensor: LazyTensor) -> LazyTensor | None:
        pairs = [adapter.pairs[tensor.name] for adapter in plan.adapters if tensor.name in adapter.pairs]
        if not pairs or any(tensor.name in adapter.replaced for adapter in plan.adapters):
            return None

        def read(start: int, stop: int) -> NDArray[Any]:
            values: NDArray[Any] = plan.base.tensors[tensor.name].rows(start, stop)
            with np.errstate(over="ignore"):
                for pair in pairs:
                    values = add(values, _change(plan, pair)[start:stop])
                return values.astype(np.float16)

        return tensor.with_(read=read, dtype="float16")

    return apply


def _rounded_changes(plan: MergePlan) -> Callable[[LazyTensor], LazyTensor | None]:
    return _summed(plan, lambda w, change: (w.astype(np.float16) + change.astype(np.float16)).astype(np.float16))


def _unrounded_sum(plan: MergePlan) -> Callable[[LazyTensor], LazyTensor | None]:
    """With one adapter this is the right way, so it says nothing."""
    if len(plan.adapters) < 2:
        return lambda tensor: None
    return _summed(plan, lambda w, change: w.astype(np.float32) + change)


# ---- words


def _worded(report: OutputReport, plan: MergePlan) -> OutputReport:
    """Say which modules an adapter was applied to, where it was to some only."""
    skipped = _skipped_layers(report, plan)
    same = {_module(tensor.name) for tensor in report.tensors if tensor.status == "same"}
    paired = {_module(name) for adapter in plan.adapters for name in adapter.pairs}
    changed = sorted(same & paired)
    for index, cause in enumerate(report.causes):
        if cause.name != NOT_APPLIED:
            continue
        differing = {_module(tensor.name) for tensor in report.differing}
        if differing <= {"tok_embeddings", "output"}:
            report.causes[index] = replace(cause, name=f"{' and '.join(sorted(differing))} kept from the base")
        elif skipped:
            layers = ", ".join(map(str, skipped))
            report.causes[index] = replace(cause, name=f"the adapter was not applied to layer {layers}")
        elif changed:
            report.causes[index] = replace(cause, name=f"the adapter was applied to {', '.join(changed)} only")
    return report


def _skipped_layers(report: OutputReport, plan: MergePlan) -> list[int]:
    """The layers of which every tensor with a change differs, if no tensor of another does."""
    paired = {name for adapter in plan.adapters for name in adapter.pairs if name.startswith("layers.")}
    differing = {meta_name(tensor.name) for tensor in report.differing}
    layers = {int(name.split(".")[1]) for name in paired}
    skipped = [layer for layer in sorted(layers) if any(n.startswith(f"layers.{layer}.") for n in differing)]
    theirs = {name for name in paired if int(name.split(".")[1]) in skipped}
    return skipped if differing == theirs and len(skipped) < len(layers) else []


def _module(name: str) -> str:
    """ "layers.3.attention.wq.weight" -> "wq"."""
    return meta_name(name).removesuffix(".weight").rsplit(".", 1)[-1]


@dataclass(frozen=True)
class _Resized:
    """The explainer of vocabulary matrices whose first rows are the base's and whose others are nobody's."""

    plan: MergePlan

    def explain(self, found: Found, difference: TensorDifference) -> str | None:
        """The sentence, if the rows that the base has are the base's."""
        name = meta_name(found.name)
        base = self.plan.base.tensors.get(name)
        if base is None or difference.odd or find(name)[0].shape[0] != "n_vocab":
            return None
        rows = base.shape[0]
        if rows >= found.shape[0] or not np.array_equal(decoded(found.row_of(0, rows), found.type), base.f16()):
            return None
        return f"{found.name} was resized: its first {rows} rows are the base's, the others are not the adapter's"
