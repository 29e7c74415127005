"""Are two models the same, whatever containers they lie in? If not, where do they part?

Tensors are compared by the values they decode to, a few rows at a time. The first difference is decoded on both sides
down to the block: where it stands, its scale, its codes, its values. For quantized tensors that differ,
:func:`quantizer_signs` says which era's quantizer each side looks like, and with the unquantized source at hand
:func:`explain` tries every era's quantizer and counts the tensors that it reproduces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.codes import unpack_codes
from ggmlpy.formats.eras import ERAS, Era
from ggmlpy.formats.model_file import ModelFile, Tensor
from ggmlpy.formats.tensor_types import TensorType

__all__ = [
    "BlockView",
    "Comparison",
    "TensorDifference",
    "block_view",
    "compare",
    "explain",
    "quantizer_signs",
    "ulp_distance",
]

CHUNK_VALUES = 1 << 20


@dataclass(frozen=True)
class BlockView:
    """One block, decoded.

    Attributes:
        offset: where it begins in its file (of a single-part model).
        fields: its scale and minimum.
        codes: the code of each element (empty for f32 and f16).
        values: what they decode to.
    """

    path: str
    layout: str
    offset: int | None
    fields: dict[str, float]
    codes: list[int]
    values: list[float]


@dataclass
class TensorDifference:
    """How one tensor differs.

    Attributes:
        status: "same", "differs", "shape", "only in A" or "only in B".
        n_values, n_different: values in it, values that decode differently.
        max_ulp, median_ulp: distance of the different values, in units in the last place of f32.
        max_error: largest absolute difference.
        row, column, a, b: the first difference, decoded on both sides.
    """

    name: str
    status: str
    types: tuple[str, str] = ("", "")
    n_values: int = 0
    n_different: int = 0
    max_ulp: int = 0
    median_ulp: float = 0.0
    max_error: float = 0.0
    row: int | None = None
    column: int | None = None
    a: BlockView | None = None
    b: BlockView | None = None
    signs: tuple[str, str] = ("", "")


@dataclass
class Comparison:
    """The result of :func:`compare`.

    Attributes:
        verdict: "same content", "values differ" or "different".
        header, vocabulary: what else differs, in words.
        tensors: one entry a tensor.
    """

    header: list[str] = field(default_factory=list)
    vocabulary: list[str] = field(default_factory=list)
    tensors: list[TensorDifference] = field(default_factory=list)

    @property
    def differing(self) -> list[TensorDifference]:
        return [tensor for tensor in self.tensors if tensor.status != "same"]

    @property
    def n_different(self) -> int:
        return sum(tensor.n_different for tensor in self.tensors)

    @property
    def max_ulp(self) -> int:
        return max((tensor.max_ulp for tensor in self.tensors), default=0)

    @property
    def verdict(self) -> str:
        if any(tensor.status not in ("same", "differs") for tensor in self.tensors) or self.vocabulary:
            return "different"
        return "values differ" if self.differing else "same content"

    def sentence(self) -> str:
        """The verdict in words."""
        match self.verdict:
            case "same content":
                return "same content"
            case "values differ":
                count = len(self.differing)
                return f"{self.n_different:,} values differ in {count} tensors, at most {self.max_ulp:,} ulp"
        return "different: " + "; ".join(self.header + self.vocabulary + self._strange_tensors())

    def _strange_tensors(self) -> list[str]:
        return [f"{t.name} {t.status}" for t in self.tensors if t.status not in ("same", "differs")][:5]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"verdict": self.verdict, "sentence": self.sentence(), **asdict(self)}


def compare(
    a: ModelFile,
    b: ModelFile,
    *,
    tolerance: float = 0.0,
    progress: Callable[[int], object] | None = None,
) -> Comparison:
    """Compare two models independently of their containers.

    Arguments:
        tolerance: absolute differences up to this count as equal.
        progress: called with the number of values compared after each chunk.
    """
    result = Comparison(header=_headers(a, b), vocabulary=_vocabularies(a, b))
    for name in list(a.tensors) + [name for name in b.tensors if name not in a.tensors]:
        result.tensors.append(_compare_tensor(name, a, b, tolerance, progress))
    return result


def ulp_distance(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many f32 numbers lie between x and y, elementwise; 0 for equal bits, for +0 and -0, and for two nans.

    >>> ulp_distance(np.float32([1.0]), np.nextafter(np.float32([1.0]), np.float32(2))).tolist()
    [1]
    """
    distance = np.abs(_ordered(x) - _ordered(y))
    distance[np.isnan(x) & np.isnan(y)] = 0
    return distance


def _ordered(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """Integers in the order of the numbers."""
    bits = np.ascontiguousarray(x, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _headers(a: ModelFile, b: ModelFile) -> list[str]:
    ours, theirs = a.hparams.as_dict(), b.hparams.as_dict()
    return [f"{name} {ours[name]} and {theirs[name]}" for name in ours if ours[name] != theirs[name]]


def _vocabularies(a: ModelFile, b: ModelFile) -> list[str]:
    if len(a.vocab) != len(b.vocab):
        return [f"vocabularies of {len(a.vocab)} and {len(b.vocab)} pieces"]
    words = []
    texts = [i for i, (x, y) in enumerate(zip(a.vocab, b.vocab, strict=True)) if x != y]
    if texts:
        words.append(
            f"{len(texts)} pieces differ, the first is {texts[0]}: {a.vocab[texts[0]]!r}, {b.vocab[texts[0]]!r}"
        )
    if a.declared.scored and b.declared.scored:
        scores = np.flatnonzero(a.vocab.scores.view(np.uint32) != b.vocab.scores.view(np.uint32))
        if len(scores):
            words.append(f"{len(scores)} scores differ, the first is of piece {scores[0]}")
    return words


def _compare_tensor(
    name: str, a: ModelFile, b: ModelFile, tolerance: float, progress: Callable[[int], object] | None
) -> TensorDifference:
    ours, theirs = a.tensors.get(name), b.tensors.get(name)
    if ours is None or theirs is None:
        return TensorDifference(name, "only in B" if ours is None else "only in A")
    result = TensorDifference(name, "same", (ours.type.layout, theirs.type.layout))
    if ours.shape != theirs.shape:
        result.status = f"has shape {list(ours.shape)} in A and {list(theirs.shape)} in B"
        return result
    ulps = []
    for start, stop in _row_ranges(ours):
        different, ulp = _compare_rows(result, ours, theirs, start, stop, tolerance)
        if different is not None:
            ulps.append(ulp)
            if result.row is None:
                _decode_first(result, a, b, start, different)
        if progress:
            progress((stop - start) * ours.n_cols)
    if ulps:
        result.status, result.median_ulp = "differs", float(np.median(np.concatenate(ulps)))
        result.signs = (quantizer_signs(ours), quantizer_signs(theirs))
    return result


def _row_ranges(tensor: Tensor) -> Iterator[tuple[int, int]]:
    step = max(1, CHUNK_VALUES // tensor.n_cols)
    for start in range(0, tensor.n_rows, step):
        yield start, min(start + step, tensor.n_rows)


def _compare_rows(
    result: TensorDifference, a: Tensor, b: Tensor, start: int, stop: int, tolerance: float
) -> tuple[NDArray[np.bool_] | None, NDArray[np.int64]]:
    """Which of these rows' values differ [rows, columns] (None if none do), and by how many ulp."""
    result.n_values += (stop - start) * a.n_cols
    none = np.zeros(0, np.int64)
    if a.type.layout == b.type.layout and np.array_equal(a.raw_rows(start, stop), b.raw_rows(start, stop)):
        return None, none
    x, y = a.rows(start, stop), b.rows(start, stop)
    distance = ulp_distance(x, y)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(x.astype(np.float64) - y)
    different = (distance > 0) & ~(error <= tolerance)
    if not different.any():
        return None, none
    result.n_different += int(different.sum())
    result.max_ulp = max(result.max_ulp, int(distance[different].max()))
    result.max_error = max(result.max_error, float(np.nan_to_num(error[different], nan=0.0).max()))
    return different, distance[different]


def _decode_first(
    result: TensorDifference, a: ModelFile, b: ModelFile, start: int, different: NDArray[np.bool_]
) -> None:
    row, column = (int(index) for index in np.argwhere(different)[0])
    result.row, result.column = start + row, column
    result.a = decode_block(a, result.name, start + row, column)
    result.b = decode_block(b, result.name, start + row, column)


def decode_block(model: ModelFile, name: str, row: int, column: int) -> BlockView:
    """The block that holds one element of a tensor, decoded."""
    tensor = model.tensors[name]
    index, size = column // tensor.type.blck_size, tensor.type.type_size
    raw = tensor.raw_rows(row, row + 1)[0, index * size : (index + 1) * size]
    offset = tensor.offset + row * tensor.row_bytes + index * size if len(tensor.pieces) == 1 else None
    return block_view(tensor.type, raw, offset, str(model.path))


def block_view(record: TensorType, raw: NDArray[np.uint8], offset: int | None, path: str) -> BlockView:
    """The bytes of one block (uint8 [type_size]), decoded."""
    from ggmlpy.formats.dequantize import dequantize

    blocks = np.ascontiguousarray(raw).view(record.block)  # [1]
    scales = [n for n in record.field_names if n in ("d", "m", "dmin")]
    coded = record.quantized and record.blck_size <= 32
    return BlockView(
        path=path,
        layout=record.layout,
        offset=offset,
        fields={n: float(blocks[n][0]) for n in scales},
        codes=[int(code) for code in unpack_codes(blocks, record)[0]] if coded else [],
        values=[float(value) for value in dequantize(blocks, record).reshape(-1)],
    )


def quantizer_signs(tensor: Tensor, n_rows: int = 64) -> str:
    """Which quantizer a q4_0 tensor's blocks look like, from the marks that each leaves.

    Until 2023-03-31 the scale is positive and the farthest element has code 1 or 15; from 2023-04-30 the scale carries
    the sign of the farthest element, whose code is always 0.
    """
    if tensor.type.name != "q4_0":
        return ""
    blocks = np.ascontiguousarray(tensor.raw_rows(0, n_rows)).view(tensor.type.block).reshape(-1)
    codes = unpack_codes(blocks, tensor.type)  # [n_blocks, 32]
    live = np.isfinite(blocks["d"]) & (blocks["d"] != 0)
    if not live.any():
        return "no live block to judge by"
    symmetric = (blocks["d"] > 0) & (np.abs(codes.astype(np.int8) - 8).max(axis=1) == 7)
    signed = codes.min(axis=1) == 0
    if symmetric[live].all():
        return "quantizer of 2023-03 (d = amax / 7)"
    if signed[live].all():
        return "quantizer of 2023-04-30 or later (d = max / -8)"
    return "no era's quantizer"


def explain(
    tensors: list[Tensor], sources: dict[str, Tensor], progress: Callable[[int], object] = lambda n: None
) -> dict[str, int]:
    """For each era, how many of ``tensors`` are exactly what its quantizer makes of the unquantized ``sources``.

    Arguments:
        progress: called with 0 after each piece, as a sign of life.
    """
    counts: dict[str, int] = {}
    for era in ERAS.values():
        for tensor in tensors:
            source = sources.get(tensor.name)
            if source is None or not era.writes(tensor.type) or source.shape != tensor.shape:
                continue
            counts[era.date] = counts.get(era.date, 0) + _is_made_of(tensor, source, era, progress)
    return counts


def _is_made_of(tensor: Tensor, source: Tensor, era: Era, progress: Callable[[int], object]) -> bool:
    from ggmlpy.quantizers.classic import quantize

    for start, stop in _row_ranges(tensor):
        progress(0)
        made = quantize(source.rows(start, stop), tensor.type.name, era)
        if not np.array_equal(made, tensor.raw_rows(start, stop)):
            return False
    return True
