"""The one table of tensor names: its rows, its spellings and its orders."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import ShapeError, UsageError
from ggmlpy.formats import tensor_names as names

SPELLINGS = ("meta", "huggingface", "gguf")


@given(st.sampled_from(names.TABLE), st.integers(0, 999), st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS))
def test_renaming_there_and_back_is_the_identity(row, layer, first, second):
    name = getattr(row, first).format(layer)
    assert names.rename(names.rename(name, second), first) == name


def test_shard_axes_are_those_of_the_specification():
    by_axis = {axis: {r.meta for r in names.TABLE if r.shard_axis == axis} for axis in (0, 1, None)}
    assert by_axis[1] == {"tok_embeddings.weight", "layers.{}.attention.wo.weight", "layers.{}.feed_forward.w2.weight"}
    assert {n.split(".")[-2] for n in by_axis[0]} == {"wq", "wk", "wv", "w1", "w3", "output"}
    assert all(n.endswith("norm.weight") for n in by_axis[None])


def test_only_q_and_k_are_rotary():
    assert [r.meta for r in names.TABLE if r.rotary] == [f"layers.{{}}.attention.{w}.weight" for w in ("wq", "wk")]


def test_ggml_order_puts_the_norm_before_the_feed_forward():
    layer = [n.removeprefix("layers.1.").removesuffix(".weight") for n in names.ggml_names(2) if ".1." in n]
    short = [n.split(".")[-1] for n in layer]
    assert short == ["wq", "wk", "wv", "wo", "attention_norm", "w1", "w2", "w3", "ffn_norm"]
    assert sorted(names.ggml_names(3)) == sorted(names.meta_names(3))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "layers.{}.attention.wq.weight",
        "layers.00.attention.wq.weight",
        "layers.-1.attention.wq.weight",
        "layers.0.attention_norm.bias",
        "model.layers.0.self_attn.W_pack.weight",
        "model.layers.0.self_attn.q_proj.qweight",
        "xlayers.0.attention.wq.weight",
        "layers.0.norm.weight",
        "layers.9999999.attention.wq.weight",
    ],
)
def test_unknown_names_are_refused_by_name(name):
    assert not names.is_known(name)
    with pytest.raises(ShapeError, match="unknown tensor") as caught:
        names.find(name)
    assert repr(name) in str(caught.value)
    assert "identify" in str(caught.value)


def test_unknown_spelling():
    with pytest.raises(UsageError, match="choose meta, huggingface or gguf"):
        names.rename("norm.weight", "pytorch")


def test_spelling_of():
    assert names.spelling_of("lm_head.weight") == "huggingface"
    assert names.spelling_of("output.weight") == "meta"
    assert names.spelling_of("blk.2.ffn_up.weight") == "gguf"


def test_the_documentation_has_the_same_table():
    text = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    axes = {0: "rows", 1: "columns", None: "whole"}
    for row in names.TABLE:
        spellings = " | ".join(f"`{getattr(row, s).replace('{}', 'N')}`" for s in SPELLINGS)
        shape = " × ".join(row.shape)
        assert f"| {spellings} | {shape} | {axes[row.shard_axis]} | {'yes' if row.rotary else ''} |" in text
