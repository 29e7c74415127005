"""Quantizers of the k-quants since 2023-08-22: the search for scales has weights, which an importance matrix may raise.

The layouts are those of :mod:`ggmlpy.quantizers.k_quants`. Sixteen blocks are made at a time, in four steps:

1. weights: of value x, with the sums over the 256 values of its block (over 32 in q4_K, q5_K without importance):

   ======  =====================  ===================================
   type    without importance     with importance v
   ======  =====================  ===================================
   q2_K    |x|                    v * sqrt(sum x^2 / 256 + x^2)
   q3_K    x^2                    v * sqrt(2 * sum x^2 / 256 + x^2)
   q4_K    sqrt(sum/32) + |x|     the same
   q5_K    sqrt(sum/32) + |x|     the same
   q6_K    x^2                    v
   ======  =====================  ===================================

   In the first weeks of importance matrices the sum was not doubled in q4_K and q5_K.

2. search: a scale (and a minimum) for each sub-block, sixteen sub-blocks side by side;
3. the scales and minimums of a block become integers: of their greatest, or, with importance, by a search in which each
   weighs what its values weigh (not in q6_K, nor in the first weeks in q4_K and q5_K). Here the sixteen blocks are
   side by side;
4. each value is coded anew with the scale that a reader will decode.

Source: k_quants.c at llama.cpp bac66994c (2023-08-22); with importance ggml-quants.c at 467a882fd (2024-01-14) and
f57fadc00 (2024-02-06).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ggmlpy.formats.eras import (
    AUGUST_22,
    FEBRUARY_6_24,
    JANUARY_14_24,
    MAY_18_24,
    MAY_19_24,
    SEPTEMBER_5,
    TODAY,
    Era,
    held_in,
)
from ggmlpy.formats.tensor_types import QK_K, TENSOR_TYPES, TensorType
from ggmlpy.machine.contraction import ROUNDED, Contraction, Fused, Rounded
from ggmlpy.machine.jit import types
from ggmlpy.machine.kernels import inlined, kernel
from ggmlpy.machine.vectors import (
    absolute,
    add,
    copy_bytes,
    div,
    fill,
    load,
    low_bytes,
    minimum,
    mul,
    mul_add,
    nearest_codes,
    nearest_codes_of_product,
    sqrt,
    store,
    sub,
    transpose_f32,
    where_equal,
    where_greater,
    zero_bytes,
    zeros,
)

from .k_quants import pack, packing_of, places_of, store_half
from .weighted_search import (
    NEGLIGIBLE,
    OLD_ZERO,
    ONLY_ZERO,
    ROW,
    Least,
    extreme_of,
    fit_affine,
    fit_and_improve,
    fit_positive,
    fit_symmetric,
    raise_weights,
    side_by_side,
    total_of,
)

__all__ = ["nothing_in", "weighted_k_quantizer"]

BLOCKS = 16  # that are made at a time, one per lane where their scales are searched
BLOCK = 4 * QK_K  # bytes of a block's floats
ANY = (1 << 31) - 1


class Search(NamedTuple):
    """How a type with minimums looks for them: what :func:`fit_affine` takes, without importance and with it."""

    first: np.float32
    step: np.float32
    tries: int
    squared: bool


# fmt: off
SEARCHES = {
    2: Search(np.float32(-0.5), np.float32(0.1), 15, False),
    4: Search(np.float32(-1.0), np.float32(0.1), 20, True),
    5: Search(np.float32(-0.5), np.float32(0.1), 15, True),
}
# fmt: on
WITH_IMPORTANCE = Search(np.float32(-0.9), np.float32(0.05), 36, True)


# ── weights ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@inlined
def sums_of_squares(x, work, by):
    """The sum of the squares of each of sixteen blocks, in the order of their values."""
    total = zeros()
    for part in range(QK_K // 16):
        transpose_f32(x + 64 * part, BLOCK, work)
        for i in range(16):
            v = load(work + ROW * i)
            total = mul_add(v, v, total, by.clang)
    return total


@inlined
def weights_of_values(x, run, width, w, by):
    """Without importance."""
    mean = zeros()
    if run == 32:
        for i in range(run):
            v = load(x + ROW * i)
            mean = mul_add(v, v, mean, by.clang)
        mean = sqrt(div(mean, fill(np.float32(run))))
    for i in range(run):
        v = load(x + ROW * i)
        store(w + ROW * i, add(mean, absolute(v)) if width in (2, 4, 5) else mul(v, v))


# ── the scales of blocks, sixteen blocks side by side ─────────────────────────────────────────────────────────────────


@inlined
def codes_of_greatest(scales, codes, n, limit, by):
    """Scales as codes 0 … ``limit`` of the greatest; return what a code is multiplied by."""
    most = zeros()
    for k in range(n):
        scale = load(scales + ROW * k)
        most = where_greater(scale, most, scale, most)
    inverse = where_greater(most, zeros(), div(fill(np.float32(limit)), most), zeros())
    for k in range(n):
        scale = load(scales + ROW * k)
        code = low_bytes(nearest_codes_of_product(inverse, scale, np.int32(-ANY), np.int32(ANY), by.gcc))
        if limit == 63:
            code = minimum(code, fill(np.float32(limit)))
        else:
            code = where_greater(most, zeros(), code, zeros())
        store(codes + ROW * k, code)
    return where_greater(most, zeros(), div(most, fill(np.float32(limit))), zeros())


@inlined
def signed_bytes(codes):
    """Whole numbers as signed bytes have them."""
    code = low_bytes(codes)
    return where_greater(code, fill(np.float32(127)), sub(code, fill(np.float32(256))), code)


@inlined
def codes_of_extreme(scales, codes, n, most, limit, by):
    """Scales as codes of which the extreme one gets -``limit``."""
    inverse = div(fill(np.float32(-limit)), most)
    for k in range(n):
        code = nearest_codes_of_product(inverse, load(scales + ROW * k), np.int32(-ANY), np.int32(ANY), by.gcc)
        if limit == 128:
            code = signed_bytes(minimum(code, fill(np.float32(127))))
        else:
            code = minimum(signed_bytes(code), fill(np.float32(31)))
            code = where_greater(fill(np.float32(-32)), code, fill(np.float32(-32)), code)
            code = where_equal(most, zeros(), zeros(), add(code, fill(np.float32(32))))
        store(codes + ROW * k, code)
    d = div(fill(np.float32(1)), inverse)
    return d if limit == 128 else where_equal(most, zeros(), zeros(), d)


# ── one block ─────────────────────────────────────────────────────────────────────────────────────────────────────────
#
# scale, minimum: int32 codes of the sub-blocks. d: what a value of each sub-block is to be scaled by. ms: the code of
# what is subtracted from it. out: the bytes of the block.


@inlined
def pairs_of_4_bits(scale, minimum_of, out, at, d, ds, ms):
    for k in range(16):
        out[at.scales + k] = np.uint8(scale[k] | minimum_of[k] << np.int32(4))
        ds[k] = d * np.float32(out[at.scales + k] & 15)
        ms[k] = np.float32(out[at.scales + k] >> 4)


@inlined
def pairs_of_6_bits(scale, minimum_of, out, at, d, ds, ms):
    """Eight scales and eight minimums in twelve bytes."""
    s = out[at.scales : at.scales + 12]
    for k in range(4):
        s[k], s[k + 4] = np.uint8(scale[k]), np.uint8(minimum_of[k])
    for k in range(4, 8):
        s[k + 4] = np.uint8((scale[k] & 15) | (minimum_of[k] & 15) << 4)
        s[k - 4] |= np.uint8((scale[k] >> 4) << 6)
        s[k] |= np.uint8((minimum_of[k] >> 4) << 6)
    for k in range(4):
        ds[k], ms[k] = d * np.float32(s[k] & 63), np.float32(s[k + 4] & 63)
        ds[k + 4] = d * np.float32((s[k + 8] & 15) | (s[k] >> 6) << 4)
        ms[k + 4] = np.float32((s[k + 8] >> 4) | (s[k + 4] >> 6) << 4)


@inlined
def scales_of_6_bits(scale, out, at, d, ds):
    """The low four bits of sixteen scales fill eight bytes, their high two bits four bytes more."""
    for k in range(8):
        out[at.scales + k] = np.uint8((scale[k] & 15) | (scale[k + 8] & 15) << 4)
    for k in range(4):
        low, high = scale[k] >> 4 | scale[k + 4] >> 4 << 2, scale[k + 8] >> 4 | scale[k + 12] >> 4 << 2
        out[at.scales + 8 + k] = np.uint8(low | high << 4)
    for k in range(16):
        ds[k] = d * np.float32(scale[k] - 32)


@inlined
def scales_of_8_bits(scale, out, at, d, ds):
    for k in range(16):
        out[at.scales + k] = np.uint8(scale[k])
        ds[k] = d * np.float32(scale[k])


@inlined
def recode(x, codes, way, d, dmin, m):
    """Code with the decoded scales and minimums; a lane whose scale became 0 keeps the codes of its search."""
    for i in range(way.run):
        scaled = div(mul_add(dmin, m, load(x + ROW * i), way.raised), d)
        code = nearest_codes(scaled, np.int32(-way.zero), np.int32(way.limit - way.zero))
        code = add(code, fill(np.float32(way.zero)))
        store(codes + ROW * i, where_equal(d, zeros(), load(codes + ROW * i), code))


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Nothing(NamedTuple):
    """Below which greatest magnitude a search without minimums takes values for nothing.

    Attributes:
        symmetric, improved, positive: in the searches of these names, see :mod:`ggmlpy.quantizers.weighted_search`.
        block: the greatest scale of a q6_K block below which all of it is zero; 0 if none is.
    """

    symmetric: Least
    improved: Least
    positive: Least
    block: np.float32


#: since an era
NOTHING: dict[Era, Nothing] = {
    AUGUST_22: Nothing(OLD_ZERO, OLD_ZERO, OLD_ZERO, np.float32(0)),
    SEPTEMBER_5: Nothing(Least(np.float32(1e-30), True), OLD_ZERO, OLD_ZERO, ONLY_ZERO),
    MAY_18_24: Nothing(Least(NEGLIGIBLE, True), Least(NEGLIGIBLE, True), OLD_ZERO, NEGLIGIBLE),
    MAY_19_24: Nothing(Least(NEGLIGIBLE), Least(NEGLIGIBLE, True), OLD_ZERO, NEGLIGIBLE),
    TODAY: Nothing(Least(NEGLIGIBLE), Least(NEGLIGIBLE), Least(NEGLIGIBLE), NEGLIGIBLE),
}


def nothing_in(era: Era) -> Nothing:
    """What counted as nothing then."""
    return held_in(NOTHING, era)


class Way(NamedTuple):
    """How the blocks of one type are made: constants of a kernel.

    Attributes:
        width, zero, limit: bits of a code, the code that stands for 0, the greatest.
        run, subs: values of a sub-block, sub-blocks of a block.
        affine: whether sub-blocks have minimums.
        weighted: whether there is importance.
        doubled: what the mean square of a block counts for beside that of a value.
        fits_scales: whether the codes of scales are searched.
        scale_limit: the greatest code of a scale (or half their number where they are signed).
        search: what :func:`fit_affine` takes.
        nothing: below which greatest magnitude values, or scales, are nothing.
        by: what the compiler contracts.
        raised: whether it contracts the minimum that is added to a value before it is coded anew.
        tried: whether it contracts the sums of :func:`fit_symmetric` for values.
    """

    width: int
    zero: int
    limit: int
    run: int
    subs: int
    affine: bool
    weighted: bool
    doubled: np.float32
    fits_scales: bool
    scale_limit: int
    search: Search
    nothing: Nothing
    by: Contraction
    raised: Rounded | Fused
    tried: Rounded | Fused


def way_of(record: TensorType, weighted: bool, era: Era, by: Contraction) -> Way:
    width, scale_limit = record.code_width, {2: 15, 3: 32, 4: 63, 5: 63, 6: 128}[record.code_width]
    search = WITH_IMPORTANCE if weighted else SEARCHES.get(width, WITH_IMPORTANCE)
    shape = (width, record.zero, (1 << width) - 1, record.run, QK_K // record.run, width in SEARCHES)
    first_weeks = weighted and width in (4, 5) and era < FEBRUARY_6_24
    doubled = np.float32(1 if width == 2 or first_weeks else 2)
    fits_scales = weighted and width != 6 and not first_weeks
    searches = {3: ("symmetric" if weighted else "improved",), 6: ("symmetric", "block")}.get(width, ("positive",))
    then, now = nothing_in(era)._asdict(), nothing_in(TODAY)._asdict()
    nothing = Nothing(**now | {name: then[name] for name in searches if fits_scales or width not in SEARCHES})
    raised = by.gcc if width == 2 else ROUNDED  # gcc unrolls the loop over 16 values, and vectorizes that over 32
    inlined_search = era < JANUARY_14_24 or (width == 3 and era < FEBRUARY_6_24)
    tried = by.both if inlined_search else by.clang  # it unrolls that loop too
    return Way(*shape, weighted, doubled, fits_scales, scale_limit, search, nothing, by, raised, tried)


@inlined
def search(x, w, codes, way):
    """Scales and minimums of sixteen sub-blocks."""
    if way.affine:
        to = way.search
        return fit_affine(x, w, codes, way.run, way.limit, to.first, to.step, to.tries, to.squared, way.by)
    return fit_symmetric(x, w, codes, way.run, way.zero, way.nothing.symmetric, way.by, way.tried), zeros()


@inlined
def codes_of_scales(scales, totals, codes, way):
    """The codes of the scales of sixteen blocks, and what they are multiplied by."""
    if way.affine and way.fits_scales:
        return fit_positive(scales, totals, codes, way.subs, way.scale_limit, way.nothing.positive, way.by)
    if way.affine:
        return codes_of_greatest(scales, codes, way.subs, way.scale_limit, way.by)
    if way.fits_scales:
        nothing, by = way.nothing.symmetric, way.by
        return fit_symmetric(scales, totals, codes, way.subs, way.scale_limit, nothing, by, by.clang)
    return codes_of_extreme(scales, codes, way.subs, extreme_of(scales, way.subs)[0], way.scale_limit, way.by)


@inlined
def put_scales(scale, minimum_of, out, at, d, ds, ms, way):
    if way.width == 2:
        pairs_of_4_bits(scale, minimum_of, out, at, d, ds, ms)
    elif way.affine:
        pairs_of_6_bits(scale, minimum_of, out, at, d, ds, ms)
    elif way.width == 3:
        scales_of_6_bits(scale, out, at, d, ds)
    else:
        scales_of_8_bits(scale, out, at, d, ds)


def rows_kernel(record: TensorType, way: Way) -> Callable:
    """The loop over blocks ``rows`` (float32 [n, 256]) into ``out`` [n, type_size] for one k-quant.

    ``importance``: float32 [blocks per row, 256], the weights of one row's values.
    """
    at, packing = places_of(record), packing_of(record)
    width, run, subs, affine, weighted, doubled = way.width, way.run, way.subs, way.affine, way.weighted, way.doubled
    by, improves = way.by, width == 3 and not weighted
    tiles, tile = BLOCKS * subs // 16, 64 * run

    def quantize_blocks(rows, importance, out):
        memory, flat = np.zeros((7, BLOCKS * QK_K), np.float32), np.empty(QK_K, np.uint8)
        small, ints = np.zeros((11, 512), np.float32), np.empty((2, 16), np.int32)
        places = np.empty(64, np.int64)
        values, weights, x, codes, w, work, natural = [np.int64(memory[k].ctypes.data) for k in range(7)]
        scales, mins, totals, scale_codes, min_codes, across, variances, ds, ms, d_at, dmins = [
            np.int64(small[k].ctypes.data) for k in range(11)
        ]
        code_rows = small[3:5].reshape((2, 32, 16))  # [scale or minimum, sub-block, block]
        for start in range(0, rows.shape[0], BLOCKS):
            n = min(BLOCKS, rows.shape[0] - start)
            zero_bytes(values, BLOCKS * BLOCK)
            copy_bytes(values, np.int64(rows[start].ctypes.data), n * BLOCK)
            if weighted:
                for block in range(n):
                    part = importance[(start + block) % importance.shape[0]]
                    copy_bytes(weights + BLOCK * block, np.int64(part.ctypes.data), BLOCK)
                variance = div(mul(fill(doubled), sums_of_squares(values, work, by)), fill(np.float32(QK_K)))
                store(across, variance)
                for block in range(BLOCKS):
                    for k in range(subs):
                        small[6, subs * block + k] = small[5, block]

            for t in range(tiles):
                side_by_side(values + tile * t, run, x + tile * t)
                here = w + tile * t
                if weighted:
                    side_by_side(weights + tile * t, run, here)
                    if width != 6:
                        raise_weights(x + tile * t, run, load(variances + 64 * t), here, by)
                else:
                    weights_of_values(x + tile * t, run, width, here, by)
                if not improves:
                    scale, minimum_of = search(x + tile * t, here, codes + tile * t, way)
                    store(scales + 64 * t, scale)
                    store(mins + 64 * t, minimum_of)
                store(totals + 64 * t, total_of(here, run))
            if improves:
                to = way.nothing.improved, scales, places, natural, by
                fit_and_improve(x, w, codes, tiles, run, way.zero, *to)

            transpose_f32(totals, 4 * subs, work + 1024)
            transpose_f32(scales, 4 * subs, work)
            store(d_at, codes_of_scales(work, work + 1024, scale_codes, way))
            store(d_at + 64, zeros())
            _, greatest = extreme_of(work, subs)
            store(d_at + 128, greatest)
            if affine:
                transpose_f32(mins, 4 * subs, work)
                store(d_at + 64, codes_of_scales(work, work + 1024, min_codes, way))

            for block in range(n):
                d, here = (
                    store_half(out[start + block], at.d, small[9, block]),
                    slice(subs * block, subs * block + subs),
                )
                if affine:
                    small[10, here] = store_half(out[start + block], at.dmin, small[9, 16 + block])
                for k in range(subs):
                    ints[0, k] = np.int32(code_rows[0, k, block])
                    ints[1, k] = np.int32(code_rows[1, k, block])
                put_scales(ints[0], ints[1], out[start + block], at, d, small[7, here], small[8, here], way)

            for t in range(tiles):
                scaling = load(ds + 64 * t), load(dmins + 64 * t), load(ms + 64 * t)
                recode(x + tile * t, codes + tile * t, way, *scaling)
                for part in range(run // 16):
                    transpose_f32(codes + tile * t + 1024 * part, 64, work)
                    for k in range(16):
                        copy_bytes(natural + tile * t + 4 * run * k + 64 * part, work + 64 * k, 64)
            for block in range(n):
                for i in range(QK_K):
                    flat[i] = np.uint8(memory[6, QK_K * block + i])
                pack(flat, out[start + block], packing)
                if width == 6 and small[9, 32 + block] < way.nothing.block:
                    out[start + block] = 0

    return quantize_blocks


def weighted_k_quantizer(name: str, weighted: bool, era: Era, by: Contraction) -> Callable:
    """The compiled loop of an era for "q2_K" … "q6_K", with importance or without."""
    record = TENSOR_TYPES[name]
    return compiled_rows(record, way_of(record, weighted, era, by))


@cache
def compiled_rows(record: TensorType, way: Way) -> Callable:
    """The same; eras that do the same share it."""
    rows = types.Array(types.float32, 2, "C", readonly=True)
    return kernel(rows_kernel(record, way), types.void(rows, rows, types.uint8[:, ::1]))
