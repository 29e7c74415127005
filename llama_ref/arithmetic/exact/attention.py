"""Everything of llama.cpp's forward pass that is not a weight matrix: norm, rope, cache, softmax, attention, SiLU.

Activations are float32; the cache is float32, or float16 seen as uint16 bits. `cos` and `sin` are tables
[n_tokens, head_dim / 2] for the positions at hand, float64 at 2023-03-19 and float32 from then on.

Sources: `ggml_compute_forward_*` of rms_norm, rope, soft_max, silu and mul_mat in ggml.c; `llama_eval_internal` in
llama.cpp.
"""

from __future__ import annotations

import numpy as np

from ggmlpy.machine.c_arithmetic import narrow
from ggmlpy.machine.kernels import kernel
from ggmlpy.machine.vectors import f16_of_bits, fma

from .activations import round_to_half
from .dots import floats_avx2, floats_scalar

F0, F1 = np.float32(0), np.float32(1)


@kernel
def rms_norm(in_double, eps, x, weight, out):
    """x * (1 / sqrt(mean(x²) + eps)) * weight; squares are floats, their sum is a double.

    From 2023-03-30 on the mean is rounded to float before the root; at 2023-03-19 only the factor is (`in_double`).
    """
    n = x.shape[1]
    for t in range(x.shape[0]):
        total = np.float64(0)
        for i in range(n):
            total += np.float64(x[t, i] * x[t, i])
        if in_double:
            factor = np.float32(1.0 / np.sqrt(total / n + np.float64(eps)))
        else:
            factor = F1 / np.sqrt(np.float32(total / n) + eps)
        for i in range(n):
            out[t, i] = weight[i] * (x[t, i] * factor)


@kernel
def rope(x, cos, sin, out):
    """Rotate the pairs (2i, 2i+1) of every head: x, out [n_tokens, n_head, head_dim]. Tables in double: in double."""
    for t in range(x.shape[0]):
        for h in range(x.shape[1]):
            for i in range(x.shape[2] // 2):
                x0, x1 = x[t, h, 2 * i], x[t, h, 2 * i + 1]
                out[t, h, 2 * i] = np.float32(x0 * cos[t, i] - x1 * sin[t, i])
                out[t, h, 2 * i + 1] = np.float32(x0 * sin[t, i] + x1 * cos[t, i])


@kernel
def rope_halves(contracted, x, cos, sin):
    """Rotate f16 keys [n_tokens, n_head, head_dim] where they lie in the cache (until 2023-03-31).

    `contracted`: the compiler fused one product of each sum (CMake's build).
    """
    for t in range(x.shape[0]):
        for h in range(x.shape[1]):
            for i in range(x.shape[2] // 2):
                x0, x1, c, s = f16_of_bits(x[t, h, 2 * i]), f16_of_bits(x[t, h, 2 * i + 1]), cos[t, i], sin[t, i]
                if contracted:
                    c, s = np.float32(c), np.float32(s)  # which they are, then
                    y0, y1 = fma(x0, c, -(x1 * s)), fma(x0, s, x1 * c)
                else:
                    y0, y1 = x0 * c - x1 * s, x0 * s + x1 * c
                x[t, h, 2 * i] = np.uint16(narrow(np.float32(y0)))
                x[t, h, 2 * i + 1] = np.uint16(narrow(np.float32(y1)))


@kernel
def store_halves(x, out):
    """float32 -> bits of f16, [n_tokens, n_head, head_dim]."""
    for t in range(x.shape[0]):
        for h in range(x.shape[1]):
            for i in range(x.shape[2]):
                out[t, h, i] = np.uint16(narrow(x[t, h, i]))


@kernel
def soft_max(n_past, factor, exp_table, scores):
    """Scale, mask and normalise scores [n_tokens, seen] in place; exp is a table over f16, its sum a double."""
    seen = scores.shape[1]
    for t in range(scores.shape[0]):
        row, visible = scores[t], min(n_past + t + 1, seen)
        largest = np.float32(-np.inf)
        for j in range(visible):
            row[j] *= factor
            largest = max(largest, row[j])
        total = np.float64(0)
        for j in range(visible):
            value = exp_table[np.uint16(narrow(row[j] - largest))]
            total += np.float64(value)
            row[j] = value
        inverse = np.float32(1.0 / total)
        for j in range(visible):
            row[j] *= inverse
        row[visible:] = F0


@kernel
def silu_mul(silu_table, gate, up, out):
    """silu(gate) * up, silu from a table over f16."""
    for t in range(gate.shape[0]):
        for i in range(gate.shape[1]):
            out[t, i] = silu_table[np.uint16(narrow(gate[t, i]))] * up[t, i]


@kernel
def transpose_head(v, h, rows):
    """Head h of the values [n_ctx, n_head_kv, head_dim] to rows [head_dim, seen]."""
    for j in range(rows.shape[1]):
        for i in range(rows.shape[0]):
            rows[i, j] = v[j, h, i]


@kernel
def attention(simd, reduction, contracted, is_half, first_head, last_head, n_past, factor, exp_table, q, k, v, out):
    """softmax(q·k * factor)·v for a range of heads, with the dots of the build.

    q: float32 [n_tokens, n_head, head_dim], f16-rounded if `is_half`; k, v: [n_ctx, n_head_kv, head_dim], float32 or
    f16 bits; out: [n_tokens, n_head * head_dim]. The product with the values runs over every position up to the last of
    the batch, zeros of the mask included, as llama.cpp's does: in SIMD builds that decides which lane adds what.
    """
    n, n_head, head_dim = q.shape
    seen, item, group = n_past + n, k.itemsize, n_head // k.shape[1]
    scores = np.empty((n, seen), np.float32)
    mixed = np.empty((n, head_dim), np.float32)
    queries = np.empty((n, head_dim), np.float32)
    values = np.empty((head_dim, seen), v.dtype)  # used in every round, so that it outlives its bare address
    for h in range(first_head, last_head):
        queries[:] = q[:, h]
        keys, stride = k[0, h // group].ctypes.data, k.shape[1] * head_dim * item
        transpose_head(v, h // group, values)
        if simd:
            floats_avx2(is_half, reduction, contracted, keys, stride, 0, seen, head_dim, queries, scores)
        else:
            floats_scalar(is_half, keys, stride, 0, seen, head_dim, queries, scores)
        soft_max(n_past, factor, exp_table, scores)
        if is_half:
            round_to_half(scores, scores)
        rows = values.ctypes.data
        if simd:
            floats_avx2(is_half, reduction, contracted, rows, seen * item, 0, head_dim, seen, scores, mixed)
        else:
            floats_scalar(is_half, rows, seen * item, 0, head_dim, seen, scores, mixed)
        out[:, h * head_dim : (h + 1) * head_dim] = mixed


@kernel
def attention_by_columns(is_half, n_threads, first_head, last_head, n_past, factor, exp_table, q, k, v, out):
    """The same at 2023-03-19, scalar: value vectors are added one position after another, in f16 if the cache is.

    Each of llama.cpp's threads took a run of positions into an accumulator of its own, and those were added in float.
    """
    n, _, head_dim = q.shape
    seen, item = n_past + n, k.itemsize
    share = (seen + n_threads - 1) // n_threads
    scores = np.empty((n, seen), np.float32)
    queries = np.empty((n, head_dim), np.float32)
    for h in range(first_head, last_head):
        queries[:] = q[:, h]
        keys, stride = k[0, h].ctypes.data, k.shape[1] * head_dim * item
        floats_scalar(is_half, keys, stride, 0, seen, head_dim, queries, scores)
        soft_max(n_past, factor, exp_table, scores)
        for t in range(n):
            for i in range(head_dim):
                total = F0
                for thread in range(n_threads):
                    part = _column_sum(is_half, scores[t], v, h, i, thread * share, min(thread * share + share, seen))
                    total = part if thread == 0 else total + part
                out[t, h * head_dim + i] = total


@kernel
def _column_sum(is_half, p, v, h, i, first, last):
    total = F0
    for j in range(first, last):
        if is_half:
            total = f16_of_bits(np.uint16(narrow(total + f16_of_bits(np.uint16(v[j, h, i])) * p[j])))
        else:
            total += np.float32(v[j, h, i]) * p[j]
    return total
