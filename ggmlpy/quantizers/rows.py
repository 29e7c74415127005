"""Rows of floats to blocks of codes, byte for byte as an era's ``quantize`` makes them: the door to all quantizers.

======================================  ===================================  =========================================
types                                   eras                                 module
======================================  ===================================  =========================================
q4_0, q4_1, q4_2, q5_0, q5_1, q8_0      all; without importance              :mod:`ggmlpy.quantizers.classic`
q4_0, q4_1, q5_0, q5_1                  since 2024-01-16, with importance    :mod:`ggmlpy.quantizers.weighted_classic`
q2_K … q6_K                             2023-08-21                           :mod:`ggmlpy.quantizers.k_quants`
q2_K … q6_K                             since 2023-08-22                     :mod:`ggmlpy.quantizers.weighted_k_quants`
iq4_nl, iq4_xs                          since 2024-02-21, -27                :mod:`ggmlpy.quantizers.non_linear`
iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s  since 2024-01-14 … 2024-02-26        :mod:`ggmlpy.quantizers.grid_search`
iq1_s, iq1_m                            since 2024-02-18, 2024-03-26         :mod:`ggmlpy.quantizers.ternary_search`
q1_0, q2_0, tq1_0, tq2_0, mxfp4, nvfp4  all that have them                   :mod:`ggmlpy.quantizers.unsearched`
======================================  ===================================  =========================================

*Importance* is one weight per column, which an importance matrix says (:mod:`ggmlpy.formats.importance`): an error
there counts so much more. Types that know no weights (q8_0) are the same with it and without.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.eras import (
    AUGUST_22,
    DEFAULT_ERA,
    JANUARY_14_24,
    JANUARY_16_24,
    SEPTEMBER_5,
    Era,
    held_in,
    quantizing_era,
)
from ggmlpy.formats.tensor_types import QK_K, TensorType
from ggmlpy.machine.contraction import BASELINE, COMPILERS, Contraction

from .compilers import contraction_of

__all__ = ["quantizable", "quantize_rows", "rows_of_calls", "usual_way"]

_COMPILING = threading.Lock()  # so that workers that need the same kernel don't each compile it

#: (float32 or float16 [rows, columns], uint8 [rows, row_bytes] to fill) -> histogram, int64 [16]; None if not counted
Quantizer = Callable[[NDArray[Any], NDArray[np.uint8]], NDArray[np.int64] | None]


def quantizable(era: str | Era = DEFAULT_ERA) -> tuple[str, ...]:
    """The names of the block types that an era's ``quantize`` could write.

    >>> quantizable("2023-03-31")
    ('q4_0', 'q4_1')
    """
    return tuple(name for name, record in quantizing_era(era).types.items() if record.quantized)


def quantize_rows(
    x: NDArray[Any],
    name: str,
    era: str | Era = DEFAULT_ERA,
    *,
    histogram: NDArray[Any] | None = None,
    importance: NDArray[np.float32] | None = None,
    compiler: str = BASELINE,
) -> NDArray[Any]:
    """Quantize rows to the bytes that the era's ``quantize`` puts into a file.

    Args:
        x: float32 or float16 [..., n]; n a multiple of the type's block. float16 is widened exactly on the way.
        name: "q4_0", "q4_1", "q4_2", "q5_0", "q5_1", "q8_0", from 2023-08-21 "q2_K" … "q6_K", and of GGUF's
            eras the later ones, all of them today.
        era: a date, see :mod:`ggmlpy.formats.eras`.
        histogram: int64 [16], to which the counts that llama.cpp prints are added (k-quants count nothing).
        importance: float32 [n], how much an error in each column counts.
        compiler: what built the program, see :mod:`ggmlpy.quantizers.compilers`.

    Returns:
        uint8 [..., bytes of a row].

    Raises:
        UsageError: the era has no such type, or no importance; n is not a multiple of its block; x is not of floats.

    >>> row = np.arange(32, dtype=np.float32)
    >>> quantize_rows(row, "q4_0", "2023-03-31").tobytes().hex()
    'dbb68d40889899a9aaaabbbbccccddddedeefeff'
    """
    moment = quantizing_era(era)
    record = moment.type(name)
    if not record.quantized:
        raise UsageError(f"{name} is not a quantized type; era {moment} quantizes to {', '.join(quantizable(moment))}")
    if x.dtype not in (np.float32, np.float16):
        raise UsageError(f"rows to quantize must be float32 or float16, not {x.dtype}")
    row_bytes = record.row_bytes(x.shape[-1])  # checks the length
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    out = np.empty((len(rows), row_bytes), np.uint8)
    if out.size:
        weights, counted = _checked_importance(importance, x.shape[-1], moment), histogram is not None
        seen = _quantizer(record, moment, weights, counted, contraction_of(compiler, name, moment))(rows, out)
        if histogram is not None and seen is not None:
            histogram += seen
    return out.reshape(*x.shape[:-1], row_bytes)


def _checked_importance(
    importance: NDArray[np.float32] | None, columns: int, moment: Era
) -> NDArray[np.float32] | None:
    if importance is None:
        return None
    if moment < JANUARY_14_24:
        raise UsageError(f"importance came in January 2024; the quantizers of {moment} have none")
    if importance.shape != (columns,):
        raise UsageError(f"rows of {columns} values need as many weights, not an array {list(importance.shape)}")
    return np.ascontiguousarray(importance, np.float32)


def _quantizer(
    record: TensorType, moment: Era, importance: NDArray[np.float32] | None, counted: bool, by: Contraction
) -> Quantizer:
    """The function that makes an era's blocks of a type, and counts their codes if it is asked to and they are."""
    if record.is_k_quant:
        return _k_quantizer(record, moment, importance, by)
    if record.name in LATER:
        return _later_quantizer(record, moment, importance, by)
    from .classic import classic_quantizer
    from .weighted_classic import WEIGHTED, weighted_quantizer
    from .weighted_k_quants import nothing_in

    if importance is not None and record.name in WEIGHTED and moment >= JANUARY_16_24:
        with _COMPILING:
            kernel = weighted_quantizer(record, nothing_in(moment).symmetric, by)
        return lambda rows, out: kernel(rows.astype(np.float32, copy=False), importance, out)

    def classic(rows: NDArray[Any], out: NDArray[np.uint8]) -> NDArray[np.int64] | None:
        blocks = rows.reshape(-1, record.blck_size)
        with _COMPILING:
            fill = classic_quantizer(moment, record, blocks.dtype == np.float16, by)
        return fill(blocks, out.reshape(len(blocks), record.type_size), counted)

    return classic


def _k_quantizer(record: TensorType, moment: Era, importance: NDArray[np.float32] | None, by: Contraction) -> Quantizer:
    if moment < AUGUST_22:
        from .k_quants import k_quantizer

        with _COMPILING:
            old = k_quantizer(record.name)
        return lambda rows, out: old(_blocks(rows), out.reshape(-1, record.type_size))
    from .weighted_k_quants import weighted_k_quantizer

    with _COMPILING:
        kernel = weighted_k_quantizer(record.name, importance is not None, moment, by)
    weights = np.ones((1, QK_K), np.float32) if importance is None else importance.reshape(-1, QK_K)

    def quantize(rows: NDArray[Any], out: NDArray[np.uint8]) -> None:
        blocks = out.reshape(-1, record.type_size)
        kernel(_blocks(rows), weights, blocks)
        if record.name == "q6_K" and moment == SEPTEMBER_5:
            stay_at_zeros(blocks)

    return quantize


#: values that one call of the quantizer made then; what was left of a tensor if there was one thread
VALUES_OF_A_CALL = 32 * 512


def stay_at_zeros(blocks: NDArray[np.uint8]) -> None:
    """q6_K on 2023-09-05: the quantizer did not step over a block of zeros, so that all behind it became zeros, too."""
    for start in range(0, len(blocks), VALUES_OF_A_CALL // QK_K):
        part = blocks[start : start + VALUES_OF_A_CALL // QK_K]
        empty = np.flatnonzero(~part.any(axis=1))
        if len(empty):
            part[empty[0] :] = 0


def rows_of_calls(columns: int, era: Era) -> int:
    """At multiples of how many rows quantizing may begin, so that nothing depends on it."""
    return VALUES_OF_A_CALL // math.gcd(columns, VALUES_OF_A_CALL) if era == SEPTEMBER_5 else 1


def _later_quantizer(
    record: TensorType, moment: Era, importance: NDArray[np.float32] | None, by: Contraction
) -> Quantizer:
    """The types that only GGUF has."""
    size, weighted = record.blck_size, importance is not None
    weights = np.ones((1, size), np.float32) if importance is None else importance.reshape(-1, size)
    with _COMPILING:
        kernel = LATER[record.name](record, moment, weighted, by)
    return lambda rows, out: kernel(_blocks(rows, size), weights, out.reshape(-1, record.type_size))


def _non_linear(record: TensorType, moment: Era, weighted: bool, by: Contraction) -> Callable[..., None]:
    from .non_linear import NON_LINEAR_WAYS, non_linear_quantizer

    quantizer: Callable[..., None] = non_linear_quantizer(record, weighted, held_in(NON_LINEAR_WAYS, moment), by)
    return quantizer


def _on_grid(record: TensorType, moment: Era, weighted: bool, by: Contraction) -> Callable[..., None]:
    from .grid_search import ON_GRID, grid_quantizer
    from .neighbors import neighbor_tables
    from .ternary_search import TERNARY, ternary_quantizer

    name = record.name
    if not weighted and name in NEED_IMPORTANCE:
        raise UsageError(f"{name} needs the importance of its columns: without it too much would be lost")
    if name in ON_GRID:
        quantizer = grid_quantizer(record, held_in(ON_GRID[name], moment))
    else:
        quantizer = ternary_quantizer(record, held_in(TERNARY[name], moment))
    tables = neighbor_tables(record.grid)

    def quantize(blocks: NDArray[Any], weights: NDArray[Any], out: NDArray[np.uint8]) -> None:
        if quantizer(blocks, weights, weighted, tables.points, tables.addresses, out):
            raise UsageError(
                f"values are too large for {name}: their squares overflow, and no point of the grid is near (or, "
                "before today's era, they all count nothing)"
            )

    return quantize


def _unsearched(record: TensorType, moment: Era, weighted: bool, by: Contraction) -> Callable[..., None]:
    from .unsearched import unsearched_quantizer

    quantizer = unsearched_quantizer(record.name)
    return lambda blocks, weights, out: quantizer(blocks, out)


def usual_way(record: TensorType, era: Era, weighted: bool) -> Hashable:
    """What decides which blocks an era makes of ordinary values: where it is the same, so are the blocks.

    Only blocks of almost nothing, or of values that count nothing, may differ then.
    """
    from .grid_search import ON_GRID
    from .non_linear import NON_LINEAR_WAYS
    from .ternary_search import TERNARY
    from .weighted_k_quants import nothing_in, way_of

    name = record.name
    if name in ON_GRID:
        return record.layout, held_in(ON_GRID[name], era)._replace(negligible=0.0)
    if name in TERNARY:
        way = held_in(TERNARY[name], era)
        return record.layout, way._replace(least=np.float32(0), negligible=np.float32(0), stale=False)
    if name == "iq4_nl":
        return held_in(NON_LINEAR_WAYS, era).codes_of_scale
    if record.is_k_quant and era >= AUGUST_22:
        return way_of(record, weighted, era, COMPILERS[BASELINE])._replace(nothing=nothing_in(AUGUST_22))
    return record.layout, weighted and era >= JANUARY_16_24


NEED_IMPORTANCE = ("iq1_s", "iq2_xxs", "iq2_xs")
LATER: dict[str, Callable[[TensorType, Era, bool, Contraction], Callable[..., None]]] = {
    **dict.fromkeys(("iq4_nl", "iq4_xs"), _non_linear),
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"), _on_grid),
    **dict.fromkeys(("q1_0", "q2_0", "tq1_0", "tq2_0", "mxfp4", "nvfp4"), _unsearched),
}


def _blocks(rows: NDArray[Any], size: int = QK_K) -> NDArray[np.float32]:
    return rows.reshape(-1, size).astype(np.float32, copy=False)
