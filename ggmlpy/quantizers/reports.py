"""What quantizing a file did, and how llama.cpp's programs printed it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.eras import APRIL_30, MARCH_19, Era
from ggmlpy.formats.file_types import FileType, fallback_notes
from ggmlpy.formats.tensor_types import TensorType

__all__ = ["QuantizeReport", "TensorReport"]


@dataclass
class TensorReport:
    """What became of one tensor.

    Attributes:
        name, shape: of the tensor, rows first.
        source, target: its type before and after; the same if it was copied.
        source_bytes, target_bytes: its size before and after.
        fallback: what it got, and the type that it was to have, if its rows do not fit that.
        histogram: int64 [16], how often each code occurs (k-quants and copies count nothing).
    """

    name: str
    shape: tuple[int, ...]
    source: TensorType
    target: TensorType
    source_bytes: int
    target_bytes: int
    fallback: tuple[str, str] | None = None
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(16, np.int64))

    @property
    def copied(self) -> bool:
        return self.source is self.target

    @property
    def n_values(self) -> int:
        return int(np.prod(self.shape))


@dataclass
class QuantizeReport:
    """What :func:`quantize_file` did.

    Attributes:
        paths: the files written.
        era, file_type: as asked; None for a copy.
        tensors: one report per tensor (a part of a tensor, in a multi-part era).
        source_bytes, target_bytes: of all tensors.
    """

    paths: list[Path]
    era: Era
    file_type: FileType | None
    tensors: list[TensorReport] = field(default_factory=list)

    @property
    def source_bytes(self) -> int:
        return sum(tensor.source_bytes for tensor in self.tensors)

    @property
    def target_bytes(self) -> int:
        return sum(tensor.target_bytes for tensor in self.tensors)

    @property
    def notes(self) -> list[str]:
        """What the user should know: tensors that did not become what was asked for."""
        return fallback_notes(tensor.fallback for tensor in self.tensors if tensor.fallback)

    @property
    def histogram(self) -> NDArray[np.int64]:
        """Over all tensors: int64 [16]."""
        return np.sum([tensor.histogram for tensor in self.tensors], axis=0, dtype=np.int64, initial=0)

    def tensor_line(self, index: int) -> str:
        """What llama.cpp's program of this era printed about tensor ``index``."""
        tensor = self.tensors[index]
        columns = tensor.shape[::-1]
        if self.era.is_of_gguf:
            return self._line_of_today(tensor, index)
        if self.era < APRIL_30:
            first, second = (*columns, 1)[:2]
            line = f"{tensor.name:>48} - [{first:5d}, {second:5d}], type = {tensor.source.name:>6} "
        else:
            shape = " x ".join(f"{n:5d}" for n in columns)
            line = f"[{index + 1:4d}/{len(self.tensors):4d}] {tensor.name:>36} - {shape:>16}, "
            line += f"type = {tensor.source.name:>6}, "
        if tensor.copied:
            return f"{line}size = {megabytes(tensor.source_bytes):8.3f} MB"
        line += f"quantizing to {tensor.target.name} .. " if self.era.has_k_quants else "quantizing .. "
        sizes = f"{megabytes(self._counted(tensor)):8.2f} MB -> {megabytes(tensor.target_bytes):8.2f} MB"
        return f"{line}size = {sizes} | hist: {frequencies(tensor.histogram, tensor.n_values)}"

    def _line_of_today(self, tensor: TensorReport, index: int) -> str:
        shape = ", ".join(f"{n:5d}" for n in (*tensor.shape[::-1], 1, 1, 1)[:4])
        line = (
            f"[{index + 1:4d}/{len(self.tensors):4d}] {tensor.name:>36} - [{shape}], type = {tensor.source.name:>6}, "
        )
        if tensor.copied:
            return f"{line}size = {megabytes(tensor.source_bytes):8.3f} MiB"
        sizes = f"{megabytes(tensor.source_bytes):8.2f} MiB -> {megabytes(tensor.target_bytes):8.2f} MiB"
        return f"{line}converting to {tensor.target.name} .. size = {sizes}"

    def closing_lines(self) -> list[str]:
        """The sizes and the histogram that it printed at the end."""
        suffix = "_impl" if self.era.is_of_gguf else "_internal" if self.era > MARCH_19 else ""
        who, unit = f"llama_model_quantize{suffix}", "MiB" if self.era.is_of_gguf else "MB"
        histogram = self.histogram
        total = int(histogram.sum())
        lines = [
            f"{who}: model size  = {megabytes(sum(map(self._counted, self.tensors))):8.2f} {unit}",
            f"{who}: quant size  = {megabytes(self.target_bytes):8.2f} {unit}",
        ]
        return [*lines, f"{who}: hist: {frequencies(histogram, total)}"] if total else lines

    def _counted(self, tensor: TensorReport) -> int:
        """Until March the original size was counted as if everything were f32."""
        return 4 * tensor.n_values if self.era < APRIL_30 else tensor.source_bytes

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        tensors = [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "from": tensor.source.name,
                "to": tensor.target.name,
                "bytes_before": tensor.source_bytes,
                "bytes_after": tensor.target_bytes,
                "histogram": tensor.histogram.tolist(),
            }
            for tensor in self.tensors
        ]
        return {
            "files": [str(path) for path in self.paths],
            "era": self.era.date,
            "type": self.file_type.name if self.file_type else "COPY",
            "bytes_before": self.source_bytes,
            "bytes_after": self.target_bytes,
            "histogram": self.histogram.tolist(),
            "tensors": tensors,
        }


def megabytes(size: int) -> float:
    return size / 1024.0 / 1024.0


def frequencies(histogram: NDArray[np.int64], total: int) -> str:
    """Sixteen shares, divided in float32 as llama.cpp does.

    >>> frequencies(np.array([1, 3] + [0] * 14), 4)[:12]
    '0.250 0.750 '
    """
    if not histogram.any():
        return ""
    return "".join(f"{np.float32(count) / np.float32(total):5.3f} " for count in histogram)
