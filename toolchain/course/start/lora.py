"""Project 6: apply a LoRA.

Run it as: python mine.py INPUT OUTPUT
"""

import json
import struct
import sys

import numpy as np

DTYPES = {"F32": "<f4", "F16": "<f2"}
source, output = sys.argv[1:]


def read(path):
    """The arrays of a safetensors file by name."""
    with open(path, "rb") as stream:
        data = stream.read()
    (length,) = struct.unpack_from("<Q", data, 0)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def write(path, arrays):
    """The arrays as a safetensors file."""
    header, parts, at = {}, [], 0
    for name, array in arrays.items():
        part = np.ascontiguousarray(array).tobytes()
        code = next(code for code, dtype in DTYPES.items() if np.dtype(dtype) == array.dtype)
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    text = json.dumps(header).encode()
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text + b"".join(parts))


merged = read(f"{source}/model.safetensors")
adapter = read(f"{source}/adapter_model.safetensors")
with open(f"{source}/adapter_config.json", encoding="utf-8") as stream:
    config = json.load(stream)

# Your turn: which tensors does the adapter change, and how?

write(output, merged)
