"""A merged model as a GGUF file of today; and which target an output type names.

A base in Hugging Face's layout, or with a ``tokenizer.json``, becomes the file that merging to a directory, converting
that and, for quantized types, quantizing gives. Meta's layout of earlier models becomes what the converters of 2023
made of it (:class:`lora.merging.targets.GgmlTarget`).
"""

from __future__ import annotations

from pathlib import Path

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.eras import TODAY
from ggmlpy.formats.file_types import file_type_of
from llama_ref.checkpoint.layout import Checkpoint
from llama_ref.conversion.huggingface_to_gguf.tensors import FILE_TYPES
from llama_ref.conversion.plan import Plan
from llama_ref.conversion.quantizing import quantized_plan
from llama_ref.conversion.through_huggingface import Pretended, plan_as_directory

from .checks import Chain
from .plan import CheckedMerge
from .targets import GgmlTarget, HuggingFaceTarget, PthTarget, Target

__all__ = ["GgufTarget", "is_of_today", "target_of"]


def target_of(plan: CheckedMerge) -> Target:
    """The target that the plan's ``output_type`` names.

    Raises:
        UsageError: there is no such type, or the era has none.
    """
    kind = plan.options.output_type
    if kind == "huggingface":
        return HuggingFaceTarget(plan)
    if is_of_today(kind, plan.base, plan.chain):
        return GgufTarget(plan)
    padding = plan.chain.tokenizer.padding
    if padding and not plan.chain.has_json_tokenizer:
        raise UsageError(
            f"the embedding has {padding} rows more than {plan.chain.tokenizer.path} has tokens; {kind} has no place "
            "for them: --output-type huggingface or gguf-f16"
        )
    return PthTarget(plan) if kind == "pth" else GgmlTarget(plan)


def is_of_today(output_type: str, base: Checkpoint, chain: Chain) -> bool:
    """Whether the output is a GGUF file that today's converter would make, with the weights in the base's types."""
    return output_type.startswith("gguf-") and (base.layout == "huggingface" or chain.has_json_tokenizer)


class GgufTarget(Target):
    """What merging to Hugging Face's layout in the base's types, converting that, and quantizing to types that no
    converter writes gives, without the directory and the file between."""

    def __init__(self, plan: CheckedMerge) -> None:
        super().__init__(plan)
        self.kind = plan.options.output_type.partition("-")[2]
        self.file_type = None if self.kind in FILE_TYPES else file_type_of(self.kind, TODAY)
        output = plan.output
        self.path = output / f"ggml-model-{self.kind}.gguf" if output.is_dir() else output

    def conversion(self, outtype: str) -> Plan:
        """The merged model converted, to one of the types that the converter writes."""
        directory = HuggingFaceTarget(self.plan)
        model = self.plan.model.checkpoint
        name, home = self.path.name.removesuffix(".gguf"), self.plan.chain.tokenizer.path.parent
        pretended = Pretended(name, home, directory.small_content(), directory.tensors(), model)
        options = self.plan.options
        return plan_as_directory(pretended, self.path, outtype=outtype, pre_tokenizer=options.pre_tokenizer)

    def _planned(self) -> Plan:
        if self.file_type is None:
            return self.conversion(self.kind)
        try:
            return quantized_plan(self.conversion("f16"), self.file_type, self.plan.model.workers)
        except FormatError as error:
            error.name_file(self.plan.base.path)
            raise

    def sizes(self) -> dict[Path, int]:
        return self._planned().files

    def notes(self) -> list[str]:
        return self._planned().notes

    def write(self, *, force: bool, resume: bool) -> tuple[list[Path], list[str]]:
        if self.path.exists() and not force:
            raise UsageError(f"{self.path} is there already; use --force to replace it, or name another file")
        return self._planned().write(workers=self.plan.model.workers), []
