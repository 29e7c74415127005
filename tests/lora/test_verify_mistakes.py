"""Every known mistake, made on random checkpoints and adapters, is named; the honest output is not accused."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggmlpy.formats.model_params import ModelParams
from ggmlpy.formats.writer import write_model
from ggmlpy.quantizers.whole_file import quantize_file
from llama_ref.checkpoint import LazyTensor, write_pth
from llama_ref.checkpoint.layout import in_layout
from llama_ref.conversion.checkpoints import plan_to_hf
from llama_ref.conversion.converting import plan_conversion
from lora.merging.merge import merge, plan_merge
from toolchain.verify.as_written import stored
from toolchain.verify.merge_mistakes import merge_mistakes
from toolchain.verify.mistakes import mistakes
from toolchain.verify.outputs import verify_output
from toolchain.zoo.tiny_models import SPELLINGS, tiny_shape, write_adapter, write_checkpoint

SHAPES = st.builds(tiny_shape, n_embd=st.just(64), n_head=st.sampled_from([2, 4]), n_layer=st.just(1))
SEEDS = st.integers(0, 1000)
MERGE = [
    "the adapter was not applied",
    "the adapter was applied twice",
    "alpha / r was forgotten",
    "the change was scaled by alpha",
    "the change was divided by r",
    "the change was rounded to f16",
    "the change was added transposed",
    "the changes of wq and wk were added with their rows",
    "the changes of wq and wk were turned",
    "the adapter was rounded to bfloat16",
    "rows of wq and wk are in Hugging Face's order",
    "rows of wq and wk were turned into Meta's order twice",
    "values went through bfloat16, cut",
    "values went through bfloat16, rounded",
]
CONVERT = [*MERGE[-4:], "values were cut off to f16", "norms were rounded"]
SHARDS = ["shards were joined along", "shards were joined in reverse", "shards were joined in the order"]


def named(known, name: str):
    (found,) = [mistake for mistake in known if mistake.name.startswith(name)]
    return found


def mistaken(tensors, *wrong) -> list[LazyTensor]:
    """Tensors with mistakes made one after the other (each is given the tensor, not what an earlier one made)."""
    out = []
    for tensor in tensors:
        made = next((x for x in (mistake.apply(tensor) for mistake in wrong) if x is not None), tensor)
        usable = made.shape == tensor.shape
        with np.errstate(all="ignore"):
            out.append(LazyTensor.of_array(tensor.name, (made if usable else tensor).f16().copy()))
    return out


@functools.cache
def files(shape: ModelParams, seed: int, spelling: str, alpha: int, grown: bool) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="verify-", dir=ROOT))
    write_checkpoint(folder / "base", shape, seed)
    write_adapter(folder / "lora", shape, seed + 1, spelling=spelling, alpha=alpha, grown=grown)
    merge(folder / "base", [folder / "lora"], folder / "right")
    return folder


ROOT = ""


@pytest.fixture(autouse=True, scope="module")
def root(tmp_path_factory):
    global ROOT
    ROOT = str(tmp_path_factory.mktemp("mistakes"))


def verdict(folder: Path, output: str = "right"):
    return verify_output(folder / output, folder / "base", [folder / "lora"])


def wrong_beside(folder, tensors):
    """The name of a new directory in ``folder`` with the files of the right one, but for these tensors."""
    wrong = Path(tempfile.mkdtemp(dir=folder))
    for path in (folder / "right").iterdir():
        (wrong / path.name).write_bytes(path.read_bytes())
    write_pth(wrong / "consolidated.00.pth", tensors)
    return wrong.name


@settings(max_examples=25)
@given(SHAPES, SEEDS, st.sampled_from(sorted(SPELLINGS)), st.sampled_from([6, 16]), st.booleans(), st.data())
def test_each_mistake_of_a_merge_is_named(shape, seed, spelling, alpha, grown, data):
    folder = files(shape, seed, spelling, alpha, grown)
    assert verdict(folder).verdict == "identical bytes"
    name = data.draw(st.sampled_from(MERGE))
    with plan_merge(folder / "base", [folder / "lora"], folder / "nowhere") as plan:
        known = [*merge_mistakes(plan), *mistakes(plan.model.checkpoint)]
        tensors = mistaken(plan.model.checkpoint.tensors.values(), named(known, name))
    report = verdict(folder, wrong_beside(folder, tensors))
    assert report.exit_code == 1
    assert report.causes[0].name.startswith((name, "the adapter was applied to"))
    assert report.unexplained == []


@settings(max_examples=15)
@given(SHAPES, SEEDS, st.permutations(MERGE[1:7]))
def test_two_mistakes_in_one_tensor_are_not_called_one(shape, seed, names):
    """One adapter scaled wrongly in the upper rows of every tensor, another way in the lower rows."""
    folder = files(shape, seed, "peft", 6, False)
    with plan_merge(folder / "base", [folder / "lora"], folder / "nowhere") as plan:
        known = merge_mistakes(plan)
        first, second = (mistaken(plan.model.checkpoint.tensors.values(), named(known, name)) for name in names[:2])
    tensors = []
    for a, b in zip(first, second, strict=True):
        values = a.numpy().copy()
        values[len(values) // 2 :] = b.numpy()[len(values) // 2 :]
        tensors.append(LazyTensor.of_array(a.name, values))
    report = verdict(folder, wrong_beside(folder, tensors))
    assert report.exit_code == 1
    explained = {cause.name for cause in report.causes}
    assert report.unexplained or len(explained) > 1


@settings(max_examples=25)
@given(SHAPES, SEEDS, st.sampled_from(CONVERT + SHARDS), st.sampled_from(["f16", "q4_0"]))
def test_each_mistake_of_a_conversion_is_named(shape, seed, name, kind):
    folder = Path(tempfile.mkdtemp(dir=ROOT))
    shards = {"shards were joined in the order": 11}.get(name, 2 if name in SHARDS else 1)
    if shards > 10:  # only from eleven on does the order of their names as text differ
        shape = tiny_shape(n_embd=352, n_head=11, n_layer=1)
    write_checkpoint(folder / "base", shape, seed, "float32", shards)
    with plan_conversion(folder / "base", folder / "right.bin") as plan:
        plan.write()
        known = named(mistakes(plan.checkpoint), name)
        tensors = []
        for tensor in plan.parts[0]:
            wrong = known.apply(plan.checkpoint.tensors[tensor.name])
            tensors.append(tensor if wrong is None else stored(wrong, tensor.type))
        write_model(folder / "wrong.bin", "ggjt", 1, plan.hparams, plan.vocab, tensors)
    for side in ("right", "wrong"):
        if kind != "f16":
            quantize_file(folder / f"{side}.bin", folder / f"{side}.{kind}.bin", kind)
    suffix = "" if kind == "f16" else f".{kind}"
    assert verify_output(folder / f"right{suffix}.bin", folder / "base").exit_code == 0
    report = verify_output(folder / f"wrong{suffix}.bin", folder / "base")
    assert report.exit_code == 1
    assert report.causes[0].name.startswith(name)
    assert report.unexplained == []


@settings(max_examples=6)
@given(SHAPES, SEEDS, st.booleans())
def test_a_permutation_of_an_export_is_named(shape, seed, twice):
    folder = Path(tempfile.mkdtemp(dir=ROOT))
    write_checkpoint(folder / "base", shape, seed)
    with plan_to_hf(folder / "base", folder / "hf", weights="bin", weights_only=True) as plan:
        plan.write()
        tensors = []
        for tensor in next(iter(plan.files.values())):
            if not tensor.name.endswith(("q_proj.weight", "k_proj.weight")):
                tensors.append(tensor)
                continue
            assumed = tensor.with_(layout="meta" if twice else "huggingface")
            wrong = in_layout(assumed, "huggingface" if twice else "meta", shape)
            tensors.append(LazyTensor.of_array(tensor.name, wrong.numpy().copy()))
        tensors = [LazyTensor.of_array(tensor.name, tensor.numpy().copy()) for tensor in tensors]
    assert verify_output(folder / "hf", folder / "base").exit_code == 0
    write_pth(folder / "hf/pytorch_model.bin", tensors)
    report = verify_output(folder / "hf", folder / "base")
    assert [cause.name for cause in report.causes] == [
        "rows of q_proj and k_proj were turned into Hugging Face's order twice"
        if twice
        else "rows of q_proj and k_proj are in Meta's order: the rotary permutation is missing"
    ]
