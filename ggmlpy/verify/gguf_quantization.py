"""Whose llama-quantize made a GGUF file of another, with which options: found by trying.

Eras differ in types, in the order of tensors and keys, and in bytes. Types and order tell most of it without quantizing
anything: each era's plan is compared with what is there. What remains is quantized anew and compared byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.files.ordered import Workers
from ggmlpy.formats.eras import AUGUST_22, GGUF_ERAS, JANUARY_14_24, TODAY, Era, quantizing_era
from ggmlpy.formats.file_types import FILE_TYPES, FileType
from ggmlpy.formats.gguf import GgufFile
from ggmlpy.formats.gguf_mixes import MixOptions
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import prefix
from ggmlpy.formats.importance import open_importance
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.out_tensor import OutTensor, row_chunks
from ggmlpy.formats.tensor_names import meta_name
from ggmlpy.formats.tensor_types import TensorType, type_named
from ggmlpy.quantizers.gguf_file import made_tensor
from ggmlpy.quantizers.gguf_plan import GgufRequest, PlannedTensor, opened, output_metadata, planned
from ggmlpy.quantizers.rows import usual_way

from .builds import built_by, compiler_of, words_of
from .expected import Deviation

__all__ = ["GgufWay", "find_way", "made_by", "named_in", "other_ways"]

UsualWays = frozenset[tuple[str, Hashable]]

IMATRIX_KEYS = "quantize.imatrix."
MOST_NAMED = 4  # tensors whose types may be those of --tensor-type
OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"


@dataclass(frozen=True)
class GgufWay:
    """A way that leads from a source to an output.

    Attributes:
        request: what llama-quantize was asked for, types of single tensors apart.
        plan: its tensors.
        metadata: its keys.
        named: tensors that have another type than the request gives them.
        eras: all eras that would have planned the same.
        exact: whether everything before the tensors' data is as it makes it.
    """

    request: GgufRequest
    plan: Sequence[PlannedTensor]
    metadata: Mapping[str, Value]
    named: Mapping[str, str]
    eras: Sequence[Era]
    exact: bool

    @property
    def words(self) -> str:
        """Era, type and options."""
        first, last = min(self.eras), max(self.eras)
        after = [era.date for era in GGUF_ERAS.values() if era > last]
        until = f" to before {after[0]}" if after else " to today" if first < TODAY else ""
        options = [str(self.request.file_type)]
        mix = self.request.mix
        options += ["--pure"] if mix.pure else []
        options += ["--leave-output-tensor"] if mix.leave_output else []
        if self.request.importance is not None:
            options.append(f"--imatrix {self.request.importance.path.name}")
        flags = {OUTPUT: "--output-tensor-type", EMBEDDING: "--token-embedding-type"}
        options += [f"{flags[name]} {kind}" for name, kind in self.named.items() if name in flags]
        others = [f"{name}={kind}" for name, kind in self.named.items() if name not in flags and kind]
        options += (
            [f"--tensor-type {others[0]}" + (f" and {len(others) - 1} more" if others[1:] else "")] if others else []
        )
        return f"llama-quantize of {first}{until} ({', '.join(options)}){words_of(self.request.compiler)}"


def find_way(output: Path, source: Path, era: str | Era | None = None, importance: str | None = None) -> GgufWay | None:
    """The way that fits best what is there before the tensors' data; None if no file type of GGUF's eras is named.

    Raises:
        FormatError: a file can't be read.
    """
    theirs, ours = opened(output), opened(source)
    stated = theirs[0].metadata.get("general.file_type")
    number = int(stated.value) if stated is not None and stated.type == "u32" else None
    file_types = [record for record in FILE_TYPES.values() if record.id == number and record.first]
    ways = [way for kind in file_types for way in _ways(theirs, ours, kind, era, importance)]
    if not ways:
        return None
    best = min(ways, key=_misfit)
    same = [way for way in ways if _misfit(way)[:3] == _misfit(best)[:3]]
    return _by_its_build(_of_its_bytes(same, theirs), theirs)


def _of_its_bytes(ways: Sequence[GgufWay], theirs: Sequence[GgufFile]) -> GgufWay:
    """The last of ways that differ in their eras alone, among those whose quantizers make most of what is there.

    Only samples are quantized, and only where eras make other blocks of ordinary values.
    """
    groups: dict[UsualWays, list[GgufWay]] = {}
    for way in ways:
        groups.setdefault(_usual_ways(way), []).append(way)
    varying = {
        name for name in {name for group in groups for name, _ in group} if len({dict(g)[name] for g in groups}) > 1
    }
    alike = {key: _alike(group[-1], theirs, varying) if len(groups) > 1 else 0 for key, group in groups.items()}
    made = [way for key, group in groups.items() if alike[key] == max(alike.values()) for way in group]
    return replace(made[-1], eras=[way.request.era for way in made])


def _usual_ways(way: GgufWay) -> UsualWays:
    """How each type of a plan is made."""
    weighted, era = way.request.importance is not None, way.request.era
    targets = {tensor.target for tensor in way.plan if tensor.target.quantized and not tensor.copied}
    return frozenset((record.name, usual_way(record, era, weighted)) for record in targets)


def _alike(way: GgufWay, theirs: Sequence[GgufFile], types: Set[str]) -> int:
    """How many blocks of one sample of each of some types are as a way makes them."""
    there = {name: tensor for file in theirs for name, tensor in file.tensors.items()}
    samples = {tensor.target.name: tensor for tensor in reversed(way.plan) if tensor.source.name in there}
    alike = 0
    for name in sorted(types & samples.keys()):
        sample = samples[name]
        size, found = sample.target.type_size, there[sample.source.name]
        with Workers(1) as workers, suppress(FormatError, UsageError):  # without importance, or beyond all numbers
            made = next(row_chunks(made_tensor(sample, way.request.era, workers))).reshape(-1, size)
            alike += int((made == found.data[: made.size].reshape(-1, size)).all(axis=1).sum())
    return alike


def _by_its_build(way: GgufWay, theirs: Sequence[GgufFile]) -> GgufWay:
    """The same way by the build that made what is there."""
    if way.request.unknown_importance:
        return way
    found = {name: tensor for file in theirs for name, tensor in file.tensors.items()}
    compiler = compiler_of(way.plan, way.request.era, found)
    return replace(way, request=replace(way.request, compiler=compiler), plan=built_by(way.plan, compiler))


def _misfit(way: GgufWay) -> tuple[bool, int, int, int]:
    """How badly a way fits; the last of equals in time is best."""
    mix = way.request.mix
    dates = list(GGUF_ERAS)
    return not way.exact, len(way.named), mix.pure + mix.leave_output, -dates.index(way.request.era.date)


def _ways(
    theirs: Sequence[GgufFile],
    ours: Sequence[GgufFile],
    file_type: FileType,
    era: str | Era | None,
    importance: str | None,
) -> list[GgufWay]:
    eras = [quantizing_era(era)] if era is not None else list(GGUF_ERAS.values())
    matrix = open_importance(importance) if importance is not None else None
    keys = theirs[0].metadata
    name = keys[f"{IMATRIX_KEYS}file"].text() if f"{IMATRIX_KEYS}file" in keys else importance or ""
    found = []
    for moment in eras:
        if not moment.is_of_gguf or not file_type.is_target_of(moment) or moment.version != theirs[0].version:
            continue
        for mix in (MixOptions(), MixOptions(pure=True), MixOptions(leave_output=True)):
            request = GgufRequest(
                file_type,
                moment,
                mix,
                importance=matrix,
                importance_name=name,
                keep_split=len(theirs) > 1 and len(theirs) == len(ours),
                allow_requantize=True,
                unknown_importance=matrix is None and any(key.startswith(IMATRIX_KEYS) for key in keys),
            )
            try:
                found.append(_way(theirs, ours, request))
            except FormatError:
                continue  # this era refuses it
    return found


def _way(theirs: Sequence[GgufFile], ours: Sequence[GgufFile], request: GgufRequest) -> GgufWay:
    there = {name: tensor.type for file in theirs for name, tensor in file.tensors.items()}
    plan, named = _as_found(ours, request, there)
    metadata = output_metadata(ours[0].metadata, request)
    if request.unknown_importance:
        metadata |= {key: value for key, value in theirs[0].metadata.items() if key.startswith(IMATRIX_KEYS)}
    return GgufWay(request, plan, metadata, named, [request.era], _is_exact(theirs, plan, metadata, request))


def _as_found(
    ours: Sequence[GgufFile], request: GgufRequest, there: Mapping[str, TensorType]
) -> tuple[list[PlannedTensor], dict[str, str]]:
    """The plan with the types that are there, where they are so few that they were asked for one by one, and those.

    A tensor whose type was asked for is not counted among its kind, so each one changes the plan of those behind it.
    """
    named: dict[str, str] = {}
    first = plan = planned(ours, request)
    while len(named) <= MOST_NAMED:
        different = (tensor.source.name for tensor in plan if _differs(tensor, there, named))
        name = next(different, None)
        if name is None:
            return plan, named
        if there[name].name not in request.era.types:
            break
        named[name] = there[name].name
        others = {key: kind for key, kind in named.items() if key not in (OUTPUT, EMBEDDING)}
        tensors = tuple((f"^{re.escape(key)}$", kind) for key, kind in others.items())
        mix = replace(request.mix, tensors=tensors, output=named.get(OUTPUT), embedding=named.get(EMBEDDING))
        plan = planned(ours, replace(request, mix=mix))
    return first, {tensor.source.name: "" for tensor in first if _differs(tensor, there, {})}


def _differs(tensor: PlannedTensor, there: Mapping[str, TensorType], named: Mapping[str, str]) -> bool:
    name = tensor.source.name
    return name in there and name not in named and there[name].name != tensor.target.name


def _is_exact(
    theirs: Sequence[GgufFile], plan: Sequence[PlannedTensor], metadata: Mapping[str, Value], request: GgufRequest
) -> bool:
    if len(theirs) > 1:
        return [tensor.source.name for tensor in plan] == [name for file in theirs for name in file.tensors]
    with Workers(1) as workers:
        tensors = [made_tensor(tensor, request.era, workers) for tensor in plan]
    ours = prefix(metadata, tensors, request.era.version)[0]
    return bytes(theirs[0].cursor.buffer[: len(ours)]) == ours


# ── what a way makes ──────────────────────────────────────────────────────────────────────────────────────────────────


def named_in(name: str, model: ModelFile) -> str:
    """What a tensor of a GGUF file is called in an open model."""
    return name if model.as_stored else meta_name(name)


def made_by(way: GgufWay, workers: Workers) -> list[OutTensor]:
    """The tensors that a way makes, under the names of GGUF."""
    return [_as_stated(made_tensor(tensor, way.request.era, workers)) for tensor in way.plan]


def _as_stated(tensor: OutTensor) -> OutTensor:
    """With the type that its number means in a file, which does not say whether its blocks are of an older era."""
    return replace(tensor, type=type_named(tensor.type.name, "gguf", 3))


def other_ways(way: GgufWay, source: ModelFile, workers: Workers) -> list[Deviation]:
    """The same tensors by other eras' quantizers, and without the importance matrix."""
    plan = {named_in(tensor.source.name, source): tensor for tensor in way.plan}

    def by(era: Era, weighted: bool) -> Callable[[str], OutTensor | None]:
        def make(name: str) -> OutTensor | None:
            tensor = plan.get(name)
            target = era.types.get(tensor.target.name) if tensor is not None and not tensor.copied else None
            if tensor is None or target is None or (weighted and not is_another(target, era, tensor)):
                return None
            importance = tensor.importance if weighted else None
            made = made_tensor(replace(tensor, target=target, importance=importance), era, workers)
            return replace(_as_stated(made), name=name)

        return make

    def is_another(target: TensorType, era: Era, tensor: PlannedTensor) -> bool:
        """Whether it is the first era that makes such blocks, and they are others than expected."""
        weights = tensor.importance is not None
        usual = usual_way(target, era, weights)
        before = [each for each in GGUF_ERAS.values() if each < era and target.name in each.types]
        if before and usual_way(before[-1].types[target.name], before[-1], weights) == usual:
            return False
        return usual != usual_way(tensor.target, now, weights)

    now, first = way.request.era, JANUARY_14_24 if way.request.importance is not None else AUGUST_22
    found = [
        Deviation(f"the quantizer of {era}", by(era, True), era.date)
        for era in reversed(GGUF_ERAS.values())
        if era != now and era >= first
    ]
    if way.request.importance is not None:
        found.append(Deviation("it was quantized without the importance matrix", by(now, False)))
    return found
