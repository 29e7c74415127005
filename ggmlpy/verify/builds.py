"""Which build of llama-quantize made a GGUF file, found by its first rows: with fused multiply-add or without.

The builds of one day make the same file but for a few scales, in a share of blocks that is known by type. So a few
thousand blocks tell the build, and only where the baseline doesn't give them are the others tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ggmlpy.formats.eras import AUGUST_22, Era
from ggmlpy.formats.gguf import GgufTensor
from ggmlpy.formats.out_tensor import row_chunks
from ggmlpy.machine.contraction import BASELINE, COMPILERS
from ggmlpy.quantizers.compilers import is_known
from ggmlpy.quantizers.gguf_file import made_tensor
from ggmlpy.quantizers.gguf_plan import PlannedTensor

from .block_codes import greatest_share

__all__ = ["built_by", "compiler_of", "words_of"]

ENOUGH = 1 << 13  # blocks that a build could have made otherwise: among so many some are
SEVERAL = 3  # fewer that differ may be of a row that somebody changed


def words_of(compiler: str) -> str:
    """How a build is told from others; nothing of the baseline.

    >>> words_of("gcc-fma")
    ', built by gcc with fused multiply-add'
    """
    return "" if compiler == BASELINE else f", built by {compiler.removesuffix('-fma')} with fused multiply-add"


def built_by(plan: Sequence[PlannedTensor], compiler: str) -> list[PlannedTensor]:
    """The same plan by a build of which only what is known is asked for."""
    return [
        replace(tensor, compiler=compiler) if not tensor.copied and is_known(compiler, tensor.target.name) else tensor
        for tensor in plan
    ]


def compiler_of(plan: Sequence[PlannedTensor], era: Era, found: Mapping[str, GgufTensor]) -> str:
    """The build from which the fewest of the blocks that were looked at differ; the baseline if none can be told.

    Args:
        found: the tensors that are there, by name.
    """
    seen: list[PlannedTensor] = []
    n_blocks = n_others = 0
    for tensor in _telling(plan, era, found):
        others = _others(BASELINE, tensor, era, found)
        most = greatest_share(tensor.target.name, tensor.importance is not None) * others.size + SEVERAL
        if others.sum() <= most:  # else it was not a compiler: another matrix, another era, another model
            seen.append(tensor)
            n_blocks, n_others = n_blocks + others.size, n_others + int(others.sum())
        if n_blocks >= ENOUGH:
            break
    if n_others < SEVERAL:
        return BASELINE

    def misfit(compiler: str) -> int:
        return n_others if compiler == BASELINE else sum(_others(compiler, each, era, found).sum() for each in seen)

    return min(COMPILERS, key=misfit)


def _telling(plan: Sequence[PlannedTensor], era: Era, found: Mapping[str, GgufTensor]) -> Iterator[PlannedTensor]:
    """The tensors that builds make differently."""
    for tensor in plan:
        there = found.get(tensor.source.name)
        if there is None or tensor.copied or there.type.layout != tensor.target.layout or era < AUGUST_22:
            continue
        if (
            there.shape == tensor.source.shape
            and there.data.size
            and greatest_share(there.type.name, tensor.importance is not None)
        ):
            yield tensor


def _others(compiler: str, tensor: PlannedTensor, era: Era, found: Mapping[str, GgufTensor]) -> NDArray[np.bool_]:
    """Which blocks of its first rows are not what this build makes of the source."""
    (planned,), size = built_by([tensor], compiler), tensor.target.type_size
    made = next(row_chunks(made_tensor(planned, era)))
    theirs = found[tensor.source.name].data[: made.size]
    return (made.reshape(-1, size) != theirs.reshape(-1, size)).any(axis=1)
