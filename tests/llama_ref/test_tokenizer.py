"""The tokenizers against llama.cpp's and SentencePiece's own output."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ggmlpy
from ggmlpy.files.errors import VocabularyError
from llama_ref.vocabulary.tokenizer import (
    GreedyTokenizer,
    ScoreTokenizer,
    SentencePieceTokenizer,
    disagreements,
    tokenizer_for,
    utf8_characters,
)
from tests.llama_ref.looks import looks_of
from toolchain.look.tokens import compare_tokenizers, comparison_lines, encode_text, open_tokenizers, token_records

BYTES = [b"\xe2\x81\x87", b"", b"", *(bytes([byte]) for byte in range(256))]
WORDS = [b"a", b"ab", b"abc", b"bc", b" a", "你".encode(), "你好".encode(), "é".encode(), b"  "]
PIECES = BYTES + WORDS
SCORES = [0.0] * len(BYTES) + [-float(i % 4) for i in range(len(WORDS))]

any_text = st.text(st.sampled_from("abc é你好\n🦙"), max_size=30)
wild_text = st.binary(max_size=30).filter(lambda data: b"\0" not in data)


@pytest.fixture(scope="module")
def golden(data: Path) -> dict:
    return json.loads((data / "ggml" / "tokenizer.json").read_text())


def wrong(tokenizer, golden: dict, key: str) -> list[str]:
    """The inputs that a tokenizer splits in another way than the golden file."""
    pairs = zip(golden["inputs_hex"], golden[key], strict=True)
    return [text for text, ids in pairs if ids is not None and tokenizer.encode(bytes.fromhex(text), bos=True) != ids]


@pytest.fixture(scope="module")
def llama(vectors: Path) -> tuple[list[bytes], list[float]]:
    with ggmlpy.open_model(vectors / "ggml" / "vocab" / "ggml-vocab-p2.bin") as file:
        return list(file.vocab), file.vocab.scores.tolist()


@given(text=any_text | wild_text)
def test_cutting_text_into_spans_changes_nothing(text: str | bytes) -> None:
    """The first few thousand characters that a tokenizer sees aren't cut."""
    whole = ScoreTokenizer(PIECES, SCORES).encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llama_ref.vocabulary.tokenizer.FEW_CHARACTERS", 0)
        assert ScoreTokenizer(PIECES, SCORES).encode(text) == whole


def test_a_small_vocabulary_as_llama_cpp_splits_it(golden: dict, data: Path) -> None:
    with ggmlpy.open_model(data / "ggml" / "T1_quant_p2" / "T1.q4_0.bin") as file:
        tokenizer = tokenizer_for(list(file.vocab), file.vocab.scores.tolist(), "2023-03-31")
    assert wrong(tokenizer, golden, "p2.spm400.bos1") == []


@pytest.mark.parametrize(
    ("key", "era"),
    [("p0.real.bos1", "p0"), ("p1.real.bos1", "p1"), ("p2.real.bos1", "p2"), ("p3.real.bos1", "p3")],
)
@pytest.mark.parametrize("uncut", [0, 1 << 30], ids=["in spans", "as a whole"])
def test_the_real_vocabulary_as_llama_cpp_splits_it(
    golden: dict, llama, key: str, era: str, uncut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_ref.vocabulary.tokenizer.FEW_CHARACTERS", uncut)
    assert len(golden[key]) == 89
    assert wrong(tokenizer_for(*llama, era), golden, key) == []


def test_with_a_space_in_front_it_is_mains_prompt(golden: dict, llama) -> None:
    tokenizer = ScoreTokenizer(*llama)
    ids = [encode_text(tokenizer, bytes.fromhex(text), bos=True) for text in golden["inputs_hex"]]
    assert ids == golden["p2.real.bos1.leading_space"]


def test_sentencepiece_is_the_reference(golden: dict, tokenizers: Path) -> None:
    assert wrong(SentencePieceTokenizer(tokenizers / "llama.model"), golden, "sentencepiece.real") == []


def test_a_tokenizer_model_gives_the_vocabulary_of_the_ggml_file(llama, tokenizers: Path) -> None:
    tokenizer = SentencePieceTokenizer(tokenizers / "llama.model")
    assert (tokenizer.pieces, tokenizer.scores) == llama


@given(any_text)
@pytest.mark.parametrize("tokenizer", [ScoreTokenizer(PIECES, SCORES), GreedyTokenizer(PIECES)])
def test_the_pieces_of_a_text_spell_it(tokenizer, text: str) -> None:
    assert b"".join(map(tokenizer.piece, tokenizer.encode(text))) == text.encode()


@given(wild_text)
@pytest.mark.parametrize("tokenizer", [ScoreTokenizer(PIECES, SCORES), GreedyTokenizer(PIECES)])
def test_so_do_the_pieces_of_bytes_that_are_no_text(tokenizer, data: bytes) -> None:
    assert tokenizer.decode(tokenizer.encode(data)) == data


@given(any_text)
def test_cutting_where_no_piece_can_cross_changes_nothing(text: str) -> None:
    tokenizer = ScoreTokenizer(PIECES, SCORES)
    whole = tokenizer._merge(utf8_characters(text.encode())) if text else []
    assert tokenizer.encode(text) == whole


@given(st.text(st.sampled_from("abc"), max_size=7))
def test_greedy_reaches_the_largest_sum_of_squares(text: str) -> None:
    tokenizer = GreedyTokenizer(PIECES)
    reached = sum(len(tokenizer.piece(token)) ** 2 for token in tokenizer.encode(text))
    cuts = product([False, True], repeat=max(0, len(text) - 1))
    splits = ("".join(c + "|" * cut for c, cut in zip(text, [*cut_after, False])).split("|") for cut_after in cuts)
    allowed = (split for split in splits if all(part.encode() in tokenizer.ids for part in split if part))
    assert reached == max(sum(len(part) ** 2 for part in split) for split in allowed)


def test_an_empty_text_has_no_beginning_except_for_the_greedy_one() -> None:
    assert ScoreTokenizer(PIECES, SCORES).encode("", bos=True) == []
    assert GreedyTokenizer(PIECES).encode("", bos=True) == [1]


def test_text_ends_at_the_first_nul() -> None:
    assert ScoreTokenizer(PIECES, SCORES).encode(b"ab\0c") == ScoreTokenizer(PIECES, SCORES).encode("ab")


def test_the_last_duplicate_of_a_piece_wins() -> None:
    tokenizer = ScoreTokenizer([*PIECES, b"ab"], [*SCORES, 0.0])
    assert tokenizer.encode("ab") == [len(PIECES)]


def test_greedy_says_how_much_it_lost_and_keeps_the_rest() -> None:
    lost: list[int] = []
    tokenizer = GreedyTokenizer([b"?", b"", b"", b"a", b"b"])
    assert tokenizer.encode("xxab", bos=True, on_failure=lost.append) == [1, 3, 4]
    assert lost == [2]


def test_what_no_piece_covers_becomes_bytes_by_number_or_by_lookup() -> None:
    by_number = ScoreTokenizer(PIECES, SCORES)
    by_lookup = ScoreTokenizer([*PIECES, b"\xf0"], [*SCORES, 0.0], bytes_by_lookup=True)
    assert by_number.encode(b"\xf0\x9f") == [0xF0 + 3, 0x9F + 3]
    assert by_lookup.encode(b"\xf0\x9f") == [len(PIECES), 0x9F + 3]


def test_a_vocabulary_without_bytes_is_refused_where_llama_cpp_aborts() -> None:
    tokenizer = ScoreTokenizer([b"?", b"", b"", b"a"], [0.0] * 4, bytes_by_lookup=True)
    with pytest.raises(VocabularyError, match="no token for byte 0x62"):
        tokenizer.encode("ab")


def test_a_token_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(VocabularyError, match=r"expected 0 … 2, found 3"):
        GreedyTokenizer([b"", b"", b""]).piece(3)


@pytest.fixture
def quarrel() -> dict[str, tuple]:
    """Two tokenizers that split "abcd" differently: the score prefers the middle, the squares prefer the halves."""
    pieces, scores = [*BYTES, b"ab", b"bc", b"cd"], [*[0.0] * len(BYTES), -2.0, -1.0, -2.0]
    score, greedy = ScoreTokenizer(pieces, scores), GreedyTokenizer(pieces)
    return {"score": (score, score.encode("x abcd ab")), "greedy": (greedy, greedy.encode("x abcd ab"))}


def test_disagreements_are_the_smallest_ranges(quarrel) -> None:
    found = disagreements(b"x abcd ab", quarrel)
    assert [(each.start, each.stop) for each in found] == [(2, 6)]


def test_comparison_names_what_disagrees(quarrel) -> None:
    lines = list(comparison_lines(b"x abcd ab", quarrel))
    assert lines[:2] == ["score, greedy: 1 disagreements", "bytes 2-6: abcd"]
    assert [line.split() for line in lines[2:]] == [
        ["score", "a", "100", "|", "bc", "260", "|", "d", "103"],
        ["greedy", "ab", "259", "|", "cd", "261"],
    ]


def test_pieces_that_do_not_spell_the_text_are_one_disagreement(quarrel) -> None:
    found = disagreements("▁abcd".encode(), quarrel)
    assert [(each.start, each.stop) for each in found] == [(0, 7)]


def test_records_keep_the_bytes_of_a_split_character(data: Path) -> None:
    name, tokenizers = open_tokenizers(data / "ggml" / "T1_quant_p2" / "T1.q4_0.bin")
    records = token_records(tokenizers[name], encode_text(tokenizers[name], "你".encode()))
    assert name == "score"
    assert "".join(record["bytes"] for record in records) == " 你".encode().hex()


def test_an_unversioned_file_is_split_greedily(data: Path) -> None:
    assert open_tokenizers(data / "ggml" / "T1_quant_p0" / "T1.q4_0.bin")[0] == "greedy"


def test_a_tokenizer_is_read_once(tokenizers):
    path = tokenizers / "llama.model"
    assert looks_of(lambda: SentencePieceTokenizer(path)) == {str(path): 1}
    assert looks_of(lambda: compare_tokenizers([path], "hello")) == {str(path): 1}
