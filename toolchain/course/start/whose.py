"""Project 12: find who quantized a file.

Run it as: python mine.py INPUT OUTPUT
"""

import struct
import sys
from pathlib import Path

source, output = Path(sys.argv[1]), sys.argv[2]


def whose(rows, blocks):
    """The era and the precision of the source, or nobody."""
    return "nobody"  # Your turn: quantize the rows in every way, and compare


lines = []
for path in sorted(source.glob("*.q4_0")):
    data = path.with_suffix(".f32").read_bytes()
    rows = [struct.unpack_from("<32f", data, i) for i in range(0, len(data), 128)]
    lines.append(f"{path.stem} {whose(rows, path.read_bytes())}\n")

with open(output, "w", encoding="utf-8") as stream:
    stream.writelines(lines)
