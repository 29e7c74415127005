"""Verifying what another program made of a checkpoint: a conversion to GGML or GGUF, perhaps quantized.

What is expected comes from the plan that writes (:mod:`llama_ref.conversion.ggml`); here its tensors flow into a
comparison instead of a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ggmlpy.files.errors import ShapeError, UsageError
from ggmlpy.formats.era_of_file import era_of_file, file_order
from ggmlpy.formats.eras import GGUF_ERAS, OCTOBER_31_24, Era, era_of
from ggmlpy.formats.file_types import FTYPES, FileType, TypeChooser, file_type_of
from ggmlpy.formats.gguf_mixes import MixChooser, MixOptions
from ggmlpy.formats.gguf_model import described, kept_metadata
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import gguf_name
from ggmlpy.formats.tensor_types import TENSOR_TYPES, TensorType
from ggmlpy.quantizers.gguf_plan import model_shape
from ggmlpy.verify.judge import Deviation, Expected, OutputReport, Progress, verify_model
from ggmlpy.verify.quantization import ANOTHER_MIX
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
            expected, moment = _expected(theirs, plan, moment)
            deviations = deviations_of(theirs, checkpoint, mistakes(checkpoint), moment)
            return verify_model(theirs, replace(expected, explainers=deviations), str(source), progress)


def _outtype(output: ModelFile) -> str:
    """What the converter was asked for; the type before quantizing is taken to be f16."""
    if output.container != "gguf":
        return "f32" if output.hparams.ftype == 0 else "f16"
    return {0: "f32", 32: "bf16"}.get(output.hparams.ftype, "f16")


def _expected(output: ModelFile, plan: Plan, era: Era) -> tuple[Expected, Era]:
    """The conversion, quantized if the output is, and the era whose quantizers that takes."""
    kinds = [t.type.name for t in output.tensors.values() if len(t.shape) == 2 and t.type.quantized]
    file_type, tensors = None, plan.parts[0]
    if kinds:
        file_type, era, targets = _mix(output, tensors, era)
        tensors = [_in_type(tensor, targets[tensor.name], era) for tensor in tensors]
        if era.is_of_gguf and era >= OCTOBER_31_24:
            tensors = sorted(tensors, key=lambda tensor: file_order(gguf_name(tensor.name)))
    step = "convert, quantize" if file_type else "convert"
    expected = Expected(step, output.container, output.version, *_content(output, plan), tensors)
    if plan.keys:
        return _with_keys(expected, plan, file_type), era
    if file_type:
        expected = replace(expected, hparams=replace(expected.hparams, ftype=file_type.id))
    return expected, era


def _in_type(tensor: OutTensor, target: TensorType | None, era: Era) -> OutTensor:
    return quantized(tensor, target, era) if target is not None and target.quantized else tensor


Targets = dict[str, TensorType | None]  # by name; None: as it is


def _mix(output: ModelFile, tensors: Sequence[OutTensor], era: Era) -> tuple[FileType, Era, Targets]:
    """What type each tensor gets: by the mix that the output has, else by the first that allows these shapes.

    Raises:
        UsageError: no era has the file type that the output names.
        ShapeError: rows can't be cut into blocks.
    """
    file_type = FTYPES.get(output.hparams.ftype) if output.container == "gguf" else None
    if file_type is None or file_type.first is None:
        file_type = file_type_of(output.hparams.ftype, era)
    allowed: list[tuple[Era, Targets]] = []
    refused: list[ShapeError] = []
    for moment, choose in _choosers(output, file_type, era):
        try:
            targets = {t.name: choose(t) for t in sorted(tensors, key=_order_of(output))}
        except ShapeError as error:
            refused.append(error)
            continue
        allowed.append((moment, targets))
        if all((targets[t.name] or t.type) == output.tensors[t.name].type for t in tensors if t.name in output.tensors):
            return file_type, moment, targets
    if not allowed:
        raise refused[0]
    return file_type, *allowed[0]


Choose = Callable[[OutTensor], TensorType | None]


def _choosers(output: ModelFile, file_type: FileType, era: Era) -> Iterator[tuple[Era, Choose]]:
    """Whose mix it may be: the era's own and, of GGUF, that of each llama-quantize, the newest first."""
    if file_type.is_target_of(era):
        choose = TypeChooser(file_type, era, list(output.tensors))
        yield era, lambda tensor: choose(tensor.name, tensor.shape, tensor.type)
    if output.container != "gguf":
        return
    shape = model_shape(output.metadata, [gguf_name(tensor.name) for tensor in output.stored])
    for moment in reversed(GGUF_ERAS.values()):
        for pure in (False, True):
            if file_type.is_target_of(moment):
                yield moment, _by_gguf_name(MixChooser(file_type, moment, shape, MixOptions(pure=pure)))


def _by_gguf_name(choose: MixChooser) -> Choose:
    return lambda tensor: choose(gguf_name(tensor.name), tensor.shape, tensor.type)


def _order_of(output: ModelFile) -> Callable[[OutTensor], int]:
    """A key to sort by as the output is: mixes count tensors as they come."""
    places = {name: index for index, name in enumerate(output.tensors)}
    return lambda tensor: places.get(tensor.name, len(places))


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
    """Each mistake, stored in the type that the output has; before them, right values in another type."""

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

    right = deviated(Mistake("", lambda tensor: tensor))

    def right_as(kind: TensorType) -> Callable[[str], OutTensor | None]:
        return lambda name: right(name) if name in output.tensors and output.tensors[name].type == kind else None

    types = dict.fromkeys(tensor.type for tensor in output.tensors.values() if tensor.type.quantized)
    mixed = [Deviation(ANOTHER_MIX.format(kind.name), right_as(kind)) for kind in types]
    return [*mixed, *(Deviation(mistake.name, deviated(mistake)) for mistake in known)]
