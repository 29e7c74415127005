"""Project 4: tokenize.

Run it as: python mine.py INPUT OUTPUT
"""

import sys

source, output = sys.argv[1:]
pieces = {}  # bytes: id
scores = []
with open(f"{source}/vocabulary.txt", encoding="utf-8") as stream:
    for line in stream:
        index, text, score = line.split()
        pieces[bytes.fromhex(text.replace("-", ""))] = int(index)
        scores.append(float(score))


def tokenize(text):
    """The ids of a text, which is bytes."""
    return [byte + 3 for byte in text]  # Your turn: this is every byte by itself


with open(f"{source}/texts.txt", "rb") as file:
    texts = file.read().split(b"\n")[:-1]
with open(output, "w", encoding="utf-8") as stream:
    stream.writelines(" ".join(map(str, tokenize(each))) + "\n" for each in texts)
