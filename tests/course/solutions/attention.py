"""Attend."""

import sys

import numpy as np
from arrays_of_text import read, write

given = read(sys.argv[1])
q, k, v = given["q"], given["k"], given["v"]
n_head, n_head_kv = int(given["n_head"][0, 0]), int(given["n_head_kv"][0, 0])
size = q.shape[1] // n_head
out = np.zeros_like(q)
for h in range(n_head):
    of_q = slice(h * size, (h + 1) * size)
    kv = h // (n_head // n_head_kv)
    of_kv = slice(kv * size, (kv + 1) * size)
    for i in range(len(q)):
        scores = k[: i + 1, of_kv] @ q[i, of_q] / np.sqrt(size)
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        out[i, of_q] = shares @ v[: i + 1, of_kv]
write(sys.argv[2], "out", out)
