"""The merge kernel against a transcription of what torch computes: 0 different bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggmlpy.files.errors import UsageError
from ggmlpy.machine.features import MACHINE
from lora.merging.kernels import Delta, add_plainly


def transcription(weights: np.ndarray, b: np.ndarray, a: np.ndarray, scale: float) -> np.ndarray:
    """W + (B @ A) * scale as torch's CPU kernels do it, one operation a line; knows nothing of tiles or padding."""
    product = np.zeros(weights.shape, np.float32)
    for k in range(a.shape[0]):
        product = product + b[:, k : k + 1].astype(np.float32) * a[k].astype(np.float32)
    return (weights.astype(np.float32) + product * np.float32(scale)).astype(np.float16)


@settings(max_examples=60)
@given(
    rank=st.integers(1, 96),
    rows=st.integers(1, 70),
    columns=st.integers(1, 1100),
    dtype=st.sampled_from([np.float16, np.float32]),
    alpha=st.sampled_from([1, 3, 8, 16, 24, 32, 128]),
    seed=st.integers(0, 2**32 - 1),
    adapters=st.integers(1, 3),
)
def test_the_bits_of_the_transcription(
    rank: int, rows: int, columns: int, dtype: type, alpha: int, seed: int, adapters: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((rows, columns)) * 0.02).astype(np.float16)
    weights[rng.random(weights.shape) < 0.05] = -0.0
    expected = weights.copy()
    largest = 0.0
    for _ in range(adapters):
        b = (rng.standard_normal((rows, rank)) * (rng.random((rows, 1)) < 0.8)).astype(dtype)
        a = (rng.standard_normal((rank, columns)) * 0.02).astype(dtype)
        before = expected.astype(np.float32)
        expected = transcription(expected, b, a, alpha / rank)
        largest = Delta.of(b, a, alpha / rank).add_to(weights)
        assert largest == np.abs(expected.astype(np.float32) - before).max()
    assert np.array_equal(weights.view(np.uint16), expected.view(np.uint16))


@pytest.mark.skipif(not MACHINE.has_f16, reason="this processor has no half-precision conversions")
@given(rows=st.integers(1, 40), columns=st.integers(1, 600), rank=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_stand_in_without_hardware_is_the_same(rows: int, columns: int, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    delta = Delta.of(rng.standard_normal((rows, rank)), rng.standard_normal((rank, columns)), 2.0)
    compiled = rng.standard_normal((rows, columns)).astype(np.float16)
    plain = compiled.copy()
    assert delta.add_to(compiled) == add_plainly(plain.view(np.uint16), delta.b, delta.a, delta.scale)
    assert np.array_equal(compiled.view(np.uint16), plain.view(np.uint16))


def test_every_half_survives_a_change_of_nothing() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(1, -1)
    weights = finite.copy()
    assert Delta.of(np.zeros((1, 1)), np.zeros((1, finite.size)), 1.0).add_to(weights) == 0.0
    same = weights.view(np.uint16) == finite.view(np.uint16)
    assert (finite[~same].view(np.uint16) == 0x8000).all()  # -0 + +0 is +0, as in torch
    assert (weights[~same].view(np.uint16) == 0).all()


def test_overflow_is_reported() -> None:
    weights = np.full((1, 3), 65504, np.float16)
    assert Delta.of(np.array([[1.0]]), np.array([[0.0, 60000.0, 1.0]]), 1.0).add_to(weights) == np.inf
    assert weights.tolist() == [[65504, np.inf, 65504]]


def test_a_part_of_the_rows() -> None:
    rng = np.random.default_rng(1)
    b, a = rng.standard_normal((9, 2)), rng.standard_normal((2, 5))
    whole = rng.standard_normal((9, 5)).astype(np.float16)
    part = whole[4:7].copy()
    delta = Delta.of(b, a, 1.0)
    delta.add_to(whole)
    delta.add_to(part, first_row=4)
    assert np.array_equal(whole[4:7], part)


@pytest.mark.parametrize(
    ("weights", "first"),
    [
        (np.zeros((2, 5), np.float32), 0),
        (np.zeros((2, 4), np.float16), 0),
        (np.zeros((2, 5), np.float16), 2),
        (np.zeros((5, 2), np.float16).T, 0),
    ],
)
def test_what_does_not_fit_is_refused(weights: np.ndarray, first: int) -> None:
    with pytest.raises(UsageError, match="do not fit"):
        Delta.of(np.zeros((3, 1)), np.zeros((1, 5)), 1.0).add_to(weights, first)
    with pytest.raises(UsageError, match=r"do not fit: \(3, 2\) and \(1, 5\)"):
        Delta.of(np.zeros((3, 2)), np.zeros((1, 5)), 1.0)
