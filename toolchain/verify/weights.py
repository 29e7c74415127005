"""Verifying weight files: a checkpoint turned into the other layout, and what a merge wrote.

What is expected comes from the same plans that write (:mod:`llama_ref.conversion.checkpoints`); here their tensors flow
into a comparison instead of a file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import UsageError
from ggmlpy.files.mapping import map_file
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import is_derived, is_known, rename
from ggmlpy.verify.exchanged import Exchanged
from ggmlpy.verify.judge import Deviation, Explainer, OutputReport, Progress, compare_tensor, explain, settle
from ggmlpy.verify.numbers import Difference
from ggmlpy.verify.tensors import Found, TensorDifference, same_bytes
from ggmlpy.verify.terms import AGAINST, SAME
from llama_ref.checkpoint import Checkpoint, LazyTensor, open_checkpoint
from llama_ref.checkpoint.folder import Folder
from llama_ref.checkpoint.layout import in_layout, shard_of
from llama_ref.checkpoint.pth_writer import stream_pth
from llama_ref.checkpoint.safetensors_file import safetensors_header
from llama_ref.checkpoint.torch_formats import TORCH_FORMATS
from llama_ref.checkpoint.weights import METADATA, WeightFile, is_safetensors, open_weights, weights_kind
from llama_ref.conversion.checkpoints import open_source, plan_from_hf, plan_to_hf

from .as_written import stored, type_of
from .beside import Pieces, folder_differences, vocabulary_beside
from .mistakes import Mistake, mistakes

__all__ = ["verify_export", "verify_weights"]

SHORT = "the last row is missing: an odd vocabulary was cut into equal shards"
SHORT_ALONE = "the last row is missing"  # of one file


def verify_export(
    output: str | os.PathLike[str], source: str | os.PathLike[str], *, progress: Progress | None = None
) -> OutputReport:
    """Is a checkpoint directory what ``to-hf``, ``from-hf`` or ``to-meta`` makes of another, or of a GGML or GGUF file?

    Raises:
        FormatError: a file can't be read.
        UsageError: both have the same layout.
    """
    output = Path(output)
    with open_checkpoint(output) as theirs, open_source(source) as ours:
        if theirs.layout == ours.layout:
            raise UsageError(f"{output} and {source} both have {ours.layout} layout: what was done between them?")
        known, bare = mistakes(ours, theirs.layout), ours.vocabulary is None  # else its tokenizer's files follow, too
        if theirs.layout == "huggingface":
            kind = weights_kind(theirs.files[0])
            sizes = max(path.stat().st_size for path in theirs.files) + 1
            with plan_to_hf(source, os.devnull, weights=kind, shard_size=sizes, weights_only=bare) as plan:
                files = {output / name: list(tensors) for name, tensors in plan.files.items()}
                beside = _beside(theirs, ours, plan.texts)
                return verify_weights("to-hf", output, str(source), files, ours, known, progress, beside=beside)
        with plan_from_hf(source, os.devnull, shards=len(theirs.files), weights_only=bare) as plan:
            files = {output / name: list(tensors) for name, tensors in plan.files.items()}
            beside = _beside(theirs, ours, plan.texts)
            step = "from-hf" if bare else "to-meta"
            return verify_weights(step, output, str(source), files, ours, known, progress, beside=beside)


def _beside(theirs: Checkpoint, ours: Checkpoint, texts: Mapping[str, str]) -> Iterator[Difference]:
    vocab, there = _pieces_of(ours), vocabulary_beside(theirs.path, theirs.layout)
    params, files = replace(ours.params, n_vocab=ours.n_vocab), {name: text.encode() for name, text in texts.items()}
    yield from folder_differences(theirs, params, ours.layout, vocab if there else None, files)


def _pieces_of(checkpoint: Checkpoint) -> Pieces | None:
    """The pieces of the tokenizer beside a checkpoint, or of a GGML or GGUF file that has their scores."""
    pieces = checkpoint.vocabulary
    if pieces is None:
        return vocabulary_beside(checkpoint.path, "meta")
    return list(zip(pieces, pieces.scores.tolist(), strict=True)) if pieces.scores.any() else None


def verify_weights(
    step: str,
    output: Path,
    source: str,
    files: Mapping[Path, Sequence[LazyTensor]],
    checkpoint: Checkpoint,
    known: Iterable[Mistake],
    progress: Progress | None = None,
    *,
    explainers: Sequence[Explainer] = (),
    beside: Iterable[Difference] = (),
) -> OutputReport:
    """Weight files against the tensors they should hold.

    Args:
        files: path of each expected file and its tensors in order, by the names they have there.
        checkpoint: what the mistakes are applied to.
        explainers: what else to try where tensors differ.
        beside: how what stands beside the weights differs.
    """
    files, notes = _as_split(output, files)
    judged = _Judged(OutputReport(str(output), source, step), checkpoint, len(files), progress)
    judged.report.note(notes)
    judged.report.note(beside)
    with ExitStack() as stack:
        for index, (path, tensors) in enumerate(files.items()):
            judged.file(index, stack.enter_context(closing(open_weights(path))), tensors)
        remake = _Remake(judged.places, judged.there, checkpoint, len(files))
        deviations = [
            *(Deviation(m.name, remake.by(m)) for m in known),
            Deviation(SHORT if len(files) > 1 else SHORT_ALONE, remake.shortened),
        ]
        expected = {
            key: replace(stored(tensor, type_of(tensor)), name=key) for key, (tensor, _) in judged.places.items()
        }
        explain(judged.report, judged.there, [*deviations, *explainers, Exchanged(expected)], progress)
    return settle(judged.report)


def _as_split(
    output: Path, files: Mapping[Path, Sequence[LazyTensor]]
) -> tuple[Mapping[Path, Sequence[LazyTensor]], list[Difference]]:
    """The expected tensors in the files that a directory of Hugging Face's layout has, and what is told of that."""
    there = Folder.of(output).parts
    notes = []
    if there and set(there) != set(files):
        expected = {tensor.name: tensor for tensors in files.values() for tensor in tensors}
        split: dict[Path, list[LazyTensor]] = {}
        for path in there:
            with closing(open_weights(path)) as weights:
                split[path] = [expected.pop(name) for name in weights if name in expected]
        split[there[0]] += expected.values()  # of no file there
        notes.append(Difference(f"tensors in {len(there)} files instead of {len(files)}", False))
        files = split
    return files, notes


def _without_frequencies(weights: WeightFile, tensors: Sequence[LazyTensor]) -> list[LazyTensor]:
    """Without the rotary frequencies where a file has none: transformers writes them up to 4.31."""
    return [tensor for tensor in tensors if tensor.name in weights or not is_derived(tensor.name)]


@dataclass
class _Judged:
    """The files looked at so far.

    Attributes:
        there: what was found, by the tensor's name in the report.
        places: the expected tensor of that name and the index of its file.
    """

    report: OutputReport
    checkpoint: Checkpoint
    n_files: int
    progress: Progress | None
    there: dict[str, Found] = field(default_factory=dict)
    places: dict[str, tuple[LazyTensor, int]] = field(default_factory=dict)

    def file(self, index: int, weights: WeightFile, tensors: Sequence[LazyTensor]) -> None:
        """Hold one file against the tensors that it should have."""
        kept = _without_frequencies(weights, tensors)
        if len(kept) < len(tensors):
            self.report.container.append(
                f"{Path(weights.path).name}: no rotary_emb.inv_freq, which follow from the rest"
            )
        path, tensors, names = Path(weights.path), kept, {tensor.name for tensor in kept}
        differences = list(_file_differences(path, weights, tensors, self.progress))
        self.report.container += differences
        bytes_are_same = not is_safetensors(path) and not differences and set(weights) == names
        for tensor in tensors:
            key = f"{path.name}: {tensor.name}" if self.n_files > 1 else tensor.name
            self.places[key] = (tensor, index)
            found = _found(key, weights, tensor.name)
            if found:
                self.there[key] = found
            compared = _same(key, tensor) if bytes_are_same else _compared(key, tensor, found, self.progress)
            self.report.tensors.append(compared)
            weights.release()
            self.checkpoint.release()
        for name in weights:
            if name not in names and is_known(name):
                self.report.tensors.append(TensorDifference(name, AGAINST.extra))
            elif name not in names:
                self.report.container.append(f"{path.name}: {name} is not expected")


def _same(key: str, tensor: LazyTensor) -> TensorDifference:
    layout = type_of(tensor).layout
    return TensorDifference(key, SAME, (layout, layout), math.prod(tensor.shape))


def _compared(key: str, tensor: LazyTensor, found: Found | None, progress: Progress | None) -> TensorDifference:
    return compare_tensor(replace(stored(tensor, type_of(tensor)), name=key), found, progress)


def _found(key: str, weights: WeightFile, name: str) -> Found | None:
    if name not in weights:
        return None
    tensor = weights[name]

    def row_of(start: int, stop: int) -> NDArray[np.uint8]:
        rows = tensor.stored(start, stop) if len(tensor.shape) == 2 else tensor.stored()[None]
        return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)

    return Found.at(key, type_of(tensor), tensor.shape, row_of, None, str(weights.path))


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
            wrong = in_layout(wrong.with_(layout="meta"), "huggingface", self.checkpoint.params)
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
