"""What llama-quantize of an era would make of a GGUF file: types, keys, order, refusals. Nothing is quantized here.

Of a model only the names and shapes of its tensors and a few keys are asked for, so that any architecture is quantized
whose rules are those of LLaMA. :mod:`ggmlpy.quantizers.gguf_file` carries a plan out.

Source: src/llama-quant.cpp and tools/quantize/quantize.cpp in llama.cpp (2026), and their history.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.era_of_file import file_order
from ggmlpy.formats.eras import APRIL_12_24, APRIL_26_24, JANUARY_7_25, JANUARY_14_24, OCTOBER_31_24, TODAY, Era
from ggmlpy.formats.file_types import FileType, file_type_of
from ggmlpy.formats.gguf import GgufFile, GgufTensor, open_splits
from ggmlpy.formats.gguf_mixes import MixChooser, MixOptions, ModelShape, checked_types, needs_importance
from ggmlpy.formats.gguf_model import QUANTIZATION_VERSION, SPLIT_KEYS
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.importance import ImportanceMatrix, open_importance
from ggmlpy.formats.model_file import Piece, Tensor
from ggmlpy.formats.row_reader import RowSource
from ggmlpy.formats.tensor_types import TensorType
from ggmlpy.machine.contraction import BASELINE

from .compilers import contraction_of

__all__ = [
    "GgufOptions",
    "GgufRequest",
    "PlannedTensor",
    "SourceTensor",
    "model_shape",
    "opened",
    "output_metadata",
    "parsed_override",
    "planned",
    "request_of",
    "split_metadata",
    "split_output",
]

LONGEST_TEXT = 127  # bytes of a string that llama-quantize keeps

Importance = NDArray[np.float32]


@dataclass(frozen=True)
class GgufRequest:
    """What llama-quantize was asked for.

    Attributes:
        file_type: None for COPY.
        importance, importance_name: the matrix, and its path as it was typed.
        overrides: keys to set, see :func:`parsed_override`.
        prune: the layers to leave out.
        keep_split: whether there are as many files as the input has.
        unknown_importance: whether there is an importance matrix that is not at hand; plans are made as if it were.
        compiler: what built it, see :mod:`ggmlpy.quantizers.compilers`.
    """

    file_type: FileType | None
    era: Era = TODAY
    mix: MixOptions = field(default_factory=MixOptions)
    importance: ImportanceMatrix | None = None
    importance_name: str = ""
    overrides: Sequence[tuple[str, Value]] = ()
    prune: Sequence[int] = ()
    keep_split: bool = False
    allow_requantize: bool = False
    unknown_importance: bool = False
    compiler: str = BASELINE


@dataclass(frozen=True)
class GgufOptions:
    """What a person may ask llama-quantize for beside type and era.

    Attributes:
        pure: no mix: the same type for all.
        output, embedding: the types of these two tensors, in any case.
        tensors: expressions, and the types of tensors whose names have something that matches.
        importance: the path of an importance matrix.
        include, exclude: parts of the names of tensors whose importance counts, or does not.
        overrides: ``KEY=TYPE:VALUE`` for each key to set.
        prune: layers to leave out.
        keep_split: write as many files as the input has.
        compiler: what built it.
    """

    pure: bool = False
    output: str | None = None
    embedding: str | None = None
    tensors: Sequence[tuple[str, str]] = ()
    importance: str | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overrides: Sequence[str] = ()
    prune: Sequence[int] = ()
    keep_split: bool = False
    compiler: str = BASELINE


def request_of(
    type: str | int | FileType, era: Era, options: GgufOptions, allow_requantize: bool, leave_output: bool
) -> GgufRequest:
    """What was asked for, with the importance matrix read.

    Raises:
        UsageError: there is no such type, or no such build, or an option is not of its form.
        FormatError: the importance matrix can't be read.
    """
    copied = isinstance(type, str) and type.upper() == "COPY"
    if options.include and options.exclude:
        raise UsageError("--include-weights and --exclude-weights can't be used together")
    matrix = None
    if options.importance is not None:
        if era < JANUARY_14_24:
            raise UsageError(f"era {era} has no importance matrices; they came in January 2024")
        matrix = open_importance(options.importance).only(options.include, options.exclude)
    known = {name.lower(): name for name in era.types}
    tensors = tuple((pattern, known.get(kind.lower(), kind)) for pattern, kind in options.tensors)
    output, embedding = (
        known.get(kind.lower(), kind) if kind else None for kind in (options.output, options.embedding)
    )
    return GgufRequest(
        file_type=None if copied else file_type_of(type, era),
        era=era,
        mix=MixOptions(options.pure, leave_output, output, embedding, tensors),
        importance=matrix,
        importance_name=options.importance or "",
        overrides=[parsed_override(text) for text in options.overrides],
        prune=options.prune,
        keep_split=options.keep_split,
        allow_requantize=allow_requantize,
        compiler=options.compiler,
    )


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of the input: its name in the output, its part of a split model, and its rows.

    Attributes:
        shape: rows first.
        rows: float32, float16 or bytes of rows [rows, columns], of a tensor of experts all in one.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    part: int
    rows: RowSource

    @classmethod
    def of(cls, tensor: GgufTensor, part: int, name: str) -> SourceTensor:
        flat = (int(np.prod(tensor.shape[:-1])), tensor.shape[-1])
        piece = Piece(part, tensor.header, tensor.offset, flat, tensor.data)
        return cls(name, tensor.type, tensor.shape, part, RowSource(Tensor(name, tensor.type, flat, (piece,))))


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the output.

    Attributes:
        target: its type; the source's if it is copied.
        importance: float32 [experts, columns].
        compiler: what built the quantizer.
        fallback: what it got, and the type that it was to have, if its rows do not fit that.
    """

    source: SourceTensor
    target: TensorType
    importance: Importance | None = None
    compiler: str = BASELINE
    fallback: tuple[str, str] | None = None

    @property
    def copied(self) -> bool:
        return self.target.layout == self.source.type.layout

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.source.shape[:-1])) * self.target.row_bytes(self.source.shape[-1])


def opened(path: Path) -> list[GgufFile]:
    """A GGUF file with all its splits.

    Raises:
        FormatError: see :func:`~ggmlpy.formats.gguf.open_splits`; or it is big-endian.
    """
    files = open_splits(path)
    for file in files:
        if file.order == ">":
            raise FormatError("big-endian GGUF files are not quantized", path=file.path, field="version")
    return files


# ── the plan ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def planned(files: Sequence[GgufFile], request: GgufRequest) -> list[PlannedTensor]:
    """Each tensor of the output with its type, in the order of the file.

    Raises:
        UsageError: a type is asked for that the era has not, or whose bytes are not known of the compiler.
        FormatError: llama-quantize refuses this input.
    """
    checked_types([request.mix.output, request.mix.embedding, *(kind for _, kind in request.mix.tensors)], request.era)
    tensors = _ordered(files, request)
    shape = model_shape(files[0].metadata, [tensor.name for tensor in tensors])
    choose = None
    if request.file_type is not None:
        weighted = request.unknown_importance or bool(request.importance and request.importance.entries)
        choose = MixChooser(request.file_type, request.era, shape, request.mix, weighted)
    return [_planned_tensor(tensor, choose, request, files) for tensor in tensors]


def _ordered(files: Sequence[GgufFile], request: GgufRequest) -> list[SourceTensor]:
    """The input's tensors, without pruned layers, in the order of the output: that of the input, since 2024-10-31 that
    of layers and names."""
    found = []
    for part, file in enumerate(files):
        for name, tensor in file.tensors.items():
            kept = _renumbered(name, request.prune)
            if kept is not None:
                found.append((part, tensor.offset, SourceTensor.of(tensor, part, kept)))
    if request.keep_split:
        return [tensor for *_, tensor in sorted(found, key=lambda entry: entry[:2])]
    tensors = [tensor for *_, tensor in found]
    if request.era < OCTOBER_31_24:
        return tensors
    return sorted(tensors, key=lambda tensor: file_order(tensor.name))


def _layer(name: str) -> int:
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _renumbered(name: str, pruned: Sequence[int]) -> str | None:
    """A tensor's name when layers are left out; None if it is in one of those."""
    layer = _layer(name)
    if layer < 0 or not pruned:
        return name
    if layer in pruned:
        return None
    return name.replace(f"blk.{layer}.", f"blk.{layer - sum(other < layer for other in pruned)}.", 1)


def model_shape(metadata: Mapping[str, Value], names: Sequence[str]) -> ModelShape:
    """What a mix asks of a model."""

    def number(key: str, default: int) -> int:
        value = metadata.get(f"{own}.{key}")
        if value is None or value.type == "string":
            return default
        return int(np.max(np.asarray(value.value))) if value.type == "array" else int(value.value)

    architecture = metadata.get("general.architecture")
    own = architecture.text() if architecture is not None and architecture.type == "string" else ""
    n_head = number("attention.head_count", 1)
    return ModelShape(
        n_layer=number("block_count", 0),
        n_head=n_head,
        n_head_kv=number("attention.head_count_kv", n_head) or n_head,
        n_expert=number("expert_count", 0),
        tied="output.weight" not in names,
        n_attn_v=sum("attn_v.weight" in name for name in names),
        n_ffn={part: sum(part in name for name in names) for part in ("ffn_down", "ffn_gate", "ffn_up")},
    )


def _planned_tensor(
    tensor: SourceTensor, choose: MixChooser | None, request: GgufRequest, files: Sequence[GgufFile]
) -> PlannedTensor:
    where: dict[str, Any] = {"path": files[tensor.part].path, "field": tensor.name}
    try:
        target = choose(tensor.name, tensor.shape, tensor.type) if choose else None
    except FormatError as error:
        error.name_file(where["path"])
        raise
    if choose is None or target is None:
        return PlannedTensor(tensor, tensor.type)
    matrix = request.importance
    optional = tensor.name == "token_embd.weight"
    weights = matrix.of(tensor.name, tensor.shape, optional=optional) if matrix is not None else None
    if (
        weights is None
        and not request.unknown_importance
        and request.file_type
        and needs_importance(target.name, request.file_type, tensor.name, request.era)
    ):
        raise FormatError(
            f"tensor {tensor.name!r} can't be made {target.name} without an importance matrix",
            expected="an entry in --imatrix",
            found="an importance matrix without it" if matrix is not None else "none",
            cause="llama-quantize refuses it, because the result would be of no use",
            next_step="`imatrix -m MODEL -f TEXT -o F`, then give --imatrix F; or choose another type", **where,
        )  # fmt: skip
    if tensor.type.quantized and not request.allow_requantize:
        raise FormatError(
            f"tensor {tensor.name!r} is quantized already (llama.cpp says: requantizing from type {tensor.type.name} "
            f"is disabled)",
            expected="f32, f16 or bf16", found=tensor.type.name,
            cause="this file is itself a quantized model; quantizing it again would lose more",
            next_step="quantize the f16 file that it was made from, or insist with --allow-requantize", **where,
        )  # fmt: skip
    fallback = choose.fallbacks.get(tensor.name)
    if target.quantized:
        contraction_of(request.compiler, target.name, request.era)  # refuses before anything is written
        return PlannedTensor(tensor, target, weights, request.compiler, fallback)
    return PlannedTensor(tensor, target, fallback=fallback)


# ── the keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def parsed_override(text: str) -> tuple[str, Value]:
    """A ``KEY=TYPE:VALUE`` of ``--override-kv`` as llama-quantize writes it: whole numbers without their sign, as u32.

    Raises:
        UsageError: it is not of that form.

    >>> parsed_override("x.y=int:-5")
    ('x.y', Value(type='u32', value=5, item=''))
    """
    key, equals, rest = text.partition("=")
    kind, colon, word = rest.partition(":")
    try:
        if not (key and equals and colon):
            raise ValueError
        if kind == "int":
            return key, Value("u32", abs(int(word)) & 0xFFFFFFFF)
        if kind == "float":
            return key, Value("f32", float(np.float32(float(word))))
        if kind == "bool":
            return key, Value("bool", {"true": True, "false": False}[word])
        if kind == "str" and len(word.encode()) <= LONGEST_TEXT:
            return key, Value("string", word.encode())
        raise ValueError
    except (ValueError, KeyError):
        raise UsageError(
            f"--override-kv takes KEY=TYPE:VALUE, TYPE being int, float, bool (true, false) or str (up to "
            f"{LONGEST_TEXT} bytes), not {text!r}"
        ) from None


def output_metadata(source: Mapping[str, Value], request: GgufRequest) -> dict[str, Value]:
    """The keys of the output: the input's, with what llama-quantize sets. Since 2025 a key that is set moves to the
    end."""
    keys = dict(source)

    def put(key: str, value: Value) -> None:
        if request.era >= JANUARY_7_25:
            keys.pop(key, None)
        keys[key] = value

    number = request.file_type.id if request.file_type else None
    if number is None:
        stated = source.get("general.file_type")
        number = int(stated.value) if stated is not None and stated.type == "u32" else 0
    put("general.quantization_version", Value("u32", QUANTIZATION_VERSION))
    put("general.file_type", Value("u32", number))
    for key in SPLIT_KEYS if request.era >= APRIL_12_24 else ():
        keys.pop(key, None)
    for key, value in request.overrides:
        put(key, value)
    matrix = request.importance
    if matrix is not None and matrix.entries and request.era >= APRIL_26_24:
        put("quantize.imatrix.file", Value("string", request.importance_name.encode()[:LONGEST_TEXT]))
        if matrix.datasets:
            put("quantize.imatrix.dataset", Value("string", matrix.datasets[0].encode()[:LONGEST_TEXT]))
        put("quantize.imatrix.entries_count", Value("u32", len(matrix.entries)))
        if matrix.n_chunks > 0:
            put("quantize.imatrix.chunks_count", Value("u32", matrix.n_chunks))
    if request.prune:
        key, layers = _block_count(source)
        put(key, Value("u32", layers - len(set(request.prune))))
    return keys


def _block_count(metadata: Mapping[str, Value]) -> tuple[str, int]:
    architecture = metadata.get("general.architecture", Value("string", b""))
    key = f"{architecture.text()}.block_count"
    if key not in metadata:
        raise UsageError(f"--prune-layers needs the key {key}, which the file has not")
    return key, int(metadata[key].value)


def split_metadata(keys: Mapping[str, Value], part: int, n_parts: int, n_tensors: int) -> dict[str, Value]:
    """The keys of one part: the first has them all, each says which part it is."""
    own = dict(keys) if part == 0 else {}
    return own | {
        "split.no": Value("u16", part),
        "split.count": Value("u16", n_parts),
        "split.tensors.count": Value("i32", n_tensors),
    }


def split_output(path: Path, part: int, n_parts: int) -> Path:
    """The file of one part, as llama-quantize names it."""
    stem = path.name.removesuffix(".gguf")
    return path.with_name(f"{stem}-{part + 1:05}-of-{n_parts:05}.gguf")
