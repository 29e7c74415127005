"""Which era's quantizer wrote a tensor: by the marks that it leaves, or by trying all of them on the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.ordered import Workers
from ggmlpy.formats.codes import unpack_codes
from ggmlpy.formats.dequantize import dequantize
from ggmlpy.formats.eras import ERAS
from ggmlpy.formats.model_file import Tensor, as_blocks
from ggmlpy.formats.row_reader import RowSource

from .tensors import Found, writes_exactly

__all__ = ["explain", "quantizer_signs"]


def quantizer_signs(tensor: Tensor, n_rows: int = 64) -> str:
    """Which quantizer a q4_0 tensor's blocks look like, from the marks that each leaves.

    Until 2023-03-31 the scale is positive and the farthest element has code 1 or 15; from 2023-04-30 the scale carries
    the sign of the farthest element, whose code is always 0.
    """
    if tensor.type.name != "q4_0":
        return ""
    blocks = np.ascontiguousarray(tensor.read_rows(0, n_rows)).view(tensor.type.block).reshape(-1)
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
    tensors: Sequence[Tensor], sources: Mapping[str, Tensor], progress: Callable[[int], object] = lambda n: None
) -> dict[str, int]:
    """For each era, how many of ``tensors`` are exactly what its quantizer makes of the unquantized ``sources``.

    Args:
        progress: called with 0 after each tensor, so that a progress bar can show activity.
    """
    from ggmlpy.quantizers.streamed import quantized_from  # imports Numba: only where there is a source

    counts: dict[str, int] = {}
    with Workers(None) as pool:
        for era in ERAS.values():
            for tensor in tensors:
                source = sources.get(tensor.name)
                if (
                    source is None
                    or source.shape != tensor.shape
                    or not (tensor.type.quantized and era.writes(tensor.type))
                ):
                    continue
                made = quantized_from(_Widened(source), tensor.type, era, pool)
                counts[era.date] = counts.get(era.date, 0) + writes_exactly(made, Found.of(RowSource(tensor), ""))
                progress(0)
    return counts


class _Widened(RowSource):
    """Rows of a tensor of any type as f32."""

    def floats(self, start: int, stop: int) -> NDArray[np.float32]:
        return dequantize(as_blocks(self.raw(start, stop), self.tensor.type), self.tensor.type)
