"""Unpack q4_0, then quantize it to the byte."""

import sys

import numpy as np

source, output = sys.argv[1:]
data = open(source, "rb").read()
if source.endswith(".q4_0"):
    blocks = np.frombuffer(data, np.dtype([("d", "<f4"), ("codes", "u1", 16)]))
    low, high = blocks["codes"] & 15, blocks["codes"] >> 4
    codes = np.stack([low, high], axis=2).reshape(-1, 32).astype(np.float32)
    result = (codes - np.float32(8)) * blocks["d"][:, None]
else:
    x = np.frombuffer(data, "<f4").reshape(-1, 32)
    d = np.abs(x).max(axis=1) / np.float32(7)
    inverse = np.zeros_like(d)
    inverse[d != 0] = np.float32(1) / d[d != 0]
    scaled = x * inverse[:, None]
    codes = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(int) + 8
    result = np.empty(len(x), np.dtype([("d", "<f4"), ("codes", "u1", 16)]))
    result["d"] = d
    result["codes"] = codes[:, 0::2] | codes[:, 1::2] << 4
open(output, "wb").write(result.tobytes())
