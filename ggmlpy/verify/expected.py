"""What an output should be, and the known ways to get it wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.out_tensor import OutTensor

from .tensors import Found, TensorDifference, writes_exactly

__all__ = ["Deviation", "Expected", "Explainer"]


class Explainer(Protocol):
    """A known cause: looks at one differing tensor."""

    def explain(self, found: Found, difference: TensorDifference) -> str | None:
        """What was done, in words that follow "because"; None if it was not that."""


@dataclass(frozen=True)
class Deviation:
    """The explainer of a known way to get it wrong (or another era's way to get it right), by its exact bytes.

    Attributes:
        name: what was done, in words that follow "because".
        make: what it would have written for a tensor of this name; None where it changes nothing.
        era: the date, if this is another era's way.
    """

    name: str
    make: Callable[[str], OutTensor | None] = field(repr=False)
    era: str | None = None

    def explain(self, found: Found, difference: TensorDifference) -> str | None:
        """Its name, if it gives exactly what was found."""
        return self.name if writes_exactly(self.make(found.name), found) else None

    def allows(self, found: Found) -> bool:
        """Whether a tensor that is as expected is also what the deviation gives."""
        made = self.make(found.name)
        return made is None or writes_exactly(made, found)


@dataclass(frozen=True)
class Expected:
    """What an output should be.

    Attributes:
        step: "quantize", "convert" …: what lies between source and output.
        container, version, hparams, vocab, tensors: the arguments of :func:`ggmlpy.write_model`.
        explainers: what to try where it differs.
        token_types: GGUF's type of each piece, if the source states it; None: what our writer gives it.
        metadata: all keys of a GGUF file that is made from another; None: those that say ``hparams`` and ``vocab``.
    """

    step: str
    container: str
    version: int
    hparams: ModelParams
    vocab: Sequence[tuple[bytes, float]]
    tensors: Sequence[OutTensor]
    explainers: Sequence[Explainer] = ()
    token_types: NDArray[np.int32] | None = None
    metadata: Mapping[str, Value] | None = None
