"""Read a header."""

import struct
import sys

data = open(sys.argv[1], "rb").read()
names = {0x67676D6C: "ggml", 0x67676D66: "ggmf", 0x67676A74: "ggjt"}
(magic,) = struct.unpack_from("<I", data, 0)
name = names[magic]
version, at = (0, 4) if name == "ggml" else (struct.unpack_from("<i", data, 4)[0], 8)
numbers = struct.unpack_from("<7i", data, at)
fields = ["n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot", "ftype"]
with open(sys.argv[2], "w") as out:
    out.write(f"container {name}\nversion {version}\n")
    for field, number in zip(fields, numbers):
        out.write(f"{field} {number}\n")
