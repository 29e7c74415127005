"""Where the indices, signs and scales of a block of IQ2 or IQ3 are put: what :mod:`ggmlpy.formats.grids` reads.

Each function takes ``indices`` (int32, of each group of eight or four values), ``signs`` (a byte for each eight values;
the lower seven bits say all where their number is even), ``codes`` (int32, of each run's scale), ``live`` (of each run
whether it is more than nothing), and the zeroed bytes ``out`` of a block.
"""

from __future__ import annotations

import numpy as np

from ggmlpy.formats.tensor_types import TENSOR_TYPES
from ggmlpy.machine.kernels import inlined

__all__ = ["PACKERS", "store_bytes"]


def offsets(name: str, *fields: str) -> tuple[int, ...]:
    return tuple(TENSOR_TYPES[name].offset(field) for field in fields)


(XXS2_QS,) = offsets("iq2_xxs", "qs")
XS2_QS, XS2_SCALES = offsets("iq2_xs", "qs", "scales")
S2_QS, S2_SIGNS, S2_QH, S2_SCALES = offsets("iq2_s", "qs", "signs", "qh", "scales")
XXS3_QS, XXS3_SIGNS = offsets("iq3_xxs", "qs", "signs")
S3_QS, S3_QH, S3_SIGNS, S3_SCALES = offsets("iq3_s", "qs", "qh", "signs", "scales")


@inlined
def store_bytes(out, at, word, n):
    """Put ``n`` bytes of a number at byte ``at``, the lowest first."""
    for k in range(n):
        out[at + k] = np.uint8(word >> np.uint32(8 * k))


@inlined
def seven_bit_word(signs, first, code):
    """Four times seven bits of signs, and four bits of a scale."""
    word = np.uint32(code) << np.uint32(28)
    for k in range(4):
        word |= np.uint32(signs[first + k] & np.uint8(127)) << np.uint32(7 * k)
    return word


@inlined
def nibbles(codes, out, at):
    """Two codes a byte, the first in its lower half."""
    for k in range(len(codes) // 2):
        out[at + k] = np.uint8(codes[2 * k] | codes[2 * k + 1] << 4)


@inlined
def iq2_xxs(indices, signs, codes, live, out):
    for k in range(8):
        for i in range(4):
            out[XXS2_QS + 8 * k + i] = np.uint8(indices[4 * k + i])
        store_bytes(out, XXS2_QS + 8 * k + 4, seven_bit_word(signs, 4 * k, codes[k]), 4)


@inlined
def iq2_xs(indices, signs, codes, live, out):
    for k in range(32):
        store_bytes(out, XS2_QS + 2 * k, np.uint32(indices[k]) | np.uint32(signs[k] & np.uint8(127)) << np.uint32(9), 2)
    nibbles(codes, out, XS2_SCALES)


@inlined
def iq2_s(indices, signs, codes, live, out):
    for k in range(32):
        out[S2_QS + k], out[S2_SIGNS + k] = np.uint8(indices[k]), signs[k]
        out[S2_QH + k // 4] |= np.uint8(indices[k] >> 8 << 2 * (k % 4))
    nibbles(codes, out, S2_SCALES)


@inlined
def iq3_xxs(indices, signs, codes, live, out):
    for k in range(64):
        out[XXS3_QS + k] = np.uint8(indices[k])
    for k in range(8):
        store_bytes(out, XXS3_SIGNS + 4 * k, seven_bit_word(signs, 4 * k, codes[k]), 4)


@inlined
def iq3_s(indices, signs, codes, live, out):
    """ggml does not step over a run of nothing: what follows stands where that run would, but for the highest bits."""
    place = 0
    for k in range(8):
        if not live[k]:
            continue
        for i in range(8):
            index = indices[8 * k + i]
            out[S3_QS + 8 * place + i] = np.uint8(index)
            out[S3_QH + k] |= np.uint8(index >> 8 << i)
        for i in range(4):
            out[S3_SIGNS + 4 * place + i] = signs[4 * k + i]
        place += 1
    nibbles(codes, out, S3_SCALES)


PACKERS = {"iq2_xxs": iq2_xxs, "iq2_xs": iq2_xs, "iq2_s": iq2_s, "iq3_xxs": iq3_xxs, "iq3_s": iq3_s}
