"""Verifying what another program made of a checkpoint: a conversion to GGML, or to the other checkpoint layout.

What is expected comes from the same plans that write (:mod:`llama_ref.conversion.ggml`,
:mod:`llama_ref.conversion.checkpoints`); here their tensors flow into a comparison instead of a file. :func:`mistakes`
are what converters are known to get wrong; a merge adds its own (:mod:`toolchain.verify.step`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.files.mapping import map_file
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.eras import Era, era_of
from ggmlpy.formats.file_types import TypeChooser, file_type_of
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import find, is_known, rename
from ggmlpy.formats.tensor_types import TENSOR_TYPES, TensorType
from ggmlpy.verify.judge import (
    Deviation,
    Expected,
    OutputReport,
    Progress,
    compare_tensor,
    explain,
    settle,
    verify_model,
)
from ggmlpy.verify.tensors import Found, TensorDifference, row_chunks, same_bytes
from llama_ref.checkpoint import Checkpoint, LazyTensor, open_checkpoint
from llama_ref.checkpoint.layout import in_layout, shard_of
from llama_ref.checkpoint.pth_writer import stream_pth
from llama_ref.checkpoint.safetensors_file import safetensors_header
from llama_ref.checkpoint.torch_formats import TORCH_FORMATS
from llama_ref.checkpoint.weights import METADATA, WeightFile, is_safetensors, open_weights, weights_kind
from llama_ref.conversion.checkpoints import plan_from_hf, plan_to_hf
from llama_ref.conversion.ggml import plan_conversion

__all__ = [
    "Mistake",
    "deviations_of",
    "mistakes",
    "stored",
    "verify_conversion",
    "verify_export",
    "verify_weights",
]

CHUNK_BYTES = 1 << 22
SHORT = "the last row is missing: an odd vocabulary was cut into equal shards"
PERMUTATION_MISSING = {
    "meta": "rows of wq and wk are in Hugging Face's order: the rotary permutation is missing",
    "huggingface": "rows of q_proj and k_proj are in Meta's order: the rotary permutation is missing",
}
PERMUTED_TWICE = {
    "meta": "rows of wq and wk were turned into Meta's order twice",
    "huggingface": "rows of q_proj and k_proj were turned into Hugging Face's order twice",
}
RECORDS = {"float16": "f16", "float32": "f32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Mistake:
    """A known way to get a tensor wrong before it is stored.

    Attributes:
        name: what was done.
        apply: the tensor as it would be then (Meta name, Meta layout); None where the mistake changes nothing.
    """

    name: str
    apply: Callable[[LazyTensor], LazyTensor | None]


# ---- known mistakes


def mistakes(checkpoint: Checkpoint, layout: str = "meta") -> list[Mistake]:
    """What converters are known to do wrong with the tensors of a checkpoint.

    Arguments:
        layout: of the output, in which a missing permutation is told in other words.
    """
    n_head = checkpoint.params.n_head

    def permuted(tensor: LazyTensor) -> LazyTensor | None:
        return in_layout(tensor, "huggingface", n_head) if find(tensor.name)[0].rotary else None

    def unpermuted(tensor: LazyTensor) -> LazyTensor | None:
        once = tensor.with_(layout="huggingface")
        return in_layout(once, "meta", n_head) if find(tensor.name)[0].rotary else None

    missing, twice = (permuted, unpermuted) if layout == "meta" else (unpermuted, permuted)
    return [
        Mistake(PERMUTATION_MISSING[layout], missing),
        Mistake(PERMUTED_TWICE[layout], twice),
        Mistake("values went through bfloat16, cut off", through(cut_to_bfloat16)),
        Mistake("values went through bfloat16, rounded", through(rounded_to_bfloat16)),
        Mistake("values were cut off to f16 instead of rounded", through(cut_to_half)),
        Mistake("norms were rounded to f16", lambda t: through(to_half)(t) if len(t.shape) == 1 else None),
        *_shard_mistakes(checkpoint),
    ]


def through(change: Callable[[NDArray[np.float32]], NDArray[Any]]) -> Callable[[LazyTensor], LazyTensor]:
    """Every value changed, a few rows at a time."""

    def apply(tensor: LazyTensor) -> LazyTensor:
        def read(start: int, stop: int) -> NDArray[Any]:
            with np.errstate(all="ignore"):
                return change(tensor.rows(start, stop).astype(np.float32)).astype(np.float32)

        return tensor.with_(read=read, dtype="float32")

    return apply


def cut_to_bfloat16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def rounded_to_bfloat16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def to_half(x: NDArray[np.float32]) -> NDArray[np.float16]:
    return x.astype(np.float16)


def cut_to_half(x: NDArray[np.float32]) -> NDArray[np.float16]:
    """The half below in magnitude."""
    half = x.astype(np.float16)
    too_far = np.abs(half.astype(np.float32)) > np.abs(x)
    return np.where(too_far, np.nextafter(half, np.float16(0)), half)


def _shard_mistakes(checkpoint: Checkpoint) -> list[Mistake]:
    """Shards in another order or along another axis, and a row lost where they meet."""
    if not checkpoint.shard_sizes:
        return []
    sizes = checkpoint.shard_sizes

    def pieces(tensor: LazyTensor) -> list[NDArray[Any]] | None:
        axis = find(tensor.name)[0].shard_axis
        if axis is None or tensor.name not in sizes:
            return None
        return np.split(tensor.numpy(), np.cumsum(sizes[tensor.name])[:-1], axis=axis)

    def reordered(order: Callable[[int], list[int]]) -> Callable[[LazyTensor], LazyTensor | None]:
        def apply(tensor: LazyTensor) -> LazyTensor | None:
            parts = pieces(tensor)
            if parts is None or len({part.shape for part in parts}) > 1:
                return None
            chosen = [parts[i] for i in order(len(parts))]
            return _array(tensor, np.concatenate(chosen, axis=find(tensor.name)[0].shard_axis or 0))

        return apply

    def other_axis(tensor: LazyTensor) -> LazyTensor | None:
        parts = pieces(tensor)
        if parts is None or len({part.shape for part in parts}) > 1:
            return None
        joined = np.concatenate(parts, axis=1 - (find(tensor.name)[0].shard_axis or 0))
        return _array(tensor, joined.reshape(tensor.shape))

    def lost_row(tensor: LazyTensor) -> LazyTensor | None:
        parts = pieces(tensor)
        if parts is None or find(tensor.name)[0].shard_axis != 0:
            return None
        least = min(len(part) for part in parts)
        return _array(tensor, np.concatenate([part[:least] for part in parts]))

    return [
        Mistake("shards were joined along the other axis", other_axis),
        Mistake("shards were joined in reverse order", reordered(lambda n: list(range(n))[::-1])),
        Mistake(
            "shards were joined in the order of their names as text", reordered(lambda n: sorted(range(n), key=str))
        ),
        Mistake("rows were lost where shards of unequal size meet", lost_row),
    ]


def _array(tensor: LazyTensor, values: NDArray[Any]) -> LazyTensor:
    return LazyTensor.of_array(tensor.name, values, source=tensor.source, layout=tensor.layout)


# ---- a checkpoint's tensor as bytes of a file


def stored(tensor: LazyTensor, record: TensorType) -> OutTensor:
    """A tensor as a file of ``record`` holds it, rounded to nearest even where that is narrower."""

    def chunks() -> Iterator[NDArray[Any]]:
        step = max(1, CHUNK_BYTES // max(1, tensor.nbytes // max(1, tensor.shape[0])))
        for start in range(0, tensor.shape[0], step):
            stop = min(start + step, tensor.shape[0])
            if record.name == "bf16":
                yield np.ascontiguousarray(tensor.stored(start, stop))
            else:
                with np.errstate(over="ignore"):
                    yield np.ascontiguousarray(tensor.rows(start, stop), record.block)

    return OutTensor(tensor.name, record, tensor.shape, chunks)


def quantized(tensor: OutTensor, target: TensorType, era: Era) -> OutTensor:
    """What an era's quantizer makes of a tensor that is f16 or f32 now."""
    from ggmlpy.quantizers.classic import quantize_rows

    def chunks() -> Iterator[NDArray[Any]]:
        last = np.zeros((0, tensor.shape[-1]), tensor.type.block)  # a k-quant's search sees the block before
        for raw in row_chunks(tensor):
            rows = np.concatenate([last, raw.view(tensor.type.block)])
            yield quantize_rows(rows, target.name, era)[len(last) :]
            last = rows[-1:] if target.name.endswith("_K") else last

    return OutTensor(tensor.name, target, tensor.shape, chunks)


# ---- checkpoint to GGML


def verify_conversion(
    output: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    era: str | Era | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> OutputReport:
    """Is a GGML file what converting (and, if it is quantized, quantizing) a checkpoint gives?

    Arguments:
        output: a GGML file of any container, all parts.
        source: the checkpoint's directory.
        era: whose conversion; by default that of the output's container.
        tokenizer: the tokenizer.model, if it is not where :func:`llama_ref.conversion.ggml.plan_conversion` looks.

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
            expected = _expected(theirs, plan.hparams, list(plan.vocab), plan.parts[0], moment)
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


# ---- checkpoint to checkpoint


def verify_export(
    output: str | os.PathLike[str], source: str | os.PathLike[str], *, progress: Progress | None = None
) -> OutputReport:
    """Is a checkpoint directory what ``to-hf`` or ``from-hf`` makes of another?

    Raises:
        FormatError: a file can't be read.
        UsageError: both have the same layout.
    """
    output = Path(output)
    with open_checkpoint(output) as theirs, open_checkpoint(source) as ours:
        if theirs.layout == ours.layout:
            raise UsageError(f"{output} and {source} both have {ours.layout} layout: what was done between them?")
        known = mistakes(ours, theirs.layout)
        if theirs.layout == "huggingface":
            kind = weights_kind(theirs.files[0])
            sizes = max(path.stat().st_size for path in theirs.files) + 1
            with plan_to_hf(source, os.devnull, weights=kind, shard_size=sizes, weights_only=True) as plan:
                files = {output / name: list(tensors) for name, tensors in plan.files.items()}
                return verify_weights("to-hf", output, str(source), files, ours, known, progress)
        with plan_from_hf(source, os.devnull, shards=len(theirs.files), weights_only=True) as plan:
            files = {output / name: list(tensors) for name, tensors in plan.files.items()}
            return verify_weights("from-hf", output, str(source), files, ours, known, progress)


def verify_weights(
    step: str,
    output: Path,
    source: str,
    files: Mapping[Path, Sequence[LazyTensor]],
    checkpoint: Checkpoint,
    known: Iterable[Mistake],
    progress: Progress | None = None,
) -> OutputReport:
    """Weight files against the tensors they should hold.

    Arguments:
        files: path of each expected file and its tensors in order, by the names they have there.
        checkpoint: what the mistakes are applied to.
    """
    report = OutputReport(str(output), source, step)
    there: dict[str, Found] = {}
    opened: list[WeightFile] = []
    for path, tensors in files.items():
        weights = open_weights(path)
        opened.append(weights)
        several = len(files) > 1
        differences = list(_file_differences(path, weights, tensors, progress))
        report.container += differences
        bytes_are_same = not is_safetensors(path) and not differences and set(weights) == {t.name for t in tensors}
        for tensor in tensors:
            key = f"{path.name}: {tensor.name}" if several else tensor.name
            found = _found(key, weights, tensor.name)
            if found:
                there[key] = found
            report.tensors.append(_same(key, tensor) if bytes_are_same else _compared(key, tensor, found, progress))
            weights.release()
            checkpoint.release()
        strange = [name for name in weights if name not in {tensor.name for tensor in tensors}]
        report.tensors += [TensorDifference(name, "not expected") for name in strange if is_known(name)]
        report.container += [f"{path.name}: {name} is not expected" for name in strange if not is_known(name)]
    if report.differing:
        places = {
            (f"{path.name}: {tensor.name}" if len(files) > 1 else tensor.name): (tensor, index)
            for index, (path, tensors) in enumerate(files.items())
            for tensor in tensors
        }
        remake = _Remake(places, there, checkpoint, len(files))
        deviations = [Deviation(m.name, remake.by(m)) for m in known] + [Deviation(SHORT, remake.shortened)]
        explain(report, there, deviations, progress)
    for weights in opened:
        weights.close()
    return settle(report)


def _same(key: str, tensor: LazyTensor) -> TensorDifference:
    layout = _record(tensor).layout
    return TensorDifference(key, "same", (layout, layout), math.prod(tensor.shape))


def _compared(key: str, tensor: LazyTensor, found: Found | None, progress: Progress | None) -> TensorDifference:
    return compare_tensor(replace(stored(tensor, _record(tensor)), name=key), found, progress)


def _record(tensor: LazyTensor) -> TensorType:
    if tensor.dtype not in RECORDS:
        raise FormatError(
            f"tensor {tensor.name!r} has dtype {tensor.dtype}", field=tensor.name, expected=", ".join(RECORDS)
        )
    return TENSOR_TYPES[RECORDS[tensor.dtype]]


def _found(key: str, weights: WeightFile, name: str) -> Found | None:
    if name not in weights:
        return None
    tensor = weights[name]
    record = _record(tensor)

    def row_of(start: int, stop: int) -> NDArray[np.uint8]:
        rows = tensor.stored(start, stop) if len(tensor.shape) == 2 else tensor.stored()[None]
        return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)

    return Found.at(key, record, tensor.shape, row_of, None, str(weights.path))


@dataclass(frozen=True)
class _Remake:
    """What a mistake would have put where a tensor (or a shard of it) stands.

    Attributes:
        places: for each key in the report, the expected tensor and the index of its file.
        there: what was found.
        checkpoint: whole tensors by Meta name, which mistakes are applied to.
        n_files: shards (Meta) or parts (Hugging Face, which cuts no tensor).
    """

    places: Mapping[str, tuple[LazyTensor, int]]
    there: Mapping[str, Found]
    checkpoint: Checkpoint
    n_files: int

    def by(self, mistake: Mistake) -> Callable[[str], OutTensor | None]:
        """The mistake, as a deviation of one tensor."""

        def make(key: str) -> OutTensor | None:
            expected, index = self.places.get(key, (None, 0))
            if expected is None or not is_known(expected.name):
                return None
            original = self.checkpoint.tensors.get(rename(expected.name, "meta"))
            wrong = mistake.apply(original) if original is not None else None
            return None if wrong is None else self._placed(key, wrong, expected, index)

        return make

    def shortened(self, key: str) -> OutTensor | None:
        """The expected tensor without its last row."""
        expected, _ = self.places.get(key, (None, 0))
        if expected is None or len(expected.shape) != 2 or expected.shape[0] < 2:
            return None
        fewer = expected.with_(shape=(expected.shape[0] - 1, expected.shape[1]))
        return replace(stored(fewer, self.there[key].type), name=key)

    def _placed(self, key: str, wrong: LazyTensor, expected: LazyTensor, index: int) -> OutTensor | None:
        if expected.name.startswith("model.") or expected.name == "lm_head.weight":
            wrong = in_layout(wrong.with_(layout="meta"), "huggingface", self.checkpoint.params.n_head)
        elif self.n_files > 1:
            wrong = shard_of(wrong, index, self.n_files)
        return replace(stored(wrong, self.there[key].type), name=key)


def _file_differences(
    path: Path, weights: WeightFile, tensors: Sequence[LazyTensor], progress: Progress | None
) -> Iterator[str]:
    """Whether the file is byte for byte what a version of torch writes, and if not, in what it differs."""
    names = [tensor.name for tensor in tensors]
    if set(weights) != set(names):
        return  # said of each tensor
    if is_safetensors(path):
        header = safetensors_header(tensors, METADATA)
        if map_file(path)[: len(header)] != header:
            yield f"{path.name}: another header (order, offsets or metadata)"
        return
    if list(weights) != names:
        yield f"{path.name}: the tensors stand in another order"
        return
    ways = {layout: name for name, layout in TORCH_FORMATS.items()}.values()  # one version of each layout
    if not any(_is_written_so(path, tensors, name, progress) for name in ways):
        yield f"{path.name}: not the bytes of any known torch.save of these tensors"


class _Different(Exception):
    """The files part here."""


class _ComparingSink:
    """A file that is not written but compared with one that exists."""

    def __init__(self, stream: BinaryIO, progress: Progress | None) -> None:
        self.stream = stream
        self.position = 0
        self.progress = progress

    def write(self, data: Any) -> int:
        flat = np.frombuffer(data, np.uint8)
        if not same_bytes(np.frombuffer(self.stream.read(len(flat)), np.uint8), flat):
            raise _Different
        self.position += len(flat)
        if self.progress:
            self.progress(len(flat))
        return len(flat)

    def tell(self) -> int:
        return self.position


def _is_written_so(path: Path, tensors: Sequence[LazyTensor], version: str, progress: Progress | None) -> bool:
    with path.open("rb") as stream:
        try:
            stream_pth(_ComparingSink(stream, progress), path.name, tensors, version)  # type: ignore[arg-type]
        except _Different:
            return False
        return not stream.read(1)
