"""Values that are NaN or infinite: how many a model has, and where the first one is.

A model with such values computes nothing: they spread to every logit. Most come from a merge or a training whose
numbers left the range of f16, from memory or a disk that fails, or from a file that was cut and filled up.

Looking costs little more than reading. In a block of codes only the scales can be such values, or be so large that a
value overflows; and of numbers and scales their bits tell, see :mod:`ggmlpy.formats.finite_bits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import FormatError
from ggmlpy.formats.finite_bits import INFINITY, reaches
from ggmlpy.formats.model_file import ModelFile, as_blocks
from ggmlpy.formats.out_tensor import OutTensor, out_tensor, row_chunks
from ggmlpy.formats.tensor_types import TensorType
from ggmlpy.verify.tensors import decoded

__all__ = ["NotFinite", "not_finite", "not_finite_problem", "not_finite_tensors", "not_finite_words"]

SCALES = ("d", "m", "dmin")
LARGEST_SCALE = {  # the bits from which on a value of a block may not be finite
    "<f4": 0x7B800000,  # 2^120: codes are below 2^7, and a minimum may be added
    "<f2": INFINITY["f16"],
}


@dataclass(frozen=True)
class NotFinite:
    """The values of a tensor that are NaN or infinite.

    Attributes:
        tensor: its name.
        count, of: how many they are, of how many.
        index: row and column (or number) of the first.
        value: that value: "nan", "inf" or "-inf".
    """

    tensor: str
    count: int
    of: int
    index: tuple[int, ...]
    value: str

    def __str__(self) -> str:
        words = f"{self.count:,} of {self.of:,} values of tensor {self.tensor!r} are NaN or infinite"
        return f"{words}, the first ({self.value}) at {list(self.index)}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def not_finite_tensors(model: ModelFile, progress: Callable[[int], object] | None = None) -> Iterator[NotFinite]:
    """The tensors of a file that have such values.

    Args:
        progress: called with the number of bytes after each piece.
    """
    for tensor in model.stored:
        found = not_finite(out_tensor(tensor), progress)
        if found is not None:
            yield found


def not_finite(tensor: OutTensor, progress: Callable[[int], object] | None = None) -> NotFinite | None:
    """The values of a tensor that are NaN or infinite; None if all are numbers.

    >>> from ggmlpy.formats.tensor_types import TENSOR_TYPES
    >>> x = np.float32([[0, 1, 2], [3, np.inf, np.nan]])
    >>> not_finite(OutTensor("x", TENSOR_TYPES["f32"], x.shape, lambda: [x]))
    NotFinite(tensor='x', count=2, of=6, index=(1, 1), value='inf')
    """
    count, of, first, value, start = 0, 0, (0, 0), "", 0
    for rows in row_chunks(tensor):
        of += len(rows) * tensor.shape[-1]
        if _suspicious(as_blocks(rows, tensor.type), tensor.type):
            values = decoded(rows, tensor.type)
            bad = ~np.isfinite(values)
            if not count and bad.any():
                row, column = map(int, np.argwhere(bad)[0])
                first, value = (start + row, column), f"{values[row, column]:g}"
            count += int(np.count_nonzero(bad))
        start += len(rows)
        if progress:
            progress(rows.nbytes)
    return NotFinite(tensor.name, count, of, first[-len(tensor.shape) :], value) if count else None


def _suspicious(blocks: NDArray[Any], record: TensorType) -> bool:
    """Whether any value may be NaN or infinite. Scales that are codes of their own kind have to be decoded."""
    if not record.quantized:
        return record.name in INFINITY and reaches(blocks, INFINITY[record.name])
    scales = [blocks[name] for name in SCALES if name in record.field_names]
    limits = [LARGEST_SCALE.get(scale.dtype.str, 0) for scale in scales]
    return not scales or any(map(reaches, scales, limits))


def not_finite_words(found: list[NotFinite]) -> str:
    """What was found, in words.

    >>> not_finite_words([NotFinite("norm.weight", 2, 64, (7,), "nan")])
    "2 of 64 values of tensor 'norm.weight' are NaN or infinite, the first (nan) at [7]"
    """
    others, count = len(found) - 1, sum(each.count for each in found[1:])
    return str(found[0]) + (f"; and {count:,} in {others} other{'s' * (others > 1)}" if others else "")


def not_finite_problem(found: list[NotFinite], path: Any) -> FormatError:
    """The same as an error about a file."""
    return FormatError(
        not_finite_words(found),
        path=path,
        cause="numbers that left the range of f16 in a merge or a training, or a damaged file; no text comes of them",
        next_step=f"`verify {path} --source SOURCE`, or make it again from its source",
    )
