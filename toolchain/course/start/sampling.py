"""Project 10: sample with the same seed as 2023.

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


given = read(source)

seed, top_k, repeat_last_n = (int(given[name][0, 0]) for name in ("seed", "top_k", "repeat_last_n"))
temp, top_p, repeat_penalty = (given[name][0, 0] for name in ("temp", "top_p", "repeat_penalty"))
recent = [0] * repeat_last_n

tokens = []
for logits in given["logits"]:
    tokens.append(int(np.argmax(logits)))  # Your turn: this is what temperature 0 takes

with open(output, "w", encoding="utf-8") as stream:
    stream.writelines(f"{token}\n" for token in tokens)
