"""Arrays as text, as the pages of projects 7 to 10 tell."""

import numpy as np


def read(path):
    found, lines = {}, iter(open(path))
    for line in lines:
        name, rows, columns = line.split()
        rows = [[float(word) for word in next(lines).split()] for _ in range(int(rows))]
        found[name] = np.array(rows).reshape(-1, int(columns))
    return found


def write(path, name, array):
    with open(path, "w") as out:
        out.write(f"{name} {len(array)} {len(array[0])}\n")
        out.writelines(" ".join(f"{value:.9g}" for value in row) + "\n" for row in array)
