"""gguf-py, the reader of llama.cpp's own tools, reads what is written here: keys, arrays, types, parts, numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggmlpy.formats.dequantize import dequantize
from ggmlpy.formats.gguf import open_splits
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_types import types_of
from ggmlpy.quantizers.whole_file import quantize_file
from llama_ref.conversion.converting import plan_conversion
from llama_ref.conversion.huggingface_to_gguf.shards import Splitting
from lora.exchange.gguf_adapter import write_gguf_adapter
from lora.merging.adapter import open_adapter
from lora.merging.merge import merge
from toolchain.demo.story import lay_out_today

gguf = pytest.importorskip("gguf", reason="gguf-py is not installed")

KNOWN = [record for record in types_of("gguf", 3).values() if record.id in set(map(int, gguf.GGMLQuantizationType))]
NO_NUMBERS = {"q1_0", "i8", "i16", "i32", "i64", "f64"}  # it knows them and their blocks, and does not decode them


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    """A directory and an adapter of today, and the file made of it."""
    folder = lay_out_today(tmp_path_factory.mktemp("today"))
    model = folder / "Llama-3.1-tiny-Instruct"
    with plan_conversion(model, folder / "f16.gguf", pre_tokenizer="llama-bpe") as plan:
        plan.write()
    return folder


def same(read, stated: Value) -> bool:
    """Whether a field has a value; texts are bytes here."""
    found = read.contents()
    wanted = stated.value
    if stated.type == "string":
        return found == stated.text()
    if stated.type == "array":
        wanted = [item.decode() if isinstance(item, bytes) else item for item in np.asarray(wanted, object).tolist()]
    return found == wanted


def agree(path: Path) -> set[str]:
    """Both readers see the same in a file, and its parts; the types of its tensors."""
    seen = set()
    for ours in open_splits(path):
        theirs = gguf.GGUFReader(ours.path)
        fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
        assert list(fields) == list(ours.metadata)
        assert [name for name, value in ours.metadata.items() if not same(fields[name], value)] == []
        assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
        for tensor in theirs.tensors:
            mine = ours.tensors[tensor.name]
            kind = tensor.tensor_type.name.lower()
            assert (kind, tensor.shape.tolist()[::-1]) == (mine.type.name.lower(), list(mine.shape))
            blocks = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
            assert blocks.tobytes() == bytes(mine.data), tensor.name
            seen.add(kind)
            if kind in NO_NUMBERS:
                continue
            with np.errstate(all="ignore"):
                numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(-1)
                mine_too = dequantize(blocks.view(mine.type.block), mine.type).reshape(-1)
            assert np.array_equal(numbers, mine_too, equal_nan=True), tensor.name
    return seen


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0", "auto"])
def test_conversions(outtype, today, tmp_path):
    model = today / "Llama-3.1-tiny-Instruct"
    with plan_conversion(model, tmp_path / "m.gguf", outtype=outtype, pre_tokenizer="llama-bpe") as plan:
        plan.write()
    assert agree(tmp_path / "m.gguf") == {"f32", {"auto": "bf16"}.get(outtype, outtype)}


def test_parts(today, tmp_path):
    options = {"splitting": Splitting(max_tensors=7), "pre_tokenizer": "llama-bpe"}
    with plan_conversion(today / "Llama-3.1-tiny-Instruct", tmp_path / "m.gguf", **options) as plan:
        first, *others = plan.write()
    assert len(others) == 3
    assert agree(first) == {"f32", "f16"}


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q2_K", "Q5_0", "Q8_0", "IQ4_XS", "TQ2_0"])
def test_quantized_files(kind, today, tmp_path):
    quantize_file(today / "f16.gguf", tmp_path / "q.gguf", kind)
    assert len(agree(tmp_path / "q.gguf")) > 1


def test_every_type(tmp_path):
    random, tensors = np.random.default_rng(5), []
    for record in KNOWN:
        size = 4 * record.row_bytes(512)
        blocks = random.integers(0, 256, size, np.uint8)
        tensors.append(OutTensor(f"{record.name}.weight", record, (4, 512), lambda blocks=blocks: [blocks]))
    write_gguf(tmp_path / "m.gguf", {"general.architecture": Value("string", b"any")}, tensors)
    assert agree(tmp_path / "m.gguf") == {record.name.lower() for record in KNOWN}
    assert len(KNOWN) > 25


def test_a_merge_and_an_adapter(today, tmp_path):
    base, adapter = today / "Llama-3.1-tiny-Instruct", today / "llama-3-lora"
    merge(base, [adapter], tmp_path / "m.gguf", output_type="gguf-q4_K_M", pre_tokenizer="llama-bpe")
    assert agree(tmp_path / "m.gguf") == {"f32", "q4_k", "q6_k"}
    with open_adapter(adapter) as opened:
        write_gguf_adapter(opened, base, tmp_path / "lora.gguf")
    assert agree(tmp_path / "lora.gguf") == {"f32"}
