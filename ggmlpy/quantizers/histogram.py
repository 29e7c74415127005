"""Counting 4-bit codes at a fraction of the cost of making them: the histogram that ``quantize`` prints.

A table incremented once a code would take longer than quantizing. Instead the codes are sliced into four bit planes
(64 codes are four words), and for each of the 15 sets of planes the ones of their conjunction are counted: how many
codes have at least these bits. From those sums the sixteen counts follow by inclusion and exclusion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggmlpy.machine.kernels import inlined
from ggmlpy.machine.vectors import bit_plane, ones_in

__all__ = ["count_codes", "histogram_of"]

LANES = 64


@inlined
def count_codes(pairs, size, planes, sums):
    """Add to ``sums[set]`` (int64 [16]) how many codes in ``pairs[:size]``, two a byte, have all bits of ``set``.

    ``pairs`` has room up to the next multiple of 64, which is zeroed; ``planes`` is uint64 [4, codes / 64] to work in.
    """
    padded = (size + LANES - 1) // LANES * LANES
    for k in range(size, padded):
        pairs[k] = 0
    n = 0
    for k in range(0, padded, LANES):
        for bit in range(4):
            planes[bit, n] = bit_plane(pairs.ctypes.data + k, 1 << bit)
            planes[bit, n + 1] = bit_plane(pairs.ctypes.data + k, 16 << bit)
        n += 2
    s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = s11 = s12 = s13 = s14 = s15 = np.int64(0)
    for i in range(n):
        a, b, c, d = planes[0, i], planes[1, i], planes[2, i], planes[3, i]
        s1 += ones_in(a)
        s2 += ones_in(b)
        s3 += ones_in(a & b)
        s4 += ones_in(c)
        s5 += ones_in(a & c)
        s6 += ones_in(b & c)
        s7 += ones_in(a & b & c)
        s8 += ones_in(d)
        s9 += ones_in(a & d)
        s10 += ones_in(b & d)
        s11 += ones_in(a & b & d)
        s12 += ones_in(c & d)
        s13 += ones_in(a & c & d)
        s14 += ones_in(b & c & d)
        s15 += ones_in(a & b & c & d)
    totals = (2 * size, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15)
    for i, total in enumerate(totals):
        sums[i] += total


def histogram_of(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each code occurs, from the sums of :func:`count_codes`: int64 [16].

    >>> sums = np.zeros(16, np.int64)
    >>> sums[[0, 1, 2, 3]] = 5, 3, 2, 2          # five codes: 3, 3, 1, 0, 0
    >>> histogram_of(sums)[:4].tolist()
    [2, 1, 0, 2]
    """
    counts = sums.copy()
    for bit in (1, 2, 4, 8):
        without = [code for code in range(16) if not code & bit]
        counts[without] -= counts[[code | bit for code in without]]
    return counts
