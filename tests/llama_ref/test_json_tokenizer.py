"""tokenizer.json: the ids of Hugging Face's tokenizers, and of llama.cpp where both agree."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import FormatError, UnsupportedError, VocabularyError
from ggmlpy.formats.byte_alphabet import ALPHABET, from_alphabet, in_alphabet
from llama_ref.vocabulary.expressions import LLAMA_CPP, ONIGURUMA, expression
from llama_ref.vocabulary.json_tokenizer import JsonTokenizer

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
FRAME = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "</s>"}}],
    "special_tokens": {"<s>": {"ids": [300]}, "</s>": {"ids": [301]}},
}


def token(number: int, content: str, **flags: bool) -> dict[str, object]:
    return {"id": number, "content": content, "special": False, "normalized": False} | flags


def record(**changes: object) -> dict[str, object]:
    """A small tokenizer.json: the bytes, and a dozen merges of English."""
    merges = ["t h", "th e", "Ġ the", "h e", "l l", "he ll", "hell o", "1 2", "Ġ w", "e r", "Ċ Ċ"]
    vocab = {letter: i for i, letter in enumerate(ALPHABET)}
    vocab |= {each.replace(" ", ""): 256 + i for i, each in enumerate(merges)}
    split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    return {
        "added_tokens": [token(300, "<s>", special=True), token(301, "</s>", special=True)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, BYTE_LEVEL]},
        "post_processor": FRAME,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": False},
    } | changes


@pytest.fixture
def made(tmp_path: Path):
    """A tokenizer from a changed record."""

    def make(**changes: object) -> JsonTokenizer:
        (tmp_path / "tokenizer.json").write_text(json.dumps(record(**changes)), encoding="utf-8")
        return JsonTokenizer(tmp_path)

    return make


def words(tokenizer: JsonTokenizer, text: str) -> list[str]:
    return [tokenizer.piece(each).decode("utf-8", "replace") for each in tokenizer.encode(text)]


@pytest.mark.parametrize("name", ["llama3-bpe", "qwen2"])
def test_every_golden_string_has_the_ids_of_llama_cpp(golden, name: str) -> None:
    tokenizer = JsonTokenizer(golden(f"today-models/hf/{name}"))
    stored = {"llama3-bpe": "tiny-llama3", "qwen2": "tiny-qwen2"}[name]
    folder = golden("today-models/tok")
    lines = json.loads(gzip.decompress((folder / f"{stored}.json.gz").read_bytes()))
    texts = [
        bytes.fromhex(each) for each in gzip.decompress((folder / "strings.hex.gz").read_bytes()).decode().split("\n")
    ]
    checked = 0
    for i, (data, ids) in enumerate(zip(texts, lines["ids"])):
        expected = lines["ids_special"].get(str(i), ids)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        if name == "qwen2" and not text.isascii():
            continue  # its tokenizer.json composes characters first (NFC), which llama.cpp does not
        assert tokenizer.encode(text, bos=True) == list(map(int, expected.split())), text
        checked += 1
    assert checked > 200


def test_words_bytes_and_frame(made) -> None:
    tokenizer = made()
    assert words(tokenizer, "hello the 12345") == ["hello", " the", " ", "12", "3", "4", "5"]
    assert tokenizer.encode("the", bos=True) == [300, 257, 301]
    assert tokenizer.encode_first("") == [300, 301]
    assert tokenizer.decode(tokenizer.encode("你好, the\n\n")) == "你好, the\n\n".encode()


def test_special_tokens_are_found_in_a_text_unless_they_are_not_wanted(made) -> None:
    tokenizer = made()
    assert tokenizer.encode("the</s>the") == [257, 301, 257]
    assert 301 not in tokenizer.encode("the</s>the", special=False)


def test_added_tokens_know_their_surroundings(made) -> None:
    added = [token(300, "the", single_word=True), token(301, "wor", rstrip=True), token(302, "lo", lstrip=True),
             token(303, "HE", normalized=True), token(304, "hello")]  # fmt: skip
    tokenizer = made(added_tokens=added, normalizer={"type": "Lowercase"}, post_processor=None)
    assert tokenizer.encode("the") == [300]
    assert 300 not in tokenizer.encode("thex")
    assert tokenizer.encode("wor  the") == [301, 300]
    assert tokenizer.encode("the  lo") == [300, 302]
    assert tokenizer.encode("hello") == [304]  # the longest, not the first
    assert tokenizer.encode("He") == [303]  # found after normalizing


@pytest.mark.parametrize(
    ("behavior", "invert", "expected"),
    [
        ("Isolated", False, ["he", " ", "", "the", ",", "he"]),
        ("Removed", False, ["he", "the", "he"]),
        ("MergedWithPrevious", False, ["he ", "the,", "he"]),
        ("MergedWithNext", False, ["he", " the", ",he"]),
        ("Removed", True, [" ", ","]),
    ],
)
def test_behaviors_of_split(made, behavior: str, invert: bool, expected: list[str]) -> None:
    split = {"type": "Split", "pattern": {"Regex": "[ ,]"}, "behavior": behavior, "invert": invert}
    tokenizer = made(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, BYTE_LEVEL]}, post_processor=None)
    cut = tokenizer._cut(["he the,he"], True)
    assert [from_alphabet(each).decode() for each in cut] == [each for each in expected if each]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, UnsupportedError),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, VocabularyError),
        ({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}, VocabularyError),
        ({"model": {"type": "BPE", "vocab": {"a": 1 << 60}, "merges": []}}, VocabularyError),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}}, VocabularyError),
        ({"model": []}, VocabularyError),
        ({"pre_tokenizer": {"type": "BertPreTokenizer"}}, UnsupportedError),
        ({"normalizer": {"type": "Precompiled"}}, UnsupportedError),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"}}, FormatError),
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"(a)\1"}, "behavior": "Isolated"}},
            UnsupportedError,
        ),
        ({"post_processor": {"type": "TemplateProcessing", "single": []}}, UnsupportedError),
    ],
)
def test_what_cannot_be_read_is_named(made, change: dict[str, object], error: type[FormatError]) -> None:
    with pytest.raises(error, match=r"tokenizer\.json"):
        made(**change)


def test_a_long_word_takes_no_quadratic_time(made) -> None:
    tokenizer = made()
    began = time.process_time()
    for size in (20_000, 200_000):
        assert tokenizer.decode(tokenizer.encode("the" * size)) == b"the" * size
    assert time.process_time() - began < 20


@given(st.binary(max_size=40))
def test_the_alphabet_of_bytes_loses_nothing(data: bytes) -> None:
    assert from_alphabet(in_alphabet(data)) == data
    assert not any(letter.isspace() for letter in in_alphabet(data))


@given(st.text(max_size=60))
def test_pieces_of_an_expression_join_to_the_text(text: str) -> None:
    for dialect in (LLAMA_CPP, ONIGURUMA):
        assert "".join(expression(WORDS, dialect).cut(text)) == text


def test_dialects_differ_where_their_programs_do() -> None:
    new_letter = "\U00010d50"  # Garay came with Unicode 16
    assert expression(r"\p{L}+", ONIGURUMA).cut(f"a{new_letter}") == [f"a{new_letter}"]
    assert expression(r"\p{L}+", LLAMA_CPP).cut(f"a{new_letter}") == ["a", new_letter]
    assert expression(r"[\u3000-\u3002]", LLAMA_CPP).cut("\u3000\u3001a") == ["\u3000", "\u3001", "a"]
    assert list(expression(r"[\u3000-\u3002]", LLAMA_CPP).spans("\u3000\u3001")) == [(1, 2)]
    assert list(expression(r"\p{S}", LLAMA_CPP).spans("~+")) == [(1, 2)]
    assert list(expression(r"\d", LLAMA_CPP).spans("٣3")) == [(1, 2)]
    assert list(expression(r"\d", ONIGURUMA).spans("٣3")) == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        (r"^.|.$", "ab\ncd", ["a", "b", "\n", "c", "d"]),
        (r"(?i)THE|[a-c]+", "the ABCd", ["the", " ", "ABC", "d"]),
        (r"[\p{L}&&[^\p{Han}]]+", "ab你好cd", ["ab", "你好", "cd"]),
        (r"\p{N}{1,3}+", "12345", ["12345"]),  # Oniguruma: the repetition, repeated
        (r"\p{L}++\b", "ab cd", ["ab", " ", "cd"]),
        (r"[[:punct:]]+", "a,+b", ["a", ",+", "b"]),
        (r"(?<!a)b", "abb", ["ab", "b"]),
        (r"[]a]+", "]a[", ["]a", "["]),
        (r"\x{4F60}\u597D", "你好你", ["你好", "你"]),
    ],
)
def test_the_syntax_of_oniguruma(source: str, text: str, expected: list[str]) -> None:
    assert expression(source, ONIGURUMA).cut(text) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": 1}},
        {"normalizer": {"type": "Prepend", "prepend": ["a"]}},
        {"added_tokens": [token(300, True), token(301, "</s>")]},
        {"post_processor": FRAME | {"special_tokens": {"<s>": {"ids": [{}]}, "</s>": {"ids": [301]}}}},
        {"post_processor": FRAME | {"special_tokens": {"<s>": {"ids": [999]}, "</s>": {"ids": [301]}}}},
        {"post_processor": FRAME | {"special_tokens": {"<s>": {"ids": [300.0]}, "</s>": {"ids": [301]}}}},
    ],
)
def test_what_is_no_text_or_no_token_is_refused_when_it_is_read(made, change: dict[str, object]) -> None:
    """And not when a text is encoded with it."""
    with pytest.raises(VocabularyError, match=r"tokenizer\.json"):
        made(**change)
