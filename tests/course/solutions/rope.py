"""Turn by the position."""

import sys

import numpy as np
from arrays_of_text import read, write

given = read(sys.argv[1])
x, n_head = given["x"], int(given["n_head"][0, 0])
size = x.shape[1] // n_head
out = x.copy()
for row, position in enumerate(given["position"][0]):
    for head in range(n_head):
        for i in range(size // 2):
            first, second = (i, i + size // 2) if given["halves"][0, 0] else (2 * i, 2 * i + 1)
            a, b = head * size + first, head * size + second
            angle = position * given["base"][0, 0] ** (-2 * i / size)
            out[row, a] = x[row, a] * np.cos(angle) - x[row, b] * np.sin(angle)
            out[row, b] = x[row, a] * np.sin(angle) + x[row, b] * np.cos(angle)
write(sys.argv[2], "x", out)
