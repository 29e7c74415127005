"""GGML and GGUF files that are damaged, each in one way, and what the readers say of it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ggmlpy.formats.eras import MARCH_19, MARCH_31, TODAY
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.out_tensor import OutTensor

from .checkpoints import write_gguf_adapter_file
from .model_files import write_file, write_parts, write_split, write_vocabulary
from .specimen import IDENTIFY, Change, Specimen, append, changed, cut, put, save

__all__ = ["broken_models"]

GGJT = partial(write_file, era=MARCH_31, name="q4_0")
UNVERSIONED = partial(write_file, era=MARCH_19, name="f16")
F16 = partial(write_file, era=MARCH_31, name="f16")
GGUF = partial(write_file, era=TODAY, name="q4_0")
NORM, OUTPUT, EMBEDDING = "tensor[norm.weight]", "tensor[output.weight]", "tensor[tok_embeddings.weight]"
GATE, ATTENTION = "tensor[layers.0.feed_forward.w1.weight]", "tensor[layers.0.attention.wq.weight]"
GGUF_NORM, GGUF_OUTPUT, GGUF_EMBEDDING = (f"tensor[{name}.weight]" for name in ("output_norm", "output", "token_embd"))
NAN, HUGE = b"\x00\x7e", 2**31 - 1
Writer = Callable[[Path], object]


def broken_models() -> Iterator[Specimen]:
    """All of them; a row of a table each."""
    for kind, suffix, rows in (("ggml", "bin", GGML_ROWS), ("gguf", "gguf", GGUF_ROWS)):
        for name, story, whole, changes, says in rows:
            yield Specimen(f"broken/{kind}/{name}.{suffix}", story, changed(whole, *changes), says, broken=True)
    for name, story, write, says, look in OTHER_ROWS:
        yield Specimen(f"broken/{name}", story, write, says, look, broken=True)


Row = tuple[str, str, Writer, tuple[Change, ...], str]


def _with_key(key: str, value: Value) -> Writer:
    """The GGUF file with one more key, or another value of one."""

    def write(path: Path) -> None:
        whole = path.with_name(f"{path.name}.whole")
        GGUF(whole)
        file = open_gguf(whole)
        tensors = [OutTensor(n, t.type, t.shape, lambda d=t.data: [d]) for n, t in file.tensors.items()]  # type: ignore[misc]
        write_gguf(path, {**file.metadata, key: value}, tensors)
        whole.unlink()

    return write


def _nested(depth: int) -> Value:
    return Value("array", [_nested(depth - 1)], "array") if depth else Value("array", [1], "u32")


def _without(name: str) -> Writer:
    def write(path: Path) -> None:
        write_parts(path)
        (path / name).unlink()

    return write


def _without_split(path: Path) -> None:
    write_split(path)
    (path / "model-00002-of-00002.gguf").unlink()


def _stranger_in_a_part(path: Path) -> None:
    write_parts(path)
    part = path / "model.bin.1"
    save(part, part.read_bytes().replace(b"ffn_norm", b"xyz_norm"))


def _split_twice(path: Path) -> None:
    write_split(path)
    save(path / "model-00002-of-00002.gguf", (path / "model-00001-of-00002.gguf").read_bytes())


def _foreign_part(path: Path) -> None:
    write_parts(path)
    part = path / "model.bin.1"
    save(part, put("header.n_layer", 2)(part.read_bytes(), {"header.n_layer": (24, 4)}))


# fmt: off
GGML_ROWS: tuple[Row, ...] = (
    ("web-page", "a sign-in page that was saved under the name of the model", GGJT,
     (cut(0), append(b"<!DOCTYPE html>\n<html>Sign in</html>\n")), "bad magic"),
    ("pointer", "what a clone without Git LFS leaves in place of the file", GGJT,
     (cut(0), append(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n")), "bad magic"),
    ("magic", "four bytes of nobody in front", GGJT, (put("header.magic", b"\x01\x02\x03\x04"),), "bad magic"),
    ("empty", "a download that never began", GGJT, (cut(0),), "the file is empty"),
    ("version", "ggjt 4 never was", GGJT, (put("header.version", 4),), "unsupported format version 4 of ggjt"),
    ("three-bytes", "not even a magic", GGJT, (cut(3),), "the file ends inside a field"),
    ("header", "cut off within the header", GGJT, (cut("header.n_head"),), "the file ends inside a field"),
    ("n_vocab", "a header that promises two billion pieces", GGJT, (put("header.n_vocab", HUGE),),
     "the file is too short for its vocabulary"),
    ("negative-n_vocab", "vocab_size -1, copied from params.json", GGJT, (put("header.n_vocab", -1),),
     "the file is too short for its vocabulary"),
    ("piece", "the length of a piece reaches beyond the file", GGJT, (put("vocabulary[9].length", HUGE),),
     "the file ends inside the vocabulary"),
    ("scores", "ggml's magic before ggjt's vocabulary: scores are read as lengths", UNVERSIONED,
     (put("vocabulary[0].length", 9),), "the file"),
    ("cut-vocabulary", "cut off within the last piece", GGJT, (cut("vocabulary[267].length", 5),),
     "the file ends inside the vocabulary"),
    ("n_dims", "a tensor of seven dimensions: the reader is lost by then", GGJT, (put(f"{NORM}.n_dims", 7),),
     "no valid tensor header here"),
    ("name_length", "the length of a tensor's name is impossible", GGJT, (put(f"{NORM}.name_length", 5000),),
     "no valid tensor header here"),
    ("name-not-text", "a tensor's name is not UTF-8", GGJT, (put(f"{NORM}.name", b"\xff\xfe"),),
     "a tensor's name is not text"),
    ("type", "a type that no version of ggml had", GGJT, (put(f"{OUTPUT}.type", 77),), "unknown tensor type 77"),
    ("zero-rows", "a matrix without rows", GGJT, (put(f"{OUTPUT}.dims", b"\0\0\0\0", at=4),), "has an empty dimension"),
    ("part-of-a-block", "rows of 33 values cannot be blocks of 32", GGJT,
     (put(f"{OUTPUT}.dims", struct.pack("<i", 33)),), "are not whole blocks of q4_0"),
    ("cut-tensor", "a download that broke off: llama.cpp of 2023 loads it and talks nonsense", GGJT,
     (cut(f"{OUTPUT}.data", 1000),), "the file ends inside tensor 'output.weight'"),
    ("cut-between", "cut off exactly between two tensors", GGJT, (cut(f"{OUTPUT}.n_dims"),),
     "not all tensors are in the model file"),
    ("twice", "a tensor occurs twice", GGJT, (put(f"{ATTENTION}.name", b"layers.0.attention.wk.weight"),),
     "'layers.0.attention.wk.weight' occurs twice"),
    ("trailing", "another file's bytes behind the last tensor", GGJT, (append(b"PK\x03\x04"),),
     "trailing bytes after the last tensor"),
    ("trailing-zeros", "a disk image's zeros behind the last tensor", GGJT, (append(bytes(12)),),
     "trailing bytes after the last tensor (all zero)"),
    ("no-layers", "a header without layers", GGJT, (put("header.n_layer", 0),), "n_layer must be positive"),
    ("fewer-layers", "a header with a layer too many", GGJT, (put("header.n_layer", 2),),
     "not all tensors are in the model file"),
    ("heads", "heads that do not divide the width", GGJT, (put("header.n_head", 3),),
     "width and heads do not fit together"),
    ("ftype", "a file type that nobody gave a name", GGJT, (put("header.ftype", 77),), "bad ftype value 77"),
    ("other-ftype", "the header says q4_1, the matrices are q4_0", GGJT, (put("header.ftype", 3),),
     "matrices are not of the type the header names"),
    ("unknown-tensor", "a tensor of another architecture", GGJT, (put(f"{NORM}.name", b"nope.weight"),),
     "unknown tensor 'nope.weight'"),
    ("fewer-rows", "an output matrix of one row less than the vocabulary", GGJT,
     (put(f"{OUTPUT}.dims", struct.pack("<i", 267), at=4), cut(f"{OUTPUT}.data", 267 * 20)),
     "has 267 rows, but the vocabulary has 268 entries"),
    ("shape", "the gate has another shape than the header implies", GGJT, (put("header.n_mult", 128),),
     "has a wrong shape in the model file"),
    ("not-a-number", "a value of the norm is NaN, as a merge in half precision leaves it", GGJT,
     (put(f"{NORM}.data", b"\0\0\xc0\x7f"),), "NaN"),
    ("infinite", "a weight left the range of f16", F16, (put(f"{OUTPUT}.data", b"\0\x7c"),), "infinite"),
)
GGUF_ROWS: tuple[Row, ...] = (
    ("version", "GGUF 9 is not yet", GGUF, (put("header.version", 9),), "unsupported format version 9 of gguf"),
    ("n_kv", "a count of keys for which the file has no room", GGUF, (put("header.n_kv", 2**60),),
     "a count is larger than the file has room for"),
    ("n_tensors", "a count of tensors for which the file has no room", GGUF, (put("header.n_tensors", 2**60),),
     "a count is larger than the file has room for"),
    ("key_length", "a key that reaches beyond the file", GGUF, (put("metadata[general.name].key_length", 2**40),),
     "the file ends inside a field"),
    ("value-type", "a value of type 13: there are 0 to 12", GGUF, (put("metadata[general.name].type", 13),),
     "unknown metadata value type 13"),
    ("key-twice", "one key, two values", GGUF, (put("metadata[llama.rope.freq_base].key", b"llama.context_length"),),
     "'llama.context_length' occurs twice"),
    ("array", "an array of more items than the file has bytes", GGUF,
     (put("metadata[tokenizer.ggml.scores].value", struct.pack("<Q", 2**50), at=4),),
     "a count is larger than the file has room for"),
    ("alignment", "an alignment of 33 bytes", _with_key("general.alignment", Value("u32", 32)),
     (put("metadata[general.alignment].value", 33),), "the alignment is not a power of two"),
    ("n_dims", "a tensor of nine dimensions: the reader is lost by then", GGUF, (put(f"{GGUF_NORM}.n_dims", 9),),
     "no valid tensor description here"),
    ("type", "q4_2, which was taken out of ggml in May 2023", GGUF, (put(f"{GGUF_OUTPUT}.type", 4),),
     "has type 4 (q4_2), which no GGUF file of today has"),
    ("unknown-type", "a type of the future", GGUF, (put(f"{GGUF_OUTPUT}.type", 999),), "has type 999 (unknown)"),
    ("shape", "a row of 31 values of q4_0", GGUF, (put(f"{GGUF_OUTPUT}.dims", struct.pack("<Q", 31)),),
     "has an impossible shape"),
    ("unaligned", "data that begin at an odd byte", GGUF, (put(f"{GGUF_NORM}.offset", 13),), "is not aligned"),
    ("tensor-twice", "a tensor's name occurs twice", GGUF,
     (put("tensor[blk.0.attn_q.weight].name", b"blk.0.attn_k.weight"),), "a tensor's name occurs twice"),
    ("cut-tensor", "a download that broke off", GGUF, (cut(f"{GGUF_OUTPUT}.data", 100),),
     "the file ends inside tensor 'output.weight'"),
    ("no-block-count", "a key that every reader needs is missing", GGUF,
     (put("metadata[llama.block_count].key", b"llama.block_counT"),), "the metadata has no"),
    ("tokens", "the key of the vocabulary is missing", GGUF,
     (put("metadata[tokenizer.ggml.tokens].key", b"tokenizer.ggml.tokenZ"),), "the metadata has no array"),
    ("tokenizer", "a kind of tokenizer that is not read here", GGUF,
     (put("metadata[tokenizer.ggml.model].value", b"bloom", at=8),), "tokenizer 'bloom' is not supported"),
    ("scores", "fewer scores than pieces", _with_key("tokenizer.ggml.scores", Value("array", [0.0], "f32")), (),
     "does not belong to the vocabulary"),
    ("nested", "arrays in arrays in arrays: five deep", _with_key("nested", _nested(6)), (),
     "arrays are nested too deep"),
)
OTHER_ROWS: tuple[tuple[str, str, Writer, str, str], ...] = (
    ("ggml/second-part-missing", "part two of a model in two files was not downloaded", _without("model.bin.1"),
     "a part of this 2-part model is missing", "identify {}/model.bin"),
    ("ggml/foreign-part", "the second part is another model's", _foreign_part,
     "this part does not belong to model.bin", "identify {}/model.bin"),
    ("gguf/second-split-missing", "the second file of a split model was not downloaded", _without_split,
     "a file of this model split in 2 is missing", "identify {}/model-00001-of-00002.gguf"),
    ("ggml/vocabulary-only.bin", "a vocabulary and no tensor: made with --vocab-only", write_vocabulary,
     "this file holds a vocabulary only", IDENTIFY),
    ("ggml/a-directory.bin", "a directory with the name of a file", lambda path: path.mkdir(),
     "is a directory, not a regular file", "inspect {}"),
    ("ggml/stranger-in-a-part", "the second part has a tensor that the first does not have", _stranger_in_a_part,
     "found layers.0.ffn_norm.weight, layers.0.xyz_norm.weight", "identify {}/model.bin"),
    ("gguf/architecture.gguf", "a model that is no LLaMA: identify tells what it is, nothing here computes it",
     changed(GGUF, put("metadata[general.architecture].value", b"mamba", at=8)),
     "architecture 'mamba' is not supported", "generate -m {} -p x"),
    ("gguf/split-twice", "the first file of a split model under the name of the second, too", _split_twice,
     "lies in an earlier file of this split model, too", "inspect {}/model-00001-of-00002.gguf"),
    ("gguf/adapter-as-model.gguf", "an adapter where a model belongs", write_gguf_adapter_file,
     "a GGUF file that holds no model", "generate -m {} -p x"),
    ("gguf/two-spellings.gguf", "one tensor under Meta's name and under GGUF's",
     changed(GGUF, put("tensor[blk.0.ffn_gate.weight].name", b"tok_embeddings.weight")),
     "one of them is spelt 'tok_embeddings.weight'", IDENTIFY),
    ("gguf/no-importance.gguf", "a model where an importance matrix belongs", GGUF, "not an importance matrix",
     "quantize {} {}.out q2_K --imatrix {}"),
)
# fmt: on
