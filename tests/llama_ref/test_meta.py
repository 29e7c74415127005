"""Meta's layout: shards found, joined, and refused where they do not belong together."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import FormatError, MissingFileError, ShapeError, UnsupportedError, UsageError
from ggmlpy.formats import tensor_names as names
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.tensor_names import shard_axis
from llama_ref.checkpoint import Heads, LazyTensor, in_layout, open_checkpoint, open_pth, write_pth
from llama_ref.checkpoint.folder import Folder
from llama_ref.checkpoint.layout import shard_of
from llama_ref.checkpoint.meta import join


@pytest.fixture
def two(data, tmp_path):
    """A writable copy of T3: two shards, 128 wide."""
    return shutil.copytree(data / "ggml" / "T3_input", tmp_path / "13B")


def rewrite(path, change):
    with open_pth(path) as file:
        arrays = {name: change(name, tensor.numpy().copy()) for name, tensor in file.items()}
    write_pth(path, [LazyTensor.of_array(name, a) for name, a in arrays.items() if a is not None])


def test_shards_join_as_numpy_concatenates(two):
    with (
        open_checkpoint(two) as model,
        open_pth(two / "consolidated.00.pth") as a,
        open_pth(two / "consolidated.01.pth") as b,
    ):
        assert model.layout == "meta"
        assert model.params == ModelParams(n_embd=128, n_mult=64, n_head=4, n_layer=2, norm_eps=1e-6)
        assert list(model.tensors) == [name for name in a if name != "rope.freqs"]
        for name, tensor in model.tensors.items():
            axis = names.shard_axis(name)
            parts = [a[name].numpy(), b[name].numpy()]
            expected = parts[0] if axis is None else np.concatenate(parts, axis)
            assert tensor.shape == expected.shape
            assert np.array_equal(tensor.numpy(), expected)
            middle = slice(expected.shape[0] // 3, expected.shape[0] * 3 // 4)
            assert np.array_equal(tensor.rows(middle.start, middle.stop), expected[middle])
            assert tensor.layout == "meta"


@given(st.sampled_from(["output.weight", "tok_embeddings.weight"]), st.integers(1, 9), st.integers(9, 30), st.data())
def test_cutting_and_joining_is_the_identity(name, count, size, data):
    array = np.arange(size * 10, dtype=np.float32).reshape((size, 10) if name == "output.weight" else (10, size))
    tensor = LazyTensor.of_array(name, array, layout="meta")
    parts = [shard_of(tensor, i, count) for i in range(count)]
    joined = join(name, parts, [None] * count, shard_axis(name))
    assert joined.shape == array.shape
    start = data.draw(st.integers(0, array.shape[0]))
    stop = data.draw(st.integers(start, array.shape[0]))
    assert np.array_equal(joined.rows(start, stop), array[start:stop])


def test_shards_are_in_numeric_order(tmp_path):
    for i in (2, 0, 10, 1, 3, 4, 5, 6, 7, 8, 9):
        (tmp_path / f"consolidated.{i:02}.pth").touch()
    assert [path.name[13:15] for path in Folder.of(tmp_path).shards] == [f"{i:02}" for i in range(11)]


def test_a_gap_in_the_row_is_named(two):
    (two / "consolidated.00.pth").replace(two / "consolidated.02.pth")
    with pytest.raises(MissingFileError, match=r"consolidated\.00\.pth missing") as caught:
        open_checkpoint(two)
    assert "consolidated.01.pth, consolidated.02.pth" in str(caught.value)


def test_a_missing_last_shard_shows_in_the_shapes(two):
    (two / "consolidated.01.pth").unlink()
    with pytest.raises(MissingFileError, match=r"consolidated\.01\.pth missing") as caught:
        open_checkpoint(two)
    assert "wv has 128 rows" in str(caught.value)
    assert "1 with 64 rows" in str(caught.value)


def test_shards_of_different_models(two, data):
    shutil.copy(data / "ggml" / "T1_input" / "consolidated.00.pth", two / "consolidated.01.pth")
    with pytest.raises(ShapeError, match="belong to different models") as caught:
        open_checkpoint(two)
    assert str(two / "consolidated.01.pth") in str(caught.value)


def test_a_tensor_that_one_shard_lacks(two):
    rewrite(two / "consolidated.01.pth", lambda name, array: None if name == "output.weight" else array)
    with pytest.raises(ShapeError, match=r"'output\.weight' is not in every shard"):
        open_checkpoint(two)


def test_shards_of_different_types(two):
    rewrite(two / "consolidated.01.pth", lambda name, array: array.astype("f4"))
    with pytest.raises(ShapeError, match="float16") as caught:
        open_checkpoint(two)
    assert "float32" in str(caught.value)


@pytest.fixture
def one(data, tmp_path):
    return shutil.copytree(data / "ggml" / "T1_input", tmp_path / "7B")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            lambda n, a: None if "layers.1.ffn_norm" in n else a,
            ShapeError,
            r"1 tensors are missing, the first 'layers\.1",
        ),
        (lambda n, a: None if "layers.1." in n else a, ShapeError, "9 tensors are missing"),
        (lambda n, a: None if n == "tok_embeddings.weight" else a, ShapeError, "no token embedding"),
        (lambda n, a: a.ravel() if n == "tok_embeddings.weight" else a, ShapeError, "must have two dimensions"),
        (lambda n, a: a[:-1] if "w1" in n else a, ShapeError, "another shape than params.json implies"),
        (lambda n, a: a[:, :-1] if n == "output.weight" else a, ShapeError, "another shape than params.json implies"),
        (lambda n, a: a.astype("i1") if "wq" in n else a, UnsupportedError, "quantized checkpoint"),
    ],
)
def test_models_that_are_none(change, error, words, one):
    rewrite(one / "consolidated.00.pth", change)
    with pytest.raises(error, match=words) as caught:
        open_checkpoint(one)
    assert str(one) in str(caught.value)


def test_params_of_a_smaller_model(one):
    (one / "params.json").write_text('{"dim": 64, "multiple_of": 32, "n_heads": 4, "n_layers": 1}')
    with pytest.raises(ShapeError, match="9 more tensors than"):
        open_checkpoint(one)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "LoRA adapter: merge it"),
        ("model.layers.0.self_attn.q_proj.qweight", "quantized"),
        ("base_model.model.model.norm.weight", "PEFT without merging"),
        ("transformer.h.0.attn.weight", "another architecture"),
    ],
)
def test_foreign_tensors_say_where_they_come_from(name, words, one):
    with open_pth(one / "consolidated.00.pth") as file:
        tensors = [t.with_(name=n) for n, t in file.items()]
        write_pth(one / "x.pth", [*tensors, LazyTensor.of_array(name, np.zeros((2, 2), "f2"))])
    (one / "x.pth").replace(one / "consolidated.00.pth")
    with pytest.raises(ShapeError, match=words) as caught:
        open_checkpoint(one)
    assert name in str(caught.value)


def test_missing_params_are_told_for_a_published_width(one):
    (one / "params.json").unlink()
    with pytest.raises(MissingFileError, match=r"params\.json: is missing"):
        open_checkpoint(one)
    wide = LazyTensor.of_array("tok_embeddings.weight", np.zeros((2, 5120), "f2"))
    write_pth(one / "consolidated.00.pth", [wide])
    with pytest.raises(MissingFileError, match="look like 13B") as caught:
        open_checkpoint(one)
    assert '"n_heads": 40' in str(caught.value)


def test_a_file_in_the_directory_will_do(one):
    with open_checkpoint(one / "consolidated.00.pth") as model:
        assert model.path == one
        assert model.tokenizer_path == one / "tokenizer.model"
        assert model.n_vocab == 400
        assert model.dtype == "float16"


def test_directories_without_a_model(tmp_path, data):
    with pytest.raises(MissingFileError, match="no such directory"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(MissingFileError, match="an empty directory"):
        open_checkpoint(tmp_path)
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(MissingFileError, match="LoRA adapter") as caught:
        open_checkpoint(tmp_path)
    assert "merge --base" in str(caught.value)
    (tmp_path / "adapter_model.bin").replace(tmp_path / "ggml-model-f16.bin")
    with pytest.raises(MissingFileError, match="converted already"):
        open_checkpoint(tmp_path)
    shutil.copytree(data / "ggml" / "T1_input", tmp_path / "models" / "T1_input")
    with pytest.raises(MissingFileError, match="one level below: T1_input"):
        open_checkpoint(tmp_path / "models")


def test_a_damaged_shard_is_told_when_it_is_read(one):
    content = bytearray((one / "consolidated.00.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (one / "consolidated.00.pth").write_bytes(content)
    with open_checkpoint(one) as model, pytest.raises(FormatError, match="CRC"):
        sum(tensor.numpy().size for tensor in model.tensors.values())


# --------------------------------------------------------------------------------------------- the rotary permutation


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_permutation_there_and_back(n_head, half, data):
    rows = n_head * half * 2
    array = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    tensor = LazyTensor.of_array("layers.0.attention.wq.weight", array, layout="meta")
    there = in_layout(tensor, "huggingface", Heads(n_head, n_head))
    expected = array.reshape(n_head, half, 2, 3).transpose(0, 2, 1, 3).reshape(rows, 3)
    assert np.array_equal(there.numpy(), expected)
    assert np.array_equal(in_layout(there, "meta", Heads(n_head, n_head)).numpy(), array)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    assert np.array_equal(there.rows(start, stop), expected[start:stop])


def test_permuting_twice_is_impossible():
    tensor = LazyTensor.of_array("layers.0.attention.wk.weight", np.zeros((8, 2), "f4"), layout="meta")
    once = in_layout(tensor, "huggingface", Heads(2, 2))
    with pytest.raises(UsageError, match="Permuting twice would scramble the heads"):
        in_layout(once, "huggingface", Heads(2, 2))
    with pytest.raises(UsageError, match="it cannot be turned into meta"):
        in_layout(tensor, "meta", Heads(2, 2))
    with pytest.raises(UsageError, match="has layout None"):
        in_layout(tensor.with_(layout=None), "meta", Heads(2, 2))


def test_other_tensors_are_only_relabelled():
    tensor = LazyTensor.of_array("layers.0.attention.wv.weight", np.arange(16, dtype="f4").reshape(8, 2), layout="meta")
    turned = in_layout(tensor, "huggingface", Heads(2, 2))
    assert turned.layout == "huggingface"
    assert np.array_equal(turned.numpy(), tensor.numpy())


def test_rows_that_do_not_divide_into_heads():
    tensor = LazyTensor.of_array("layers.0.attention.wq.weight", np.zeros((6, 2), "f4"), layout="meta")
    with pytest.raises(ShapeError, match="does not divide into 2 heads"):
        in_layout(tensor, "huggingface", Heads(2, 2))
