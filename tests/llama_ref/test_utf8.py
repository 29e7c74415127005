"""Whole characters out of any stream of bytes, and never another byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_ref.vocabulary.utf8 import Utf8Stream, complete_length

chunks = st.lists(st.binary(max_size=5), max_size=8)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@given(chunks)
def test_nothing_is_added_lost_or_changed(pieces: list[bytes]) -> None:
    stream = Utf8Stream()
    assert b"".join(map(stream.feed, pieces)) + stream.flush() == b"".join(pieces)


@given(st.text(max_size=20), st.integers(1, 4))
def test_every_part_of_a_text_is_text(text: str, size: int) -> None:
    stream = Utf8Stream()
    parts = [stream.feed(piece).decode() for piece in cut(text.encode(), size)]
    assert "".join(parts) == text
    assert stream.flush() == b""


@given(st.binary(max_size=20))
def test_at_most_three_bytes_wait(data: bytes) -> None:
    assert len(data) - complete_length(data) <= 3


@given(st.text(min_size=1, max_size=5), st.sampled_from([b"\xff", b"\x80", b"\xc0", b"\xed\xa0"]))
def test_bytes_that_can_become_no_character_do_not_wait(text: str, bad: bytes) -> None:
    data = text.encode() + bad
    assert complete_length(data) == len(data)
