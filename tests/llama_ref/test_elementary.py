"""Powers, cosines and sines with the same bits on every machine, and near those of numpy."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llama_ref.arithmetic.elementary import cosines_and_sines, logarithm, powers


@given(arrays(np.float64, 20, elements=st.floats(0, 1e6)))
def test_cosines_and_sines_are_right(angle):
    cosine, sine = cosines_and_sines(angle)
    assert np.abs(cosine - np.cos(angle)).max() < 3e-16
    assert np.abs(sine - np.sin(angle)).max() < 3e-16


@given(st.floats(1e-3, 1e9), arrays(np.float64, 8, elements=st.floats(-1, 0)))
def test_powers_are_right(base, exponents):
    assert np.allclose(powers(base, exponents), base**exponents, rtol=1e-15, atol=0)


@given(st.floats(1e-300, 1e300))
def test_logarithms_are_right(x):
    assert np.isclose(logarithm(x), np.log(x), rtol=1e-15, atol=1e-15)


def test_the_table_of_a_model_is_one_on_every_machine():
    """The bits are pinned: with AVX-512 numpy's own differ from those of a C library."""
    angle = np.arange(4096)[:, None] * powers(10000.0, -np.arange(0, 128, 2) / 128)
    table = np.stack(cosines_and_sines(angle), axis=-1)
    assert hashlib.sha256(table.astype("<f8").tobytes()).hexdigest()[:16] == "f3c222c77d027780"
