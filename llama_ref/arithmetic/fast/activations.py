"""What becomes of a vector between two matrices: norm, SiLU, and the quantization to 8 bits.

A vector is quantized in blocks of 32, to codes -127 … 127 and their scale `da`. The product with one vector reads it in
groups of sixteen blocks (`quantize_groups`; the offsets are those in `layouts`), the product with many vectors in tiles
of tokens (`quantize_token`). For k-quants a block has 256 values, and both products read the same records
(`quantize_superblocks`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    I8,
    I16,
    I32,
    absolute,
    add,
    address,
    at,
    constant,
    copy_bytes,
    div,
    exp,
    fill,
    i32x16,
    int32,
    keep_apart,
    largest,
    load,
    load_as,
    load_f32,
    mad,
    maximum,
    mul,
    nothing,
    op,
    round_to_int,
    shuffle,
    store,
    store_as,
    store_f32,
    store_i32,
    sub,
    total,
    total_int,
    vector,
    zero_bytes,
    zeros,
)

from .blocks import store_biased_codes, store_codes
from .layouts import (
    A_BYTES,
    A_CODES,
    A_RUN_STARTS,
    A_SCALE,
    A_STARTS,
    A_SUMS16,
    A_SUMS32,
    A_SUMS_EVEN,
    A_SUMS_ODD,
    FEW_TOKENS,
    FLOAT_TOKENS,
    GROUP,
    GROUP_BYTES,
    K_TOKENS,
    LEAST_ZERO,
    OFFSET,
    OFFSET_FIRST,
    OFFSET_SECOND,
    SCALE,
    START,
    START_FIRST,
    START_SECOND,
    START_ZERO,
    TOKEN_BYTES,
)
from .panel_products import TOKENS, lane_count, lane_start
from .plan_fields import EPS
from .work import units

__all__ = [
    "groups_bytes",
    "leave_out_token",
    "normalize_or_copy",
    "put_in_tile",
    "quantize_groups",
    "quantize_superblocks",
    "quantize_token",
    "quantize_token_superblocks",
    "silu_mul",
]


@compiled
def norm_scale(x, n, eps):
    """1 / sqrt(mean(x²) + eps); x: f32 [n]."""
    squares = zeros()
    for i in range(0, 4 * n, 64):
        v = load(x + i)
        squares = mad(v, v, squares)
    return np.float32(1) / np.sqrt(total(squares) / np.float32(n) + eps)


@compiled
def normalize(x, weight, n, scale, y):
    """y = x · scale · weight, each f32 [n]."""
    keep_apart()
    s = fill(scale)
    for i in range(0, 4 * n, 64):
        store(y + i, mul(mul(load(x + i), s), load(weight + i)))


@compiled
def normalize_or_copy(plan, x, norm, n, y):
    """y = norm(x), both f32 [n]; x as it is if the address `norm` is 0."""
    if norm != 0:
        normalize(x, norm, n, norm_scale(x, n, load_f32(plan + EPS)), y)
    else:
        copy_bytes(y, x, 4 * n)


@compiled
def put_in_tile(x, n, tiles, token, tokens):
    """One of some vectors f32 [n] to where the product of floats with many reads it (`float_products`)."""
    keep_apart()
    tile = token // FLOAT_TOKENS * FLOAT_TOKENS
    width = min(FLOAT_TOKENS, tokens - tile)
    place = tiles + 4 * (tile * n + (token - tile) * 16)
    for i in range(0, 4 * n, 64):
        store(place + width * i, load(x + i))


@compiled
def block_scale(first, second):
    """The scale da that maps 32 values to -127 … 127, and its inverse."""
    most = largest(maximum(absolute(first), absolute(second)))
    if most > np.float32(1e-30):
        return most / np.float32(127), np.float32(127) / most
    return np.float32(0), np.float32(0)


@compiled
def quantize_groups(x, n, record):
    """A vector f32 [n] to the groups that the product with one vector reads (`blocks`)."""
    keep_apart()
    n_blocks = n // 32
    if n_blocks % GROUP:
        zero_bytes(record + n_blocks // GROUP * GROUP_BYTES, GROUP_BYTES)
    for block in range(n_blocks):
        group, i = record + block // GROUP * GROUP_BYTES, block % GROUP
        lane = group + 4 * (4 * (i % 4) + i // 4)
        first, second = load(x + 128 * block), load(x + 128 * block + 64)
        da, inverse = block_scale(first, second)
        a, c = round_to_int(mul(first, fill(inverse))), round_to_int(mul(second, fill(inverse)))
        store_codes(group + 16 * i, a, c)
        sum_a, sum_c = total_int(a), total_int(c)
        store_f32(lane + SCALE, da)
        store_i32(lane + START, -LEAST_ZERO * (sum_a + sum_c))
        store_i32(lane + START_FIRST, -LEAST_ZERO * sum_a)
        store_i32(lane + START_SECOND, -LEAST_ZERO * sum_c)
        store_f32(lane + OFFSET, da * np.float32(sum_a + sum_c))
        store_f32(lane + OFFSET_FIRST, da * np.float32(sum_a))
        store_f32(lane + OFFSET_SECOND, da * np.float32(sum_c))


@compiled
def record_of(records, tile, block, n_blocks, n_tiles):
    """Where the tokens of a tile have their codes and numbers of one block: [lane][tile][block][token of the tile]."""
    lane = block % GROUP
    count = lane_count(lane, n_blocks)
    place = (lane_start(lane, n_blocks) * n_tiles + tile * count + block // GROUP) * TOKENS
    return records + place * TOKEN_BYTES


@compiled
def quantize_token(x, n, records, token, n_tiles):
    """The same codes to where the product with many vectors reads them."""
    keep_apart()
    n_blocks = n // 32
    tile, t = token // TOKENS, token % TOKENS
    for block in range(n_blocks):
        record = record_of(records, tile, block, n_blocks, n_tiles)
        codes, numbers = record + 32 * t, record + 32 * TOKENS + 4 * t
        first, second = load(x + 128 * block), load(x + 128 * block + 64)
        da, inverse = block_scale(first, second)
        a, c = round_to_int(mul(first, fill(inverse))), round_to_int(mul(second, fill(inverse)))
        store_biased_codes(codes, a, c)
        sum_a, sum_c = total_int(a), total_int(c)
        store_f32(numbers, da)
        store_f32(numbers + 4 * TOKENS, da * np.float32(sum_a + sum_c))
        store_f32(numbers + 8 * TOKENS, da * np.float32(sum_a))
        store_f32(numbers + 12 * TOKENS, da * np.float32(sum_c))


@compiled
def leave_out_token(n, records, token, n_tiles):
    """Zeros instead of a token, at the end of the last tile: what lies there otherwise may be floats that are slow."""
    keep_apart()
    for block in range(n // 32):
        numbers = record_of(records, token // TOKENS, block, n // 32, n_tiles) + 32 * TOKENS + 4 * (token % TOKENS)
        for i in range(4):
            store_f32(numbers + 4 * TOKENS * i, np.float32(0))


@op(nothing, address, int32, i32x16)
def store_sixteen_codes(b: ir.IRBuilder, record: Any, i: Any, codes: Any) -> None:
    """Codes 16i … 16i+15 of a block, and what is made of their sums."""
    i = b.zext(i, ir.IntType(64))
    place, kind = b.add(record, b.mul(i, ir.Constant(i.type, 16))), vector(I32, 4)
    store_as(b, at(b, place, A_CODES), b.trunc(codes, vector(I8, 16)))
    columns = [shuffle(b, codes, codes, range(k, 16, 4)) for k in range(4)]
    fours = b.add(b.add(columns[0], columns[1]), b.add(columns[2], columns[3]))
    less = constant(-START_ZERO, kind)
    store_as(b, at(b, place, A_STARTS), b.mul(fours, less))
    all_ = total_int.emit(b, codes)
    store_as(b, at(b, b.add(record, b.mul(i, ir.Constant(i.type, 4))), A_RUN_STARTS), b.mul(all_, I32(-START_ZERO)))
    store_as(b, at(b, b.add(record, b.mul(i, ir.Constant(i.type, 2))), A_SUMS16), b.trunc(all_, I16))


@op(nothing, address)
def store_pairs_of_sums(b: ir.IRBuilder, record: Any) -> None:
    """The sums of every sixteen codes parted in even and odd ones, and those of every 32."""
    sums = load_as(b, at(b, record, A_SUMS16), vector(I16, 16))
    even, odd = (shuffle(b, sums, sums, range(first, 16, 2)) for first in (0, 1))
    store_as(b, at(b, record, A_SUMS_EVEN), even)
    store_as(b, at(b, record, A_SUMS_ODD), odd)
    both = b.add(even, odd)
    store_as(b, at(b, record, A_SUMS32), shuffle(b, both, both, [*range(8)] * 4))


@compiled
def quantize_superblocks(x, n, record, step):
    """A vector f32 [n] to the records of 256 values each that k-quants meet; what is left of n is left out.

    Args:
        record, step: address of the first record; the next is `step` on.
    """
    keep_apart()
    for _ in range(n // 256):
        most = zeros()
        for i in range(0, 1024, 64):
            most = maximum(most, absolute(load(x + i)))
        highest, da, inverse = largest(most), np.float32(0), np.float32(0)
        if highest > np.float32(1e-30):
            da, inverse = highest / np.float32(127), np.float32(127) / highest
        for i in range(16):
            codes = round_to_int(mul(load(x + 64 * i), fill(inverse)))
            store_sixteen_codes(record, np.int32(i), codes)
        store_pairs_of_sums(record)
        store_f32(record + A_SCALE, da)
        x, record = x + 1024, record + step


@compiled
def quantize_token_superblocks(x, n, records, token, tokens):
    """The same of one of some tokens. The product with many reads tiles of them: [tile][block][token of the tile]."""
    step = A_BYTES if tokens <= FEW_TOKENS else K_TOKENS * A_BYTES
    if tokens <= FEW_TOKENS:
        place = token * (n // 256)
    else:
        place = token // K_TOKENS * K_TOKENS * (n // 256) + token % K_TOKENS
    quantize_superblocks(x, n, records + place * A_BYTES, step)


@compiled
def silu_mul(gate, up, n):
    """gate = silu(gate) · up, f32 [n], n a multiple of sixteen; silu(x) = x / (1 + exp(-x))."""
    keep_apart()
    one = fill(np.float32(1))
    for i in range(0, 4 * n, 64):
        g = load(gate + i)
        store(gate + i, mul(div(g, add(one, exp(sub(zeros(), g)))), load(up + i)))


@compiled
def groups_bytes(n):
    """Bytes of a vector of n values as `quantize_groups` writes it."""
    return units(n, 32 * GROUP) * GROUP_BYTES
