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
from toolchain.verify.outputs import verify_output
from toolchain.zoo.tiny_models import tiny_shape, write_adapter, write_checkpoint

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


# ── vocabulary ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=["pth", "huggingface"])
def grown(request, tmp_path_factory):
    """As ``case``, with adapters that bring a larger vocabulary, both of them merged."""
    folder = tmp_path_factory.mktemp("grown")
    shape = tiny_shape(n_embd=64, n_head=4, n_layer=1)
    base, adapters = folder / "base", [folder / f"adapter{i}" for i in range(2)]
    write_checkpoint(base, shape, seed=31)
    for seed, adapter in enumerate(adapters, 40):
        write_adapter(adapter, shape, seed, grown=True)
    kind = {"weights": "safetensors"} if request.param == "huggingface" else {}
    merge(base, adapters, folder / "out", output_type=request.param, **kind)
    return request.param, base, adapters, folder / "out"


ALL, OLD, ADDED = (lambda n: slice(None)), (lambda n: slice(n)), (lambda n: slice(n, -1))
AFTER_THE_FIRST, PAD = (lambda n: slice(n + 1, -1)), (lambda n: slice(-1, None))


def rows(which, source):
    """A change of some rows of a matrix; ``which`` is given the base's number of rows."""

    def change(values, own, other):
        some = which(len(own))
        values[some] = source(values.copy(), own, other)[some]

    return change


def whole(x, base, other):
    """The base's rows, and zeros behind them."""
    out = np.zeros_like(x)
    out[: len(base)] = base
    return out


def one_before(x, base, other):
    return np.roll(x, 1, axis=0)


def mean_of_old(x, base, other):
    return np.broadcast_to(x[: len(base)].astype(np.float32).mean(axis=0), x.shape)


VOCABULARY = {
    "vocabulary: the old rows are the base's": rows(OLD, whole),
    "vocabulary: the old rows are the base's; the added rows are zero; the row of [PAD] is zero": rows(ALL, whole),
    "vocabulary: the added rows are zero": rows(ADDED, lambda x, base, other: x * 0),
    "vocabulary: the added rows are the mean of the old rows": rows(ADDED, mean_of_old),
    "vocabulary: the added rows are the rows one before": rows(
        AFTER_THE_FIRST, lambda x, base, other: np.roll(x, 1, axis=0)
    ),
    "vocabulary: the added rows are the rows one after": rows(ADDED, lambda x, base, other: np.roll(x, -1, axis=0)),
    "vocabulary: the added rows are those of adapter0": rows(ADDED, lambda x, base, other: other),
    "vocabulary: the row of [PAD] is that of adapter0": rows(PAD, lambda x, base, other: other),
    "vocabulary: the row of [PAD] is zero": rows(PAD, lambda x, base, other: x * 0),
    "its rows stand in another order": rows(ALL, one_before),
}


@pytest.mark.parametrize("words", VOCABULARY)
def test_whose_the_rows_of_a_vocabulary_are_is_said(words, grown, tmp_path):
    _, base, adapters, _ = grown
    values, heads = values_of(base, adapters)
    with open_checkpoint(base) as original, plan_merge(base, adapters, tmp_path / "nowhere") as plan:
        for name in ("tok_embeddings.weight", "output.weight"):
            own, other = original.tensors[name].f16(), plan.adapters[0].replaced[name].f16()
            VOCABULARY[words](values[name], own, other)
    report = verdict(grown, tmp_path, values, heads, adapters=2)
    assert [(cause.name, cause.explains) for cause in report.causes] == [(words, 2)]
    assert (report.exit_code, report.unexplained) == (1, [])


# ── arithmetic ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("output_type", ["pth", "huggingface"])
@pytest.mark.parametrize(("dtype", "base_dtype"), [("bf16", "float16"), ("f32", "float16"), ("auto", "bfloat16")])
def test_a_merge_in_another_type_is_right(dtype, base_dtype, output_type, tmp_path):
    shape = tiny_shape(n_layer=1)
    write_checkpoint(tmp_path / "base", shape, seed=1, dtype=base_dtype)
    write_adapter(tmp_path / "lora", shape, seed=2)
    merge(tmp_path / "base", [tmp_path / "lora"], tmp_path / "out", output_type=output_type, dtype=dtype)
    report = verify_output(tmp_path / "out", tmp_path / "base", [tmp_path / "lora"])
    assert (report.verdict, report.exit_code) == ("identical bytes", 0)
    assert report.step == f"merge --dtype {'bf16' if dtype == 'auto' else dtype}"


def summed(pair, heads, order):
    """The change of a pair, its inner product in another order."""
    left, right = pair.factors()
    total = np.zeros((len(left), right.shape[1]), np.float32)
    for k in order(range(left.shape[1])):
        total += left[:, k : k + 1] * right[k : k + 1]
    change = LazyTensor.of_array(pair.name, total * np.float32(pair.scale), layout="huggingface")
    return in_layout(change, "meta", heads).f32()


@pytest.mark.parametrize(("factor", "code"), [(1, 0), (0.999, 1)])
def test_sums_of_an_adapter_in_f32_may_have_any_order_but_no_other_factor(factor, code, tmp_path):
    shape = tiny_shape(n_embd=64, n_head=4, n_layer=2)
    base, lora, out = tmp_path / "base", tmp_path / "lora", tmp_path / "out"
    write_checkpoint(base, shape, seed=3)
    write_adapter(lora, shape, seed=4, dtype="float32")
    merge(base, [lora], out)
    with plan_merge(base, [lora], tmp_path / "nowhere") as plan:
        values = {name: plan.model.tensor(name).f16().copy() for name in plan.base.tensors}
        for name, pair in plan.adapters[0].pairs.items():
            change = summed(pair, plan.base.params, reversed) * np.float32(factor)
            values[name] = (plan.base.tensors[name].f32() + change).astype(np.float16)
    report = verdict(("pth", base, [lora], out), tmp_path, values, shape)
    assert report.exit_code == code
    if not code:
        assert "identical within rounding: within one f16 step, " in report.sentence()
        assert "the order of torch's sums allows it" in report.sentence()


def test_norms_that_were_never_loaded_are_said_so(case, tmp_path):
    def fresh(values, base):
        values |= {name: np.ones_like(x) for name, x in values.items() if x.ndim == 1}

    report = verdict(case, tmp_path, *edited(case, fresh))
    assert [cause.name for cause in report.causes] == ["all values are 1: never loaded"]


def test_few_rows_of_a_group_are_counted(grown, tmp_path):
    _, base, adapters, _ = grown
    values, heads = values_of(base, adapters)
    n_old = len(open_checkpoint(base).tensors["output.weight"].f16())
    n_added = len(values["output.weight"]) - n_old - 1
    values["output.weight"][n_old + 3] = 0
    report = verdict(grown, tmp_path, values, heads, adapters=2)
    words = f"vocabulary: 1 of the {n_added:,} added rows (from row {n_old + 3:,} on): zero"
    assert [cause.name for cause in report.causes] == [words]
