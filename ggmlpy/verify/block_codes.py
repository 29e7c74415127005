"""What can be said of quantized blocks whose scales nobody can compute again: do their codes fit the source?

The quantizers of k-quants code each value anew with the scale that a reader decodes, whatever search and weights found
it. So, given the scales, the codes can be checked without the importance matrix, and without the program: each is the
nearest. Other quantizers code with a scale that is rounded afterwards; there a code is within half a step and a little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.codes import signed_codes
from ggmlpy.formats.dequantize import dequantize, scales_of, spread
from ggmlpy.formats.out_tensor import OutTensor, row_chunks
from ggmlpy.formats.tensor_types import TensorType

from .plain_causes import SEEN
from .tensors import Found, TensorDifference, decoded

__all__ = ["AgainstSource", "Blocks", "check_codes", "greatest_share"]

SLACK = 0.02  # of a step: a scale that is rounded to float16 after the codes were made

#: the share of blocks that differ where gcc or clang fused multiplications and additions, without and with importance:
#: the greatest of normal rows and of rows in which every 257th value is sixteen times larger, as f32 and as f16
FUSED_SHARES = {
    "q4_0": (0.0005, 0.004), "q4_1": (0.0005, 0.006), "q5_0": (0.0005, 0.011), "q5_1": (0.0005, 0.007),
    "q2_K": (0.36, 0.15), "q3_K": (0.006, 0.02), "q4_K": (0.06, 0.04), "q5_K": (0.31, 0.035), "q6_K": (0.015, 0.012),
    "iq4_nl": (0.002, 0.002), "iq4_xs": (0.002, 0.002),
}  # fmt: skip
LEEWAY = 1.5  # times that share


def greatest_share(name: str, weighted: bool) -> float:
    """Of the blocks of a type those that a compiler may have made otherwise, at most."""
    return LEEWAY * FUSED_SHARES.get(name, (0, 0))[weighted]


@dataclass
class Blocks:
    """How the blocks of one tensor fit its source.

    Attributes:
        n_blocks, n_different: blocks, and those that differ from what was expected.
        n_beyond: values off by more than a step of their scale, which no clipping explains.
        row: the first row that has one.
        largest: the largest error, in steps.
    """

    n_blocks: int = 0
    n_different: int = 0
    n_beyond: int = 0
    row: int | None = None
    largest: float = 0.0


def check_codes(x: NDArray[np.float32], rows: NDArray[np.uint8], record: TensorType, start: int, into: Blocks) -> None:
    """Add how rows of bytes (from row ``start`` on) fit their source, float32 [rows, columns]."""
    blocks = np.ascontiguousarray(rows).view(record.block)  # [rows, blocks per row]
    with np.errstate(all="ignore"):
        steps = np.abs(spread(scales_of(blocks, record)[0], record)) * np.float32(1)  # [rows, blocks, values or 1]
        steps = np.broadcast_to(steps, (*blocks.shape, record.blck_size)).reshape(x.shape)
        errors = np.abs(dequantize(blocks, record) - x)
        codes = signed_codes(blocks, record).astype(np.int16).reshape(x.shape)
        least = -record.zero
        at_end = (codes == least) | (codes == least + (1 << record.code_width) - 1)
        beyond = (errors > steps * np.float32(1 + SLACK)) & ~at_end & (steps > 0)
        inner = np.where((steps > 0) & ~at_end, errors / np.where(steps > 0, steps, 1), 0)
    into.largest = max(into.largest, float(np.nan_to_num(inner, nan=np.inf).max(initial=0.0)))
    if beyond.any():
        into.n_beyond += int(np.count_nonzero(beyond))
        if into.row is None:
            into.row = start + int(np.argwhere(beyond.any(axis=1))[0][0])


@dataclass(frozen=True)
class AgainstSource:
    """The explainer of tensors that only their source explains: by another compiler, or an unknown importance matrix.

    Attributes:
        expected: what was expected, by name.
        sources: float tensors, by name.
        weighted: whether there is importance.
        unknown: whether the file says that an importance matrix was used, which is not at hand.
    """

    expected: dict[str, OutTensor]
    sources: dict[str, Found]
    weighted: bool
    unknown: bool

    def explain(self, found: Found, difference: TensorDifference) -> str | None:
        """In words that follow "because"; None where there is something plainer to see."""
        if any(see(found, difference) for see in SEEN):
            return None
        source, made = self.sources.get(found.name), self.expected.get(found.name)
        record = found.type
        if source is None or made is None or made.type.layout != record.layout or not _has_steps(record):
            return None
        blocks = self._compared(source, made, found)
        if blocks.n_beyond:
            return (
                f"values were changed afterwards: {blocks.n_beyond:,} are off by more than a step of their scale, the "
                f"first in row {blocks.row}, which no quantizer does"
            )
        if blocks.largest > 0.5 + SLACK:
            return f"codes are not those nearest to this source: off by up to {blocks.largest:.2f} of a step"
        share = blocks.n_different / max(1, blocks.n_blocks)
        if not self.unknown and share <= greatest_share(record.name, self.weighted) + 1e-9:
            return FUSED
        if self.unknown:
            return "an importance matrix was used that is not at hand (all codes are the nearest to the source)"
        return (
            "the scales are not those of any quantizer without an importance matrix, or of this one (all codes are the "
            "nearest to the source)"
        )

    def _compared(self, source: Found, made: OutTensor, found: Found) -> Blocks:
        blocks, start = Blocks(), 0
        for rows in row_chunks(made):
            stop = start + len(rows)
            theirs = found.row_of(start, stop)
            size = found.type.type_size
            blocks.n_blocks += theirs.size // size
            differ = (rows.reshape(-1, size) != theirs.reshape(-1, size)).any(axis=1)
            blocks.n_different += int(np.count_nonzero(differ))
            check_codes(decoded(source.row_of(start, stop), source.type), theirs, found.type, start, blocks)
            start = stop
        return blocks


FUSED = "it was built with fused multiply-add: the same recipe, a few scales differ"


def _has_steps(record: TensorType) -> bool:
    return (record.name in FUSED_SHARES and not record.name.startswith("iq")) or record.name == "q8_0"
