"""Products of a matrix with vectors and with panels of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ggmlpy.machine.features import MACHINE
from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import (
    I8,
    I32,
    I64,
    add,
    address,
    at,
    copy_bytes,
    f32x16,
    fetch_ahead,
    integer,
    keep_apart,
    load,
    load_f16x16,
    load_f32,
    mad,
    nothing,
    number,
    op,
    release_tiles,
    store,
    store_as,
    store_f32,
    store_i64,
    total,
    use_tiles,
    zero_bytes,
    zeros,
)

from .blocks import MatrixTile, make_group_dot, make_pack_block, make_tile
from .layouts import FLOATS, GROUP, GROUP_BYTES, LAYOUTS, LEVELS, PANELS, TILE, TOKEN_BYTES, Layout, panel_bytes

FLOAT_COLUMNS, FLOAT_TOKENS = 1024, 32  # of f16 and f32: what stays in the first and in the second-level cache
ROWS_SIGNATURE = types.int64(*[types.int64] * 9)  # see Product
PANEL_SIGNATURE = types.int64(*[types.int64] * 12)


@compiled
def lane_start(lane, n_blocks):
    """How many blocks lie before those of `lane` when blocks lane, lane+16, lane+32 … stand together."""
    return lane * (n_blocks // GROUP) + min(lane, n_blocks % GROUP)


@compiled
def lane_count(lane, n_blocks):
    """How many blocks are lane, lane+16, lane+32 …"""
    return (n_blocks - lane + GROUP - 1) // GROUP


TILE_PANELS, TOKENS = TILE.panels, TILE.tokens
SUMS_STRIDE = 64 * TOKENS


@dataclass(frozen=True)
class Product:
    """The compiled functions of one kind of matrix.

    Attributes:
        rows: (base, cols, vector, record, scratch, first, last, y, accumulate): y[first:last] of one vector.
        panel: (base, cols, first, last, n_tokens, vectors, records, panel, sums, y, y_stride, accumulate): the same
            rows for all tokens.
    """

    rows: Any
    panel: Any


@compiled
def put(y, value, accumulate):
    store_f32(y, load_f32(y) + value if accumulate != 0 else value)


@compiled
def put_four(y, apart, values, accumulate):
    put(y, values[0], accumulate)
    put(y + apart, values[1], accumulate)
    put(y + 2 * apart, values[2], accumulate)
    put(y + 3 * apart, values[3], accumulate)


def make_quantized_product(layout: Layout) -> Product:
    group_dots = [make_group_dot(layout, quads) for quads in (1, 2, 3, 4)]
    one_quad, two_quads, three_quads, group_dot = group_dots
    size = layout.size
    group_size = GROUP * size

    @compiled
    def add_rest(acc, p, record, left, scratch):
        """The last blocks of a row, fewer than a group."""
        keep_apart()
        if left % 4:  # a model whose rows are no multiple of 128: read the rest from a copy with zeros behind it
            copy_bytes(scratch, p, left * size)
            return group_dot(acc, scratch, record)
        if left == 4:
            return one_quad(acc, p, record)
        if left == 8:
            return two_quads(acc, p, record)
        if left == 12:
            return three_quads(acc, p, record)
        return acc

    @compiled
    def row_dot(p, record, n_blocks, scratch):
        """One row, n_blocks blocks at p, times a quantized vector."""
        acc = zeros()
        for _ in range(n_blocks // GROUP):
            acc = group_dot(acc, p, record)
            p += group_size
            record += GROUP_BYTES
        return total(add_rest(acc, p, record, n_blocks % GROUP, scratch))

    @compiled
    def four_dots(p0, apart, record, n_blocks, scratch):
        """The same for four rows, `apart` bytes from one to the next."""
        p1, p2, p3 = p0 + apart, p0 + 2 * apart, p0 + 3 * apart
        a0, a1, a2, a3 = zeros(), zeros(), zeros(), zeros()
        for _ in range(n_blocks // GROUP):
            a0, a1 = group_dot(a0, p0, record), group_dot(a1, p1, record)
            a2, a3 = group_dot(a2, p2, record), group_dot(a3, p3, record)
            p0, p1, p2, p3 = p0 + group_size, p1 + group_size, p2 + group_size, p3 + group_size
            record += GROUP_BYTES
        left = n_blocks % GROUP
        a0, a1 = add_rest(a0, p0, record, left, scratch), add_rest(a1, p1, record, left, scratch)
        a2, a3 = add_rest(a2, p2, record, left, scratch), add_rest(a3, p3, record, left, scratch)
        return total(a0), total(a1), total(a2), total(a3)

    @compiled
    def rows(base, cols, vector, record, scratch, first, last, y, accumulate):
        keep_apart()
        n_blocks = cols // 32
        row_bytes, quarter = n_blocks * size, (last - first) // 4
        if n_blocks % 4:
            zero_bytes(scratch, group_size)
        for row in range(first, first + quarter):
            dots = four_dots(base + row * row_bytes, quarter * row_bytes, record, n_blocks, scratch)
            put_four(y + 4 * row, 4 * quarter, dots, accumulate)
        for row in range(first + 4 * quarter, last):
            put(y + 4 * row, row_dot(base + row * row_bytes, record, n_blocks, scratch), accumulate)
        return 0

    panel = make_panel_product(layout)
    return Product(rows, panel)


# Chain i is that of the blocks i, i+16, i+32 … of a row. Here they are in the order that `put_sums` needs, in which
# `simd.total` adds the lanes (lane 4L + j holds chain 4j + L), and how many levels of sums each of them completes.
CHAINS = tuple(4 * (lane % 4) + lane // 4 for lane in (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15))
COMPLETED = (0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0, 4)


@compiled
def put_rows(y, value, valid, accumulate):
    """Write (or add) the first `valid` lanes to y: f32."""
    if valid >= GROUP:
        store(y, add(load(y), value) if accumulate != 0 else value)
    else:
        for i in range(valid):
            put(y + 4 * i, lane_of(value, i), accumulate)


@op(number, f32x16, integer)
def lane_of(b: ir.IRBuilder, x: Any, i: Any) -> Any:
    return b.extract_element(x, i)


@op(nothing)
def end_tiles(b: ir.IRBuilder) -> None:
    if MACHINE.simd == "amx":
        release_tiles(b)


def make_panel_product(layout: Layout) -> Any:
    """Sixteen rows, or a few times sixteen, times all tokens."""
    pack_block, multiply_tile = make_pack_block(layout), make_tile(layout)
    size, record_size = layout.size, panel_bytes(layout)

    @op(nothing)
    def begin_tiles(b: ir.IRBuilder) -> None:
        if MACHINE.simd == "amx":
            use_tiles(b, MatrixTile(layout).shapes)

    @compiled
    def pack(base, row_bytes, first, last, n_blocks, table, panel):
        """Rows first … first+15 (those from `last` on repeat the one before) to a panel, by chains. table: i64 [16]."""
        keep_apart()
        for row in range(GROUP):
            store_i64(table + 8 * row, base + min(first + row, last - 1) * row_bytes)
        for block in range(n_blocks):
            place = lane_start(block % GROUP, n_blocks) + block // GROUP
            pack_block(table, block * size, panel + place * record_size)

    @compiled
    def panel_product(base, cols, first, last, n, vectors, records, panel, sums, y, y_stride, accumulate):
        keep_apart()
        n_blocks, n_tiles, n_panels = cols // 32, (n + TOKENS - 1) // TOKENS, (last - first + GROUP - 1) // GROUP
        row_bytes, panel_stride = n_blocks * size, n_blocks * record_size
        table = sums  # nothing is summed yet
        n_panels = (n_panels + TILE_PANELS - 1) // TILE_PANELS * TILE_PANELS
        for i in range(n_panels):
            pack(base, row_bytes, min(first + GROUP * i, last - 1), last, n_blocks, table, panel + i * panel_stride)
        begin_tiles()
        for tile in range(n_tiles):
            for step in range(GROUP):
                count, start = lane_count(CHAINS[step], n_blocks), lane_start(CHAINS[step], n_blocks)
                tokens = records + (start * n_tiles + tile * count) * TOKENS * TOKEN_BYTES
                for i in range(0, n_panels, TILE_PANELS):
                    rows = panel + i * panel_stride + start * record_size
                    multiply_tile(rows, panel_stride, tokens, count, sums + i * SUMS_STRIDE, COMPLETED[step])
            whole = sums + (LEVELS - 1) * PANELS * SUMS_STRIDE
            for t in range(tile * TOKENS, min(tile * TOKENS + TOKENS, n)):
                for row in range(first, last, GROUP):
                    value = load(whole + (row - first) // GROUP * SUMS_STRIDE + 64 * (t % TOKENS))
                    put_rows(y + t * y_stride + 4 * row, value, last - row, accumulate)
        end_tiles()
        return 0

    return panel_product


def make_float_product(load_values: Any, size: int) -> Product:
    """f16 and f32: four sums, of columns 0…15, 16…31, 32…47, 48…63 of every 64, are added at the end."""

    @op(nothing, address)
    def fetch_values(b: ir.IRBuilder, a: Any) -> None:
        fetch_ahead(b, a, 64 * size)

    @compiled
    def add_64(sums, p, x):
        """sums, f32 [4][16], += 64 columns at p times those of x, f32 [4][16]."""
        fetch_values(p)
        s0, s1 = mad(load_values(p), x[0], sums[0]), mad(load_values(p + 16 * size), x[1], sums[1])
        s2, s3 = mad(load_values(p + 32 * size), x[2], sums[2]), mad(load_values(p + 48 * size), x[3], sums[3])
        return s0, s1, s2, s3

    @compiled
    def sum_up(sums, p, x, left):
        """The sum of all, after the last columns: none or, as their number is a multiple of 32, half of 64."""
        s0, s1, s2, s3 = sums
        if left:
            s0, s1 = mad(load_values(p), load(x), s0), mad(load_values(p + 16 * size), load(x + 64), s1)
        return total(add(add(s0, s1), add(s2, s3)))

    @compiled
    def row_dot(p, x, cols):
        sums, left = (zeros(), zeros(), zeros(), zeros()), cols % 64
        for _ in range(cols // 64):
            sums = add_64(sums, p, (load(x), load(x + 64), load(x + 128), load(x + 192)))
            p, x = p + 64 * size, x + 256
        return sum_up(sums, p, x, left)

    @compiled
    def four_dots(p0, apart, x, cols):
        """The same for four rows, `apart` bytes from one to the next."""
        p1, p2, p3 = p0 + apart, p0 + 2 * apart, p0 + 3 * apart
        sums, left = (zeros(), zeros(), zeros(), zeros()), cols % 64
        s0, s1, s2, s3 = sums, sums, sums, sums
        for _ in range(cols // 64):
            v = load(x), load(x + 64), load(x + 128), load(x + 192)
            s0, s1, s2, s3 = add_64(s0, p0, v), add_64(s1, p1, v), add_64(s2, p2, v), add_64(s3, p3, v)
            p0, p1, p2, p3, x = p0 + 64 * size, p1 + 64 * size, p2 + 64 * size, p3 + 64 * size, x + 256
        return sum_up(s0, p0, x, left), sum_up(s1, p1, x, left), sum_up(s2, p2, x, left), sum_up(s3, p3, x, left)

    @compiled
    def rows(base, cols, vector, record, scratch, first, last, y, accumulate):
        keep_apart()
        row_bytes, quarter = cols * size, (last - first) // 4
        for row in range(first, first + quarter):
            dots = four_dots(base + row * row_bytes, quarter * row_bytes, vector, cols)
            put_four(y + 4 * row, 4 * quarter, dots, accumulate)
        for row in range(first + 4 * quarter, last):
            put(y + 4 * row, row_dot(base + row * row_bytes, vector, cols), accumulate)
        return 0

    @compiled
    def four_by_four(w, w_stride, x, x_stride, start, stop, sums):
        """sums f32 [4 rows][4 tokens][16] += the columns from `start` to `stop`, sixteen of every 64."""
        a00, a01, a02, a03 = load(sums), load(sums + 64), load(sums + 128), load(sums + 192)
        a10, a11, a12, a13 = load(sums + 256), load(sums + 320), load(sums + 384), load(sums + 448)
        a20, a21, a22, a23 = load(sums + 512), load(sums + 576), load(sums + 640), load(sums + 704)
        a30, a31, a32, a33 = load(sums + 768), load(sums + 832), load(sums + 896), load(sums + 960)
        w1, w2, w3 = w + w_stride, w + 2 * w_stride, w + 3 * w_stride
        x1, x2, x3 = x + x_stride, x + 2 * x_stride, x + 3 * x_stride
        for c in range(start, stop, 64):
            v0, v1, v2, v3 = load(x + 4 * c), load(x1 + 4 * c), load(x2 + 4 * c), load(x3 + 4 * c)
            u = load_values(w + size * c)
            a00, a01, a02, a03 = mad(u, v0, a00), mad(u, v1, a01), mad(u, v2, a02), mad(u, v3, a03)
            u = load_values(w1 + size * c)
            a10, a11, a12, a13 = mad(u, v0, a10), mad(u, v1, a11), mad(u, v2, a12), mad(u, v3, a13)
            u = load_values(w2 + size * c)
            a20, a21, a22, a23 = mad(u, v0, a20), mad(u, v1, a21), mad(u, v2, a22), mad(u, v3, a23)
            u = load_values(w3 + size * c)
            a30, a31, a32, a33 = mad(u, v0, a30), mad(u, v1, a31), mad(u, v2, a32), mad(u, v3, a33)
        store_sixteen(sums, a00, a01, a02, a03, a10, a11, a12, a13, a20, a21, a22, a23, a30, a31, a32, a33)

    @compiled
    def four_rows(w, w_stride, cols, tokens, x, sums, y, y_stride, accumulate):
        """Four rows times all tokens (a multiple of four), FLOAT_COLUMNS at a time, which fit the first-level cache."""
        x_stride = 4 * cols
        zero_bytes(sums, 1024 * tokens)
        for start in range(0, cols, FLOAT_COLUMNS):
            stop = min(start + FLOAT_COLUMNS, cols)
            for t in range(0, tokens, 4):
                for i in range(4):
                    place = sums + 1024 * (t + i)
                    four_by_four(w, w_stride, x + t * x_stride, x_stride, start + 16 * i, stop, place)
        for t in range(tokens):
            for row in range(4):
                s = sums + 1024 * (t - t % 4) + 64 * (4 * row + t % 4)
                low, high = add(load(s), load(s + 1024)), add(load(s + 2048), load(s + 3072))
                put(y + t * y_stride + 4 * row, total(add(low, high)), accumulate)

    @compiled
    def panel(base, cols, first, last, n, vectors, records, panel, sums, y, y_stride, accumulate):
        w_stride, x_stride = cols * size, 4 * cols
        whole_rows, whole_tokens = first + (last - first) // 4 * 4, n // 4 * 4
        for t in range(0, whole_tokens, FLOAT_TOKENS):
            tokens, x = min(FLOAT_TOKENS, whole_tokens - t), vectors + t * x_stride
            for row in range(first, whole_rows, 4):
                place = y + t * y_stride + 4 * row
                four_rows(base + row * w_stride, w_stride, cols, tokens, x, sums, place, y_stride, accumulate)
        for row in range(first, last):
            for t in range(whole_tokens if row < whole_rows else 0, n):
                value = row_dot(base + row * w_stride, vectors + t * x_stride, cols)
                put(y + t * y_stride + 4 * row, value, accumulate)
        return 0

    return Product(rows, panel)


@op(nothing, address, *[f32x16] * 16)
def store_sixteen(b: ir.IRBuilder, a: Any, *values: Any) -> None:
    for i, value in enumerate(values):
        store_as(b, at(b, a, 64 * i), value)


def make_product(kind: str) -> Product:
    if kind in FLOATS:
        return make_float_product(load_f16x16 if kind == "f16" else load, FLOATS[kind])
    return make_quantized_product(LAYOUTS[kind])


def call_by_address(signature: Any) -> Any:
    """The operation (address of a compiled function, arguments …): call it.

    Numba's convention: a place for the result and one for an exception come before the arguments.
    """
    place = I8.as_pointer()
    kind = ir.FunctionType(I32, [place, place, *[I64] * len(signature.args)])

    @op(nothing, address, *signature.args)
    def call_function(b: ir.IRBuilder, function: Any, *arguments: Any) -> None:
        nowhere = b.bitcast(cgutils.alloca_once(b, I64), place)
        b.call(b.inttoptr(function, kind.as_pointer()), [nowhere, nowhere, *arguments])

    return call_function
