"""Walk the vocabulary."""

import struct
import sys

data = open(sys.argv[1], "rb").read()
scored = data[:4] != b"lmgg"
at = 36 if scored else 32
(n_vocab,) = struct.unpack_from("<i", data, 8 if scored else 4)
with open(sys.argv[2], "w") as out:
    for index in range(n_vocab):
        (length,) = struct.unpack_from("<I", data, at)
        text = data[at + 4 : at + 4 + length]
        at += 4 + length
        line = f"{index} {text.hex() or '-'}"
        if scored:
            line += f" {struct.unpack_from('<f', data, at)[0]!r}"
            at += 4
        out.write(line + "\n")
