"""The folding CRC-32 against zlib's."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggmlpy.files.segments import Segment
from llama_ref.checkpoint import crc32 as module
from llama_ref.checkpoint.crc32 import SMALL, RunningCrc, crc32, joined_crc

NOISE = np.random.default_rng(0).integers(0, 256, SMALL + 70_000, np.uint8)


@settings(max_examples=40)
@given(start=st.integers(0, 200), length=st.integers(SMALL - 2, SMALL + 60_000), crc=st.integers(0, 2**32 - 1))
def test_the_same_as_zlib(start: int, length: int, crc: int) -> None:
    part = NOISE[start : start + length]
    assert crc32(part, crc) == zlib.crc32(part, crc)


@pytest.mark.parametrize("make", [bytes, bytearray, lambda a: memoryview(a.tobytes()), lambda a: a.view(np.uint16)])
def test_every_kind_of_buffer(make) -> None:
    data = make(NOISE[: SMALL + 6])
    assert crc32(data) == zlib.crc32(data)


def test_pieces_go_on_from_each_other() -> None:
    crc = 0
    for start in range(0, 5 * len(NOISE), len(NOISE)):
        crc = crc32(np.roll(NOISE, start), crc)
    assert crc == zlib.crc32(
        b"".join(np.roll(NOISE, start).tobytes() for start in range(0, 5 * len(NOISE), len(NOISE)))
    )


def test_a_small_buffer_does_not_load_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted() -> None:
        raise RuntimeError("not for this")

    monkeypatch.setattr(module, "_kernel", unwanted)
    assert crc32(b"123456789") == 0xCBF43926
    monkeypatch.setattr(module, "_patience", 0)
    with pytest.raises(RuntimeError):
        crc32(NOISE)


def test_without_the_instruction_zlib_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_kernel", lambda: None)
    assert crc32(NOISE, 7) == zlib.crc32(NOISE, 7)


@given(st.binary(), st.binary())
def test_the_crc_of_two_parts_is_that_of_both(first: bytes, second: bytes) -> None:
    assert joined_crc(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@given(st.integers(0, 2**40), st.integers(0, 2**32 - 1))
def test_even_of_parts_too_long_to_hold(n: int, crc: int) -> None:
    """Zeros can be added in any steps."""
    some = joined_crc(crc, 0, n)
    assert joined_crc(some, 0, 3 * n) == joined_crc(crc, 0, 4 * n)


@given(st.lists(st.binary(), max_size=6), st.randoms())
def test_segments_are_summed_in_their_order_not_in_that_of_their_making(parts: list[bytes], chance) -> None:
    running = RunningCrc()
    segments = [running.over(Segment.of_bytes(part)) for part in parts]
    for segment in chance.sample(segments, len(segments)):
        segment.made()
    assert running.value == zlib.crc32(b"".join(parts))
