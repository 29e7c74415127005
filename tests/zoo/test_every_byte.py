"""Every byte of every specimen has a field, or its file is refused by name; numbers lead to their tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cli
from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.look.lines import Line
from llama_ref.checkpoint import open_pth
from llama_ref.checkpoint.safetensors_file import open_safetensors
from llama_ref.checkpoint.tensor import DTYPES
from llama_ref.vocabulary.sentencepiece_model import read_sentencepiece
from toolchain.look.dump import dump_any, elements_at
from toolchain.look.explain import explain_in_words
from toolchain.zoo.make import specimens

WHOLE = (
    "torch/*", "safetensors/*", "tokenizers/*", "adapters/*", "imatrix/*", "checkpoints/*", "models/*-f16.*",
    "models/*-f32.*", "models/*parts", "models/*split",
)  # fmt: skip


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo without quantized models, whose blocks have tests of their own."""
    root = tmp_path_factory.mktemp("zoo")
    for pattern in (*WHOLE, "broken/*"):
        for specimen in specimens(pattern):
            path = root / specimen.name
            path.parent.mkdir(parents=True, exist_ok=True)
            specimen.write(path)
    return root


def files(zoo: Path) -> list[Path]:
    return sorted(path for path in zoo.rglob("*") if path.is_file())


def whole(zoo: Path) -> Iterator[tuple[Path, list[Line]]]:
    for path in files(zoo):
        if "broken" not in path.relative_to(zoo).parts:
            yield path, list(dump_any(path, fold=False))


def test_the_fields_of_a_whole_file_are_all_of_its_bytes(zoo):
    """In order, without an overlap; between the tensors of GGUF there are zeros up to an aligned offset."""
    kinds = set()
    for path, lines in whole(zoo):
        data, at = path.read_bytes(), 0
        for line in lines:
            between = data[at : line.offset]
            assert line.offset >= at, (path.name, line)
            assert not between or (path.suffix == ".gguf" and not any(between) and len(between) < 32), (path.name, line)
            assert line.data == data[line.offset : line.offset + min(line.size, 16)], (path.name, line)
            at = line.offset + line.size
        assert not data[at:] or (path.suffix == ".gguf" and not any(data[at:])), path.name
        kinds.add(path.suffix)
    assert kinds >= {".pth", ".bin", ".gguf", ".safetensors", ".model", ".zip", ".dat", ".json"}


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_offset_of_any_specimen_has_an_answer_or_a_refusal_by_name(zoo, data):
    path = data.draw(st.sampled_from(files(zoo)))
    offset = data.draw(st.integers(0, path.stat().st_size))
    try:
        record, lines = explain_in_words(path, offset)
    except (FormatError, UsageError):
        return
    assert record["byte"] == path.read_bytes()[offset]
    assert record["field_offset"] <= offset < record["field_offset"] + record["size"]
    assert [name for name, _ in lines[:2]] == ["byte", "field"]
    json.dumps(record)


@pytest.mark.parametrize(
    "name", ["torch/1.13.pth", "torch/legacy.pth", "torch/views.pth", "safetensors/types.safetensors"]
)
def test_a_byte_of_a_checkpoint_leads_to_the_elements_that_it_is_a_part_of(zoo, name):
    path = zoo / name
    opened = open_safetensors(path) if path.suffix == ".safetensors" else open_pth(path)
    with opened as file:
        found = 0
        for offset in range(path.stat().st_size):
            for element in elements_at(path, offset):
                tensor = file[element.tensor]
                value = np.asarray(tensor.numpy())[element.index]
                assert element.value == value
                raw = np.asarray(tensor.stored())[element.index].tobytes()
                assert path.read_bytes()[offset] in raw
                found += 1
        assert found == sum(tensor.size * DTYPES[tensor.dtype].size for tensor in file.values())


def test_a_number_that_several_tensors_share_is_told_of_each(zoo):
    path = zoo / "torch" / "views.pth"
    line = next(line for line in dump_any(path, fold=False) if line.path == "storage[0].data")
    found = {element.tensor: element.index for element in elements_at(path, line.offset + 2 * 6)}
    assert found == {"whole": (1, 2), "second_row": (2,), "transposed": (2, 1)}
    assert line.doc == "the data of whole, second_row, transposed"


def test_the_pieces_of_a_tokenizer_are_those_that_its_reader_reads(zoo):
    path = zoo / "tokenizers" / "chinese.model"
    lines = {line.path: line for line in dump_any(path, fold=False)}
    for index, piece in enumerate(read_sentencepiece(path).pieces):
        line = lines[f"piece[{index}].text"]
        assert path.read_bytes()[line.offset : line.offset + line.size] == piece.text
        assert float(lines[f"piece[{index}].score"].value) == pytest.approx(piece.score)
    assert lines["trainer.byte_fallback"].value == "1"
    assert lines["piece[1].type"].value == "3 control"


def said(capsys: pytest.CaptureFixture[str], path: Path, field: str, at: int = 0) -> str:
    """What ``explain`` says of a byte of a field."""
    line = next(line for line in dump_any(path, fold=False) if line.path == field)
    assert cli.main(["explain", str(path), str(line.offset + at)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "field", "at", "words"),
    [
        ("torch/1.13.pth", "member[1.13/data.pkl].crc", 0, "CRC-32 of the contents"),
        ("torch/1.13.pth", "member[1.13/data.pkl].opcode[0]", 0, "PROTO 2"),
        ("torch/2.13.pth", "member[2.13/.storage_alignment].data", 0, "multiples of it"),
        ("torch/1.13.pth", "storage[0].data", 10, r"tok_embeddings\.weight\[1, 1\] of \[8, 4\], float16 = "),
        ("torch/1.13.pth", "storage[0].data", 10, "row 1 is what the model reads for token 1: component 1"),
        ("torch/1.13.pth", "end.n_entries", 0, "entries of the directory"),
        ("torch/legacy.pth", "storage[0].size", 0, "= 16 "),
        ("torch/legacy.pth", "pickle[magic].opcode[1]", 0, "LONG1"),
        ("safetensors/small.safetensors", "header[norm.weight].dtype", 3, r'"dtype":"F16"|"F16"'),
        ("safetensors/small.safetensors", "tensor[norm.weight].data", 3, r"norm\.weight\[1\] of \[4\], float16"),
        ("tokenizers/base.model", "piece[0].text", 0, "'<unk>'"),
        ("adapters/zipped.zip", "member[zipped.zip.adapter/adapter_config.json].data", 9, "peft_type"),
        ("adapters/ggml-adapter-model.bin", "header.r", 0, "the rank"),
        (
            "adapters/ggml-adapter-model.bin",
            "tensor[layers.0.attention.wq.weight.loraA].data",
            9,
            "row 1 of 32, column 0 of 4",
        ),
        ("imatrix/imatrix.dat", "importance[blk.0.attn_k.weight].values", 4, r"\[1\] +\d"),
        ("imatrix/imatrix.dat", "end.dataset", 0, "'zoo.txt'"),
        ("checkpoints/meta/params.json", "params.dim", 2, "params.dim = 32"),
        ("models/ggmf1/two-parts/model.bin.1", "header.n_vocab", 1, "entries in the vocabulary"),
        ("models/ggmf1/two-parts/model.bin.1", "tensor[norm.weight].data", 1, "a part of a plain number"),
        ("models/gguf3/split/model-00002-of-00002.gguf", "header.n_kv", 1, "metadata pairs"),
    ],
)
def test_the_words(zoo, capsys, name, field, at, words):
    assert re.search(words, said(capsys, zoo / name, field, at))


def test_numbers_of_a_big_endian_file_are_those_of_the_other(zoo, capsys):
    values = set()
    for name in ("2026-10-f16", "big-endian-f16"):
        words = said(capsys, zoo / "models" / "gguf3" / f"{name}.gguf", "tensor[token_embd.weight].data", 8)
        values.add(re.search(r"^\[4\] +(.+)$", words, re.MULTILINE)[1])
    assert len(values) == 1


def test_a_part_of_a_model_is_not_said_to_be_used_as_the_whole_is(zoo, capsys):
    """Its rows or columns are only some of the tensor's."""
    field = "tensor[layers.0.attention.wo.weight].data"
    assert "model   " not in said(capsys, zoo / "models" / "ggmf1" / "two-parts" / "model.bin.1", field)
    assert "model   " in said(capsys, zoo / "models" / "ggmf1" / "2023-03-30-f16.bin", field)
