"""How fast memory can be read: the yardstick of ``bench``."""

from __future__ import annotations

import numpy as np

from ggmlpy.machine.kernels import compiled
from ggmlpy.machine.vectors import largest, load, maximum, zeros

__all__ = ["read_memory"]


@compiled
def read_memory(start, size):
    """Read `size` bytes and do next to nothing with them: how fast memory can be read by one thread.

    Eight streams side by side are faster than one, and need no requests in advance.
    """
    part = size // 8 // 64 * 64
    s0, s1, s2, s3 = zeros(), zeros(), zeros(), zeros()
    for p in range(start, start + part, 64):
        s0, s1 = maximum(load(p), s0), maximum(load(p + part), s1)
        s2, s3 = maximum(load(p + 2 * part), s2), maximum(load(p + 3 * part), s3)
        s0, s1 = maximum(load(p + 4 * part), s0), maximum(load(p + 5 * part), s1)
        s2, s3 = maximum(load(p + 6 * part), s2), maximum(load(p + 7 * part), s3)
    return np.int64(largest(maximum(maximum(s0, s1), maximum(s2, s3))) > np.float32(0))
