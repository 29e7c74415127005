"""One layer."""

import sys

import numpy as np
from arrays_of_text import read, write

given = read(sys.argv[1])
x, n_head = given["x"], int(given["n_head"][0, 0])
size = x.shape[1] // n_head


def norm(rows, weight):
    return rows / np.sqrt((rows * rows).mean(axis=1, keepdims=True) + 1e-6) * weight


def rope(rows):
    out = rows.copy()
    angle = np.arange(len(rows))[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    for h in range(n_head):
        first, second = (rows[:, h * size + half : (h + 1) * size : 2] for half in (0, 1))
        out[:, h * size : (h + 1) * size : 2] = first * np.cos(angle) - second * np.sin(angle)
        out[:, h * size + 1 : (h + 1) * size : 2] = first * np.sin(angle) + second * np.cos(angle)
    return out


def attention(q, k, v):
    out = np.zeros_like(q)
    for h in range(n_head):
        of = slice(h * size, (h + 1) * size)
        for i in range(len(q)):
            scores = k[: i + 1, of] @ q[i, of] / np.sqrt(size)
            shares = np.exp(scores - scores.max())
            out[i, of] = shares / shares.sum() @ v[: i + 1, of]
    return out


def silu(z):
    return z / (1 + np.exp(-z))


h = norm(x, given["attention_norm"])
q, k, v = (h @ given[name].T for name in ("wq", "wk", "wv"))
x = x + attention(rope(q), rope(k), v) @ given["wo"].T
h = norm(x, given["ffn_norm"])
x = x + (silu(h @ given["w1"].T) * (h @ given["w3"].T)) @ given["w2"].T
write(sys.argv[2], "x", x)
