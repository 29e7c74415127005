"""Write a GGUF that others load."""

import json
import struct
import sys

NUMBERS = {"u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"), "i32": (5, "<i")}
NUMBERS |= {"f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q"), "i64": (11, "<q"), "f64": (12, "<d")}
document = json.load(open(sys.argv[1], encoding="utf-8"))
alignment = 32


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def one(kind, value):
    return text(value) if kind == "string" else struct.pack(NUMBERS[kind][1], value)


def number(kind):
    return struct.pack("<I", 8 if kind == "string" else NUMBERS[kind][0])


def padded(data):
    return data + bytes(-len(data) % alignment)


head = b"GGUF" + struct.pack("<IQQ", 3, len(document["tensors"]), len(document["metadata"]))
for row in document["metadata"]:
    kind, value = row["type"], row["value"]
    if row["key"] == "general.alignment":
        alignment = value
    head += text(row["key"])
    if kind.startswith("array of "):
        item = kind.removeprefix("array of ")
        head += struct.pack("<I", 9) + number(item) + struct.pack("<Q", len(value))
        head += b"".join(one(item, each) for each in value)
    else:
        head += number(kind) + one(kind, value)
data = b""
for row in document["tensors"]:
    shape = row["shape"][::-1]
    head += text(row["name"]) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
    head += struct.pack("<IQ", 0, len(data))
    data += padded(struct.pack(f"<{len(row['values'])}f", *row["values"]))
open(sys.argv[2], "wb").write(padded(head) + data)
