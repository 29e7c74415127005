"""Project 7: turn by the position.

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

x = given["x"]
n_head, base, halves = (given[name][0, 0] for name in ("n_head", "base", "halves"))
position = given["position"][0]

# Your turn: turn the pairs of each head

write(output, "x", x)
