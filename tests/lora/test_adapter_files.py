"""Adapters in llama.cpp's own files: written from PEFT's byte for byte, read, and written for PEFT again."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ggmlpy
from ggmlpy.files.errors import FormatError, UnsupportedError, UsageError
from llama_ref.checkpoint.params import read_config_json
from llama_ref.conversion.converting import plan_conversion
from llama_ref.text.logits import logits
from llama_ref.text.model import Model
from lora.exchange.applying import apply_adapters
from lora.exchange.ggla import read_ggla, write_ggla
from lora.exchange.gguf_adapter import write_gguf_adapter
from lora.exchange.reading import is_lora_file, open_lora_file
from lora.exchange.to_peft import write_peft
from lora.merging.adapter import open_adapter
from lora.merging.adapter_writer import write_adapter
from lora.merging.merge import plan_merge
from lora.merging.sums import product_in_order
from tests.docs.blocks import run
from tests.ggmlpy.models import write_tiny
from toolchain.commands.main import main

BASES = {"qv-r8": "llama1-mha", "qwen2-r4": "qwen2"}  # of the others: llama2-gqa
OF_2023 = ("ggla_all-r4", "ggla_qv-r8", "ggla_qv-r8-f16")


def test_every_gguf_adapter_is_that_of_llama_cpp(golden, tmp_path: Path) -> None:
    folder = golden("today-models/lora")
    files = sorted(folder.glob("*.gguf"))
    assert files
    for file in files:
        name, outtype, _ = file.name.rsplit(".", 2)
        base = golden(f"today-models/hf/{BASES.get(name, 'llama2-gqa')}")
        with open_adapter(folder / name) as adapter:
            write_gguf_adapter(adapter, base, tmp_path / "made.gguf", outtype=outtype)
        assert (tmp_path / "made.gguf").read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("name", OF_2023)
def test_every_ggla_adapter_is_that_of_2023(golden, name: str, tmp_path: Path) -> None:
    folder = golden(f"today-models/old/{name}")
    with open_adapter(folder) as adapter:
        write_ggla(adapter, tmp_path / "made.bin")
    assert (tmp_path / "made.bin").read_bytes() == (folder / "ggml-adapter-model.bin").read_bytes()


@pytest.mark.parametrize("name", ["all-r4", "qwen2-r4"])
def test_the_way_back_to_peft(golden, name: str, tmp_path: Path) -> None:
    base = golden(f"today-models/hf/{BASES.get(name, 'llama2-gqa')}")
    write_peft(
        open_lora_file(golden(f"today-models/lora/{name}.f32.gguf")), read_config_json(base / "config.json"), tmp_path
    )
    with open_adapter(tmp_path) as back, open_adapter(golden(f"today-models/lora/{name}")) as adapter:
        assert set(back.pairs) == set(adapter.pairs)
        for key, pair in adapter.pairs.items():
            assert back.pairs[key].scale == pair.scale
            assert all(np.array_equal(x, y) for x, y in zip(back.pairs[key].factors(), pair.factors()))


def test_what_a_gguf_adapter_cannot_say_is_told(golden, tmp_path: Path) -> None:
    base = golden("today-models/hf/llama2-gqa")
    with open_adapter(golden("today-models/lora/rslora")) as adapter:
        (note,) = write_gguf_adapter(adapter, base, tmp_path / "a.gguf")
        assert "llama.cpp scales" in note
        with pytest.raises(UnsupportedError, match="use_rslora"):
            write_ggla(adapter, tmp_path / "a.bin")
        with pytest.raises(UsageError, match="unknown outtype"):
            write_gguf_adapter(adapter, base, tmp_path / "a.gguf", outtype="q4_0")


# ── a small one of our own ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    pairs = {
        f"layers.0.attention.{which}.weight": (
            rng.normal(size=(2, 8)).astype("f4"),
            rng.normal(size=(8, 2)).astype("f4"),
        )
        for which in ("wq", "wv")
    }
    write_adapter(tmp_path / "peft", pairs, r=2, alpha=4)
    return tmp_path / "peft"


def base_of(folder: Path) -> Path:
    config = {"model_type": "llama", "vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 16, "architectures": ["LlamaForCausalLM"]}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_both_files_are_known_as_adapters_and_hold_the_same_change(small: Path, tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    with open_adapter(small) as adapter:
        write_ggla(adapter, tmp_path / "a.bin")
        write_gguf_adapter(adapter, base, tmp_path / "a.gguf")
        pair = adapter.pairs["layers.0.attention.wv.weight"]
        for name in ("a.bin", "a.gguf"):
            assert is_lora_file(tmp_path / name)
            found = open_lora_file(tmp_path / name).pairs["layers.0.attention.wv.weight"]
            assert found.scale == 2.0
            assert np.array_equal(found.b @ found.a, pair.b.f32() @ pair.a.f32())
    assert not is_lora_file(base / "config.json")


def test_whole_matrices_are_refused(tmp_path: Path) -> None:
    pair = {"layers.0.attention.wq.weight": (np.ones((1, 8), "f4"), np.ones((8, 1), "f4"))}
    write_adapter(tmp_path / "peft", pair, {"tok_embeddings.weight": np.ones((32, 8), "f4")}, r=1, alpha=1)
    with open_adapter(tmp_path / "peft") as adapter:
        with pytest.raises(UnsupportedError, match="merge"):
            write_ggla(adapter, tmp_path / "a.bin")
        with pytest.raises(UnsupportedError, match="merge"):
            write_gguf_adapter(adapter, base_of(tmp_path / "base"), tmp_path / "a.gguf")


def test_an_adapter_changes_an_open_model_by_its_product(golden) -> None:
    path = golden("today-models/lora/all-r4.f32.gguf")
    adapter = open_lora_file(path)
    with ggmlpy.open_model(golden("today-models/gguf/llama2-gqa.q8_0.gguf")) as model:
        before = {name: model.tensors[name].numpy() for name in adapter.pairs}
        (note,) = apply_adapters(
            model,
            [
                (path, 0.5),
            ],
        )
        assert "14 matrices changed" in note
        for name, pair in adapter.pairs.items():
            wanted = before[name] + np.float32(0.5 * pair.scale) * product_in_order(pair.b, pair.a)
            assert np.array_equal(model.tensors[name].numpy(), wanted)
            assert model.tensors[name].type.name == "f32"


def test_an_adapter_of_another_model_is_refused(golden) -> None:
    with ggmlpy.open_model(golden("today-models/gguf/llama2-gqa.q8_0.gguf")) as model:
        with pytest.raises(FormatError, match="another architecture"):
            list(apply_adapters(model, [(golden("today-models/lora/qwen2-r4.f32.gguf"), 1.0)]))
        with pytest.raises(FormatError, match="not a LoRA adapter"):
            list(apply_adapters(model, [(golden("today-models/gguf/llama2-gqa.q8_0.gguf"), 1.0)]))


def test_logits_with_an_adapter_are_those_of_llama_cpp(golden, tmp_path: Path) -> None:
    for path in golden("today-models/hf/llama1-mha").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.model").write_bytes(golden("today-models/hf/tokenizer.model").read_bytes())
    with plan_conversion(tmp_path, tmp_path / "base.gguf", outtype="f32", container="gguf") as plan:
        plan.write()
    tokens = json.loads(golden("today-models/logits/manifest.json").read_text())["cases"]["llama1-mha"]["tokens"]
    wanted = np.load(golden("today-models/lora/qv-r8.llamacpp.npy"))
    model = ggmlpy.open_model(tmp_path / "base.gguf")
    list(apply_adapters(model, [(golden("today-models/lora/qv-r8.f32.gguf"), 1.0)]))
    with Model.from_file(model, n_ctx=64, numerics="reference", memory_f32=True) as evaluator:
        assert np.abs(logits(evaluator, tokens, batch=len(tokens)) - wanted).max() < 1e-4


def test_a_merge_takes_either_file(golden, tmp_path: Path) -> None:
    """Of the same change the same result, whichever file it comes from."""
    base, source = tmp_path / "base", golden("today-models/hf/llama1-mha")
    base.mkdir()
    for path in source.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    (base / "tokenizer.model").write_bytes(golden("today-models/hf/tokenizer.model").read_bytes())
    peft = golden("today-models/old/ggla_qv-r8")
    with open_adapter(peft) as adapter:
        write_gguf_adapter(adapter, base, tmp_path / "a.gguf")
    results = []
    for path in (peft, peft / "ggml-adapter-model.bin", tmp_path / "a.gguf"):
        output = tmp_path / f"merged{len(results)}"
        with plan_merge(base, [path], output, output_type="huggingface") as plan:
            plan.run()
        results.append((output / "pytorch_model.bin").read_bytes() if (output / "pytorch_model.bin").exists()
                       else (output / "model.safetensors").read_bytes())  # fmt: skip
    assert results[0] == results[1] == results[2]


GOOD = struct.pack("<Iiii", 0x67676C61, 1, 2, 4)


@given(st.binary(max_size=80))
def test_any_bytes_behind_a_header_are_read_or_refused_by_name(tmp_path_factory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(GOOD + data)
    with contextlib.suppress(FormatError):
        read_ggla(path)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Iiii", 0x67676C62, 1, 2, 4),
        struct.pack("<Iiii", 0x67676C61, 2, 2, 4),
        struct.pack("<Iiii", 0x67676C61, 1, -1, 4),
        GOOD[:7],
        GOOD + struct.pack("<iii", 2, 34, 7),
        GOOD + struct.pack("<iiiii", 2, 30, 0, 1 << 30, 1 << 30) + b"layers.0.attention.wq.weight.loraA",
        GOOD + struct.pack("<iiiii", 2, 1 << 30, 0, 8, 8),
    ],
)
def test_damaged_ggla_files(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(header)
    with pytest.raises(FormatError, match=r"a\.bin"):
        read_ggla(tmp_path / "a.bin")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a.bin", "a.gguf"])
def test_values_that_are_no_numbers_are_told(small: Path, tmp_path: Path, name: str, value: float) -> None:
    with open_adapter(small) as adapter:
        write_ggla(adapter, tmp_path / "a.bin")
        write_gguf_adapter(adapter, base_of(tmp_path / "base"), tmp_path / "a.gguf")
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-64] + np.float32(value).tobytes() + data[-60:])
    with pytest.raises(FormatError, match=r"1 of 16 values of tensor .* are NaN or infinite"):
        open_lora_file(tmp_path / name)
    code, said = run(["identify", str(tmp_path / name)])
    assert code == 3
    assert "1 of 16 values of tensor" in said


def test_an_adapter_that_overflows_is_refused_by_name(tmp_path: Path) -> None:
    hparams = ggmlpy.ModelParams.from_header(12, 8, 8, 2, 1, 4, 1)
    write_tiny(tmp_path / "m.bin", "ggjt", 1, "f16", hparams=hparams)
    huge = np.full((1, 8), 1e30, "f4"), np.full((8, 1), 1e30, "f4")
    write_adapter(tmp_path / "peft", {"layers.0.attention.wv.weight": huge}, r=1, alpha=4)
    with open_adapter(tmp_path / "peft") as adapter:
        write_ggla(adapter, tmp_path / "a.bin")
    code, said = run(["generate", "-m", str(tmp_path / "m.bin"), "--lora", str(tmp_path / "a.bin"), "-p", "", "-q"])
    assert code == 3
    assert "with this adapter the model has values that are NaN or infinite" in said
    assert "Warning" not in said


@pytest.mark.parametrize("factor", ["nan", "inf", "x", "1e999"])
def test_a_factor_is_a_number(factor: str) -> None:
    code, said = run(["generate", "-m", "m.bin", "--lora-scaled", "a.bin", factor, "-p", "a"])
    assert code == 2
    assert "number" in said


def test_identify_knows_both(golden, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["identify", str(golden("today-models/old/ggla_qv-r8") / "ggml-adapter-model.bin")]) == 0
    shown = capsys.readouterr().out
    assert "ggla" in shown
    assert "rank 8, alpha 16" in shown
    assert main(["identify", str(golden("today-models/lora/qv-r8.f32.gguf"))]) == 0
    assert "generate -m MODEL --lora" in capsys.readouterr().out


def test_a_directory_is_no_file_of_llama_cpp(golden) -> None:
    with pytest.raises(UnsupportedError, match=r"convert .*qv-r8 --base MODEL_DIR"):
        open_lora_file(golden("today-models/lora/qv-r8"))
