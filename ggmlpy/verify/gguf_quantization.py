"""Whose llama-quantize made a GGUF file of another, with which options: found by trying.

Eras differ in types, in the order of tensors and keys, and in bytes. Types and order tell most of it without quantizing
anything: each era's plan is compared with what is there. What remains is quantized anew and compared byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggmlpy.files.errors import FormatError
from ggmlpy.files.ordered import Workers
from ggmlpy.formats.eras import GGUF_ERAS, TODAY, Era, quantizing_era
from ggmlpy.formats.file_types import FTYPES, FileType
from ggmlpy.formats.gguf import GgufFile
from ggmlpy.formats.gguf_mixes import MixOptions
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import prefix
from ggmlpy.formats.importance import open_importance
from ggmlpy.formats.tensor_types import TensorType
from ggmlpy.quantizers.gguf_file import made_tensor
from ggmlpy.quantizers.gguf_plan import GgufRequest, PlannedTensor, opened, output_metadata, planned

from .builds import built_by, compiler_of, words_of

__all__ = ["GgufWay", "find_way"]

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
    file_type = FTYPES.get(int(stated.value)) if stated is not None and stated.type == "u32" else None
    if file_type is None or file_type.first is None:
        return None
    ways = list(_ways(theirs, ours, file_type, era, importance))
    if not ways:
        return None
    best = min(ways, key=_misfit)
    eras = [way.request.era for way in ways if _misfit(way)[:3] == _misfit(best)[:3]]
    return replace(_by_its_build(best, theirs), eras=eras)


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
    return name in there and name not in named and there[name].layout != tensor.target.layout


def _is_exact(
    theirs: Sequence[GgufFile], plan: Sequence[PlannedTensor], metadata: Mapping[str, Value], request: GgufRequest
) -> bool:
    if len(theirs) > 1:
        return [tensor.source.name for tensor in plan] == [name for file in theirs for name in file.tensors]
    with Workers(1) as workers:
        tensors = [made_tensor(tensor, request.era, workers) for tensor in plan]
    ours = prefix(metadata, tensors, request.era.version)[0]
    return bytes(theirs[0].cursor.buffer[: len(ours)]) == ours
