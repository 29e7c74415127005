"""The products of the fast backend, a kind of matrix each:  pytest benchmarks/bench_kernels.py --benchmark-only

`rows` is a matrix of 64 MB times one vector (bytes a second count), `panels` one of 2048 x 4096 times 128 vectors.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from benchmarks.make_model import random_rows
from ggmlpy.formats.tensor_types import TENSOR_TYPES
from llama_ref.arithmetic.fast import layouts as fast_layouts
from llama_ref.arithmetic.fast.arrays import address_of, aligned
from llama_ref.arithmetic.fast.layouts import matrix_bytes, rounded, work_sizes
from llama_ref.arithmetic.fast.machine_code import load_kernels

COLS, TOKENS = 4096, 128


def function(address: int, n: int):
    pointer = ctypes.c_void_p
    return ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, *[ctypes.c_int64] * n)(address)


def matrix(kind: str, rows: int) -> np.ndarray:
    if kind == "sixteens":
        blocks = aligned(rows * matrix_bytes(kind, COLS), np.uint8)
        blocks.view(fast_layouts.SIXTEENS)["d"] = 1e-3
        return blocks
    return np.concatenate([part.reshape(-1) for part in random_rows(TENSOR_TYPES[kind], rows, COLS, [0])])


@pytest.mark.parametrize("kind", [*fast_layouts.DIRECT, "sixteens"])
def test_rows(benchmark, kind):
    row_bytes = matrix_bytes(kind, COLS)
    rows = (1 << 26) // row_bytes
    w, x, scratch = matrix(kind, rows), aligned(1 << 15, np.uint8), aligned(4096, np.uint8)  # x: in any form
    y, place = aligned(rows, np.float32), aligned(4, np.int64)
    kernels = load_kernels([kind])
    multiply, ahead = function(kernels.products[kind][0], 12), kernels.read_ahead[kind]
    at = [address_of(a) for a in (place, place, w)]
    benchmark.extra_info["bytes"] = w.nbytes
    benchmark(multiply, *at, COLS, address_of(x), address_of(scratch), 0, rows // 4, rows // 4, rows,
              address_of(y), 0, ahead.far, ahead.near)  # fmt: skip


@pytest.mark.parametrize("kind", [*fast_layouts.DIRECT, "sixteens"])
def test_panels(benchmark, kind):
    rows, n = 2048, TOKENS
    sizes = work_sizes(COLS, COLS, COLS, COLS, 128, 512, n, [kind])
    w, scratch = matrix(kind, rows), aligned(sizes.scratch_bytes, np.uint8)
    x = aligned(rounded(n, 32) * COLS * 4, np.uint8)  # room for any form
    y, place = aligned((n, rows), np.float32), aligned(4, np.int64)
    multiply = function(load_kernels([kind]).products[kind][1], 11)
    room, sums = (address_of(scratch) + sizes.scratch[name] for name in ("scratch_panel", "scratch_sums"))
    step = 16 * fast_layouts.PANELS

    def all_rows() -> None:
        for first in range(0, rows, step):
            multiply(address_of(place), address_of(place), address_of(w), COLS, first, first + step, n, address_of(x),
                     room, sums, address_of(y), 4 * rows, 0)  # fmt: skip

    benchmark.extra_info["multiplications"] = rows * COLS * n
    benchmark(all_rows)
