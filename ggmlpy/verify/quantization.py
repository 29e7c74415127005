"""Verifying what another program made of a GGML file: a quantization or a migration.

>>> from ggmlpy.verify.quantization import verify_files                                 # doctest: +SKIP
>>> report = verify_files("theirs-q4_0.bin", "model-f16.bin")                           # doctest: +SKIP
>>> report.verdict, [str(cause) for cause in report.causes]                             # doctest: +SKIP
('differs', ['q/k …'])
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.files.ordered import Workers
from ggmlpy.formats.bfloat16 import cut_to_bfloat16, rounded_to_bfloat16
from ggmlpy.formats.codes import pack_codes, unpack_codes
from ggmlpy.formats.eras import (
    AUGUST_21,
    DEFAULT_ERA,
    ERAS,
    Era,
    quantizing_era,
)
from ggmlpy.formats.file_types import FTYPES, FileType, TypeChooser
from ggmlpy.formats.gguf_model import architecture_of, kept_metadata
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor, out_tensor, row_chunks
from ggmlpy.formats.row_reader import RowSource
from ggmlpy.formats.tensor_types import TENSOR_TYPES, TensorType
from ggmlpy.quantizers.migration import derived_scores
from ggmlpy.quantizers.streamed import quantized_from

from .aspects import container_differences
from .block_codes import FUSED, AgainstSource
from .gguf_quantization import GgufWay, find_way, made_by, named_in, other_ways
from .judge import Deviation, Expected, Explainer, OutputReport, Progress, settle, verify_model
from .tensors import Found, decoded

__all__ = ["ANOTHER_MIX", "quantization_deviations", "verify_files"]

CHUNK_VALUES = 1 << 20
AHEAD = 8  # pieces made before they are compared
MARK = "general.quantization_version"
ANOTHER_MIX = "another mix of types (--pure, or another program's): quantized rightly as {}"
OTHER_ORDER = "codes stand in the order of another era than the container says"


def verify_files(
    output: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    era: str | Era | None = None,
    importance: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> OutputReport:
    """Is ``output`` what quantizing (or migrating) ``source`` gives?

    Args:
        output, source: GGML files of any container. Which step lies between them follows from their tensor types.
        era: whose quantizer it should be; by default the earliest that writes the output's container.
        importance: the importance matrix that was used, of a quantized GGUF file.
        threads: workers; by default one per processor.
        progress: called with the number of expected bytes after each piece, and with 0 while a cause is looked for.

    Raises:
        FormatError: a file can't be read, or no step leads from the source to the output.
    """
    with (
        open_model(output, any_architecture=True) as theirs,
        open_model(source, any_architecture=True) as ours,
    ):
        _check_architectures(theirs, ours)
        with Workers(threads, ahead=AHEAD) as workers:
            way = _way_of_gguf(theirs, ours, era, importance)
            expected = _of_gguf(theirs, ours, way, workers) if way else _expected(theirs, ours, era, workers)
            report = verify_model(theirs, expected, str(source), progress)
            if way:
                _tell(report, way)
        if era is not None and report.verdict == "identical to another era":
            report.verdict = "differs"
        return report


def _check_architectures(output: ModelFile, source: ModelFile) -> None:
    """No step leads from one architecture to another."""
    theirs, ours = (
        architecture_of(model.metadata) if model.as_stored else "that of LLaMA" for model in (output, source)
    )
    if theirs != ours:
        raise FormatError(
            "the output is of another architecture than its source",
            path=output.path,
            field="general.architecture",
            expected=ours,
            found=theirs,
            cause="it is the source of another model",
            next_step=f"`compare {output.path} {source.path}`",
        )


def _way_of_gguf(output: ModelFile, source: ModelFile, era: str | Era | None, importance: str | None) -> GgufWay | None:
    """Which llama-quantize may have made the output; None if it is another step, or an older container's."""
    both = output.container == source.container == "gguf"
    to_bfloat16 = _matrix_types(output) == {"bf16"} != _matrix_types(source)
    if not both or not (_is_quantized(output) or _is_other_floats(output, source) or to_bfloat16):
        if importance is not None:
            raise UsageError("an importance matrix goes with a quantized GGUF file and the GGUF file it was made of")
        return None
    if era is not None and not quantizing_era(era).is_of_gguf:
        return None
    if _is_quantized(source) and _matrix_types(source) == _matrix_types(output):
        return None
    way = find_way(output.path, source.path, era, importance)
    if way is None or (era is None and not way.exact and (to_bfloat16 or _expects_header(output, source))):
        return None
    return way


def _is_quantized(model: ModelFile) -> bool:
    return any(tensor.type.quantized for tensor in model.stored)


def _expects_header(output: ModelFile, source: ModelFile) -> bool:
    """Whether everything before the data is as this library makes GGUF of 2023-08-21."""
    if output.as_stored or not _file_type(output).is_target_of(AUGUST_21):
        return False
    try:
        with Workers(1) as workers:
            return not container_differences(output, _quantization(output, source, AUGUST_21, workers))
    except FormatError:  # rows that its blocks don't divide
        return False


def _of_gguf(output: ModelFile, source: ModelFile, way: GgufWay, workers: Workers) -> Expected:
    """What llama-quantize makes of the source that way."""
    tensors = [replace(made, name=named_in(made.name, source)) for made in made_by(way, workers)]
    ftype = way.request.file_type.id if way.request.file_type else None
    params, vocab = _content(output, source, ftype)
    other = {key: value for key, value in way.metadata.items() if key in {*source.hparams.other, MARK, *_QUANTIZE_KEYS}}
    sources = {tensor.name: Found.of(RowSource(tensor), str(source.path)) for tensor in source.stored}
    by_name = {tensor.name: tensor for tensor in tensors}
    weighted, unknown = way.request.importance is not None, way.request.unknown_importance
    explainers: list[Explainer] = [
        *other_ways(way, source, workers),
        *quantization_deviations(source, output, way.request.era, workers),
        AgainstSource(by_name, sources, weighted, unknown),
    ]
    place, params = (output.container, way.request.era.version), replace(params, other=other)
    stated: dict[str, Any] = {"token_types": source.vocab.types, "metadata": way.metadata}
    return Expected("quantize", *place, params, vocab, tensors, explainers, **stated)


_QUANTIZE_KEYS = tuple(f"quantize.imatrix.{name}" for name in ("file", "dataset", "entries_count", "chunks_count"))


def _tell(report: OutputReport, way: GgufWay) -> None:
    """Say whose bytes they are; differences that a compiler makes are roundings."""
    report.made_by = way.words
    if report.causes and not report.unexplained and {cause.name for cause in report.causes} == {FUSED}:
        report.rounding = f"what {way.words} makes of this source, built with fused multiply-add"
        settle(report)


def _expected(output: ModelFile, source: ModelFile, era: str | Era | None, workers: Workers) -> Expected:
    if any(tensor.type.quantized for tensor in source.stored):
        return _migration(output, source)
    if any(tensor.type.quantized for tensor in output.stored) or _is_other_floats(output, source):
        return _quantization(output, source, era, workers)
    return _migration(output, source)


def _is_other_floats(output: ModelFile, source: ModelFile) -> bool:
    """Whether ``quantize`` made the output f16 or f32: its matrices have another type, or it left its mark."""
    file_type = FTYPES.get(output.hparams.ftype)
    if file_type is None or file_type.first is None or _matrix_types(output) != {file_type.type}:
        return False
    marked = MARK in output.metadata.keys() - source.metadata.keys()
    return marked or (_matrix_types(source) != _matrix_types(output) and file_type.type != "bf16")


def _matrix_types(model: ModelFile) -> set[str]:
    return {tensor.type.name for tensor in model.stored if len(tensor.shape) == 2}


def _vocabulary(output: ModelFile, source: ModelFile) -> list[tuple[bytes, float]]:
    """The source's vocabulary, as the output's container has it."""
    missing = output.container != "ggml" and source.container == "ggml"
    scores = derived_scores(source.vocab) if missing else source.vocab.scores
    if output.container == "ggml":
        scores = np.zeros(len(source.vocab), np.float32)
    return list(zip(source.vocab, scores.tolist(), strict=True))


def _content(
    output: ModelFile, source: ModelFile, ftype: int | None = None
) -> tuple[ModelParams, list[tuple[bytes, float]]]:
    """The numbers and the vocabulary of the source, as far as the two containers state them alike.

    Args:
        ftype: the file type, if it was quantized.
    """
    other = {}
    if output.container == source.container == "gguf":
        known = {*source.hparams.other, MARK}
        other = {key: value for key, value in kept_metadata(source.metadata, ftype).items() if key in known}
    file_type = source.hparams.ftype if ftype is None else ftype
    return replace(source.hparams, ftype=file_type, other=other), _vocabulary(output, source)


def _stated(output: ModelFile, source: ModelFile, ftype: int | None = None) -> dict[str, Any]:
    """What only GGUF states."""
    if source.container != "gguf":
        return {}
    keys = kept_metadata(source.metadata, ftype) if output.container == "gguf" else None
    return {"token_types": source.vocab.types, "metadata": keys}


def _migration(output: ModelFile, source: ModelFile) -> Expected:
    """The same tensors in another container."""
    tensors = [out_tensor(tensor) for tensor in source.stored]

    def reordered(name: str) -> OutTensor | None:
        return _reordered(out_tensor(source.tensors[name])) if name in source.tensors else None

    place = output.container, output.version
    deviations = [Deviation(OTHER_ORDER, reordered), *_bfloat16_deviations(output, source)]
    return Expected("migrate", *place, *_content(output, source), tensors, deviations, **_stated(output, source))


def _bfloat16_deviations(output: ModelFile, source: ModelFile) -> list[Deviation]:
    """Another program's conversion to bfloat16."""

    def by(to_bits: Callable[[NDArray[np.float32]], NDArray[np.uint16]]) -> Callable[[str], OutTensor | None]:
        def make(name: str) -> OutTensor | None:
            tensor, found = source.tensors.get(name), output.tensors.get(name)
            if tensor is None or tensor.type.quantized or found is None or found.type.name != "bf16":
                return None
            chunks = row_chunks(out_tensor(tensor))
            return OutTensor(
                tensor.name, found.type, tensor.shape, lambda: (to_bits(decoded(rows, tensor.type)) for rows in chunks)
            )

        return make

    return [
        Deviation("values went through bfloat16, cut off", by(cut_to_bfloat16)),
        Deviation("values went through bfloat16, rounded", by(rounded_to_bfloat16)),
    ]


# ---- quantization


def _quantization(output: ModelFile, source: ModelFile, era: str | Era | None, workers: Workers) -> Expected:
    file_type = _file_type(output)
    eras = [moment for moment in ERAS.values() if _writes(moment, output, file_type)]
    if era is not None:
        eras = [quantizing_era(era)]
    if not eras:
        raise FormatError(
            f"no era's quantize writes {file_type} into {output.format_name}",
            path=output.path,
            field="ftype",
            cause="the file was migrated or patched after it was quantized",
            next_step=f"`compare {output.path} OTHER --source {source.path}`",
        )
    moment = next((e for e in eras if e.date == DEFAULT_ERA), eras[0])
    tensors = quantized_model(source, file_type, moment, workers)
    deviations = quantization_deviations(source, output, moment, workers)
    content, stated = _content(output, source, file_type.id), _stated(output, source, file_type.id)
    version = (output.container, output.version) if output.container == "gguf" else (moment.container, moment.version)
    return Expected("quantize", *version, *content, tensors, deviations, **stated)


def _file_type(output: ModelFile) -> FileType:
    wanted = output.hparams.ftype
    found = FTYPES.get(wanted)
    types = [tensor.type.name for tensor in output.tensors.values() if len(tensor.shape) == 2]
    if types and (found is None or found.first is None or found.type not in types):
        name = max(set(types), key=types.count)
        found = next((record for record in FTYPES.values() if record.type == name and record.first), found)
    if found is None or found.first is None:
        raise FormatError("the output's type is not one that quantize writes", path=output.path, found=wanted)
    return found


def _writes(moment: Era, output: ModelFile, file_type: FileType) -> bool:
    if file_type.type not in moment.types:
        return False
    if output.container == "gguf":
        return moment == AUGUST_21
    return (moment.container, moment.version) == (output.container, output.version)


def quantized_model(source: ModelFile, file_type: FileType, era: Era, workers: Workers) -> list[OutTensor]:
    """What an era's ``quantize`` makes of an unquantized model, lazily."""
    choose = TypeChooser(file_type, era, [tensor.name for tensor in source.stored])
    out = []
    for tensor in source.stored:
        target, rows = choose(tensor.name, tensor.shape, tensor.type), RowSource(tensor)
        out.append(quantized_from(rows, target, era, workers) if target else out_tensor(rows.tensor))
    return out


def quantization_deviations(source: ModelFile, output: ModelFile, era: Era, workers: Workers) -> list[Deviation]:
    """What else may have been done to the tensors of ``source``."""

    def by(make: Callable[[RowSource, TensorType], OutTensor | None]) -> Callable[[str], OutTensor | None]:
        def deviated(name: str) -> OutTensor | None:
            tensor, found = source.tensors.get(name), output.tensors.get(name)
            if tensor is None or found is None or tensor.shape != found.shape:
                return None
            return make(RowSource(tensor), found.type)

        return deviated

    def of_era(moment: Era) -> Callable[[RowSource, TensorType], OutTensor | None]:
        def make(rows: RowSource, record: TensorType) -> OutTensor | None:
            known = record.quantized and record.name in moment.types
            if not known or not _same_block(moment.type(record.name), record):
                return None
            made = quantized_from(rows, moment.type(record.name), moment, workers)
            return replace(made, type=record)

        return make

    others = [moment for moment in ERAS.values() if moment != era]
    place = output.container, output.version
    eras = [
        Deviation(f"the quantizer of {moment}", by(of_era(moment)), moment.date if _has(moment, *place) else None)
        for moment in others
    ]
    return [
        *(_mixed(by(of_era(era)), name) for name in dict.fromkeys(t.type.name for t in output.tensors.values())),
        *eras,
        Deviation("a SIMD build's rounding of activations was used for the file", by(_simd_rounded)),
        Deviation("the tensor was left unquantized", by(lambda rows, record: out_tensor(rows.tensor))),
        Deviation("one-dimensional tensors were written in f16", by(_as_f16)),
        Deviation("one-dimensional tensors were written in f32 from f16", by(_through_f16)),
        Deviation(OTHER_ORDER, by(lambda rows, record: _reordered(of_era(era)(rows, record)))),
    ]


def _has(moment: Era, container: str, version: int) -> bool:
    """Whether an era's tools write a container."""
    return moment == AUGUST_21 if container == "gguf" else (moment.container, moment.version) == (container, version)


def _mixed(make: Callable[[str], OutTensor | None], type_name: str) -> Deviation:
    """Another choice of types, as ``--pure`` makes and later mixes do: right blocks of a type that is not expected."""

    def of_type(name: str) -> OutTensor | None:
        made = make(name)
        return made if made is not None and made.type.name == type_name else None

    return Deviation(ANOTHER_MIX.format(type_name), of_type)


def _same_block(a: TensorType, b: TensorType) -> bool:
    """Whether two layouts have fields of the same kinds (codes may be in another order)."""
    return a.name == b.name and a.block == b.block


def _as_f16(rows: RowSource, record: TensorType) -> OutTensor | None:
    tensor = rows.tensor
    if len(tensor.shape) != 1 or record.name != "f16":
        return None
    return OutTensor(tensor.name, record, tensor.shape, lambda: [tensor.numpy().astype("<f2")])


def _through_f16(rows: RowSource, record: TensorType) -> OutTensor | None:
    tensor = rows.tensor
    if len(tensor.shape) != 1 or record.name != "f32":
        return None
    return OutTensor(tensor.name, record, tensor.shape, lambda: [tensor.numpy().astype("<f2").astype("<f4")])


def _simd_rounded(rows: RowSource, record: TensorType) -> OutTensor | None:
    """Activations are quantized with 1/d computed from the extent, and rounded to nearest even."""
    if record.name not in ("q4_0", "q4_1", "q8_0"):
        return None

    tensor = rows.tensor

    def chunks() -> Iterator[NDArray[Any]]:
        step = max(1, CHUNK_VALUES // tensor.n_cols)
        for start in range(0, tensor.n_rows, step):
            yield simd_rounded(rows.floats(start, min(start + step, tensor.n_rows)), record)

    return OutTensor(tensor.name, record, tensor.shape, chunks)


def simd_rounded(rows: NDArray[Any], record: TensorType) -> NDArray[np.uint8]:
    """Rows as an AVX2 build quantizes activations at run time: uint8 [rows, row_bytes].

    Source: quantize_row_q4_0, _q4_1 (352589927) and _q8_0 (6986c7835) in ggml.c.
    """
    x = rows.astype(np.float32).reshape(len(rows), -1, record.blck_size)  # [rows, blocks, 32]
    blocks = np.zeros(x.shape[:2], record.block)
    with np.errstate(all="ignore"):
        if record.name == "q4_1":
            low = x.min(axis=-1)
            d = (x.max(axis=-1) - low) / np.float32(15)
            inverse = np.where(d != 0, np.float32(1) / d, np.float32(0))
            codes = np.rint((x - low[..., None]) * inverse[..., None])
            blocks["m"] = low
        else:
            steps = np.float32(7 if record.name == "q4_0" else 127)
            amax = np.abs(x).max(axis=-1)
            d = amax / steps
            inverse = np.where(amax != 0, steps / amax, np.float32(0))
            codes = np.rint(x * inverse[..., None]) + np.float32(8 if record.name == "q4_0" else 0)
        blocks["d"] = d
        pack_codes(codes.astype(np.int8 if record.name == "q8_0" else np.uint8), blocks, record)
    return blocks.view(np.uint8).reshape(len(rows), -1)


# ---- codes in another era's order


def _reordered(tensor: OutTensor | None) -> OutTensor | None:
    """The same codes in the order that another era gives a block of these fields."""
    layouts = [r for r in TENSOR_TYPES.values() if tensor and r != tensor.type and _same_block(r, tensor.type)]
    if tensor is None or not layouts:
        return None

    def chunks() -> Iterator[NDArray[Any]]:
        for rows in row_chunks(tensor):
            blocks = rows.reshape(-1).view(tensor.type.block)
            out = blocks.copy()
            pack_codes(unpack_codes(blocks, tensor.type), out, layouts[0])
            yield out.view(np.uint8)

    return OutTensor(tensor.name, tensor.type, tensor.shape, chunks)
