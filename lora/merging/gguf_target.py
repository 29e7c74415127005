"""A merged model whose tokenizer is a tokenizer.json, as a GGUF file; and which target an output type names."""

from __future__ import annotations

from pathlib import Path

from ggmlpy.files.errors import UsageError
from llama_ref.conversion.huggingface_to_gguf.tensors import FILE_TYPES
from llama_ref.conversion.plan import Plan
from llama_ref.conversion.through_huggingface import Pretended, plan_as_directory

from .plan import CheckedMerge
from .targets import GgmlTarget, HuggingFaceTarget, PthTarget, Target

__all__ = ["GgufTarget", "target_of"]


def target_of(plan: CheckedMerge) -> Target:
    """The target that the plan's ``output_type`` names.

    Raises:
        UsageError: there is no such type, or the era has none.
    """
    family = plan.options.output_type.partition("-")[0]
    if plan.options.output_type == "pth":
        return PthTarget(plan)
    if plan.options.output_type == "huggingface":
        return HuggingFaceTarget(plan)
    return GgufTarget(plan) if family == "gguf" and plan.chain.has_json_tokenizer else GgmlTarget(plan)


class GgufTarget(Target):
    """What merging to Hugging Face's layout in the base's types and converting that gives, without the directory."""

    def __init__(self, plan: CheckedMerge) -> None:
        super().__init__(plan)
        self.kind = plan.options.output_type.partition("-")[2]
        if self.kind not in FILE_TYPES:
            raise UsageError(
                f"a model with a tokenizer.json is merged to {', '.join(f'gguf-{name}' for name in FILE_TYPES)}: "
                f"merge to gguf-f16, then `quantize` to {self.kind}"
            )
        output = plan.output
        self.path = output / f"ggml-model-{self.kind}.gguf" if output.is_dir() else output

    def _conversion(self) -> Plan:
        directory = HuggingFaceTarget(self.plan)
        model = self.plan.model.checkpoint
        name, home = self.path.name.removesuffix(".gguf"), self.plan.chain.tokenizer.path.parent
        pretended = Pretended(name, home, directory.small_content(), directory.tensors(), model)
        options = self.plan.options
        return plan_as_directory(pretended, self.path, outtype=self.kind, pre_tokenizer=options.pre_tokenizer)

    def sizes(self) -> dict[Path, int]:
        return self._conversion().files

    def notes(self) -> list[str]:
        return self._conversion().notes

    def write(self, *, force: bool, resume: bool) -> tuple[list[Path], list[str]]:
        if self.path.exists() and not force:
            raise UsageError(f"{self.path} is there already; use --force to replace it, or name another file")
        return self._conversion().write(), []
