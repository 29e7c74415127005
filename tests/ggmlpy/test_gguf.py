"""GGUF: round trips, other versions and byte orders, the PyPI package ``gguf`` on our files, hostile files."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggmlpy import FormatError, ModelParams, OutTensor, open_model, types_of
from ggmlpy.files.errors import MissingFileError, TruncatedError, UnsupportedError, UsageError
from ggmlpy.formats.bfloat16 import cut_to_bfloat16, rounded_to_bfloat16
from ggmlpy.formats.codes import unpack_codes
from ggmlpy.formats.dequantize import dequantize
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.gguf_model import from_gguf_token, to_gguf_token
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.out_tensor import out_tensor
from ggmlpy.formats.tensor_names import gguf_name
from ggmlpy.look.check import problems_of
from ggmlpy.quantizers.migration import migrate
from ggmlpy.quantizers.whole_file import quantize_file
from ggmlpy.verify.compare import compare
from ggmlpy.verify.quantization import verify_files
from llama_ref.vocabulary.opening import open_tokenizer
from tests.ggmlpy.models import finite_blocks, write_tiny
from tests.ggmlpy.test_hostile import mutate, mutations, survive


def to_gguf(source: Path, target: Path, **options):
    with open_model(source) as model:
        return migrate(model, target, "gguf", 3, **options)


def back(source: Path, target: Path, version: int = 3) -> Path:
    with open_model(source) as model:
        migrate(model, target, "ggjt", version)
    return target


AUGUST = [f"ggml/T1_quant_p5/T1.{name}.bin" for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")]
AUGUST += ["ggml/T2_quant_p5_q4_K_M/T2.q4_K_M.bin", "ggml/T2_quant_p5_q6_K/T2.q6_K.bin"]


@pytest.mark.parametrize("name", AUGUST)
def test_ggjt_v3_to_gguf_and_back_is_the_identity(name, golden, tmp_path):
    report = to_gguf(golden(name), tmp_path / "m.gguf")
    assert report.losses == ()
    assert back(tmp_path / "m.gguf", tmp_path / "m.bin").read_bytes() == golden(name).read_bytes()


def test_random_vocabularies_survive(tmp_path):
    source = write_tiny(tmp_path / "a.bin", "ggjt", 3, "q4_0")
    to_gguf(source, tmp_path / "m.gguf")
    assert back(tmp_path / "m.gguf", tmp_path / "b.bin").read_bytes() == source.read_bytes()


def test_the_real_vocabulary_survives_spelt_as_sentencepiece_does(vectors, tmp_path):
    source = vectors / "ggml/vocab/ggml-vocab-p2.bin"
    to_gguf(source, tmp_path / "m.gguf")
    gguf = open_gguf(tmp_path / "m.gguf")
    tokens = gguf.metadata["tokenizer.ggml.tokens"].value
    assert tokens[:4] == [b"<unk>", b"<s>", b"</s>", b"<0x00>"]
    assert tokens[278] == "▁the".encode()
    assert len(set(tokens)) == 32000
    assert "ggmlpy.vocabulary" not in gguf.metadata
    assert np.bincount(gguf.metadata["tokenizer.ggml.token_type"].value).tolist() == [0, 31741, 1, 2, 0, 0, 256]
    assert back(tmp_path / "m.gguf", tmp_path / "m.bin", 1).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("type_name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
@pytest.mark.parametrize("version", [1, 2])
def test_older_eras_keep_their_codes_and_round_their_scales(type_name, version, tmp_path):
    source = write_tiny(tmp_path / "a.bin", "ggjt", version, type_name)
    to_gguf(source, tmp_path / "m.gguf", requantize=True)
    with open_model(source) as a, open_model(tmp_path / "m.gguf") as b:
        for name, tensor in a.tensors.items():
            other = b.tensors[name]
            if tensor.type.quantized:
                before, after = tensor.blocks(), other.blocks()
                np.testing.assert_array_equal(unpack_codes(after, other.type), unpack_codes(before, tensor.type))
                for field in ("d", "m"):
                    if field in other.type.field_names:
                        np.testing.assert_array_equal(after[field], before[field].astype("<f2"))
            else:
                np.testing.assert_array_equal(tensor.raw(), other.raw())


@given(st.integers(0, 60000), st.binary(max_size=6) | st.text("a▁ 中", max_size=4).map(str.encode))
def test_spelling_is_undone_or_known_to_be_ambiguous(index, piece):
    token, kind = to_gguf_token(index, piece)
    if "▁".encode() not in piece:
        assert from_gguf_token(token, kind) == piece


def big_endian(gguf: Path, target: Path) -> Path:
    """The same file with every number reversed, written independently of the library's writer."""
    file = open_gguf(gguf)
    out = [b"GGUF", struct.pack(">IQQ", 3, len(file.tensors), len(file.metadata))]
    codes = {"u32": ">I", "f32": ">f"}
    numbers = {"u32": 4, "f32": 6, "string": 8, "array": 9, "i32": 5}
    for key, value in file.metadata.items():
        out += [struct.pack(">Q", len(key)), key.encode(), struct.pack(">I", numbers[value.type])]
        if value.type == "string":
            out += [struct.pack(">Q", len(value.value)), value.value]
        elif value.type == "array":
            out.append(struct.pack(">IQ", numbers[value.item], len(value.value)))
            if value.item == "string":
                out += [struct.pack(">Q", len(item)) + item for item in value.value]
            else:
                out.append(np.asarray(value.value).astype(">f4" if value.item == "f32" else ">i4").tobytes())
        else:
            out.append(struct.pack(codes[value.type], value.value))
    for name, tensor in file.tensors.items():
        out += [struct.pack(">Q", len(name)), name.encode(), struct.pack(">I", len(tensor.shape))]
        out.append(struct.pack(f">{len(tensor.shape)}Q", *tensor.shape[::-1]))
        out.append(struct.pack(">IQ", tensor.type.id, tensor.offset - file.data_offset))
    data = b"".join(out)
    data += bytes(-len(data) % 32)
    for tensor in file.tensors.values():
        data += tensor.data.view(tensor.type.block).byteswap().tobytes() + bytes(-len(tensor.data) % 32)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("type_name", ["q4_0", "q5_1", "q8_0", "f16"])
def test_big_endian_files_hold_the_same_model(type_name, tmp_path):
    to_gguf(write_tiny(tmp_path / "a.bin", "ggjt", 3, type_name), tmp_path / "m.gguf")
    big_endian(tmp_path / "m.gguf", tmp_path / "big.gguf")
    with open_model(tmp_path / "m.gguf") as a, open_model(tmp_path / "big.gguf") as b:
        assert compare(a, b).verdict == "same content"
        assert list(problems_of(b)) == []


def version_1(gguf: Path, target: Path) -> Path:
    """A v1 file: 32-bit lengths, counts and dimensions."""
    file = open_gguf(gguf)

    def text(value: bytes) -> bytes:
        return struct.pack("<I", len(value)) + value

    out = [struct.pack("<4sIII", b"GGUF", 1, len(file.tensors), len(file.metadata))]
    for key, value in file.metadata.items():
        out.append(text(key.encode()))
        match value.type:
            case "string":
                out.append(struct.pack("<I", 8) + text(value.value))
            case "u32":
                out.append(struct.pack("<II", 4, value.value))
            case "f32":
                out.append(struct.pack("<If", 6, value.value))
            case "array":
                item = {"string": 8, "f32": 6, "i32": 5}[value.item]
                out.append(struct.pack("<III", 9, item, len(value.value)))
                strings = value.item == "string"
                out.append(b"".join(map(text, value.value)) if strings else np.asarray(value.value).tobytes())
    for name, tensor in file.tensors.items():
        dims = struct.pack(f"<{len(tensor.shape)}I", *tensor.shape[::-1])
        out.append(text(name.encode()) + struct.pack("<I", len(tensor.shape)) + dims)
        out.append(struct.pack("<IQ", tensor.type.id, tensor.offset - file.data_offset))
    data = b"".join(out)
    target.write_bytes(data + bytes(-len(data) % 32) + file.cursor.buffer[file.data_offset :].tobytes())
    return target


def test_version_1_holds_the_same_model(tmp_path):
    to_gguf(write_tiny(tmp_path / "a.bin", "ggjt", 3, "q5_0"), tmp_path / "m.gguf")
    version_1(tmp_path / "m.gguf", tmp_path / "v1.gguf")
    with open_model(tmp_path / "m.gguf") as a, open_model(tmp_path / "v1.gguf") as b:
        assert b.version == 1
        assert compare(a, b).verdict == "same content"


def test_split_models_are_found_and_missing_splits_named(tmp_path):
    to_gguf(write_tiny(tmp_path / "a.bin", "ggjt", 3, "q4_0"), tmp_path / "m.gguf")
    whole = open_gguf(tmp_path / "m.gguf")
    tensors = [OutTensor(t.name, t.type, t.shape, lambda data=t.data: [data]) for t in whole.tensors.values()]
    for number, (metadata, share) in enumerate(((whole.metadata, tensors[:5]), ({}, tensors[5:]))):
        split = {"split.no": Value("u16", number), "split.count": Value("u16", 2)}
        write_gguf(tmp_path / f"s-0000{number + 1}-of-00002.gguf", {**metadata, **split}, share)
    with open_model(tmp_path / "m.gguf") as a, open_model(tmp_path / "s-00001-of-00002.gguf") as b:
        assert len(b.paths) == 2
        assert compare(a, b).verdict == "same content"
    tokenizers = [open_tokenizer(tmp_path / f"s-0000{i}-of-00002.gguf") for i in (1, 2)]
    assert len(tokenizers[0]) == len(tokenizers[1]) > 0
    for name, words in (("renamed.gguf", "renamed"), ("s-00001-of-00005.gguf", "renamed"), ("j.gguf", "joined behind")):
        parts = [(tmp_path / f"s-0000{i}-of-00002.gguf").read_bytes() for i in (1, 2)]
        (tmp_path / name).write_bytes(b"".join(parts) if name == "j.gguf" else parts[0])
        with pytest.raises(MissingFileError, match=f"this is part 1 of 2 of a split model.*{words}"):
            open_model(tmp_path / name)
    (tmp_path / "s-00002-of-00002.gguf").unlink()
    with pytest.raises(MissingFileError, match=r"s-00002-of-00002\.gguf: a file of this model split in 2 is missing"):
        open_model(tmp_path / "s-00001-of-00002.gguf")


def test_the_file_that_hangs_other_readers_is_refused_at_once(tmp_path):
    """49 bytes that promise 2**63 items."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
    (tmp_path / "m.gguf").write_bytes(head + struct.pack("<IIQ", 9, 4, 2**63))
    assert (tmp_path / "m.gguf").stat().st_size == 49
    with pytest.raises(TruncatedError, match="a count is larger than the file has room for"):
        open_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("general.architecture", Value("string", b"falcon"), "architecture 'falcon' is not supported"),
        ("tokenizer.ggml.model", Value("string", b"bert"), "tokenizer 'bert' is not supported"),
        ("llama.block_count", Value("string", b"two"), "no number 'llama.block_count'"),
        ("tokenizer.ggml.scores", Value("array", np.zeros(3, np.float32), "f32"), "does not belong to the vocabulary"),
    ],
)
def test_metadata_that_is_not_a_llama_s_is_refused_by_name(key, value, words, tmp_path):
    to_gguf(write_tiny(tmp_path / "a.bin", "ggjt", 3, "q4_0"), tmp_path / "m.gguf")
    file = open_gguf(tmp_path / "m.gguf")
    write_gguf(tmp_path / "n.gguf", {**file.metadata, key: value}, [])
    with pytest.raises(FormatError, match=words):
        open_model(tmp_path / "n.gguf")


@pytest.mark.parametrize(
    ("number", "words", "then"),
    [
        (4, "q4_2", "quantize the f16 file"),
        (31, "q4_0_4_4", "quantize the f16 file"),
        (38, "iq4_nl_8_8", "quantize the f16 file"),
        (1000, "unknown", ""),
    ],
)
def test_types_that_no_program_reads_are_refused_by_name(number, words, then, tmp_path):
    to_gguf(write_tiny(tmp_path / "a.bin", "ggjt", 3, "q4_0"), tmp_path / "m.gguf")
    header = next(iter(open_gguf(tmp_path / "m.gguf").tensors.values())).header
    data = bytearray((tmp_path / "m.gguf").read_bytes())
    at = header + 8 + len("token_embd.weight") + 4 + 16
    data[at : at + 4] = struct.pack("<I", number)
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(UnsupportedError, match=rf"type {number} \({words}\), which no GGUF file of today has") as error:
        open_model(tmp_path / "m.gguf")
    assert then in (error.value.next_step or "")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("gguf")
    to_gguf(write_tiny(folder / "a.bin", "ggjt", 3, "q4_0"), folder / "m.gguf")
    return (folder / "m.gguf").read_bytes()


@settings(max_examples=300)
@given(mutation=mutations())
def test_mutated_files_never_crash(mutation, original, tmp_path_factory):
    path = tmp_path_factory.mktemp("mutated") / "m.gguf"
    path.write_bytes(mutate(original, mutation[1]))
    survive(path)


@pytest.mark.parametrize("record", types_of("gguf", 3).values(), ids=str)
def test_the_gguf_package_dequantizes_to_the_same_numbers(record, tmp_path):
    gguf = pytest.importorskip("gguf", reason="the PyPI package gguf is not installed")
    data = finite_blocks(np.random.default_rng(1), record, (4, record.blck_size * 8))
    tensor = OutTensor("x", record, (4, record.blck_size * 8), lambda: [data])
    write_gguf(tmp_path / "m.gguf", {"general.architecture": Value("string", b"llama")}, [tensor])
    if record.id > 40:
        pytest.skip("later than this package")
    theirs = gguf.GGUFReader(tmp_path / "m.gguf").tensors[0]
    ours = dequantize(open_gguf(tmp_path / "m.gguf").tensors["x"].data.view(record.block), record)
    if record.name in ("i8", "i16", "i32", "i64", "f64"):  # it hands these out as they are
        np.testing.assert_array_equal(theirs.data.reshape(-1).astype(np.float32), ours.reshape(-1))
        return
    np.testing.assert_array_equal(gguf.dequantize(theirs.data, theirs.tensor_type).reshape(-1), ours.reshape(-1))


@pytest.mark.parametrize("type_name", ["q4_0", "q5_1", "q8_0", "q4_k_m", "q6_k", "q2_k"])
def test_quantizing_gguf_gives_the_bytes_of_the_last_era(type_name, tmp_path):
    source = write_tiny(
        tmp_path / "a.bin", "ggjt", 1, "f16", hparams=ModelParams.from_header(256, 256, 256, 2, 2, 128, 1)
    )
    to_gguf(source, tmp_path / "a.gguf")
    quantize_file(source, tmp_path / "q.bin", type_name, "2023-08-21")
    quantize_file(tmp_path / "a.gguf", tmp_path / "q.gguf", type_name, "2023-08-21")
    assert back(tmp_path / "q.gguf", tmp_path / "again.bin").read_bytes() == (tmp_path / "q.bin").read_bytes()


def test_bytes_of_older_eras_change_only_when_asked(tmp_path):
    source = write_tiny(tmp_path / "a.bin", "ggjt", 1, "q4_0")
    with pytest.raises(UsageError, match="--requantize"):
        to_gguf(source, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_name_that_says_gguf_holds_nothing_else(tmp_path):
    source = write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16")
    with pytest.raises(UsageError, match=r"x\.gguf is named as GGUF, but ggjt was asked for"):
        back(source, tmp_path / "x.gguf")


def pair(key: bytes, rest: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + rest


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
NUMBERS = st.sampled_from(sorted(SIZES)).flatmap(
    lambda number: st.binary(min_size=SIZES[number], max_size=SIZES[number]).map(
        lambda data: struct.pack("<I", number) + data
    )
)
STRINGS = st.binary(max_size=40).map(lambda value: struct.pack("<I", 8) + text(value))
ARRAYS = st.sampled_from(sorted(SIZES)).flatmap(
    lambda number: st.integers(0, 9).flatmap(
        lambda count: st.binary(min_size=SIZES[number] * count, max_size=SIZES[number] * count).map(
            lambda data: struct.pack("<IIQ", 9, number, count) + data
        )
    )
)
TEXTS = st.lists(st.binary(max_size=9), max_size=9).map(
    lambda items: struct.pack("<IIQ", 9, 8, len(items)) + b"".join(map(text, items))
)
KEYS = st.text(min_size=1, max_size=30).map(lambda name: f"other.{name}".encode("utf-8", "replace"))
VALUES = NUMBERS | STRINGS | ARRAYS | TEXTS
PAIRS = st.lists(st.tuples(KEYS, VALUES), min_size=30, max_size=30, unique_by=lambda item: item[0])


def with_pairs(gguf: Path, target: Path, pairs: list[bytes]) -> list[bytes]:
    """The file with these pairs in front of its own; all of its pairs then."""
    file, data = open_gguf(gguf), gguf.read_bytes()
    own = [bytes(value.pair) for value in file.metadata.values()]
    infos = data[24 + sum(map(len, own)) : file.cursor.offset]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(file.tensors), len(pairs) + len(own)) + b"".join(pairs + own) + infos
    target.write_bytes(head + bytes(-len(head) % 32) + data[file.data_offset :])
    return pairs + own


@settings(max_examples=25)
@given(pairs=PAIRS)
def test_unknown_keys_survive_migrating_and_quantizing_byte_for_byte(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    to_gguf(write_tiny(folder / "a.bin", "ggjt", 3, "f16"), folder / "a.gguf")
    before = with_pairs(folder / "a.gguf", folder / "b.gguf", [pair(*each) for each in pairs])
    to_gguf(folder / "b.gguf", folder / "c.gguf")
    assert (folder / "c.gguf").read_bytes() == (folder / "b.gguf").read_bytes()
    quantize_file(folder / "b.gguf", folder / "q.gguf", "q4_0")
    written = [bytes(value.pair) for value in open_gguf(folder / "q.gguf").metadata.values()]
    anew = [text(b"general.file_type"), text(b"general.quantization_version")]
    assert written[:-2] == [each for each in before if not each.startswith(tuple(anew))]
    assert [each[8 : each.index(b"\x04\x00\x00\x00")] for each in written[-2:]] == [
        b"general.quantization_version",
        b"general.file_type",
    ]
    for made in ("c.gguf", "q.gguf"):
        assert verify_files(folder / made, folder / "b.gguf").verdict == "identical bytes"


def test_a_stated_alignment_and_unknown_tensors_are_kept(tmp_path):
    to_gguf(write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16"), tmp_path / "a.gguf")
    with open_model(tmp_path / "a.gguf") as model:
        metadata = {"general.alignment": Value("u32", 64), **model.metadata}
        f32 = types_of("gguf", 3)[0]
        extra = OutTensor("rope_freqs.weight", f32, (8,), lambda: [np.ones(8, "<f4")])
        stacked = OutTensor("blk.0.x_stack.weight", f32, (2, 3, 32), lambda: [np.arange(192, dtype="<f4")])
        tensors = [extra, stacked, *map(out_tensor, model.tensors.values())]
        write_gguf(tmp_path / "b.gguf", metadata, [replace(t, name=gguf_name(t.name)) for t in tensors])
    to_gguf(tmp_path / "b.gguf", tmp_path / "c.gguf")
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    quantize_file(tmp_path / "b.gguf", tmp_path / "q.gguf", "q8_0", "2023-08-21")
    kept = open_gguf(tmp_path / "q.gguf").tensors["blk.0.x_stack.weight"].data
    assert bytes(kept) == np.arange(192, dtype="<f4").tobytes()
    assert verify_files(tmp_path / "q.gguf", tmp_path / "b.gguf").verdict == "identical bytes"
    with pytest.raises(UnsupportedError, match=r"ggjt v3 has no place for tensor 'rope_freqs.weight'"):
        back(tmp_path / "b.gguf", tmp_path / "x.bin")


def test_a_tied_output_is_not_written_a_second_time(tmp_path):
    to_gguf(write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16"), tmp_path / "a.gguf")
    with open_model(tmp_path / "a.gguf") as model:
        tensors = [
            replace(out_tensor(t), name=gguf_name(t.name)) for t in model.tensors.values() if t.name != "output.weight"
        ]
        write_gguf(tmp_path / "tied.gguf", model.metadata, tensors)
    to_gguf(tmp_path / "tied.gguf", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "tied.gguf").read_bytes()
    quantize_file(tmp_path / "tied.gguf", tmp_path / "q.gguf", "q4_0")
    assert "output.weight" not in open_gguf(tmp_path / "q.gguf").tensors
    assert verify_files(tmp_path / "q.gguf", tmp_path / "tied.gguf").verdict == "identical bytes"


@pytest.mark.parametrize("type_name", ["f16", "f32", "q4_0"])
def test_what_quantize_makes_of_gguf_is_identical_to_the_byte(type_name, tmp_path):
    to_gguf(write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16"), tmp_path / "a.gguf")
    quantize_file(tmp_path / "a.gguf", tmp_path / "q.gguf", type_name)
    report = verify_files(tmp_path / "q.gguf", tmp_path / "a.gguf")
    assert (report.step, report.verdict) == ("quantize", "identical bytes")


@pytest.mark.parametrize(("to_bits", "words"), [(cut_to_bfloat16, "cut off"), (rounded_to_bfloat16, "rounded")])
def test_a_way_through_bfloat16_is_seen(to_bits, words, tmp_path):
    to_gguf(write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16"), tmp_path / "a.gguf")
    bf16 = types_of("gguf", 3)[30]
    with open_model(tmp_path / "a.gguf") as model:
        tensors = []
        for tensor in model.stored:
            bits = to_bits(tensor.numpy())
            made = OutTensor(tensor.name, bf16, tensor.shape, lambda bits=bits: [bits])
            made = made if len(tensor.shape) == 2 else out_tensor(tensor)
            tensors.append(replace(made, name=gguf_name(tensor.name)))
        write_gguf(tmp_path / "b.gguf", model.metadata | {"general.file_type": Value("u32", 32)}, tensors)
    report = verify_files(tmp_path / "b.gguf", tmp_path / "a.gguf")
    assert (report.exit_code, report.unexplained) == (1, [])
    assert [cause.name for cause in report.causes] == [f"values went through bfloat16, {words}"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.factor", Value("f32", 4.0)),
        ("llama.rope.freq_base", Value("f32", 1e6)),
        ("llama.attention.head_count_kv", Value("u32", 1)),
        ("llama.attention.value_length", Value("u32", 7)),
        ("llama.something_new", Value("u32", 1)),
    ],
)
def test_what_ggjt_cannot_say_is_refused(key, value, tmp_path):
    edited(tmp_path, {key: value})
    with pytest.raises(UnsupportedError, match=rf"ggjt v3 has no place for {key.removesuffix('.factor')}.*OUT\.gguf"):
        back(tmp_path / "b.gguf", tmp_path / "x.bin")


def test_what_ggjt_drops_is_told(tmp_path):
    added = {
        "general.license": Value("string", b"mit"),
        "tokenizer.chat_template": Value("string", b"{{ x }}"),
        "llama.attention.layer_norm_rms_epsilon": Value("f32", 1e-5),
        "tokenizer.ggml.eos_token_id": Value("u32", 7),
    }
    edited(tmp_path, added)
    with open_model(tmp_path / "b.gguf") as model:
        notes = "\n".join(migrate(model, tmp_path / "x.bin", "ggjt", 3).notes)
    for word in ("general.license", "tokenizer.chat_template", "generate needs --norm-eps 1e-05", "eos_token_id 7"):
        assert word in notes


def edited(folder: Path, changes: dict[str, Value]) -> None:
    """A model with other keys, ``b.gguf``."""
    to_gguf(write_tiny(folder / "a.bin", "ggjt", 3, "f16"), folder / "a.gguf")
    with open_model(folder / "a.gguf") as model:
        tensors = [replace(out_tensor(t), name=gguf_name(t.name)) for t in model.tensors.values()]
        write_gguf(folder / "b.gguf", {**model.metadata, **changes}, tensors)


def test_gguf_of_another_era_is_refused(tmp_path):
    to_gguf(write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16"), tmp_path / "a.gguf")
    with pytest.raises(UsageError, match=r"GGUF .* is quantized as of 2023-08-21, not 2023-03-31"):
        quantize_file(tmp_path / "a.gguf", tmp_path / "q.gguf", "q4_0", "2023-03-31")


@pytest.mark.parametrize("value", [struct.pack("<If", 6, float("nan")), struct.pack("<IIQf", 9, 6, 1, float("nan"))])
def test_a_key_that_is_nan_is_the_same_when_it_is_kept(value, tmp_path):
    to_gguf(write_tiny(tmp_path / "a.bin", "ggjt", 3, "f16"), tmp_path / "a.gguf")
    with_pairs(tmp_path / "a.gguf", tmp_path / "b.gguf", [pair(b"other.x", value)])
    quantize_file(tmp_path / "b.gguf", tmp_path / "q.gguf", "q4_0")
    assert verify_files(tmp_path / "q.gguf", tmp_path / "b.gguf").verdict == "identical bytes"
