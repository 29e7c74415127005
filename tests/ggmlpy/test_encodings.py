"""Texts in other encodings than UTF-8 are told apart; plain UTF-8 never raises a doubt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.encodings import encoding_doubt

TEXT = "介绍北京 and write a poem"


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-8-sig", "UTF-8 with a byte order mark (BOM)"),
        ("utf-16", "UTF-16, not UTF-8"),
        ("utf-32", "UTF-32, not UTF-8"),
        ("utf-16-le", "seems to be UTF-16"),
        ("utf-16-be", "seems to be UTF-16"),
        ("gbk", "GBK or GB18030"),
        ("gb18030", "GBK or GB18030"),
    ],
)
def test_other_encodings(encoding: str, words: str) -> None:
    assert words in encoding_doubt(TEXT.encode(encoding))


def test_neither_utf8_nor_chinese() -> None:
    assert encoding_doubt(b"caf\xe9 \xff\xff") == "the text is not UTF-8 (from byte 3 on): save it as UTF-8"


def test_a_text_that_ends_within_a_character() -> None:
    assert "cut off" in encoding_doubt("介绍北京".encode()[:-1])


@given(st.text().filter(lambda text: "\0" not in text and not text.startswith("\ufeff")))
def test_plain_text_raises_no_doubt(text: str) -> None:
    assert encoding_doubt(text.encode()) == ""
