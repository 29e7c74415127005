"""Containers: what is read and written again is the same bytes; what is joined is what was split."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ggmlpy
from ggmlpy import CONTAINERS, ModelParams, OutTensor, open_model, out_tensor, types_of, write_model
from ggmlpy.files.errors import MissingFileError, UsageError
from ggmlpy.formats import ggml_reader, model_file
from ggmlpy.formats.containers import container_named
from ggmlpy.look.check import problems_of
from ggmlpy.verify.compare import compare
from tests.ggmlpy.models import write_tiny

VERSIONS = [(name, version) for name, container in CONTAINERS.items() for version in container.versions]
GOLDEN = [f"ggml/T1_convert_f16/T1.p{pin}.f16.bin" for pin in range(3)]
GOLDEN += [f"ggml/T1_quant_p{pin}/T1.q4_0.bin" for pin in range(6)]


def rewrite(model: ggmlpy.ModelFile, path) -> None:
    vocab = zip(model.vocab, model.vocab.scores.tolist(), strict=True)
    write_model(path, model.container, model.version, model.hparams, vocab, map(out_tensor, model.tensors.values()))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_survive_reading_and_writing(name, golden, tmp_path):
    with open_model(golden(name)) as model:
        rewrite(model, tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == golden(name).read_bytes()


def test_parts_are_found_and_joined(golden):
    names = ("ggml/T3_convert_f16/T3.p1.f16.bin", "ggml/T3_convert_f16/T3.p2.f16.bin")
    with open_model(golden(names[0])) as parts, open_model(golden(names[1])) as whole:
        assert len(parts.paths) == 2
        assert list(parts.tensors) == list(whole.tensors)
        for name, tensor in whole.tensors.items():
            np.testing.assert_array_equal(parts.tensors[name].raw(), tensor.raw())


def test_a_missing_part_is_named(golden, tmp_path):
    source = golden("ggml/T3_convert_f16/T3.p1.f16.bin")
    (tmp_path / "m.bin").write_bytes(source.read_bytes())
    with pytest.raises(MissingFileError, match=r"m\.bin\.1: a part of this 2-part model is missing .*expected 2 files"):
        open_model(tmp_path / "m.bin")


def test_a_later_part_opened_alone_says_so(golden, tmp_path):
    source = golden("ggml/T3_convert_f16/T3.p1.f16.bin.1")
    (tmp_path / "m.bin.1").write_bytes(source.read_bytes())
    with pytest.raises(MissingFileError, match="looks like part 1, not the first"):
        open_model(tmp_path / "m.bin.1")
    (tmp_path / "m.bin").write_bytes(b"the first, beside it")
    with pytest.raises(MissingFileError, match=r"Next: name .*m\.bin$"):
        open_model(tmp_path / "m.bin.1")


def test_parts_of_two_models_do_not_join(golden, tmp_path):
    (tmp_path / "m.bin").write_bytes(golden("ggml/T3_convert_f16/T3.p1.f16.bin").read_bytes())
    (tmp_path / "m.bin.1").write_bytes(golden("ggml/T3_convert_f16/T3.p0.f16.bin.1").read_bytes())
    with pytest.raises(ggmlpy.FormatError, match=r"does not belong to m\.bin: its container differs"):
        open_model(tmp_path / "m.bin")


def test_opening_reads_neither_vocabulary_texts_nor_tensors(golden):
    with open_model(golden("ggml/T1_quant_p2/T1.q4_0.bin")) as model:
        tensor = model.tensors["output.weight"]
        assert not tensor.raw().flags.owndata
        assert tensor.offset % 32 == 0
        assert tensor.ne == tensor.shape[::-1]


@pytest.mark.parametrize(
    ("name", "title"), [("ggml", "ggml (unversioned)"), ("ggjt", "ggjt v1"), ("GGJT_V3", "ggjt v3")]
)
def test_container_names_people_type(name, title):
    container, version = container_named(name)
    assert container.title(version) == title


def test_unknown_container_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown container 'ggjt9'; choose one of ggml, ggmf1, ggjt1, ggjt2, ggjt3"):
        container_named("ggjt9")


@st.composite
def model_files(draw):
    """Arbitrary valid content: container, header, vocabulary, tensors."""
    container, version = draw(st.sampled_from(VERSIONS))
    numbers = st.integers(-(2**31), 2**31 - 1)
    vocab = draw(st.lists(st.tuples(st.binary(max_size=9), st.floats(width=32, allow_nan=False)), max_size=8))
    hparams = ModelParams.from_header(len(vocab), *[draw(numbers) for _ in range(6)])
    records = list(types_of(container, version).values())
    tensors = []
    for name in draw(st.lists(st.text("abcxyz.0123456789é", min_size=1, max_size=20), unique=True, max_size=4)):
        record = draw(st.sampled_from(records))
        columns = record.blck_size * draw(st.integers(1, 3))
        shape = draw(st.sampled_from([(columns,), (1, columns), (3, columns)]))
        rows = shape[0] if len(shape) == 2 else 1
        data = draw(st.randoms(use_true_random=False)).randbytes(rows * record.row_bytes(columns))
        tensors.append(OutTensor(name, record, shape, lambda data=data: [data]))
    return container, version, hparams, vocab, tensors


@given(content=model_files())
def test_write_read_write_is_the_identity(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    size = write_model(folder / "a.bin", *content)
    with open_model(folder / "a.bin") as model:
        assert model.size == size
        assert list(model.vocab) == [text for text, _ in content[3]]
        assert [tensor.shape for tensor in model.tensors.values()] == [tensor.shape for tensor in content[4]]
        rewrite(model, folder / "b.bin")
    assert (folder / "a.bin").read_bytes() == (folder / "b.bin").read_bytes()


LENGTHS = st.sampled_from([0, 1, 3, 254, 255, 256, 257, 65_536])


@given(lengths=st.lists(LENGTHS, max_size=9), container=st.sampled_from(["ggml", "ggjt"]), cut=st.integers(1, 300))
def test_texts_of_any_length_are_walked_over(lengths, container, cut, tmp_path_factory):
    """Short texts have a quick walk of their own; it must find the same, and leave the same to be complained of."""
    path = tmp_path_factory.mktemp("texts") / "m.bin"
    texts = [bytes([i + 65]) * length for i, length in enumerate(lengths)]
    write_model(
        path,
        container,
        int(container == "ggjt"),
        ModelParams.from_header(len(texts), *[1] * 6),
        [(text, -1.5) for text in texts],
        [],
    )
    data = path.read_bytes()

    def read() -> object:
        with open_model(path) as model:
            entries = [model.vocab.entry_offset(i) for i in range(len(texts))]
            return list(model.vocab), model.vocab[:], model.vocab.scores.tolist(), entries

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_file, "TEXTS", 3)
        vocab, again, scores, entries = read()
        assert vocab == again == texts
        assert scores == [-1.5 if container == "ggjt" else 0.0] * len(texts)
        assert all(data[entry : entry + 4] == struct.pack("<I", n) for entry, n in zip(entries, lengths, strict=True))
        path.write_bytes(data[:-cut] or data[:1])
        quick = complaint(read)
        patch.setattr(ggml_reader, "_walk_short_texts", lambda *_: None)
        assert quick == complaint(read)


def complaint(read) -> str:
    try:
        return f"none: {read()}"
    except ggmlpy.FormatError as error:
        return str(error)


def test_the_q8_0_of_one_april_day_is_read_and_kept(tmp_path):
    """Between 7a32fcb3b and 574406dc7 q8_0 had the id that q5_0 has since; the header's ftype tells them apart."""
    ordinary = write_tiny(tmp_path / "a.bin", "ggjt", 1, "q8_0")
    data = bytearray(ordinary.read_bytes())
    with open_model(ordinary) as model:
        for tensor in model.tensors.values():
            if tensor.type.name == "q8_0":
                data[tensor.pieces[0].header + 8] = 6
    (tmp_path / "b.bin").write_bytes(data)
    with open_model(ordinary) as a, open_model(tmp_path / "b.bin") as b:
        assert compare(a, b).verdict == "same content"
        assert list(problems_of(b)) == []
        rewrite(b, tmp_path / "c.bin")
    assert (tmp_path / "c.bin").read_bytes() == data


def test_a_wrong_number_of_vocabulary_entries_is_refused(tmp_path):
    hparams = ModelParams.from_header(3, 32, 32, 2, 1, 16, 1)
    with pytest.raises(UsageError, match="promises 3 vocabulary entries, 1 were given"):
        write_model(tmp_path / "a.bin", "ggjt", 1, hparams, [(b"a", 0.0)], [])
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_of_the_wrong_length_leaves_no_file(tmp_path):
    short = OutTensor("x", types_of("ggjt", 1)[0], (4,), lambda: [b"1234"])
    with pytest.raises(UsageError, match="16 bytes promised, 4 written"):
        write_model(tmp_path / "a.bin", "ggjt", 1, ModelParams.from_header(0, 32, 32, 2, 1, 16, 1), [], [short])
    assert list(tmp_path.iterdir()) == []
