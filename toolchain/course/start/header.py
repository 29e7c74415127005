"""Project 1: read a header.

Run it as: python mine.py INPUT OUTPUT
"""

import struct
import sys

source, output = sys.argv[1:]
with open(source, "rb") as stream:
    data = stream.read()

(magic,) = struct.unpack_from("<I", data, 0)  # < for little-endian, I for an unsigned number of 32 bits
lines = [f"magic 0x{magic:08x}"]

# Your turn: which container is it, where do its numbers begin, and what are they?

with open(output, "w", encoding="utf-8") as stream:
    stream.write("\n".join(lines) + "\n")
