"""The types that came after the k-quants, decoded one value at a time, as ``dequantize_row_*`` of ggml's C does it."""

from __future__ import annotations

import numpy as np

from ggmlpy.formats.grids import GRIDS, grid_levels
from ggmlpy.formats.tensor_types import E2M1, NON_LINEAR

f32 = np.float32


def nibble(data, i: int) -> int:
    """Number ``i`` of those of four bits, the lower half of a byte first."""
    return int(data[i // 2]) >> 4 * (i % 2) & 15


def halves(qs, i: int, n: int = 32) -> int:
    """The code of value ``i`` where value j and j + n / 2 share a byte."""
    return int(qs[i % (n // 2)]) >> 4 * (i % n // (n // 2)) & 15


def bit(number, i: int) -> int:
    return int(number) >> i & 1


def coordinate(name: str, index: int, i: int) -> int:
    return GRIDS[name].numbers[grid_levels(name)[index, i]]


def sign(bits: int, i: int) -> np.float32:
    return f32(-1 if bit(bits, i) else 1)


def even_sign(seven: int, i: int) -> np.float32:
    return sign(seven | (bin(seven).count("1") & 1) << 7, i)


def word(data) -> int:
    return int.from_bytes(bytes(data), "little")


def iq2_scale(block, nibble_: int) -> np.float32:
    return f32(f32(block["d"]) * (f32(0.5) + f32(nibble_))) * f32(0.25)


def iq2_xxs(block, i):
    group, j = i // 32, i % 32 // 8
    eight = block["qs"][8 * group : 8 * group + 8]
    signs = word(eight[4:])
    value = iq2_scale(block, signs >> 28) * f32(coordinate("iq2xxs", eight[j], i % 8))
    return value * even_sign(signs >> 7 * j & 127, i % 8)


def iq2_xs(block, i):
    q = int(block["qs"][i // 8])
    value = iq2_scale(block, nibble(block["scales"], i // 16)) * f32(coordinate("iq2xs", q & 511, i % 8))
    return value * even_sign(q >> 9, i % 8)


def iq2_s(block, i):
    n = i // 8
    index = int(block["qs"][n]) | (int(block["qh"][n // 4]) >> 2 * (n % 4) & 3) << 8
    value = iq2_scale(block, nibble(block["scales"], i // 16)) * f32(coordinate("iq2s", index, i % 8))
    return value * sign(block["signs"][n], i % 8)


def iq3_xxs(block, i):
    signs = int(block["signs"][i // 32])
    scale = f32(f32(block["d"]) * (f32(0.5) + f32(signs >> 28))) * f32(0.5)
    value = scale * f32(coordinate("iq3xxs", block["qs"][i // 4], i % 4))
    return value * even_sign(signs >> 7 * (i % 32 // 8) & 127, i % 8)


def iq3_s(block, i):
    n = i // 4
    index = int(block["qs"][n]) | bit(block["qh"][n // 8], n % 8) << 8
    scale = f32(block["d"]) * f32(1 + 2 * nibble(block["scales"], i // 32))
    return scale * f32(coordinate("iq3s", index, i % 4)) * sign(block["signs"][i // 8], i % 8)


def iq3_s_2024_02(block, i):
    n = i // 4
    index = int(block["qs"][n]) | bit(block["qh"][n // 8], n % 8) << 8
    scale = f32(f32(block["d"]) * (f32(0.5) + f32(nibble(block["scales"], i // 32)))) * f32(0.5)
    return scale * f32(coordinate("iq3s-2024-02", index, i % 4)) * sign(block["signs"][i // 8], i % 8)


def iq1(block, d, scale: int, index: int, down: int, i: int):
    point = f32(coordinate("iq1s", index, i % 8) // 8)
    return f32(d * f32(2 * scale + 1)) * (point + f32(-0.125 if down else 0.125))


def iq1_s(block, i):
    n, high = i // 8, int(block["qh"][i // 32])
    index = int(block["qs"][n]) | (high >> 3 * (n % 4) & 7) << 8
    return iq1(block, f32(block["d"]), high >> 12 & 7, index, bit(high, 15), i)


def iq1_s_2024_02(block, i):
    n = i // 8
    high = nibble(block["scales"], n)
    point = coordinate("iq1s-2024-02", int(block["qs"][n]) | bit(high, 3) << 8, i % 8) // 8
    return f32(f32(block["d"]) * f32(2 * (high & 7) + 1)) * f32(point)


def iq1_s_2024_03(block, i):
    n, high = i // 8, int(block["qh"][i // 32])
    point = coordinate("iq1s", int(block["qs"][n]) | (high >> 3 * (n % 4) & 7) << 8, i % 8) // 8
    return f32(f32(block["d"]) * f32(2 * (high >> 12) + 1)) * f32(point)


def iq1_m(block, i):
    n, scales = i // 8, [int(s) for s in block["scales"]]
    high = nibble(block["qh"], n)
    d = np.uint16(sum((s >> 12) << 4 * k for k, s in enumerate(scales))).view(np.float16)
    scale = scales[i // 64] >> 3 * (i // 16 % 4) & 7
    return iq1(block, f32(d), scale, int(block["qs"][n]) | (high & 7) << 8, bit(high, 3), i)


def iq4_nl(block, i):
    return f32(block["d"]) * f32(NON_LINEAR[halves(block["qs"], i)])


def iq4_xs(block, i):
    n = i // 32
    scale = nibble(block["scales_l"], n) | (int(block["scales_h"]) >> 2 * n & 3) << 4
    return f32(f32(block["d"]) * f32(scale - 32)) * f32(NON_LINEAR[halves(block["qs"][16 * n :], i % 32)])


def tq1_0(block, i):
    if i < 160:
        byte, power = block["qs"][i % 32], i // 32
    elif i < 240:
        byte, power = block["qs"][32 + i % 16], (i - 160) // 16
    else:
        byte, power = block["qh"][i % 4], (i - 240) // 4
    return f32((int(byte) * 3**power % 256 * 3 >> 8) - 1) * f32(block["d"])


def tq2_0(block, i):
    code = int(block["qs"][32 * (i // 128) + i % 32]) >> 2 * (i % 128 // 32) & 3
    return f32(code - 1) * f32(block["d"])


def mxfp4(block, i):
    return f32(E2M1[halves(block["qs"], i)]) * f32(2.0 ** (int(block["e"]) - 128))


def nvfp4(block, i):
    n, scale = i // 16, int(block["d"][i // 16])
    exponent, mantissa = scale >> 3 & 15, scale & 7
    value = (1 + mantissa / 8) * 2.0 ** (exponent - 7) if exponent else mantissa * 2.0**-9
    code = halves(block["qs"][8 * n :], i % 16, 16)
    return f32(E2M1[code]) * f32(0 if scale == 0x7F else value / 2)


def q1_0(block, i):
    return f32(block["d"]) * f32(1 if bit(block["qs"][i // 8], i % 8) else -1)


def q2_0(block, i):
    return f32((int(block["qs"][i // 4]) >> 2 * (i % 4) & 3) - 1) * f32(block["d"])


VALUES = {
    function.__name__: function
    for function in (
        *(iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs),
        *(tq1_0, tq2_0, mxfp4, nvfp4, q1_0, q2_0),
    )
} | {  # of the first weeks
    "iq1_s-2024-02": iq1_s_2024_02,
    "iq1_s-2024-03": iq1_s_2024_03,
    "iq3_s-2024-02": iq3_s_2024_02,
}
