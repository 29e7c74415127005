"""The tokenizer of GGUF files against llama.cpp's own answers, and against SentencePiece."""

from __future__ import annotations

import gzip
import json

import pytest

import cli
from ggmlpy import ModelParams, OutTensor, open_model, out_tensor, write_model
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from llama_ref.text.conversation import Conversation
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions
from llama_ref.vocabulary.gguf_tokenizer import file_tokenizer
from llama_ref.vocabulary.tokenizer_file import load_processor
from tests.ggmlpy.models import write_tiny


def strings(folder):
    lines = gzip.decompress((folder / "strings.hex.gz").read_bytes()).decode().removesuffix("\n").split("\n")
    return list(map(bytes.fromhex, lines))


def whole(folder, name, target):
    """A vocabulary-only file in full, or from a header whose tensors are empty."""
    packed = folder / "vocab" / f"{name}.gguf.gz"
    if packed.exists():
        target.write_bytes(gzip.decompress(packed.read_bytes()))
    elif (folder / "ggml-vocab" / f"{name}.gguf.gz").exists():
        target.write_bytes(gzip.decompress((folder / "ggml-vocab" / f"{name}.gguf.gz").read_bytes()))
    else:
        head = (folder / "gguf" / f"{name}.f16.gguf.head").read_bytes()
        size = json.loads((folder / "gguf" / "manifest.json").read_text())["files"][f"{name}.f16.gguf"]["size"]
        target.write_bytes(head + bytes(size - len(head)))
    return target


@pytest.mark.parametrize(
    ("answers", "source"),
    [
        ("llama-spm", "ggml-vocab-llama-spm"),
        ("chinese-alpaca", "chinese-alpaca-7b"),
        ("grown-55296", "grown-55296"),
        ("added-decoder", "added-decoder"),
        ("spm-json-only", "spm-json-only"),
        ("llama2-gqa", "llama2-gqa"),
    ],
)
def test_ids_and_text_are_llama_cpps(answers, source, vectors, tmp_path):
    folder = vectors / "today-models"
    record = json.loads(gzip.decompress((folder / "tok" / f"{answers}.json.gz").read_bytes()))
    with open_model(whole(folder, source, tmp_path / "v.gguf")) as file:
        tokenizer = file_tokenizer(file)
    wrong = []
    for text, ids in zip(strings(folder / "tok"), record["ids"], strict=True):
        wanted = list(map(int, ids.split()))
        if tokenizer.encode_first(text) != wanted or tokenizer.spaced(text) != wanted[1:]:
            wrong.append((text, tokenizer.encode_first(text), wanted))
    assert not wrong, f"{len(wrong)} differ, the first is {wrong[0]}"


@pytest.fixture
def gguf(tmp_path):
    """A tiny model with byte pieces and a few words."""
    words = [b" a", b"ab", b" ab", b"[X]"]
    vocab = [(b" \xe2\x81\x87 ", 0.0), (b"", 0.0), (b"", 0.0)]
    vocab += [(bytes([i]), 0.0) for i in range(256)] + [(word, -float(i)) for i, word in enumerate(words)]
    hparams = ModelParams.from_header(len(vocab), 128, 32, 4, 2, 32, 1)
    source = write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16", hparams=hparams)
    with open_model(source) as model:
        tensors = [out_tensor(tensor) for tensor in model.tensors.values()]
        write_model(tmp_path / "a.gguf", "gguf", 3, hparams, vocab, tensors)
    return tmp_path / "a.gguf"


def with_keys(source, target, **keys):
    file = open_gguf(source)
    metadata = {**file.metadata, **{f"tokenizer.ggml.{key}": value for key, value in keys.items()}}
    write_gguf(target, metadata, [_as_it_is(name, tensor) for name, tensor in file.tensors.items()])
    return target


def _as_it_is(name, tensor):
    return OutTensor(name, tensor.type, tensor.shape, lambda: [tensor.data])


def ids_of(path, text):
    with open_model(path) as file:
        return file_tokenizer(file).encode_first(text)


def test_keys_decide_what_stands_in_front(gguf, tmp_path):
    space, a = 3 + 0x20, 3 + 0x61
    assert ids_of(gguf, "a") == [1, 259]
    assert ids_of(gguf, "") == [1]
    assert ids_of(gguf, "a\0a") == [1, 259, 3, a]
    assert ids_of(with_keys(gguf, tmp_path / "s.gguf", add_space_prefix=Value("bool", False)), "a") == [1, a]
    assert ids_of(with_keys(gguf, tmp_path / "b.gguf", add_bos_token=Value("bool", False)), "a") == [259]
    assert ids_of(with_keys(gguf, tmp_path / "c.gguf", bos_token_id=Value("u32", 7)), "a") == [7, 259]
    assert ids_of(with_keys(gguf, tmp_path / "d.gguf", bos_token_id=Value("u32", 70000)), "a") == [1, 259]
    assert ids_of(gguf, "\u2581a") == ids_of(gguf, " a") != [1, space, a]


def test_user_defined_tokens_are_cut_out_first(gguf, tmp_path):
    kinds = open_gguf(gguf).metadata["tokenizer.ggml.token_type"].value.copy()
    kinds[262] = 4
    path = with_keys(gguf, tmp_path / "u.gguf", token_type=Value("array", kinds, "i32"))
    assert ids_of(path, "a[X]a") == [1, 259, 262, 259]


@pytest.mark.parametrize("key", ["eos_token_id", "eot_token_id", "eom_token_id"])
@pytest.mark.parametrize("numerics", ["reference", "fast"])
def test_what_is_generated_ends_at_the_files_own_end(key, numerics, gguf, tmp_path):
    def tokens(path):
        with Model.from_file(path, numerics=numerics, n_ctx=32) as model:
            return [token.id for token in Conversation(model, SamplingOptions(temp=0.0)).say("ab", max_tokens=8)]

    free = tokens(gguf)
    end = free[3]
    assert tokens(with_keys(gguf, tmp_path / "e.gguf", **{key: Value("u32", end)})) == free[: free.index(end)]


def test_the_command_reads_gguf(gguf, capsys):
    assert cli.main(["tokenize", "-m", str(gguf), "--json", "ab"]) == 0
    assert [each["id"] for each in json.loads(capsys.readouterr().out)["gguf"]] == [261]


def test_sentencepiece_cuts_all_strings_alike(vectors, tokenizers, tmp_path):
    """Those that are text: Google's library takes bytes that are no UTF-8 for U+FFFD."""
    folder = vectors / "today-models"
    theirs = load_processor((tokenizers / "llama.model").read_bytes(), tokenizers / "llama.model")
    with open_model(whole(folder, "ggml-vocab-llama-spm", tmp_path / "v.gguf")) as file:
        tokenizer = file_tokenizer(file)
    compared = 0
    for text in strings(folder / "tok"):
        if text.decode("utf-8", "replace").encode() != text:
            continue
        assert tokenizer.spaced(text) == theirs.encode(text), text
        compared += 1
    assert compared > 1000
