"""Project 3: unpack q4_0, then quantize it to the byte.

Run it as: python mine.py INPUT OUTPUT
"""

import struct
import sys

source, output = sys.argv[1:]
with open(source, "rb") as stream:
    data = stream.read()


def unpacked(block):
    """The 32 numbers of a block of 20 bytes."""
    (scale,) = struct.unpack_from("<f", block, 0)
    return [scale for byte in block[4:] for _ in range(2)]  # Your turn: two codes in each byte


def packed(values):
    """The block of 32 numbers."""
    return struct.pack("<f", max(values)) + bytes(16)  # Your turn


if source.endswith(".q4_0"):
    blocks = [data[i : i + 20] for i in range(0, len(data), 20)]
    result = b"".join(struct.pack("<32f", *unpacked(block)) for block in blocks)
else:
    rows = [struct.unpack_from("<32f", data, i) for i in range(0, len(data), 128)]
    result = b"".join(packed(row) for row in rows)

with open(output, "wb") as target:
    target.write(result)
