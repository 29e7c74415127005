"""Project 2: walk the vocabulary.

Run it as: python mine.py INPUT OUTPUT
"""

import struct
import sys

source, output = sys.argv[1:]
with open(source, "rb") as stream:
    data = stream.read()

lines = []
at = 0  # Your turn: where does the vocabulary begin, and how many pieces are there?
n_vocab = 0
for index in range(n_vocab):
    (length,) = struct.unpack_from("<I", data, at)
    text = data[at + 4 : at + 4 + length]
    lines.append(f"{index} {text.hex()}")  # Your turn: empty pieces, scores, and where the next piece begins

with open(output, "w", encoding="utf-8") as stream:
    stream.write("\n".join(lines) + "\n")
