"""Verifying what another program made of a checkpoint: a conversion to GGML or GGUF, perhaps quantized.

What is expected comes from the plan that writes (:mod:`llama_ref.conversion.ggml`); here its tensors flow into a
comparison instead of a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.eras import Era, era_of
from ggmlpy.formats.file_types import TypeChooser, file_type_of
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_types import TENSOR_TYPES
from ggmlpy.verify.judge import Deviation, Expected, OutputReport, Progress, verify_model
from llama_ref.checkpoint import Checkpoint
from llama_ref.conversion.converting import plan_conversion

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
        outtype = "f32" if theirs.hparams.ftype == 0 else "f16"
        options: dict[str, Any] = {"outtype": outtype, "era": moment, "tokenizer": tokenizer}
        container = "ggjt1" if theirs.container != "gguf" else "gguf"  # one file, whatever the output's parts
        with plan_conversion(source, os.devnull, container=container, **options) as plan:
            checkpoint = plan.checkpoint
            if checkpoint is None:
                raise UsageError(f"{source} has no weights to compare with")
            hparams = replace(plan.hparams, other={})  # its own keys are not GGUF's
            expected = _expected(theirs, hparams, list(plan.vocab), plan.parts[0], moment)
            deviations = deviations_of(theirs, checkpoint, mistakes(checkpoint), moment)
            return verify_model(theirs, replace(expected, explainers=deviations), str(source), progress)


def _expected(
    output: ModelFile,
    hparams: Any,
    vocab: list[tuple[bytes, float]],
    tensors: Sequence[OutTensor],
    era: Era,
) -> Expected:
    """The conversion, quantized if the output is."""
    kinds = [t.type.name for t in output.tensors.values() if len(t.shape) == 2 and t.type.quantized]
    if output.container == "ggml":
        vocab = [(text, 0.0) for text, _ in vocab]
    place = output.container, output.version
    if not kinds:
        return Expected("convert", *place, hparams, vocab, tensors)
    file_type = file_type_of(output.hparams.ftype, era)
    choose = TypeChooser(file_type, era, [tensor.name for tensor in tensors])
    targets = {tensor.name: choose(tensor.name, tensor.shape, tensor.type) for tensor in tensors}
    made = [quantized(t, target, era) if (target := targets[t.name]) else t for t in tensors]
    return Expected("convert, quantize", *place, replace(hparams, ftype=file_type.id), vocab, made)


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
