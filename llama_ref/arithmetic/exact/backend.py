"""The same floats as llama.cpp: its arithmetic at a named era and build, operation by operation.

"The" result of a model does not exist. llama.cpp rounds activations to the type of the weights, and in which order a
dot product adds its terms depends on the commit and on the instruction set it was compiled for. This backend replays
one such order at a time; `RULES` lists which. ``docs/numerics.md`` tells the whole story.

Sources: ggml.c, llama.cpp and k_quants.c of the commits in `ggmlpy.formats.eras.ERAS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggmlpy.files.processors import checked_threads
from ggmlpy.formats.eras import APRIL_30, AUGUST_21, MARCH_19, MARCH_30, Era, era_of
from llama_ref.arithmetic.transformer import Backend

from . import activations, dots, k_quants
from . import attention as attention_kernels
from .layouts import LAYOUTS, Q4_2
from .libm import cosf, expf, powf, sinf
from .offered import check_build

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile, Tensor
    from llama_ref.arithmetic.transformer import LayerCache

__all__ = ["ExactBackend", "Rules", "rules_of"]

F32 = npt.NDArray[np.float32]

PARALLEL_WORK = 1 << 19  # multiply-adds below which a second thread costs more than it saves


@dataclass(frozen=True)
class Rules:
    """What an era and a build do differently from the others.

    Attributes:
        simd: lanes of floats, or a plain loop.
        contracted: the compiler fused multiplications into additions where the source does not say so.
        wide: AVX-512 for q4_0 against q4_0.
        activations: what a quantized matrix makes of the right-hand side: "q4" the same type, "q8" eight bits.
        split_lanes: a lane of the q4_0 AVX2 dot sums elements 2l, 2l+1, 16+2l, 17+2l and not 4l … 4l+3.
        double_sum: the scalar q4_0 dot accumulates in double.
        values_by_column: the product with the values adds one position after another (2023-03-19).
        rope_in_cache: keys are stored first and roped there.
        running_angle: angles are position * scale * scale …, not position * 10000^(-2i/n).
        half_scales: activation scales are rounded to f16.
        reduction: how the four accumulators of f32 and f16 dots meet.
    """

    era: Era
    build: str
    simd: bool
    contracted: bool
    wide: bool
    activations: str
    split_lanes: bool
    double_sum: bool
    values_by_column: bool
    rope_in_cache: bool
    running_angle: bool
    half_scales: bool
    reduction: int


def rules_of(era: str, build: str) -> Rules:
    """The rules of an era and a build.

    Raises:
        UsageError: no such build, or not offered for that era.
    """
    check_build(era, build)
    moment = era_of(era)
    april = moment >= APRIL_30
    return Rules(
        era=moment,
        build=build,
        simd=build != "scalar",
        contracted=build == "cmake-avx2",
        wide=build == "avx512",
        activations="q8" if april else "q4",
        split_lanes=moment == MARCH_30,
        double_sum=moment == MARCH_30,
        values_by_column=moment == MARCH_19,
        rope_in_cache=not april,
        running_angle=april,
        half_scales=moment >= AUGUST_21,
        reduction=dots.HALVES if moment >= AUGUST_21 else dots.NEIGHBORS,
    )


class Matrix:
    """A weight matrix as it lies in the file, and what its type makes of the activations."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.type = tensor.type
        self.n_rows, self.n_cols = tensor.shape
        self.bytes = tensor.raw_rows(0, self.n_rows)  # uint8 [n_rows, row_bytes]; kept alive while kernels read it
        self.address = self.bytes.ctypes.data
        self.stride = self.bytes.strides[0]


class ExactBackend(Backend):
    """llama.cpp's arithmetic of an era and a build. See `Backend` for the shapes of every operation."""

    name = "exact"

    def __init__(self, file: ModelFile, era: str, build: str, n_threads: int | None = None) -> None:
        self.rules = rules_of(era, build)
        self.n_head = file.hparams.n_head
        self.head_dim = file.hparams.n_embd // file.hparams.n_head
        self.old_threads = n_threads or 1  # what the arithmetic of 2023-03-19 depends on
        self.n_threads = checked_threads(n_threads)
        self.pool = self._new_pool()
        self.angles = Angles(self.rules, self.head_dim, file.hparams.rope_freq_base)
        self.exp_table, self.silu_table = half_tables(self.rules)

    def _new_pool(self) -> ThreadPoolExecutor | None:
        return ThreadPoolExecutor(self.n_threads) if self.n_threads > 1 else None

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown()

    def in_forked_child(self) -> None:
        self.pool = self._new_pool()

    def matrix(self, tensor: Tensor) -> Matrix:
        return Matrix(tensor)

    def embed(self, w: Matrix, tokens: npt.NDArray[np.int64]) -> F32:
        if self.rules.contracted and w.type.name == "q4_1":
            return np.concatenate([fused_q4_1(w.tensor, t) for t in tokens.tolist()])
        return w.tensor.rows_at(tokens.tolist())

    def rms_norm(self, x: F32, weight: F32) -> F32:
        out = np.empty_like(x)
        in_double = self.rules.values_by_column
        attention_kernels.rms_norm(in_double, np.float32(self.norm_eps), x, weight, out)
        return out

    def rope(self, x: F32, n_past: int) -> F32:
        out = np.empty_like(x)
        attention_kernels.rope(x, *self.angles.at(n_past, len(x)), out)
        return out

    def remember(self, cache: LayerCache, k: F32, v: F32, n_past: int) -> None:
        here = slice(n_past, n_past + len(k))
        roped = k if self.rules.rope_in_cache else self.rope(k, n_past)
        if cache.k.dtype == np.float32:
            cache.k[here] = self.seen("Kcur", self.rope(k, n_past))
            cache.v[here] = v
            return
        keys = cache.k.view(np.uint16)[here]
        attention_kernels.store_halves(roped, keys)
        attention_kernels.store_halves(v, cache.v.view(np.uint16)[here])
        if self.rules.rope_in_cache:
            attention_kernels.rope_halves(self.rules.contracted, keys, *self.angles.at(n_past, len(k)))
            roped = cache.k[here].astype(np.float32)
        self.seen("Kcur", roped)

    def attention(self, q: F32, cache: LayerCache, n_past: int) -> F32:
        n, n_head, head_dim = q.shape
        is_half = cache.k.dtype != np.float32
        k, v = (x.view(np.uint16) if is_half else x for x in (cache.k, cache.v))
        if is_half:
            rounded = np.empty((n, n_head * head_dim), np.float32)
            activations.round_to_half(q.reshape(n, -1), rounded)
            q = rounded.reshape(q.shape)
        out = np.empty((n, n_head * head_dim), np.float32)
        factor, seen = score_factor(self.rules, head_dim), n_past + n

        def some_heads(first: int, last: int) -> None:
            rest = (first, last, n_past, factor, self.exp_table, q, k, v, out)
            if self.rules.values_by_column:
                attention_kernels.attention_by_columns(is_half, self.old_threads, *rest)
            else:
                how = (self.rules.simd, self.rules.reduction, self.rules.contracted, is_half)
                attention_kernels.attention(*how, *rest)

        self._split(some_heads, n_head, 2 * n * seen * n_head * head_dim)
        return out

    def silu_mul(self, gate: F32, up: F32) -> F32:
        out = np.empty_like(gate)
        attention_kernels.silu_mul(self.silu_table, gate, up, out)
        return out

    def matmul(self, w: Matrix, x: F32) -> F32:
        out = np.empty((len(x), w.n_rows), np.float32)
        kernel = kernel_for(self.rules, w, np.ascontiguousarray(x))
        self._split(lambda first, last: kernel(first, last, out), w.n_rows, len(x) * w.n_rows * w.n_cols)
        return out

    def _split(self, run: Callable[[int, int], None], count: int, work: int) -> None:
        """Call run(first, last) over 0 … count, on several threads if there is work for them."""
        shares = min(self.n_threads, count // 16 or 1, work // PARALLEL_WORK or 1)
        if self.pool is None or shares == 1:
            run(0, count)
            return
        edges = [count * i // shares // 16 * 16 if i < shares else count for i in range(shares + 1)]
        for done in [self.pool.submit(run, *pair) for pair in pairwise(edges)]:
            done.result()


# The matrix product: quantize the activations as the era did, then sum as the build did.

Kernel = Callable[[int, int, F32], None]  # fills out[:, first:last]


def kernel_for(rules: Rules, w: Matrix, x: F32) -> Kernel:
    """Prepare the activations x [n_tokens, n_cols] for `w` and return what computes a range of its rows."""
    if not w.type.quantized:
        return _float_kernel(rules, w, x)
    if w.type.name in k_quants.KINDS:
        return _k_kernel(rules, w, x)
    return _q4_kernel(rules, w, x) if rules.activations == "q4" else _q8_kernel(rules, w, x)


def _float_kernel(rules: Rules, w: Matrix, x: F32) -> Kernel:
    is_half = w.type.name == "f16"
    if is_half:
        rounded = np.empty_like(x)
        activations.round_to_half(x, rounded)
        x = rounded

    def run(first: int, last: int, out: F32) -> None:
        where = (w.address, w.stride, first, last, w.n_cols, x, out)
        if rules.simd:
            dots.floats_avx2(is_half, rules.reduction, rules.contracted, *where)
        else:
            dots.floats_scalar(is_half, *where)

    return run


def _blocks(x: F32) -> tuple[npt.NDArray[np.int8], F32, F32]:
    """Room for codes [n_tokens, n] and two floats for each block of 32."""
    shape = (len(x), x.shape[1] // 32)
    return np.empty(x.shape, np.int8), np.empty(shape, np.float32), np.empty(shape, np.float32)


def _q4_kernel(rules: Rules, w: Matrix, x: F32) -> Kernel:
    codes, d, m = _blocks(x)
    minimum = w.type.name == "q4_1"
    if minimum:
        activations.quantize_q4_1(rules.simd, x, codes, d, m)
    else:
        activations.quantize_q4_0(rules.simd, x, codes, d)
    values = np.empty_like(x)
    if not rules.simd:
        activations.dequantize_activations(codes, d, m, minimum, values)
    layout = LAYOUTS[w.type.layout]

    def run(first: int, last: int, out: F32) -> None:
        where = (w.address, w.stride, first, last, w.n_cols)
        if not rules.simd:
            dots.q4_pairs_scalar(minimum, rules.double_sum and not minimum, *where, values, out)
        elif minimum:
            dots.q4_1_avx2_march(rules.contracted, *where, codes, d, m, out)
        elif rules.wide:
            dots.q4_0_avx512(*where, codes, d, out)
        else:
            integers_avx2(layout, len(x))(layout, rules.split_lanes, *where, codes, d, m, out)

    return run


def integers_avx2(layout: int, n_tokens: int) -> Any:
    """The AVX2 kernel for one token, or the one for several: the same floats."""
    return dots.integers_avx2 if n_tokens == 1 or layout == Q4_2 else dots.integers_avx2_batch


def _q8_kernel(rules: Rules, w: Matrix, x: F32) -> Kernel:
    codes, d, s = _blocks(x)
    april, layout = rules.era == APRIL_30, LAYOUTS[w.type.layout]
    minimum = w.type.name in ("q4_1", "q5_1")
    sums = (activations.HALF_SUMS if april else activations.ONE_SUM) if minimum else activations.NO_SUM
    by_simd = rules.simd and not (april and not minimum)
    activations.quantize_q8(by_simd, rules.half_scales and not minimum, sums, x, codes, d, s)
    values = np.empty_like(x)
    in_pairs = april and not rules.simd and w.type.name == "q4_1"
    if in_pairs:
        activations.dequantize_activations(codes, d, s, False, values)
    sum_first = (april and w.type.name in ("q5_0", "q5_1")) or (rules.half_scales and w.type.name == "q4_0")
    order = dots.SUM_FIRST if sum_first else dots.SCALES_FIRST

    def run(first: int, last: int, out: F32) -> None:
        where = (w.address, w.stride, first, last, w.n_cols)
        if rules.simd:
            integers_avx2(layout, len(x))(layout, False, *where, codes, d, s, out)
        elif in_pairs:
            dots.q4_pairs_scalar(True, False, *where, values, out)
        elif layout == Q4_2:
            dots.q4_2_scalar(*where, codes, d, out)
        else:
            dots.integers_scalar(layout, order, *where, codes, d, s, out)

    return run


def _k_kernel(rules: Rules, w: Matrix, x: F32) -> Kernel:
    codes = np.empty(x.shape, np.int8)
    d = np.empty((len(x), x.shape[1] // 256), np.float32)
    sums = np.empty((len(x), x.shape[1] // 16), np.int32)
    k_quants.quantize_q8_k(x, codes, d, sums)
    kind = k_quants.KINDS[w.type.name]

    def run(first: int, last: int, out: F32) -> None:
        k_quants.k_quants(kind, rules.simd, w.address, w.stride, first, last, w.n_cols, codes, d, sums, out)

    return run


def fused_q4_1(tensor: Tensor, row: int) -> F32:
    """One row of q4_1 as CMake's build dequantizes it: fma(q, d, m). float32 [1, n_cols]."""
    codes = LAYOUTS[tensor.type.layout]
    out = np.empty((1, tensor.shape[1]), np.float32)
    raw = tensor.raw_rows(row, row + 1)
    dots.dequantize_q4_1_fused(codes, raw.ctypes.data, tensor.shape[1], out)
    return out


# Tables and angles.


def score_factor(rules: Rules, head_dim: int) -> np.float32:
    """1 / sqrt(head_dim): by way of a double root at 2023-03-19, in float afterwards."""
    if rules.values_by_column:
        return np.float32(1.0 / math.sqrt(head_dim))
    return np.float32(1) / np.sqrt(np.float32(head_dim))


def half_tables(rules: Rules) -> tuple[F32, F32]:
    """exp and silu of every f16, rounded to f16, as float32 [65536] each.

    From 2023-03-30 on they come from expf; before that from exp in double.
    """
    x = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(all="ignore"):
        if rules.values_by_column:
            wide = x.astype(np.float64)
            exp, silu = np.exp(wide).astype(np.float32), (wide / (1.0 + np.exp(-wide))).astype(np.float32)
        else:
            exp, silu = expf(x), x / (np.float32(1) + expf(-x))
        return exp.astype(np.float16).astype(np.float32), silu.astype(np.float16).astype(np.float32)


class Angles:
    """Cosines and sines of position * frequency, computed as far as they are asked for."""

    def __init__(self, rules: Rules, head_dim: int, base: float = 10000.0) -> None:
        self.base = base
        self.rules = rules
        self.head_dim = head_dim
        self.tables = self._compute(0)

    def at(self, n_past: int, n: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """cos and sin for positions n_past … n_past + n - 1: [n, head_dim / 2] each."""
        if n_past + n > len(self.tables[0]):
            self.tables = self._compute(max(512, 2 * (n_past + n)))
        cos, sin = self.tables
        return cos[n_past : n_past + n], sin[n_past : n_past + n]

    def _compute(self, n: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if self.rules.values_by_column:
            return self._in_double(n)
        angle = self._running(n) if self.rules.running_angle else self._direct(n)  # float32 [n, head_dim / 2]
        return cosf(angle), sinf(angle)

    def _direct(self, n: int) -> F32:
        exponent = np.float32(-1) * np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        theta = powf(np.float32(self.base), exponent)
        return np.arange(n, dtype=np.float32)[:, None] * theta

    def _running(self, n: int) -> F32:
        scale = powf(np.float32(self.base), np.float32(-2) / np.float32(self.head_dim))
        angle = np.empty((n, self.head_dim // 2), np.float32)
        current = np.arange(n, dtype=np.float32)
        for i in range(self.head_dim // 2):
            angle[:, i] = current
            current = current * scale
        return angle

    def _in_double(self, n: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        theta = [math.pow(self.base, -i / self.head_dim) for i in range(0, self.head_dim, 2)]
        cos = [[math.cos(p * t) for t in theta] for p in range(n)]
        sin = [[math.sin(p * t) for t in theta] for p in range(n)]
        shape = (n, self.head_dim // 2)
        return np.array(cos, np.float64).reshape(shape), np.array(sin, np.float64).reshape(shape)
