"""Causes that are fitted, found by content, or seen in the values: on random models, in both layouts."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from ggmlpy.formats.tensor_names import rename
from llama_ref.checkpoint import LazyTensor, in_layout, open_checkpoint
from llama_ref.checkpoint.weights import open_weights, write_weights
from lora.merging.merge import merge, plan_merge
from lora.merging.stream import MergedModel
from toolchain.makers.tiny_models import tiny_shape, write_adapter, write_checkpoint
from toolchain.verify.outputs import verify_output

FILES = {"pth": "consolidated.00.pth", "huggingface": "model.safetensors"}


@pytest.fixture(scope="module", params=["pth", "huggingface"])
def case(request, tmp_path_factory):
    """Layout, base, two adapters, the right merge of the first, and the right values by Meta name."""
    folder = tmp_path_factory.mktemp("causes")
    shape = tiny_shape(n_embd=64, n_head=4, n_layer=3)
    base, adapters = folder / "base", [folder / f"adapter{i}" for i in range(2)]
    write_checkpoint(base, shape, seed=11)
    for seed, adapter in enumerate(adapters, 20):
        write_adapter(adapter, shape, seed)
    kind = {"weights": "safetensors"} if request.param == "huggingface" else {}
    merge(base, adapters[:1], folder / "out", output_type=request.param, **kind)
    return request.param, base, adapters, folder / "out"


def values_of(base, adapters, change=lambda adapter: adapter):
    """Merged values by Meta name, with adapters changed."""
    with plan_merge(base, adapters, base.parent / "nowhere") as plan:
        model = MergedModel(plan.base, [change(adapter) for adapter in plan.adapters])
        tensors = {name: model.tensor(name).f16().copy() for name in plan.base.tensors}
        return tensors, plan.base.params


def verdict(case, tmp_path, values, heads, adapters=1):
    """The report on a merge with these values."""
    layout, base, all_adapters, out = case
    shutil.copytree(out, tmp_path / "copy")

    def made(tensor):
        own = LazyTensor.of_array(rename(tensor.name, "meta"), values[rename(tensor.name, "meta")], layout="meta")
        own = in_layout(own, "huggingface", heads) if layout == "huggingface" else own
        return LazyTensor.of_array(tensor.name, own.numpy().astype(tensor.numpy().dtype))

    with open_weights(out / FILES[layout]) as weights:
        write_weights(tmp_path / "copy" / FILES[layout], [made(tensor) for tensor in weights.values()])
    return verify_output(tmp_path / "copy", base, all_adapters[:adapters])


def scaled(factor):
    return lambda adapter: replace(
        adapter, pairs={name: replace(pair, scale=pair.scale * factor) for name, pair in adapter.pairs.items()}
    )


@pytest.mark.parametrize(("factor", "words"), [(0.25, "was scaled by 0.25"), (-1, "was subtracted"), (0.3, "by 0.3")])
def test_a_factor_is_fitted(factor, words, case, tmp_path):
    _, base, adapters, _ = case
    report = verdict(case, tmp_path, *values_of(base, adapters[:1], scaled(factor)))
    assert report.unexplained == []
    assert words in report.causes[0].name


def test_the_only_adapter_of_two_is_named(case, tmp_path):
    _, base, adapters, _ = case
    report = verdict(case, tmp_path, *values_of(base, adapters[1:]), adapters=2)
    assert report.unexplained == []
    assert "the change of adapter0 was left out" in report.causes[0].name


def edited(case, change):
    _, base, adapters, _ = case
    values, heads = values_of(base, adapters[:1])
    with open_checkpoint(base) as original:
        change(values, {name: tensor.f16() for name, tensor in original.tensors.items()})
    return values, heads


def swap(a, b):
    def change(values, base):
        for name in list(values):
            if name.startswith(a):
                other = b + name.removeprefix(a)
                values[name], values[other] = values[other], values[name]

    return change


def skip_layer(values, base):
    values |= {name: base[name] for name in values if name.startswith("layers.1.")}


def tie(values, base):
    values["output.weight"] = values["tok_embeddings.weight"]


def transpose(values, base):
    values["layers.0.attention.wv.weight"] = values["layers.0.attention.wv.weight"].T.copy()


def flip(values, base):
    values["layers.0.attention.wo.weight"].view(np.uint16)[3, 4] ^= 1 << 9


def poison(values, base):
    values["layers.0.attention.wo.weight"][2, 5] = np.nan


def blank(values, base):
    values["layers.0.attention.wo.weight"][:, 8:16] = 0


SEEN = {
    "layers 1 and 2 were exchanged": swap("layers.1.", "layers.2."),
    "w1 and w3 were exchanged": swap("layers.0.feed_forward.w1", "layers.0.feed_forward.w3"),
    "tok_embeddings and output were exchanged": swap("tok_embeddings", "output"),
    "tok_embeddings and output were exchanged, or tied by mistake": tie,
    "the adapter was not applied to layer 1": skip_layer,
    "the tensor was transposed": transpose,
    "one bit is flipped (bit 9": flip,
    "values are NaN or infinite": poison,
    "values are zero": blank,
}


@pytest.mark.parametrize("words", SEEN)
def test_what_is_seen_is_said(words, case, tmp_path):
    report = verdict(case, tmp_path, *edited(case, SEEN[words]))
    assert report.exit_code == 1
    assert report.causes[0].name.startswith(words)
