"""Matrix products in llama.cpp's order of operations: one kernel for each way of summing.

Every kernel computes ``out[t, r] = dot(row r of the weights, activations of token t)`` for rows ``first … last - 1``,
with the additions, the fused operations and the roundings of ``ggml_vec_dot_*`` at an era's commit.
The weights stay as they lie in the file: `rows` is an address and `stride` the bytes of a row.

Arrays that a kernel reads through a bare address are mentioned again in every round of its loop: Numba frees an array
after its last mention.

Sources, all in ggml.c: `ggml_vec_dot_f32`, `_f16`, `_q4_0`, `_q4_1` at ed3c680bc and 352589927; `ggml_vec_dot_*_q8_0`
and `*_q8_1` at 3e5aa8a1c, 6986c7835 and dadbed99e.
"""

from __future__ import annotations

import numpy as np

from ggmlpy.machine.kernels import kernel
from ggmlpy.machine.vectors import (
    add,
    alternating,
    column_f16,
    column_f32,
    dot_pairs,
    dot_quads,
    dot_split_pairs,
    fetch_later,
    fill,
    fill_f32x8,
    fma,
    halves_of,
    load,
    load_f16,
    load_f16x8,
    load_f32,
    load_f32x8,
    load_f64x16,
    load_i8x16,
    load_i8x32,
    mul,
    store,
    store_f64x16,
    store_i8x32,
    sums_of_eights,
    to_doubles,
    to_floats,
    total,
    total_crosswise,
    total_int,
    total_int_high,
    total_int_low,
    total_neighbors,
    transpose_f16,
    transpose_f32,
    transpose_nibbles,
    zeros,
    zeros_f32x8,
    zeros_f64x16,
)

from .layouts import (
    BLOCK_BYTES,
    BYTES_OF_32,
    CODES_AT,
    MINIMUM_AT,
    Q4_0,
    Q4_1,
    Q4_2,
    ZEROS,
    codes_of,
    facts_of,
    has_minimum,
    minimum_of,
    scale_of,
)

F0 = np.float32(0)

SCALES_FIRST, SUM_FIRST = 0, 1  # (dx*dy) * sumi, or (sumi*dx) * dy
NEIGHBORS, HALVES = 0, 1  # how four AVX accumulators meet: 0+1 and 2+3, or 0+2 and 1+3

# Weights and activations as integers, one float step a block.


@kernel
def integers_scalar(layout, order, rows, stride, first, last, n, codes, d, s, out):
    """Scalar builds from 2023-04-30 on: a block adds (dx*dy) * sumi [+ m*s], or (sumi*dx) * dy by `order`."""
    facts, step = facts_of(layout), BYTES_OF_32[layout]
    offset = has_minimum(facts)
    for r in range(first, last):
        for t in range(out.shape[0]):
            p, a, total = rows + r * stride, codes.ctypes.data + t * n, F0
            for block in range(n // 32):
                fetch_later(p)
                dx, dy = scale_of(facts, p), d[t, block]
                sum_i = np.float32(total_int(dot_quads(codes_of(facts, p), load_i8x32(a))))
                term = (sum_i * dx) * dy if order == SUM_FIRST else (dx * dy) * sum_i
                total += term + minimum_of(facts, p) * s[t, block] if offset else term
                p += step
                a += 32
            out[t, r] = total


@kernel
def q4_2_scalar(rows, stride, first, last, n, codes, d, out):
    """q4_2 in the scalar build of 2023-04-30: two blocks of 16 weights against one of 32 activations."""
    facts = facts_of(Q4_2)
    for r in range(first, last):
        for t in range(out.shape[0]):
            p, a, total = rows + r * stride, codes.ctypes.data + t * n, F0
            for block in range(n // 32):
                lanes = dot_quads(codes_of(facts, p), load_i8x32(a))
                total += (load_f16(p) * d[t, block]) * np.float32(total_int_low(lanes))
                total += (load_f16(p + BLOCK_BYTES[Q4_2]) * d[t, block]) * np.float32(total_int_high(lanes))
                p += BYTES_OF_32[Q4_2]
                a += 32
            out[t, r] = total


@kernel
def integers_avx2(layout, split, rows, stride, first, last, n, codes, d, s, out):
    """AVX2 builds: lane l adds fma(dx*dy, its integer sum, lane); the minima are summed beside the lanes."""
    facts, step = facts_of(layout), BYTES_OF_32[layout]
    offset = has_minimum(facts)
    for r in range(first, last):
        for t in range(out.shape[0]):
            p, a, lanes, minima = rows + r * stride, codes.ctypes.data + t * n, zeros_f32x8(), F0
            for block in range(n // 32):
                fetch_later(p)
                x, y, dy = codes_of(facts, p), load_i8x32(a), d[t, block]
                sums = to_floats(dot_split_pairs(x, y) if split else dot_quads(x, y))
                if layout == Q4_2:
                    scale = halves_of(load_f16(p) * dy, load_f16(p + BLOCK_BYTES[Q4_2]) * dy)
                else:
                    scale = fill_f32x8(scale_of(facts, p) * dy)
                lanes = fma(scale, sums, lanes)
                if offset:
                    minima += minimum_of(facts, p) * s[t, block]
                p += step
                a += 32
            total = total_crosswise(lanes)
            out[t, r] = total + minima if offset else total


@kernel
def _add_block(split, x, y, scale, lanes):
    """lanes + scale * the integer sums of codes x and the activations at y."""
    sums = dot_split_pairs(x, load_i8x32(y)) if split else dot_quads(x, load_i8x32(y))
    return fma(fill_f32x8(scale), to_floats(sums), lanes)


@kernel
def integers_avx2_batch(layout, split, rows, stride, first, last, n, codes, d, s, out):
    """`integers_avx2` (not for q4_2), four tokens going through a row together: a block is unpacked once for all."""
    facts, step, n_tokens = facts_of(layout), BYTES_OF_32[layout], out.shape[0]
    offset = has_minimum(facts)
    for r in range(first, last):
        for t0 in range(0, n_tokens, 4):
            t1, t2, t3 = min(t0 + 1, n_tokens - 1), min(t0 + 2, n_tokens - 1), min(t0 + 3, n_tokens - 1)
            a = codes.ctypes.data
            a0, a1, a2, a3 = a + t0 * n, a + t1 * n, a + t2 * n, a + t3 * n
            l0, l1, l2, l3 = zeros_f32x8(), zeros_f32x8(), zeros_f32x8(), zeros_f32x8()
            m0, m1, m2, m3 = F0, F0, F0, F0
            p = rows + r * stride
            for block in range(n // 32):
                fetch_later(p)
                x, dx, at = codes_of(facts, p), scale_of(facts, p), 32 * block
                l0 = _add_block(split, x, a0 + at, dx * d[t0, block], l0)
                l1 = _add_block(split, x, a1 + at, dx * d[t1, block], l1)
                l2 = _add_block(split, x, a2 + at, dx * d[t2, block], l2)
                l3 = _add_block(split, x, a3 + at, dx * d[t3, block], l3)
                if offset:
                    m = minimum_of(facts, p)
                    m0 += m * s[t0, block]
                    m1 += m * s[t1, block]
                    m2 += m * s[t2, block]
                    m3 += m * s[t3, block]
                p += step
            out[t0, r] = total_crosswise(l0) + m0 if offset else total_crosswise(l0)
            out[t1, r] = total_crosswise(l1) + m1 if offset else total_crosswise(l1)
            out[t2, r] = total_crosswise(l2) + m2 if offset else total_crosswise(l2)
            out[t3, r] = total_crosswise(l3) + m3 if offset else total_crosswise(l3)


@kernel
def q4_1_avx2_march(fused, rows, stride, first, last, n, codes, d, m, out):
    """q4_1 against q4_1 in the AVX2 builds of March 2023: products, then cross terms with the minima, then offsets.

    `fused`: the compiler contracted the sum of offsets (CMake's build).
    """
    facts = facts_of(Q4_1)
    for r in range(first, last):
        for t in range(out.shape[0]):
            p, a, lanes, offset = rows + r * stride, codes.ctypes.data + t * n, zeros_f32x8(), F0
            for block in range(n // 32):
                fetch_later(p)
                dx, mx, dy, my = scale_of(facts, p), minimum_of(facts, p), d[t, block], m[t, block]
                x, y = codes_of(facts, p), load_i8x32(a)
                lanes = fma(fill_f32x8(dx * dy), to_floats(dot_split_pairs(x, y)), lanes)
                lanes = fma(alternating(dx * my, mx * dy), to_floats(sums_of_eights(x, y)), lanes)
                offset = fma(mx, my, offset) if fused else offset + mx * my
                p += BYTES_OF_32[Q4_1]
                a += 32
            total = total_crosswise(lanes)
            out[t, r] = fma(offset, np.float32(32), total) if fused else total + offset * np.float32(32)


@kernel
def q4_0_avx512(rows, stride, first, last, n, codes, d, out):
    """q4_0 against q4_0 in the AVX-512 builds of March 2023: groups of eight blocks alternate two accumulators."""
    facts, grouped = facts_of(Q4_0), n // 32 & ~7
    for r in range(first, last):
        for t in range(out.shape[0]):
            p, a, even, odd = rows + r * stride, codes.ctypes.data + t * n, zeros(), zeros()
            for block in range(n // 32):
                fetch_later(p)
                scale = fill(load_f32(p) * d[t, block])
                sums = to_floats(dot_pairs(codes_of(facts, p), load_i8x32(a)))
                if block & 1 and block < grouped:
                    odd = fma(scale, sums, odd)
                else:
                    even = fma(scale, sums, even)
                p += BYTES_OF_32[Q4_0]
                a += 32
            out[t, r] = total(even) + total(odd)


# Weights and activations as floats, sixteen rows at a time: lane i is row i, and adds its own terms in their own order.


@kernel
def _panel_width(first, last):
    """Rows to take together: sixteen, or one where there are fewer (every lane then holds that one row)."""
    return 16 if last - first >= 16 else 1


@kernel
def q4_pairs_scalar(minimum, in_double, rows, stride, first, last, n, values, out):
    """Scalar builds of March 2023, and q4_1 of 2023-04-30: sum += f0*f2 + f1*f3 for each byte of two weights.

    f0, f1 = d*(q-8), or d*q + m if `minimum`; f2, f3 are the activations `values` [n_tokens, n], dequantized likewise.
    The sum is a float, or a double if `in_double`.
    """
    layout = Q4_1 if minimum else Q4_0
    step, head, offset = BYTES_OF_32[layout], CODES_AT[layout], ZEROS[layout]
    columns = np.empty((32, 16), np.int8)  # one block of each of sixteen rows, turned
    floats, doubles = np.empty((out.shape[0], 16), np.float32), np.empty((out.shape[0], 16), np.float64)
    width = _panel_width(first, last)
    spread = stride if width > 1 else 0
    for r in range(first, last, width):
        r = min(r, last - width)  # the last panel overlaps the one before
        floats[:], doubles[:] = 0, 0
        for block in range(n // 32):
            p = rows + r * stride + block * step
            transpose_nibbles(p + head, spread, offset, columns.ctypes.data)
            d = column_f32(p, spread)
            m = column_f32(p + MINIMUM_AT[layout], spread) if minimum else zeros()
            for t in range(out.shape[0]):
                y = values.ctypes.data + 4 * (t * n + 32 * block)
                sums = doubles[t].ctypes.data if in_double else floats[t].ctypes.data
                _add_pairs(minimum, in_double, columns.ctypes.data, d, m, y, sums)
        for t in range(out.shape[0]):
            for i in range(width):
                out[t, r + i] = np.float32(doubles[t, i]) if in_double else floats[t, i]


@kernel
def _add_pairs(minimum, in_double, columns, d, m, y, sums):
    """Add one block: columns is [32, 16] codes, y 32 activations, sums 16 floats or doubles."""
    total = zeros() if in_double else load(sums)
    total_d = load_f64x16(sums) if in_double else zeros_f64x16()
    for j in range(16):
        f0, f1 = mul(d, to_floats(load_i8x16(columns + 32 * j))), mul(d, to_floats(load_i8x16(columns + 32 * j + 16)))
        if minimum:
            f0, f1 = add(f0, m), add(f1, m)
        y0, y1 = fill(load_f32(y + 8 * j)), fill(load_f32(y + 8 * j + 4))
        term = add(mul(f0, y0), mul(f1, y1))
        if in_double:
            total_d = add(total_d, to_doubles(term))
        else:
            total = add(total, term)
    if in_double:
        store_f64x16(sums, total_d)
    else:
        store(sums, total)


@kernel
def floats_scalar(is_half, rows, stride, first, last, n, values, out):
    """f32 or f16 rows in scalar builds: a double sum of (double)(float product). values: float32 [n_tokens, n]."""
    panel = np.empty((16, 16), np.float32)  # sixteen columns of sixteen rows, turned
    sums = np.empty((out.shape[0], 16), np.float64)
    width = _panel_width(first, last)
    spread = stride if width > 1 else 0
    for r in range(first, last, width):
        r = min(r, last - width)  # the last panel overlaps the one before
        sums[:] = 0
        for j in range(0, n, 16):
            count = min(16, n - j)
            _fill_panel(is_half, rows + r * stride + (2 if is_half else 4) * j, spread, count, panel.ctypes.data)
            for t in range(out.shape[0]):
                y = values.ctypes.data + 4 * (t * n + j)
                _add_in_double(count, panel.ctypes.data, y, sums[t].ctypes.data)
        for t in range(out.shape[0]):
            for i in range(width):
                out[t, r + i] = np.float32(sums[t, i])


@kernel
def _fill_panel(is_half, p, stride, count, target):
    """The first `count` columns of sixteen rows, as floats: [count, 16]."""
    if count == 16:
        if is_half:
            transpose_f16(p, stride, target)
        else:
            transpose_f32(p, stride, target)
    else:
        for j in range(count):
            store(target + 64 * j, column_f16(p + 2 * j, stride) if is_half else column_f32(p + 4 * j, stride))


@kernel
def _add_in_double(count, panel, y, sums):
    total = load_f64x16(sums)
    for j in range(count):
        total = add(total, to_doubles(mul(load(panel + 64 * j), fill(load_f32(y + 4 * j)))))
    store_f64x16(sums, total)


# Weights and activations as floats, AVX: four accumulators of eight lanes.


@kernel
def floats_avx2(is_half, reduction, contracted, rows, stride, first, last, n, values, out):
    """f32 or f16 rows in AVX2 and AVX-512 builds. values: float32 [n_tokens, n], which f16 rows want f16-rounded."""
    for r in range(first, last):
        for t in range(out.shape[0]):
            out[t, r] = dot_avx2(is_half, reduction, contracted, rows + r * stride, values[t], n)


@kernel
def dot_avx2(is_half, reduction, contracted, p, y, n):
    """Steps of 32 into four accumulators, reduced; what is left is added one by one, in double for f16 rows.

    `reduction`: which accumulators meet first, neighbors (0+1, 2+3) or, from 2023-08-21 on, halves (0+2, 1+3).
    `contracted`: the compiler vectorized the f32 leftovers by 8 and by 4, unfused, and fused the last three at most.
    """
    s0, s1, s2, s3 = zeros_f32x8(), zeros_f32x8(), zeros_f32x8(), zeros_f32x8()
    whole, a = n & ~31, y.ctypes.data
    for i in range(0, whole, 32):
        if is_half:
            s0 = fma(load_f16x8(p + 2 * i), load_f32x8(a + 4 * i), s0)
            s1 = fma(load_f16x8(p + 2 * i + 16), load_f32x8(a + 4 * i + 32), s1)
            s2 = fma(load_f16x8(p + 2 * i + 32), load_f32x8(a + 4 * i + 64), s2)
            s3 = fma(load_f16x8(p + 2 * i + 48), load_f32x8(a + 4 * i + 96), s3)
        else:
            s0 = fma(load_f32x8(p + 4 * i), load_f32x8(a + 4 * i), s0)
            s1 = fma(load_f32x8(p + 4 * i + 32), load_f32x8(a + 4 * i + 32), s1)
            s2 = fma(load_f32x8(p + 4 * i + 64), load_f32x8(a + 4 * i + 64), s2)
            s3 = fma(load_f32x8(p + 4 * i + 96), load_f32x8(a + 4 * i + 96), s3)
    if reduction == HALVES:
        total = total_neighbors(add(add(s0, s2), add(s1, s3)))
    else:
        total = total_neighbors(add(add(s0, s1), add(s2, s3)))
    if is_half:
        return _add_half_leftovers(total, p, y, whole, n)
    return _add_float_leftovers(total, contracted, p, y, whole, n)


@kernel
def _add_half_leftovers(total, p, y, start, n):
    wide = np.float64(total)
    for i in range(start, n):
        wide += np.float64(load_f16(p + 2 * i) * y[i])
    return np.float32(wide)


@kernel
def _add_float_leftovers(total, contracted, p, y, start, n):
    fused_from = n & ~3 if contracted else n
    for i in range(start, n):
        x = load_f32(p + 4 * i)
        total = fma(x, y[i], total) if i >= fused_from else total + x * y[i]
    return total


# One row of weights as floats.


@kernel
def dequantize_q4_1_fused(layout, p, n, out):
    """One row of q4_1 as a compiler that contracts makes it: fma(q, d, m). out: [1, n]."""
    facts, codes = facts_of(layout), np.empty(32, np.int8)
    for block in range(n // 32):
        store_i8x32(codes.ctypes.data, codes_of(facts, p))
        for i in range(32):
            out[0, 32 * block + i] = fma(np.float32(codes[i]), scale_of(facts, p), minimum_of(facts, p))
        p += BYTES_OF_32[layout]
