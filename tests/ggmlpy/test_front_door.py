"""What ggmlpy exports: the same thing every time, symmetrical, small to print, and cheap to import."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ggmlpy
from ggmlpy.formats.tensor_types import TENSOR_TYPES
from tests.ggmlpy.models import write_tiny

QUANTIZED = [(era, name) for era in ggmlpy.ERAS.values() for name, record in era.types.items() if record.quantized]
LLAMA = ("tok_embeddings.weight", "norm.weight", "output.weight")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "<b>m.bin")


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_name_is_never_a_module() -> None:
    """Importing a submodule sets its name in the package: it must not be one that the package exports."""
    for package in pkgutil.walk_packages(ggmlpy.__path__, "ggmlpy."):
        if not package.name.endswith("__main__"):
            importlib.import_module(package.name)
    for name in ggmlpy.__all__:
        assert not inspect.ismodule(getattr(ggmlpy, name)), name
        assert name in dir(ggmlpy)


def test_every_verb_has_a_docstring() -> None:
    for name in ggmlpy.__all__:
        thing = getattr(ggmlpy, name)
        if callable(thing):
            assert inspect.getdoc(thing), name


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'ggmlpy' has no attribute 'quantise'"):
        ggmlpy.quantise  # noqa: B018


def test_importing_is_cheap() -> None:
    script = "import sys, ggmlpy; print(sorted({'numpy', 'numba'} & set(sys.modules)), ggmlpy.__version__)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == f"[] {ggmlpy.__version__}\n"


def test_quantize_file_can_be_called_twice(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "f16.bin", type_name="f16")
    for name in ("q4_0", "q4_1"):
        assert ggmlpy.quantize_file(source, tmp_path / f"{name}.bin", name).target_bytes
    from ggmlpy import quantize_file

    assert callable(quantize_file)


# ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("era", "name"), QUANTIZED, ids=lambda value: str(value))
def test_what_quantize_returns_dequantize_takes(era: ggmlpy.Era, name: str) -> None:
    record = era.types[name]
    x = np.random.default_rng(0).normal(0, 1, (3, 512)).astype(np.float32)
    blocks = ggmlpy.quantize(x, name, era)
    assert blocks.dtype == record.block
    assert blocks.shape == (3, 512 // record.blck_size)
    values = ggmlpy.dequantize(blocks, name, era)
    assert values.shape == x.shape
    assert np.sqrt(np.mean((values - x) ** 2)) < 0.4
    assert np.array_equal(ggmlpy.dequantize(blocks, record), values)
    assert np.array_equal(ggmlpy.quantize(x, record, era), blocks)


def test_a_record_finds_its_era() -> None:
    x = np.random.default_rng(0).normal(0, 1, 256).astype(np.float32)
    for layout, era in (("q4_0-2023-03", "2023-03-31"), ("q4_0-2023-05", "2023-05-19"), ("q6_K", "2023-08-21")):
        expected = ggmlpy.quantize(x, layout.split("-")[0], era)
        assert np.array_equal(ggmlpy.quantize(x, TENSOR_TYPES[layout]), expected)
        assert np.array_equal(ggmlpy.quantize(x, layout), expected)


def test_types_that_only_gguf_has_are_todays() -> None:
    x = np.random.default_rng(0).normal(0, 1, (2, 512)).astype(np.float32)
    for name in ("iq4_nl", "iq3_s", "tq2_0", "mxfp4"):
        blocks = ggmlpy.quantize(x, name)
        assert np.array_equal(blocks, ggmlpy.quantize(x, name, "today"))
        assert np.sqrt(np.mean((ggmlpy.dequantize(blocks, name) - x) ** 2)) < 1
    weights = np.arange(512) % 7
    assert not np.array_equal(ggmlpy.quantize(x, "iq4_nl", importance=weights), ggmlpy.quantize(x, "iq4_nl"))
    with pytest.raises(ggmlpy.UsageError, match="iq2_xs needs the importance"):
        ggmlpy.quantize(x, "iq2_xs")


def test_what_cannot_be_quantized_is_refused() -> None:
    x = np.zeros(32, np.float32)
    with pytest.raises(ggmlpy.UsageError, match="era 2023-03-31 has no type 'q8_0'"):
        ggmlpy.quantize(x, "q8_0")
    with pytest.raises(ggmlpy.UsageError, match="era 2023-03-31 has no type 'q8_0'"):
        ggmlpy.dequantize(x, "q8_0")
    with pytest.raises(ggmlpy.UsageError, match="2023-08-21 writes q4_0-2023-08, not q4_0-2023-03"):
        ggmlpy.quantize(x, TENSOR_TYPES["q4_0-2023-03"], "2023-08-21")
    with pytest.raises(ggmlpy.UsageError, match="no era's quantizer writes q4_3"):
        ggmlpy.quantize(x, TENSOR_TYPES["q4_3"])
    with pytest.raises(ggmlpy.UsageError, match="a single number"):
        ggmlpy.quantize(np.float32(1), "q4_0")


# ── tensors and files ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tensor_is_an_array(path: Path) -> None:
    with ggmlpy.open_model(path) as model:
        tensor = model.tensors["output.weight"]
        assert np.array_equal(np.asarray(tensor), tensor.numpy())
        assert np.asarray(tensor, np.float64).dtype == np.float64
        assert np.array_equal(tensor @ np.eye(32, dtype=np.float32), tensor.numpy())
        with pytest.raises(ValueError, match="no array to share"):
            tensor.__array__(copy=False)


def test_some_rows_of_a_tensor(path: Path) -> None:
    with ggmlpy.open_model(path) as model:
        tensor = model.tensors["tok_embeddings.weight"]
        places = [2, 0, 2, tensor.n_rows - 1]
        assert np.array_equal(tensor.rows_at(places), tensor.numpy()[places])
        for place in (-1, tensor.n_rows):
            with pytest.raises(IndexError, match="rows"):
                tensor.rows_at([0, place])


@pytest.mark.parametrize("container", ["ggml", "ggmf", "ggjt1", "ggjt2", "ggjt3", "gguf"])
@pytest.mark.parametrize("kind", ["f32", "f16", "q4_0"])
def test_a_file_from_arrays(tmp_path: Path, container: str, kind: str) -> None:
    x = np.random.default_rng(0).normal(0, 1, (7, 64)).astype(np.float32)
    arrays = {LLAMA[0]: x, LLAMA[1]: np.ones(64), LLAMA[2]: x[::-1].tolist()}
    params = ggmlpy.ModelParams(n_embd=64, n_layer=0, n_head=1, n_mult=32)
    pieces = [(f"token {i}".encode(), -float(i)) for i in range(7)]
    path = tmp_path / "m.bin"
    assert ggmlpy.write_arrays(path, arrays, params, pieces, type=kind, container=container) == path.stat().st_size
    with ggmlpy.open_model(path) as model:
        assert list(model.tensors) == list(LLAMA)
        assert model.hparams.n_vocab == 7
        assert model.hparams.ftype == {"f32": 0, "f16": 1, "q4_0": 2}[kind]
        assert list(model.vocab)[3:] == [piece for piece, _ in pieces[3:]]
        for name, expected in arrays.items():
            assert np.allclose(model.tensors[name], expected, atol={"f32": 0, "f16": 2e-3, "q4_0": 0.4}[kind])
        again = tmp_path / "again.bin"
        ggmlpy.write_arrays(again, model.tensors, model.hparams, model.vocab, type=kind, container=container)
        if not model.tensors[LLAMA[0]].type.quantized:
            assert again.read_bytes() == path.read_bytes()


def test_arrays_that_make_no_file(tmp_path: Path) -> None:
    params = ggmlpy.ModelParams(n_embd=64, n_layer=0, n_head=1, n_mult=32)
    for arrays, options, message in (
        ({"x": np.zeros((2, 3, 4))}, {}, r"tensor 'x' has shape \[2, 3, 4\]"),
        ({"x": np.zeros((2, 33))}, {"type": "q4_0"}, "a row of 33 values is not a multiple"),
        ({"x": np.zeros(2)}, {"type": "q9"}, "ggjt v1 has no tensor type 'q9'"),
        ({"x": np.zeros(2)}, {"type": "bf16", "container": "ggjt3"}, "bf16"),
        ({"x": np.zeros(2)}, {"container": "onnx"}, "unknown container 'onnx'"),
    ):
        with pytest.raises(ggmlpy.UsageError, match=message):
            ggmlpy.write_arrays(tmp_path / "m.bin", arrays, params, [], **options)
    assert not list(tmp_path.iterdir())


# ── what a prompt shows ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_prompt_shows_is_short(path: Path) -> None:
    with ggmlpy.open_model(path) as model:
        tensor = model.tensors["output.weight"]
        assert repr(tensor) == "<Tensor output.weight: q4_0 [20, 32]>"
        assert repr(model.vocab) == "<Vocabulary of 20 tokens>"
        shown = [model, tensor, tensor.type, model.vocab, model.declared, ggmlpy.out_tensor(tensor)]
        shown += [*ggmlpy.ERAS.values(), *model.parts, *tensor.pieces]
        for thing in shown:
            assert len(repr(thing)) < 100 + len(str(path)), repr(thing)
            assert "\n" not in repr(thing)


def test_a_notebook_shows_escaped_tables(path: Path) -> None:
    with ggmlpy.open_model(path) as model:
        for thing in (model, model.tensors["output.weight"], model.tensors["norm.weight"]):
            page = thing._repr_html_()
            assert page.startswith("<table>")
            assert "<b>" not in page
        assert "&lt;b&gt;m.bin" in model._repr_html_()
        assert "q4_0" in model.tensors["output.weight"]._repr_html_()
