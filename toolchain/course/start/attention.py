"""Project 8: attend.

Run it as: python mine.py INPUT OUTPUT
"""

import sys

import numpy as np

source, output = sys.argv[1:]


def read(path):
    """Arrays by name: a line with name, rows and columns, then a line for each row."""
    arrays = {}
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            name, rows, columns = line.split()
            numbers = [next(stream).split() for _ in range(int(rows))]
            arrays[name] = np.array(numbers, dtype=np.float64).reshape(int(rows), int(columns))
    return arrays


def write(path, name, array):
    """One array."""
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(f"{name} {array.shape[0]} {array.shape[1]}\n")
        stream.writelines(" ".join(f"{value:.9g}" for value in row) + "\n" for row in array)


given = read(source)

q, k, v = given["q"], given["k"], given["v"]
n_head, n_head_kv = int(given["n_head"][0, 0]), int(given["n_head_kv"][0, 0])

# Your turn: scores, mask, softmax, and the mixture of values, head by head

write(output, "out", np.zeros_like(q))
