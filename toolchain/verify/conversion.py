"""Verifying what another program made of a checkpoint: a conversion to GGML or GGUF, perhaps quantized.

What is expected comes from the plan that writes (:mod:`llama_ref.conversion.ggml`); here its tensors flow into a
comparison instead of a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.eras import Era, era_of
from ggmlpy.formats.file_types import FileType, TypeChooser, file_type_of
from ggmlpy.formats.gguf_model import described, kept_metadata
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import gguf_name
from ggmlpy.formats.tensor_types import TENSOR_TYPES
from ggmlpy.verify.judge import Deviation, Expected, OutputReport, Progress, verify_model
from llama_ref.checkpoint import Checkpoint
from llama_ref.checkpoint.folder import Folder, directory_of
from llama_ref.conversion.converting import plan_conversion
from llama_ref.conversion.plan import Plan

from .as_written import quantized, stored
from .mistakes import Mistake, mistakes

__all__ = ["deviations_of", "verify_conversion"]


def verify_conversion(
    output: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    era: str | Era | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> OutputReport:
    """Is a GGML file what converting (and, if it is quantized, quantizing) a checkpoint gives?

    Args:
        output: a GGML file of any container, all parts.
        source: the checkpoint's directory.
        era: whose conversion; by default that of the output's container.
        tokenizer: the tokenizer.model, if it is neither in the directory nor in its parent.

    Raises:
        FormatError: a file can't be read, or source and tokenizer do not fit together.
    """
    with open_model(output) as theirs:
        moment = era_of(era) if era is not None else era_of_file(theirs)
        options: dict[str, Any] = {"outtype": _outtype(theirs), "era": moment, "tokenizer": tokenizer}
        container = "ggjt1" if theirs.container != "gguf" else "gguf"  # one file, whatever the output's parts
        rules = theirs.metadata.get("tokenizer.ggml.pre")
        if rules and container == "gguf" and Folder.of(directory_of(source)).layout == "huggingface":
            options["pre_tokenizer"] = rules.text()  # it may be unknown by its hash
        with plan_conversion(source, os.devnull, container=container, **options) as plan:
            checkpoint = plan.checkpoint
            if checkpoint is None:
                raise UsageError(f"{source} has no weights to compare with")
            deviations = deviations_of(theirs, checkpoint, mistakes(checkpoint), moment)
            expected = _expected(theirs, plan, moment)
            return verify_model(theirs, replace(expected, explainers=deviations), str(source), progress)


def _outtype(output: ModelFile) -> str:
    """What the converter was asked for; the type before quantizing is taken to be f16."""
    if output.container != "gguf":
        return "f32" if output.hparams.ftype == 0 else "f16"
    return {0: "f32", 32: "bf16"}.get(output.hparams.ftype, "f16")


def _expected(output: ModelFile, plan: Plan, era: Era) -> Expected:
    """The conversion, quantized if the output is."""
    kinds = [t.type.name for t in output.tensors.values() if len(t.shape) == 2 and t.type.quantized]
    file_type = file_type_of(output.hparams.ftype, era) if kinds else None
    tensors: Sequence[OutTensor] = plan.parts[0]
    if file_type:
        choose = TypeChooser(file_type, era, [tensor.name for tensor in tensors])
        targets = {tensor.name: choose(tensor.name, tensor.shape, tensor.type) for tensor in tensors}
        tensors = [quantized(t, target, era) if (target := targets[t.name]) else t for t in tensors]
    step = "convert, quantize" if file_type else "convert"
    expected = Expected(step, output.container, output.version, *_content(output, plan), tensors)
    if plan.keys:
        return _with_keys(expected, plan, file_type)
    return replace(expected, hparams=replace(expected.hparams, ftype=file_type.id)) if file_type else expected


def _content(output: ModelFile, plan: Plan) -> tuple[ModelParams, list[tuple[bytes, float]]]:
    """The numbers and the vocabulary, as far as the output's container has them."""
    vocab = [(text, 0.0 if output.container == "ggml" else score) for text, score in plan.vocab]
    return replace(plan.hparams, other={}), vocab  # its own keys are not GGUF's


def _with_keys(expected: Expected, plan: Plan, file_type: FileType | None) -> Expected:
    """What the keys of a planned GGUF file say: they are more than the numbers and the vocabulary."""
    keys = kept_metadata(plan.keys[0], file_type.id if file_type else None)
    hparams, vocabulary = described(keys, [gguf_name(tensor.name) for tensor in expected.tensors])
    pairs = list(zip(vocabulary, np.asarray(vocabulary.scores).tolist(), strict=True))
    return replace(expected, hparams=hparams, vocab=pairs, token_types=vocabulary.types, metadata=keys)


def deviations_of(output: ModelFile, checkpoint: Checkpoint, known: Iterable[Mistake], era: Era) -> list[Deviation]:
    """Each mistake, stored in the type that the output has."""

    def deviated(mistake: Mistake) -> Callable[[str], OutTensor | None]:
        def make(name: str) -> OutTensor | None:
            tensor, found = checkpoint.tensors.get(name), output.tensors.get(name)
            wrong = mistake.apply(tensor) if tensor and found else None
            if wrong is None or found is None:
                return None
            if not found.type.quantized:
                return stored(wrong, found.type)
            if not era.writes(found.type):
                return None
            return quantized(stored(wrong, TENSOR_TYPES["f16"]), found.type, era)

        return make

    return [Deviation(mistake.name, deviated(mistake)) for mistake in known]
