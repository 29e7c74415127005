"""Vocabulary growth: the published tokenizers to the byte, then what may go wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cli
from ggmlpy.files.errors import FormatError, MissingFileError, TruncatedError, UsageError, VocabularyError
from llama_ref.vocabulary.sentencepiece_model import (
    BYTE,
    parse_sentencepiece,
    read_sentencepiece,
    tokenizer_side_files,
    write_sentencepiece,
)
from lora.vocabulary import merge_vocabularies, train_vocabulary
from toolchain.look.tokens import compare_tokenizers, side_by_side

CHINESE_LLAMA = "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0"
CHINESE_ALPACA = "2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8"


@pytest.mark.parametrize(("pad", "total", "sha256"), [(None, 49953, CHINESE_LLAMA), ("[PAD]", 49954, CHINESE_ALPACA)])
def test_the_published_tokenizers(tokenizers: Path, tmp_path: Path, pad: str | None, total: int, sha256: str) -> None:
    base, extra = (read_sentencepiece(tokenizers / name) for name in ("llama.model", "chinese_sp.model"))
    merged, growth = merge_vocabularies(base, extra, pad)
    write_sentencepiece(tmp_path / "tokenizer.model", merged)
    assert hashlib.sha256((tmp_path / "tokenizer.model").read_bytes()).hexdigest() == sha256
    assert (growth.base, growth.added, growth.skipped, growth.total) == (32000, 17953, 2047, total)


def test_the_tiny_tokenizer_and_its_side_files(data: Path, tmp_path: Path) -> None:
    golden = data / "merge" / "tokenizer-tiny"
    merged, _ = merge_vocabularies(
        read_sentencepiece(golden / "llama.model"), read_sentencepiece(golden / "chinese_sp.model")
    )
    assert merged.to_bytes() == (golden / "merged.model").read_bytes()
    written = write_sentencepiece(tmp_path / "hf", merged)
    assert sorted(path.name for path in written) == sorted(
        path.name for path in (golden / "merged_tokenizer_hf").iterdir()
    )
    for path in written:
        assert path.read_bytes() == (golden / "merged_tokenizer_hf" / path.name).read_bytes(), path.name


def test_the_pad_token(data: Path) -> None:
    golden = data / "merge" / "v11-alpaca-pad" / "out"
    for name, content in tokenizer_side_files("[PAD]").items():
        assert content == (golden / name).read_bytes(), name
    padded = read_sentencepiece(golden / "tokenizer.model")
    assert padded.pieces[-1].text == b"[PAD]"
    unpadded = parse_sentencepiece(b"".join(piece.encoded for piece in padded.pieces[:-1]) + padded.rest)
    nothing_new = parse_sentencepiece(unpadded.to_bytes())
    assert merge_vocabularies(unpadded, nothing_new, "[PAD]")[0].to_bytes() == padded.to_bytes()
    with pytest.raises(UsageError, match=r"'\[PAD\]' is piece 500 already"):
        merge_vocabularies(padded, nothing_new, "[PAD]")


def test_transformers_would_read_the_side_files() -> None:
    config = json.loads(tokenizer_side_files()["tokenizer_config.json"])
    assert config["tokenizer_class"] == "LlamaTokenizer"


texts = st.lists(st.text(min_size=1, max_size=200).map(lambda s: s.encode("utf-8", "replace")), min_size=1, max_size=8)


def model_of(pieces: list[bytes], rest: bytes = b"\x12\x00") -> bytes:
    """The same bytes that google.protobuf would write, put together independently of lora.vocabulary."""

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    bodies = [b"\x0a" + varint(len(text)) + text + b"\x15\x00\x00\x00\x00" for text in pieces]
    return b"".join(b"\x0a" + varint(len(body)) + body for body in bodies) + rest


@given(base=texts, extra=texts.map(lambda some: list(dict.fromkeys(some))))
def test_merging_keeps_the_base_and_appends_what_it_lacks(base: list[bytes], extra: list[bytes]) -> None:
    left, right = parse_sentencepiece(model_of(base)), parse_sentencepiece(model_of(extra))
    merged, growth = merge_vocabularies(left, right)
    assert merged.to_bytes() == model_of(base + [text for text in extra if text not in base])
    assert growth.added + growth.skipped == len(extra)


@given(pieces=texts)
def test_reading_and_writing_is_the_identity(pieces: list[bytes]) -> None:
    assert parse_sentencepiece(model_of(pieces)).to_bytes() == model_of(pieces)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_model_or_a_format_error(content: bytes) -> None:
    try:
        model = parse_sentencepiece(content)
    except FormatError:
        return
    assert len(model) > 0


@given(pieces=texts, cut=st.integers(min_value=1))
def test_a_cut_model_never_yields_other_pieces(pieces: list[bytes], cut: int) -> None:
    whole = model_of(pieces, rest=b"")
    try:
        short = parse_sentencepiece(whole[: cut % len(whole)])
    except FormatError:
        return
    assert [piece.text for piece in short.pieces] == pieces[: len(short)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'{"version": "1.0"}', "this is a tokenizer.json"),
        (b"", "0 pieces"),
        (b"\x0a\x00", "a piece without text"),
        (b"\x0b\x00", "wire type 3"),
    ],
)
def test_what_lies_under_the_name_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(VocabularyError, match=words) as caught:
        read_sentencepiece(path)
    assert str(path) in str(caught.value)
    assert "Next:" in str(caught.value)


def test_a_first_piece_whose_length_is_a_brace_is_not_json() -> None:
    content = model_of([b"x" * (ord("{") - 2 - 5)])
    assert content.lstrip().startswith(b"{")
    assert len(parse_sentencepiece(content)) == 1


def test_a_missing_and_a_short_tokenizer(tmp_path: Path, data: Path) -> None:
    with pytest.raises(MissingFileError, match="cannot read the tokenizer"):
        read_sentencepiece(tmp_path / "nowhere.model")
    whole = (data / "merge" / "tokenizer-tiny" / "llama.model").read_bytes()
    (tmp_path / "short.model").write_bytes(whole[:1000])
    with pytest.raises(TruncatedError, match="ends inside a field"):
        read_sentencepiece(tmp_path / "short.model")


CORPUS = ["你好世界，今天天气很好。", "我们去公园玩，天气真好。", "人工智能是计算机科学。"] * 20


def test_training_gives_the_same_model_each_time(tmp_path: Path) -> None:
    (tmp_path / "zh.txt").write_text("\n".join(CORPUS), encoding="utf-8")
    model = train_vocabulary([tmp_path / "zh.txt"])
    assert model.to_bytes() == train_vocabulary([tmp_path / "zh.txt"]).to_bytes()
    assert sum(piece.type == BYTE for piece in model.pieces) == 256
    assert "天气".encode() in model.ids


def test_a_trained_model_merges_without_its_byte_pieces(data: Path) -> None:
    base = read_sentencepiece(data / "merge" / "tokenizer-tiny" / "llama.model")
    trained = train_vocabulary(iter(CORPUS))
    merged, growth = merge_vocabularies(base, trained)
    assert growth.skipped >= 256 + 3
    assert merged.to_bytes().endswith(base.rest)


def test_too_few_pieces_or_no_text_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="smaller than required_chars"):
        train_vocabulary(iter(CORPUS), vocab_size=10)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(MissingFileError, match="no text to train on"):
        train_vocabulary([tmp_path / "empty.txt"])


def test_the_grown_vocabulary_needs_fewer_tokens(tokenizers: Path) -> None:
    text = "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。"
    before, after = compare_tokenizers([tokenizers / "llama.model", tokenizers / "chinese_sp.model"], text)
    assert (before.n_tokens, after.n_tokens) == (35, 16)
    assert before.n_byte_tokens == 9
    assert before.n_characters == after.n_characters == 28
    assert before.n_chinese == 25
    assert side_by_side([after], color=False).splitlines()[1].startswith("|▁|人工智能|是|计算机|科学|、|")
    assert side_by_side([after]).endswith("\x1b[0m")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["<unk>", "", "a"], r"piece 1 of the added vocabulary is empty"),
        (["<unk>", "a", "b", "a"], r"piece 3 of the added vocabulary is piece 1 again .*found 'a'"),
    ],
)
def test_pieces_that_sentencepiece_refuses_are_refused_by_name(texts: list[str], words: str) -> None:
    base = parse_sentencepiece(model_of([b"<unk>", b"z"]))
    extra = parse_sentencepiece(model_of([text.encode() for text in texts]))
    with pytest.raises(VocabularyError, match=words):
        merge_vocabularies(base, extra)
    with pytest.raises(UsageError, match="the pad token is empty"):
        merge_vocabularies(base, base, "")


def test_a_merge_that_sentencepiece_refuses_is_not_written(tmp_path: Path) -> None:
    """The base has no piece for what is unknown."""
    (tmp_path / "base.model").write_bytes(model_of([b"a"]))
    (tmp_path / "extra.model").write_bytes(model_of([b"b"]))
    argv = ["tokenizer", "merge", *(str(tmp_path / f"{name}.model") for name in ("base", "extra", "out"))]
    assert cli.main(argv) == 3
    assert not (tmp_path / "out.model").exists()
