"""Tokenize."""

import sys

source, output = sys.argv[1:]
ids, scores = {}, []
for line in open(f"{source}/vocabulary.txt"):
    index, text, score = line.split()
    ids[bytes.fromhex(text) if text != "-" else b""] = int(index)
    scores.append(float(score))


def tokenize(text):
    parts = [character.encode() for character in (" " + text)]
    while True:
        pairs = [(ids[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ids]
        if not pairs:
            break
        _, at = max(pairs, key=lambda pair: (scores[pair[0]], -pair[1]))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    found = []
    for part in parts:
        found += [ids[part]] if part in ids else [byte + 3 for byte in part]
    return found


with open(output, "w") as out:
    for text in open(f"{source}/texts.txt", "rb").read().split(b"\n")[:-1]:
        out.write(" ".join(map(str, tokenize(text.decode()))) + "\n")
