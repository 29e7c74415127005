"""Verifying what another program made of a checkpoint: a conversion to GGML or GGUF, perhaps quantized.

What is expected comes from the plan that writes (:mod:`llama_ref.conversion.ggml`); here its tensors flow into a
comparison instead of a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ggmlpy.files.errors import ShapeError, UsageError
from ggmlpy.formats.era_of_file import era_of_file, file_order
from ggmlpy.formats.eras import APRIL_30, ERAS, GGUF_ERAS, MARCH_31, OCTOBER_31_24, Era, era_of
from ggmlpy.formats.file_types import FTYPES, FileType, TypeChooser, file_type_of
from ggmlpy.formats.gguf_mixes import MixChooser, MixOptions
from ggmlpy.formats.gguf_model import described, gguf_metadata, kept_metadata
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import gguf_name
from ggmlpy.formats.tensor_types import TENSOR_TYPES, TensorType
from ggmlpy.formats.writer import gguf_prefix
from ggmlpy.quantizers.gguf_plan import model_shape
from ggmlpy.quantizers.streamed import quantized
from ggmlpy.verify.judge import Deviation, Expected, OutputReport, Progress, verify_model
from ggmlpy.verify.quantization import ANOTHER_MIX
from llama_ref.checkpoint import Checkpoint
from llama_ref.checkpoint.folder import Folder, directory_of
from llama_ref.conversion.converting import plan_conversion
from llama_ref.conversion.huggingface_to_gguf.tensors import FILE_TYPES
from llama_ref.conversion.plan import Plan

from .as_written import stored
from .mistakes import Mistake, mistakes

__all__ = ["deviations_of", "expected_of", "is_ordered_as", "outtypes_of", "rules_for_words", "verify_conversion"]

Keys = Mapping[str, Value] | None
Targets = dict[str, TensorType | None]  # by name; None: as it is


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
        container = "ggjt1" if theirs.container != "gguf" else "gguf"  # one file, whatever the output's parts
        options: dict[str, Any] = {"tokenizer": tokenizer, "container": container}
        if container == "gguf" and Folder.of(directory_of(source)).layout == "huggingface":
            options["pre_tokenizer"] = rules_for_words(theirs)  # they may be unknown by their hash
            ways = [(outtype, moment) for outtype in outtypes_of(theirs)]
        else:
            orders = [moment] if era is not None else [moment, MARCH_31, APRIL_30]
            ways = [(_outtype(theirs), order) for order in orders]
        for outtype, order in ways:
            with plan_conversion(source, os.devnull, outtype=outtype, era=order, **options) as plan:
                if is_ordered_as(theirs, plan):
                    return _judged(theirs, plan, str(source), moment, progress)
        with plan_conversion(source, os.devnull, outtype=_outtype(theirs), era=moment, **options) as plan:
            return _judged(theirs, plan, str(source), moment, progress)


def _judged(output: ModelFile, plan: Plan, source: str, era: Era, progress: Progress | None) -> OutputReport:
    if plan.checkpoint is None:
        raise UsageError(f"{source} has no weights to compare with")
    expected, era = expected_of(output, plan, era)
    deviations = deviations_of(output, plan.checkpoint, mistakes(plan.checkpoint), era)
    return verify_model(output, replace(expected, explainers=deviations), source, progress)


def is_ordered_as(output: ModelFile, plan: Plan) -> bool:
    """Whether tensors have the order of the plan; and keys, too, where their order says who quantized."""
    if plan.hparams.ftype == FILE_TYPES["q8_0"]:
        return _begins_with(output, plan, plan.parts[0], plan.keys[0])
    return [tensor.name for tensor in output.stored] == [tensor.name for tensor in plan.parts[0]]


def _begins_with(output: ModelFile, plan: Plan, tensors: Sequence[OutTensor], keys: Keys) -> bool:
    """Whether everything before the data of a GGUF file is what these tensors and keys give."""
    if output.container != "gguf":
        return False
    ours = gguf_prefix(output.version, plan.hparams, plan.vocab, tensors, keys)
    return ours is not None and bytes(output.parts[0].cursor.buffer[: len(ours)]) == ours


def rules_for_words(output: ModelFile) -> str | None:
    """The name of the rules that split a text into words, as a GGUF file says it."""
    rules = output.metadata.get("tokenizer.ggml.pre")
    return rules.text() if rules else None


def outtypes_of(output: ModelFile) -> list[str]:
    """What today's converter may have been asked for: q8_0 can come from it, or from quantizing."""
    at_once = ["q8_0"] if output.hparams.ftype == FILE_TYPES["q8_0"] else []
    return [*at_once, _outtype(output)]


def _outtype(output: ModelFile) -> str:
    """What the converter was asked for; the type before quantizing is taken to be f16."""
    if output.container != "gguf":
        return "f32" if output.hparams.ftype == 0 else "f16"
    return {0: "f32", 32: "bf16"}.get(output.hparams.ftype, "f16")


def expected_of(output: ModelFile, plan: Plan, era: Era) -> tuple[Expected, Era]:
    """The conversion, quantized if the output is, and the era whose quantizers that takes."""
    kinds = [t.type.name for t in output.tensors.values() if len(t.shape) == 2 and t.type.quantized]
    if kinds and plan.hparams.ftype != FILE_TYPES["q8_0"]:
        return _quantized(output, plan, era)
    expected = Expected("convert", output.container, output.version, *_content(output, plan), plan.parts[0])
    return _with_keys(expected, plan.keys[0]) if plan.keys else expected, era


def _quantized(output: ModelFile, plan: Plan, era: Era) -> tuple[Expected, Era]:
    """The conversion, quantized: by the first era whose mix the output has, and whose header if there is one."""
    file_type, mixes = _mixes(output, plan.parts[0], era)
    ways = [
        (moment, _ordered([_in_type(t, targets[t.name], moment) for t in plan.parts[0]], plan, moment), keys)
        for moment, targets in mixes
        for keys in _keys_after(output, plan, file_type)
    ]
    exact = (way for way in ways if _begins_with(output, plan, *way[1:]))
    moment, tensors, keys = next(exact, ways[0])
    hparams, vocab = _content(output, plan)
    hparams = replace(hparams, ftype=file_type.id)
    expected = Expected("convert, quantize", output.container, output.version, hparams, vocab, tensors)
    return expected if keys is None else _with_keys(expected, keys), moment


def _keys_after(output: ModelFile, plan: Plan, file_type: FileType) -> list[Keys]:
    """The keys of a converted file once it is quantized; None: as our writer makes them of the numbers."""
    if plan.keys:
        return [kept_metadata(plan.keys[0], file_type.id)]
    if output.container != "gguf":
        return [None]
    return [None, kept_metadata(gguf_metadata(plan.hparams, list(plan.vocab)), file_type.id)]


def _ordered(tensors: list[OutTensor], plan: Plan, era: Era) -> list[OutTensor]:
    """In the order of an era's quantizer: since October 2024 that of the layers."""
    if not era.is_of_gguf or era < OCTOBER_31_24:
        return tensors
    return sorted(tensors, key=lambda tensor: file_order(gguf_name(tensor.name)))


def _in_type(tensor: OutTensor, target: TensorType | None, era: Era) -> OutTensor:
    return quantized(tensor, target, era) if target is not None and target.quantized else tensor


def _mixes(output: ModelFile, tensors: Sequence[OutTensor], era: Era) -> tuple[FileType, list[tuple[Era, Targets]]]:
    """What type each tensor gets: by the mixes that the output has, else by the first that allows these shapes.

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
            allowed.append((moment, {t.name: choose(t) for t in sorted(tensors, key=_order_of(output))}))
        except ShapeError as error:
            refused.append(error)
    if not allowed:
        raise refused[0]
    there = {t.name: output.tensors[t.name].type for t in tensors if t.name in output.tensors}
    types = {t.name: t.type for t in tensors}
    fitting = [way for way in allowed if all((way[1][name] or types[name]) == kind for name, kind in there.items())]
    return file_type, fitting or allowed[:1]


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


def _with_keys(expected: Expected, keys: Mapping[str, Value]) -> Expected:
    """What the keys of a planned GGUF file say: they are more than the numbers and the vocabulary."""
    hparams, vocabulary = described(keys, [gguf_name(tensor.name) for tensor in expected.tensors])
    pairs = list(zip(vocabulary, np.asarray(vocabulary.scores).tolist(), strict=True))
    return replace(expected, hparams=hparams, vocab=pairs, token_types=vocabulary.types, metadata=keys)


def deviations_of(output: ModelFile, checkpoint: Checkpoint, known: Iterable[Mistake], era: Era) -> list[Deviation]:
    """Each mistake, stored in the type that the output has; before them, right values in another type, or as quantized
    by another era."""

    def deviated(mistake: Mistake, era: Era = era) -> Callable[[str], OutTensor | None]:
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

    nothing = Mistake("", lambda tensor: tensor)
    right = deviated(nothing)

    def right_as(kind: TensorType) -> Callable[[str], OutTensor | None]:
        return lambda name: right(name) if name in output.tensors and output.tensors[name].type == kind else None

    types = dict.fromkeys(tensor.type for tensor in output.tensors.values() if tensor.type.quantized)
    mixed = [Deviation(ANOTHER_MIX.format(kind.name), right_as(kind)) for kind in types]
    others = [
        Deviation(f"the quantizer of {other}", deviated(nothing, other), other.date)
        for other in (ERAS.values() if types else ())
        if other != era and (other.container, other.version) == (output.container, output.version)
    ]
    return [*others, *mixed, *(Deviation(mistake.name, deviated(mistake)) for mistake in known)]
