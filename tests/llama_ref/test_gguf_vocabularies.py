"""Every vocabulary of GGUF gives llama.cpp's own ids and texts: byte pairs and SentencePiece, specials and all."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ggmlpy
from ggmlpy.files.errors import FormatError, UnsupportedError, VocabularyError
from ggmlpy.formats.byte_alphabet import ALPHABET
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from llama_ref.vocabulary.gguf_tokenizer import GgufTokenizer, _cleaned, gguf_tokenizer
from llama_ref.vocabulary.opening import open_tokenizer
from llama_ref.vocabulary.pre_tokenizers import _data, pre_tokenizer

OWN = {  # vocabularies that llama.cpp tests itself with, by the name of their golden strings
    name: f"ggml-vocab/ggml-vocab-{name}.gguf" for name in ("llama-spm", "llama-bpe", "qwen2", "deepseek-llm", "gpt-2")
}
FILES = OWN | {
    "gpt-2-default": OWN["gpt-2"],
    "chinese-alpaca": "vocab/chinese-alpaca-7b.gguf",
    "grown-55296": "vocab/grown-55296.gguf",
    "added-decoder": "gguf/added-decoder.f16.gguf",
    "spm-json-only": "gguf/spm-json-only.f16.gguf",
    "llama2-gqa": "gguf/llama2-gqa.f16.gguf",
    "tiny-qwen2": "gguf/qwen2.f16.gguf",
    "tiny-llama3": "gguf/llama3-bpe.f16.gguf",
}
EVERY = 5  # string, of the 1,500


@pytest.fixture(scope="module")
def opened(golden, tmp_path_factory):
    """A tokenizer by the name of its golden strings; the files are stored gzipped, or without their tensors."""

    def find(name: str) -> GgufTokenizer:
        path = golden(f"today-models/{FILES[name]}")
        stored = next(
            path.with_name(path.name + end) for end in (".gz", ".head") if path.with_name(path.name + end).exists()
        )
        data = stored.read_bytes()
        unpacked = tmp_path_factory.mktemp("vocabulary") / path.name
        unpacked.write_bytes(gzip.decompress(data) if stored.suffix == ".gz" else data + bytes(1 << 19))
        metadata = dict(open_gguf(unpacked).metadata)
        if name.endswith("-default"):
            metadata["tokenizer.ggml.pre"] = Value("string", b"default")
        return gguf_tokenizer(metadata)

    return find


@pytest.mark.parametrize("name", FILES)
def test_golden_strings_have_their_ids_and_texts(golden, opened, name: str) -> None:
    folder = golden("today-models/tok")
    texts = [
        bytes.fromhex(line) for line in gzip.decompress((folder / "strings.hex.gz").read_bytes()).decode().split("\n")
    ]
    lines = json.loads(gzip.decompress((folder / f"{name}.json.gz").read_bytes()))
    tokenizer = opened(name)
    for i in range(0, len(lines["ids"]), EVERY):
        with_special = lines["ids_special"].get(str(i), lines["ids"][i])
        assert _ids(tokenizer.encode_first(texts[i])) == lines["ids"][i]
        assert _ids(tokenizer.encode_first(texts[i], special=True)) == with_special
        ids, detok = list(map(int, with_special.split())), lines["detok"][i]
        assert tokenizer.text_of(ids, special=True).hex() == detok
        assert tokenizer.text_of(ids).hex() == lines["detok_skip"].get(str(i), detok)
        assert tokenizer.text_of(ids, special=True, strip=True).hex() == lines["detok_remove"].get(str(i), detok)


def _ids(tokens: list[int]) -> str:
    return " ".join(map(str, tokens))


@pytest.mark.parametrize("name", OWN)
def test_the_tests_of_llama_cpp_itself(golden, opened, name: str) -> None:
    path = golden(f"today-models/{OWN[name]}")
    texts = path.with_name(path.name + ".inp").read_bytes().split(b"\n__ggml_vocab_test__\n")
    wanted = path.with_name(path.name + ".out").read_text().split("\n")
    tokenizer = opened(name)
    assert [tokenizer.spaced(text) for text in texts] == [list(map(int, line.split())) for line in wanted]


# ── a small one ──────────────────────────────────────────────────────────────────────────────────────────────────────

MERGES = ["t h", "th e", "h e", "l l", "he ll", "hell o", "Ġ w"]
WORDS = [*ALPHABET, *(merge.replace(" ", "") for merge in MERGES), "<|begin_of_text|>", "<|eot_id|>", "[tool]", "whole"]
KINDS = [1] * (len(WORDS) - 4) + [3, 1, 4, 1]


def metadata(**changes: Value) -> dict[str, Value]:
    """The keys of a byte-pair vocabulary; a name in ``changes`` stands without ``tokenizer.ggml.``."""
    keys = {
        "model": Value("string", b"gpt2"),
        "pre": Value("string", b"llama-bpe"),
        "tokens": Value("array", [word.encode() for word in WORDS], "string"),
        "token_type": Value("array", np.array(KINDS, np.int32), "i32"),
        "merges": Value("array", [merge.encode() for merge in MERGES], "string"),
        "bos_token_id": Value("u32", WORDS.index("<|begin_of_text|>")),
    } | changes
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def pieces(tokenizer: GgufTokenizer, text: str, **options: bool) -> list[str]:
    return [WORDS[token] for token in tokenizer.encode(text, **options)]


def test_merges_specials_and_bos() -> None:
    tokenizer = gguf_tokenizer(metadata())
    assert pieces(tokenizer, "hello the") == ["hello", "Ġ", "the"]
    assert pieces(tokenizer, "whole") == ["whole"]  # llama-bpe takes a word that is a token as it is
    assert [WORDS[token] for token in tokenizer.encode_first("he")] == ["<|begin_of_text|>", "he"]
    assert pieces(tokenizer, "a[tool]b") == ["a", "[tool]", "b"]
    assert "<|eot_id|>" not in pieces(tokenizer, "a<|eot_id|>")
    assert pieces(tokenizer, "a<|eot_id|>", special=True) == ["a", "<|eot_id|>"]
    assert WORDS.index("<|eot_id|>") in tokenizer.ends  # by its text, whatever its type
    assert tokenizer.decode(tokenizer.encode("a<|eot_id|>", special=True)) == b"a"


def test_settings_of_the_file_win_over_those_of_the_name() -> None:
    assert gguf_tokenizer(metadata(add_bos_token=Value("bool", False))).encode_first("he") == [WORDS.index("he")]
    other = gguf_tokenizer(metadata(pre=Value("string", b"gpt-2"), add_eos_token=Value("bool", True)))
    assert [WORDS[token] for token in other.encode_first("he")] == ["he", WORDS[11]]
    assert pieces(other, "whole") == ["w", "h", "o", "l", "e"]


def test_a_merge_that_is_listed_twice_keeps_its_first_rank() -> None:
    twice = [b"l l", b"h e", b"e l", b"he l", b"l l"]
    tokens = [*(letter.encode() for letter in ALPHABET), b"he", b"el", b"ll", b"hel"]
    changes = {"merges": Value("array", twice, "string"), "tokens": Value("array", tokens, "string")}
    keys = metadata(**changes, token_type=Value("array", np.ones(len(tokens), np.int32), "i32"))
    assert [tokens[token] for token in gguf_tokenizer(keys).encode("hell")] == [b"he", b"ll"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"pre": Value("string", b"of-tomorrow")}, UnsupportedError, "pre-tokenizer 'of-tomorrow' is not supported"),
        ({"model": Value("string", b"rwkv")}, UnsupportedError, "tokenizer 'rwkv' is not supported"),
        ({"merges": Value("u32", 1)}, VocabularyError, "without merges"),
        ({"token_type": Value("array", np.ones(3, np.int32), "i32")}, VocabularyError, "does not belong"),
        ({"tokens": Value("string", b"a")}, VocabularyError, "no array"),
    ],
)
def test_what_cannot_be_read_is_named(changes, error: type[FormatError], words: str) -> None:
    with pytest.raises(error, match=words):
        gguf_tokenizer(metadata(**changes))


def test_a_file_of_any_architecture_has_its_tokenizer(tmp_path: Path) -> None:
    keys = {"general.architecture": Value("string", b"falcon"), **metadata()}
    write_gguf(tmp_path / "vocabulary.gguf", keys, [])
    assert open_tokenizer(tmp_path / "vocabulary.gguf").encode("hello") == [WORDS.index("hello")]
    with pytest.raises(FormatError):
        ggmlpy.open_model(tmp_path / "vocabulary.gguf")


@pytest.mark.parametrize("name", sorted(_data()["names"]))
def test_every_pre_tokenizer_cuts_without_loss(name: str) -> None:
    text = (
        "Hello, WORLD's 12345 tests…  \n\n \t你好，世界！ ñandú ٣٤٥ <sentinel:7> don't/won't 100,000.50 カナ 한국어\r\n"
    )
    chosen = pre_tokenizer(name)
    wanted = text.replace(" ", "▁") if chosen.escape_whitespaces else text
    assert "".join(chosen.words(text)) == wanted


@given(st.text(max_size=40))
def test_texts_come_back(text: str) -> None:
    assert _SMALL.text_of(_SMALL.encode(text), special=True) in (text.encode(), _cleaned(text.encode()))


@given(st.binary(max_size=40))
def test_any_bytes_are_tokens_or_are_refused_by_name(data: bytes) -> None:
    with contextlib.suppress(VocabularyError):  # numbers above U+10FFFF
        assert _SMALL.decode(_SMALL.encode(data, special=True)) is not None


_SMALL = gguf_tokenizer(metadata())


@pytest.mark.parametrize("text", ["hello" * 100_000, " " * 500_000, "a" * 500_000, "1" * 300_000, "的" * 100_000])
def test_long_words_take_no_quadratic_time(text: str) -> None:
    began = time.process_time()
    assert _SMALL.decode(_SMALL.encode(text)) == text.encode()
    assert time.process_time() - began < 15
