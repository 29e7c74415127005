"""Merges in other types and precisions, in one file or several, in both layouts: read as what they are."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from ggmlpy.formats.bfloat16 import rounded_to_bfloat16
from llama_ref.checkpoint import LazyTensor, open_pth
from llama_ref.checkpoint.weights import open_weights, write_weights
from lora.merging.merge import merge, plan_merge
from toolchain.verify.merge_mistakes import precision_mistakes
from toolchain.verify.outputs import verify_output

LAYOUTS = ["pth", "huggingface"]
FILES = {"pth": "consolidated.00.pth", "huggingface": "model.safetensors"}


def as_bfloat16(tensor: LazyTensor) -> LazyTensor:
    bits = rounded_to_bfloat16(tensor.f32())
    return LazyTensor(tensor.name, tensor.shape, "bfloat16", lambda start, stop: bits[start:stop])


def as_float32(tensor: LazyTensor) -> LazyTensor:
    return LazyTensor.of_array(tensor.name, tensor.f32().copy())


@pytest.fixture(scope="module")
def inputs(golden):
    return golden("merge/v11-llama/base/7B"), golden("merge/v11-llama/lora")


@pytest.fixture(scope="module", params=LAYOUTS)
def right(request, inputs, tmp_path_factory):
    """The layout and the right merge."""
    out = tmp_path_factory.mktemp("right") / "out"
    kind = {"weights": "safetensors"} if request.param == "huggingface" else {}
    merge(inputs[0], [inputs[1]], out, output_type=request.param, **kind)
    return request.param, out


def changed(right, tmp_path, change):
    """A copy of the merge with each tensor changed."""
    layout, out = right
    shutil.copytree(out, tmp_path / "copy")
    with open_weights(out / FILES[layout]) as weights:
        write_weights(tmp_path / "copy" / FILES[layout], [change(tensor) for tensor in weights.values()])
    return tmp_path / "copy"


def test_another_type_with_the_same_values_is_called_that(right, inputs, tmp_path):
    report = verify_output(changed(right, tmp_path, as_float32), inputs[0], [inputs[1]])
    assert [cause.name for cause in report.causes] == ["same values, stored as f32 instead of f16"]
    assert report.unexplained == []
    assert "same values, is f32 instead of f16" in report.sentence()


def test_a_merge_stored_as_bfloat16_is_read(right, inputs, tmp_path):
    report = verify_output(changed(right, tmp_path, as_bfloat16), inputs[0], [inputs[1]])
    assert [cause.name for cause in report.causes] == ["values went through bfloat16, rounded"]
    assert (report.unexplained, report.exit_code) == ([], 1)


@pytest.mark.parametrize("words", ["the base went through bf", "the merge was computed in bf", "values were cut off"])
def test_a_merge_in_another_precision_is_explained_whole(words, right, inputs, tmp_path):
    layout, _ = right
    with plan_merge(inputs[0], [inputs[1]], tmp_path / "nowhere") as plan:
        mistake = next(known for known in precision_mistakes(plan) if known.name.startswith(words))
        wrong = {}
        for name, tensor in plan.model.checkpoint.tensors.items():
            made = mistake.apply(tensor)
            wrong[name] = tensor if made is None else LazyTensor.of_array(name, made.f16(), layout="meta")
        heads = plan.base.params
    from ggmlpy.formats.tensor_names import rename
    from llama_ref.checkpoint import in_layout

    def change(tensor):
        made = wrong[rename(tensor.name, "meta")].with_(layout="meta")
        made = in_layout(made, "huggingface", heads) if layout == "huggingface" else made
        return LazyTensor.of_array(tensor.name, made.f16().copy())

    report = verify_output(changed(right, tmp_path, change), inputs[0], [inputs[1]])
    assert report.unexplained == []
    assert report.causes[0].name.startswith(words)
    assert report.causes[0].explains == len(report.differing)


def test_a_merge_in_several_files_is_the_same_content(inputs, tmp_path):
    out = tmp_path / "out"
    merge(inputs[0], [inputs[1]], out, output_type="huggingface", weights="safetensors")
    names = [f"model-{i:05}-of-00002.safetensors" for i in (1, 2)]
    with open_weights(out / "model.safetensors") as weights:
        tensors = [LazyTensor.of_array(t.name, t.numpy().copy()) for t in weights.values()]
    (out / "model.safetensors").unlink()
    weight_map = {}
    for name, part in zip(names, (tensors[:5], tensors[5:]), strict=True):
        write_weights(out / name, part)
        weight_map |= dict.fromkeys([tensor.name for tensor in part], name)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    report = verify_output(out, inputs[0], [inputs[1]])
    assert (report.verdict, report.exit_code) == ("identical content", 0)
    assert "tensors in 2 files instead of 1" in report.sentence()


def test_frequencies_may_be_left_out(inputs, tmp_path):
    out = tmp_path / "out"
    merge(inputs[0], [inputs[1]], out, output_type="huggingface", weights="bin")
    with open_pth(out / "pytorch_model.bin") as weights:
        tensors = [LazyTensor.of_array(t.name, t.numpy().copy()) for t in weights.values() if "inv_freq" not in t.name]
    write_weights(out / "pytorch_model.bin", tensors)
    report = verify_output(out, inputs[0], [inputs[1]])
    assert (report.verdict, report.exit_code) == ("identical content", 0)


def test_halves_are_measured_in_steps_of_halves(right, inputs, tmp_path):
    def change(tensor):
        values = tensor.numpy().copy()
        if tensor.name in ("norm.weight", "model.norm.weight", "output.weight", "lm_head.weight"):
            values = values if values.dtype != np.float16 else np.nextafter(values, np.float16(np.inf))
        return LazyTensor.of_array(tensor.name, values)

    report = verify_output(changed(right, tmp_path, change), inputs[0], [inputs[1]])
    assert {tensor.max_ulp for tensor in report.differing} == {1}
