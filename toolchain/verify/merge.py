"""Verifying what another program made of a base and its adapters.

What is expected is the merge that :mod:`lora.merging.merge` would write. What merges are known to get wrong is in
:mod:`.merge_mistakes`, beside what converters do (:mod:`.mistakes`). Where several merges are right (in another type,
or of an adapter that says ``fan_in_fan_out``), each is tried before any is explained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import UsageError
from ggmlpy.files.ordered import Workers
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.eras import ERAS, era_of
from ggmlpy.formats.file_types import FTYPES
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.verify.judge import Deviation, Expected, Explainer, OutputReport, Progress, settle, verify_model
from llama_ref.checkpoint import Checkpoint, open_checkpoint
from llama_ref.checkpoint.weights import weights_kind
from lora.merging.gguf_target import GgufTarget, is_of_today, target_of
from lora.merging.merge import MergePlan, plan_merge
from lora.merging.plan import DTYPES
from lora.merging.targets import DirectoryTarget, GgmlTarget

from .beside import folder_differences
from .conversion import deviations_of, expected_of, is_ordered_as, outtypes_of, rules_for_words
from .merge_mistakes import NOT_APPLIED, change_in_meta_order, merge_mistakes, says_fan_in_fan_out
from .mistakes import mistakes
from .scaled import Scaled, meta_name
from .sums import OrderOfSums, within_rounding
from .vocabulary_rows import VocabularyRows
from .weights import verify_weights

__all__ = ["verify_merge"]

Way = tuple[str, dict[str, Any]]  # the step in words, and the options of the merge


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

    Several merges are right: in the type that the output has; and, if an adapter says ``fan_in_fan_out: true``, both
    PEFT's way (ignored) and the v1.1 script's (transposed). The step of the report names which it is.
    """
    case = _Case(output, base, adapters, era, Path(tokenizer) if tokenizer else None, progress)
    report, others = case.judged("merge", {})
    if not report.exit_code or not others:
        return report
    for words, options in others:
        other, _ = case.judged(words, options, explained=False)
        if not other.exit_code:
            return other
    reports = [case.judged(*way, explained=True)[0] for way in (("merge", {}), *others)]
    return min(reports, key=lambda report: len(report.unexplained))


@dataclass(frozen=True)
class _Case:
    """An output and what it should have been made of; the arguments of :func:`verify_merge`."""

    output: Path
    base: Path
    adapters: Sequence[str | os.PathLike[str]]
    era: str | None
    tokenizer: Path | None
    progress: Progress | None

    def judged(
        self, step: str, options: dict[str, Any], explained: bool | None = None
    ) -> tuple[OutputReport, list[Way]]:
        """The report on one way to merge, and the other ways.

        Args:
            explained: whether causes are looked for; None: only if there is no other way.
        """
        nowhere = self.output.parent / f".{self.output.name}.expected"  # nothing is ever written there
        options = {"tokenizer": self.tokenizer, **options}
        if self.output.is_dir():
            with open_checkpoint(self.output) as theirs:
                if theirs.layout == "meta":
                    options |= {"output_type": "pth", "n_shards": len(theirs.files)}
                else:
                    options |= {"output_type": "huggingface", "weights": weights_kind(theirs.files[0])}
                with plan_merge(self.base, self.adapters, nowhere, **options) as plan, Workers(None) as workers:
                    plan.model.workers = workers
                    others = list(_other_ways(plan, theirs))
                    return self._checkpoint(step, plan, theirs, _decided(explained, others)), others
        with open_model(self.output) as model:
            options |= {"era": self.era or era_of_file(model).date, "output_type": "ggml-f16"}
            if model.container == "gguf":
                nowhere /= self.output.name  # of which the model's name is made
                options |= {"output_type": "gguf-f16", "pre_tokenizer": rules_for_words(model)}
            with plan_merge(self.base, self.adapters, nowhere, **options) as plan:
                others = list(_other_ways(plan, None))
                return self._file(step, plan, model, _decided(explained, others)), others

    def _checkpoint(self, step: str, plan: MergePlan, theirs: Checkpoint, explained: bool) -> OutputReport:
        merged, target = plan.model.checkpoint, target_of(plan)
        assert isinstance(target, DirectoryTarget)  # the output types of directories
        files = {theirs.path / name: tensors for name, tensors in target.tensors().items()}
        known = [*merge_mistakes(plan, theirs.layout), *mistakes(merged, theirs.layout)] if explained else []
        params = replace(plan.base.params, n_vocab=plan.chain.n_vocab)
        beside = folder_differences(
            theirs, params, plan.base.layout, [*replace(plan.chain.tokenizer, padding=0)], target.small_content()
        )
        report = verify_weights(
            step,
            theirs.path,
            self._source,
            files,
            merged,
            known,
            self.progress,
            explainers=_explainers(plan),
            beside=beside,
        )
        return _worded(report, plan)

    def _file(self, step: str, plan: MergePlan, output: ModelFile, explained: bool) -> OutputReport:
        """A GGML file, or a GGUF file by whichever converter it is: today's, or that of 2023."""
        if is_of_today(plan.options.output_type, plan.base, plan.chain):
            if "general.type" in output.metadata or plan.chain.has_json_tokenizer:  # no converter of 2023 says it
                return self._gguf(step, plan, output, explained)
            plan = replace(plan, model=replace(plan.model, dtype=plan.options.merged_dtype))
        return self._ggml(step, plan, output, explained)

    def _gguf(self, step: str, plan: MergePlan, output: ModelFile, explained: bool) -> OutputReport:
        conversions = [GgufTarget(plan).conversion(outtype) for outtype in outtypes_of(output)]
        conversion = next((way for way in conversions if is_ordered_as(output, way)), conversions[-1])
        merged = plan.model.checkpoint
        known = [*merge_mistakes(plan), *mistakes(merged)] if explained else []
        expected, era = expected_of(output, conversion, era_of(self.era) if self.era else era_of_file(output))
        explainers: list[Explainer] = [*deviations_of(output, merged, known, era), *_explainers(plan)]
        expected = replace(expected, step=expected.step.replace("convert", step), explainers=explainers)
        return _worded(verify_model(output, expected, self._source, self.progress), plan)

    def _ggml(self, step: str, plan: MergePlan, output: ModelFile, explained: bool) -> OutputReport:
        plan = replace(plan, options=replace(plan.options, output_type=_output_type(output)))
        target = GgmlTarget(plan)
        merged = plan.model.checkpoint
        known = [*merge_mistakes(plan), *mistakes(merged)] if explained else []
        vocab = list(plan.chain.tokenizer)
        if output.container == "ggml":
            vocab = [(text, 0.0) for text, _ in vocab]
        explainers: list[Explainer] = [
            *deviations_of(output, merged, known, target.era),
            *_other_eras(plan, target),
            *_explainers(plan),
        ]
        place = target.container, target.version
        hparams = replace(target.hparams, other={})  # its own keys are not GGUF's
        expected = Expected(step, *place, hparams, vocab, target.tensors(), explainers)
        return _worded(verify_model(output, expected, self._source, self.progress), plan)

    @property
    def _source(self) -> str:
        return " + ".join([str(self.base), *(str(path) for path in self.adapters)])


def _decided(explained: bool | None, others: Sequence[Way]) -> bool:
    return not others if explained is None else explained


def _explainers(plan: MergePlan) -> list[Explainer]:
    """What is told from the values and not by making the merge again."""
    scaled = Scaled(plan.base, plan.adapters, lambda pair: change_in_meta_order(plan, pair))
    return [OrderOfSums(plan), VocabularyRows(plan), scaled]


def _other_ways(plan: MergePlan, output: Checkpoint | None) -> Iterator[Way]:
    """The merges that are as right as this one, with other options; only those that the output may be."""
    if plan.options.dtype == "f16" and output is not None:
        dtype = _dtype_of(output, plan.base)
        if dtype not in (None, "f16"):
            yield f"merge --dtype {dtype}", {"dtype": dtype}
    if plan.options.fan_in_fan_out == "peft" and says_fan_in_fan_out(plan.adapters):
        yield "merge --fan-in-fan-out v1.1", {"fan_in_fan_out": "v1.1"}


def _dtype_of(output: Checkpoint, base: Checkpoint) -> str | None:
    """The option ``--dtype`` with which every tensor has the type that it has in the output; None: there is none."""
    types = {name: tensor.dtype for name, tensor in output.tensors.items()}
    only = next((name for name, dtype in DTYPES.items() if set(types.values()) == {dtype}), None)
    as_base = all(name in base.tensors and base.tensors[name].dtype == dtype for name, dtype in types.items())
    return only or ("auto" if as_base else None)


def _other_eras(plan: MergePlan, target: GgmlTarget) -> list[Deviation]:
    """Other eras' quantizers of the same merge."""
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
    if wanted is not None and (wanted.name == "BF16" or (wanted.name == "F32" and family == "ggml")):
        return f"{family}-f16"  # what differs is told
    if wanted is None or wanted.first is None:
        raise UsageError(f"{model.path}: merges are verified as f16 or quantized GGML files, not as ftype "
                         f"{model.hparams.ftype}")  # fmt: skip
    return f"{family}-{wanted.name.lower()}"


# ---- words


def _worded(report: OutputReport, plan: MergePlan) -> OutputReport:
    """Say which modules an adapter was applied to, where it was to some only; and whether all else is rounding."""
    report.rounding = within_rounding(report)
    settle(report)
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
