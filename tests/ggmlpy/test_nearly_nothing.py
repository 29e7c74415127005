"""Rows of the least and the greatest magnitudes, whose sums of squares are 0 or infinite: digests of what the
quantizers of several days made of them, compiled by gcc 12 (-O2) without fused operations."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ggmlpy.quantizers.rows import quantize_rows

COLUMNS = 512
EXPONENTS = (*range(-149, -139), -126, -110, -105, -100, -90, -80, -75, -60, -54, -50, -45, -30, -17, 95, 110, 122)

#: without importance, with it; None where there was none. (What q4_0 … q5_1 of such rows are without it C leaves open:
#: it turns an infinity into a whole number)
# fmt: off
DIGESTS = {
    "2023-08-22": {
        "q2_K": ("953cd4890a6bd430", None),
        "q3_K": ("9ee4ad5ad8ea3c9b", None),
        "q4_K": ("cc092ca051378e18", None),
        "q5_K": ("6ae97ee46352738f", None),
        "q6_K": ("22ae5f332bd6caf7", None),
    },
    "2024-01-14": {
        "q2_K": ("953cd4890a6bd430", "2b7531a22358e21d"),
        "q3_K": ("9ee4ad5ad8ea3c9b", "4e5d7ee1721a9edc"),
        "q4_K": ("cc092ca051378e18", "c01893bd5c74ddf6"),
        "q5_K": ("6ae97ee46352738f", "e7c1555e85554ba6"),
        "q6_K": ("2fd0998ed4b0dadd", "e1a329c6ac46c2e6"),
    },
    "2024-02-10": {
        "q2_K": ("953cd4890a6bd430", "2b7531a22358e21d"),
        "q3_K": ("9ee4ad5ad8ea3c9b", "4e5d7ee1721a9edc"),
        "q4_K": ("cc092ca051378e18", "551424199c59b630"),
        "q5_K": ("6ae97ee46352738f", "9c121ec5df99a055"),
        "q6_K": ("2fd0998ed4b0dadd", "e1a329c6ac46c2e6"),
        "q4_0": (None, "b8a0d606db3e0c3d"),
        "q4_1": (None, "16587deb899c1382"),
        "q5_0": (None, "b944913697b29b5a"),
        "q5_1": (None, "ac7b12749c282ac4"),
    },
    "2024-06-10": {
        "q2_K": ("953cd4890a6bd430", "2b7531a22358e21d"),
        "q3_K": ("609bcc4016ca421d", "ee4a97ffc96ae7ec"),
        "q4_K": ("cc092ca051378e18", "551424199c59b630"),
        "q5_K": ("6ae97ee46352738f", "9c121ec5df99a055"),
        "q6_K": ("5e7f9c9887e2a797", "01799da0725b62bf"),
        "q4_0": (None, "d136d12d5fcf730f"),
        "q4_1": (None, "16587deb899c1382"),
        "q5_0": (None, "a493581a2060116d"),
        "q5_1": (None, "ac7b12749c282ac4"),
        "iq4_nl": ("4d007a83ed5ea324", "ad32b2ff849fc66d"),
        "iq4_xs": ("a04f808945e0767d", "de71546b828f6cca"),
    },
    "today": {
        "q2_K": ("953cd4890a6bd430", "a61062d49276167a"),
        "q3_K": ("609bcc4016ca421d", "ee4a97ffc96ae7ec"),
        "q4_K": ("cc092ca051378e18", "6c4d24e2828c3b70"),
        "q5_K": ("6ae97ee46352738f", "e2ed5ece58d8e3d6"),
        "q6_K": ("5e7f9c9887e2a797", "01799da0725b62bf"),
        "q4_0": (None, "d136d12d5fcf730f"),
        "q4_1": (None, "16587deb899c1382"),
        "q5_0": (None, "a493581a2060116d"),
        "q5_1": (None, "ac7b12749c282ac4"),
        "iq4_nl": ("4d007a83ed5ea324", "aa121d2eb07be947"),
        "iq4_xs": ("a04f808945e0767d", "de71546b828f6cca"),
    },
}
# fmt: on
#: what is compiled in every run; the others take minutes
QUICK = {("2023-08-22", "q6_K", False), ("2024-01-14", "q2_K", True), ("2024-06-10", "iq4_nl", True)}
CASES = [
    pytest.param(day, name, weighted, marks=[] if (day, name, weighted) in QUICK else pytest.mark.slow)
    for day, types in DIGESTS.items()
    for name, digests in types.items()
    for weighted in (False, True)
    if digests[weighted]
]


def rows():
    """Whole numbers from -31 to 31 times powers of two; in the last rows each 16 values have another one."""
    generator = np.random.default_rng(149)
    numbers = generator.integers(-31, 32, (len(EXPONENTS) + 8, COLUMNS)).astype(np.float32)
    mixed = np.repeat(generator.integers(-149, -20, (8, COLUMNS // 16)), 16, axis=1)
    alike = np.repeat(np.array(EXPONENTS)[:, None], COLUMNS, axis=1)
    return np.ldexp(numbers, np.concatenate([alike, mixed]))


def importance():
    """Some columns count nothing, and so does one run of 32."""
    weights = np.random.default_rng(23).integers(0, 64, COLUMNS).astype(np.float32) / np.float32(16)
    weights[64:96] = 0
    return weights


@pytest.mark.parametrize(("day", "name", "weighted"), CASES)
def test_the_blocks_of_a_day(day, name, weighted):
    made = quantize_rows(rows(), name, day, importance=importance() if weighted else None)
    assert hashlib.sha256(made.tobytes()).hexdigest()[:16] == DIGESTS[day][name][weighted]


def test_what_weighs_nothing_has_no_scale_until_2025():
    """0 / 0 is a NaN whose sign is set; today it is 0."""
    x, weights = np.ones((1, 32), np.float32), np.zeros(32, np.float32)
    for day, scale in (("2025-02-20", "00fe"), ("today", "0000")):
        assert quantize_rows(x, "iq4_nl", day, importance=weights)[0, :2].tobytes().hex() == scale
