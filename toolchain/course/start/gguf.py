"""Project 11: write a GGUF that others load.

Run it as: python mine.py INPUT OUTPUT
"""

import json
import struct
import sys

source, output = sys.argv[1:]
with open(source, encoding="utf-8") as stream:
    document = json.load(stream)

out = b"GGUF" + struct.pack("<I", 3)
out += struct.pack("<QQ", len(document["tensors"]), len(document["metadata"]))
for row in document["metadata"]:
    key, kind, value = row["key"], row["type"], row["value"]
    # Your turn

for row in document["tensors"]:
    name, shape, values = row["name"], row["shape"], row["values"]
    # Your turn

with open(output, "wb") as stream:
    stream.write(out)
