"""Verify: golden merges are recognised as right; what merges get wrong is named; the command says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import cli
from llama_ref.checkpoint import LazyTensor, open_checkpoint, open_pth, write_pth
from lora.merging.merge import merge, plan_merge
from toolchain.verify.merge_mistakes import merge_mistakes
from toolchain.verify.outputs import verify_output

CASES = {
    "v11-llama": ("base/7B", ["lora"], "out"),
    "v11-alpaca-pad": ("base/7B", ["lora"], "out"),
    "v11-qv-fan-in-fan-out": ("base/7B", ["lora"], "out"),
    "two-shard-13b": ("base/13B", ["lora"], "out"),
    "head-multi-lora": ("base/7B", ["lora1", "lora2"], "out"),
}


def inputs(golden, case: str) -> tuple[Path, list[Path], Path]:
    base, adapters, out = CASES[case]
    return (
        golden(f"merge/{case}/{base}"),
        [golden(f"merge/{case}/{adapter}") for adapter in adapters],
        golden(f"merge/{case}/{out}"),
    )


@pytest.mark.parametrize("case", CASES)
def test_golden_merges_are_right(case, golden):
    base, adapters, out = inputs(golden, case)
    report = verify_output(out, base, adapters)
    step = "merge --fan-in-fan-out v1.1" if "fan-in" in case else "merge"
    assert (report.step, report.verdict, report.exit_code) == (step, "identical bytes", 0)


def test_a_merge_of_a_fan_in_fan_out_adapter_as_peft_does_it_is_right(golden, tmp_path):
    base, adapters, out = inputs(golden, "v11-qv-fan-in-fan-out")
    merge(base, adapters, tmp_path / "out")
    report = verify_output(tmp_path / "out", base, adapters)
    assert (report.step, report.exit_code) == ("merge", 0)
    assert (tmp_path / "out" / "consolidated.00.pth").read_bytes() != (out / "consolidated.00.pth").read_bytes()


@pytest.mark.parametrize("kind", ["ggml-f16", "ggml-q4_0", "gguf-q8_0", "huggingface"])
def test_our_own_merges_are_right_in_every_form(kind, golden, tmp_path):
    base, adapters, _ = inputs(golden, "v11-llama")
    merge(base, adapters, tmp_path / "out", output_type=kind)
    report = verify_output(tmp_path / "out", base, adapters)
    assert report.differing == []
    assert report.exit_code == 0


def wrong_merge(golden, case: str, mistake: str, target: Path) -> tuple[Path, Path, list[Path]]:
    """The merged checkpoint with one known mistake."""
    base, adapters, out = inputs(golden, case)
    shutil.copytree(out, target)
    with plan_merge(base, adapters, target.parent / "nowhere") as plan:
        (known,) = [m for m in merge_mistakes(plan) if m.name.startswith(mistake)]
        tensors = []
        for name, tensor in plan.model.checkpoint.tensors.items():
            wrong = known.apply(tensor)
            usable = wrong is not None and wrong.shape == tensor.shape
            tensors.append(LazyTensor.of_array(name, (wrong if usable else tensor).f16().copy()))
    with open_pth(out / "consolidated.00.pth") as right:
        order = list(right)
    write_pth(target / "consolidated.00.pth", sorted(tensors, key=lambda t: order.index(t.name)))
    return base, adapters, target


MISTAKES = [
    "the adapter was applied twice",
    "alpha / r was forgotten",
    "the change was scaled by alpha",
    "the change was divided by r",
    "the change was rounded to f16",
    "the change was added transposed",
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_known_mistakes_are_named(mistake, golden, tmp_path):
    base, adapters, out = wrong_merge(golden, "v11-llama", mistake, tmp_path / "out")
    report = verify_output(out, base, adapters)
    assert report.verdict == "differs"
    assert report.causes[0].name.startswith(mistake)
    assert report.unexplained == []


@pytest.mark.parametrize(
    "mistake", ["adapters were applied in another order", "only the first adapters", "all changes were added before"]
)
def test_mistakes_with_several_adapters_are_named(mistake, golden, tmp_path):
    base, adapters, out = wrong_merge(golden, "head-multi-lora", mistake, tmp_path / "out")
    report = verify_output(out, base, adapters)
    assert report.exit_code == 1
    assert report.causes[0].name.startswith(mistake)


def edited(golden, case: str, target: Path, change) -> tuple[Path, Path, list[Path]]:
    """The right merge with tensors changed by ``change(name, values, base)``."""
    base, adapters, out = inputs(golden, case)
    shutil.copytree(out, target)
    with open_pth(out / "consolidated.00.pth") as right, open_checkpoint(base) as original:
        tensors = [
            LazyTensor.of_array(name, change(name, tensor.numpy().copy(), original.tensors[name]))
            for name, tensor in right.items()
        ]
    write_pth(target / "consolidated.00.pth", tensors)
    return base, adapters, target


def test_an_adapter_on_some_modules_only_is_said_so(golden, tmp_path):
    def change(name, values, base):
        paired = "attention.w" in name or "feed_forward" in name
        return base.f16() if paired and not name.endswith(("wq.weight", "wv.weight")) else values

    base, adapters, out = edited(golden, "v11-llama", tmp_path / "out", change)
    report = verify_output(out, base, adapters)
    assert [cause.name for cause in report.causes] == ["the adapter was applied to wq, wv only"]


def test_untrained_rows_are_said_so(golden, tmp_path):
    rng = np.random.default_rng(0)

    def change(name, values, base):
        if not name.startswith(("tok_emb", "output")):
            return values
        rows = base.shape[0]
        values[:rows] = base.f16()
        values[rows:] = rng.standard_normal(values[rows:].shape) * 0.02
        return values

    base, adapters, out = edited(golden, "v11-llama", tmp_path / "out", change)
    report = verify_output(out, base, adapters)
    assert [cause.explains for cause in report.causes] == [2]
    assert report.causes[0].name.startswith("the matrix was resized: its first")
    assert report.unexplained == []


def test_a_row_lost_between_shards_is_said_so(golden, tmp_path):
    base, adapters, out = inputs(golden, "two-shard-13b")
    shutil.copytree(out, tmp_path / "out")
    with open_pth(out / "consolidated.01.pth") as right:
        tensors = [
            LazyTensor.of_array(n, (t.numpy()[:-1] if n == "output.weight" else t.numpy()).copy())
            for n, t in right.items()
        ]
    write_pth(tmp_path / "out/consolidated.01.pth", tensors)
    from lora.merging.targets import PthTarget
    from toolchain.verify.weights import verify_weights

    with plan_merge(base, adapters, tmp_path / "nowhere", n_shards=2) as plan:
        files = {tmp_path / "out" / name: tensors for name, tensors in PthTarget(plan).tensors().items()}
        report = verify_weights("merge", tmp_path / "out", "x", files, plan.model.checkpoint, [])
    assert [t.name for t in report.differing] == ["consolidated.01.pth: output.weight"]
    assert [c.name for c in report.causes] == ["the last row is missing: an odd vocabulary was cut into equal shards"]


def test_what_nothing_explains_is_left_unexplained(golden, tmp_path):
    def change(name, values, base):
        if name == "layers.0.attention.wo.weight":
            values[3, 5] += 1
        return values

    base, adapters, out = edited(golden, "v11-llama", tmp_path / "out", change)
    report = verify_output(out, base, adapters)
    assert (report.causes, report.unexplained) == ([], ["layers.0.attention.wo.weight"])


def test_torch_s_version_is_only_the_container(golden, tmp_path):
    base, adapters, _ = inputs(golden, "v11-llama")
    merge(base, adapters, tmp_path / "out", torch_format="2.6")
    assert verify_output(tmp_path / "out", base, adapters).exit_code == 0


def test_the_command_names_the_cause(golden, tmp_path, capsys):
    base, adapters, out = wrong_merge(golden, "v11-llama", "the adapter was applied twice", tmp_path / "out")
    lora = ",".join(map(str, adapters))
    assert cli.main(["verify", str(out), "--source", str(base), "--lora", lora, "-q"]) == 1
    text = capsys.readouterr().out
    assert "likely cause: the adapter was applied twice (explains" in text
    assert cli.main(["verify", str(out), "--source", str(base), "--lora", lora, "-q", "--markdown"]) == 1
    assert "- likely cause: the adapter was applied twice" in capsys.readouterr().out


def test_the_command_is_content_with_golden_files(golden, capsys):
    base, adapters, out = inputs(golden, "two-shard-13b")
    lora = ",".join(map(str, adapters))
    assert cli.main(["verify", str(out), "--source", str(base), "--lora", lora, "-q"]) == 0
    assert capsys.readouterr().out == "merge: identical bytes\n"


def test_junit_has_a_case_a_tensor(golden, tmp_path, capsys):
    base, adapters, out = wrong_merge(golden, "v11-llama", "the adapter was applied twice", tmp_path / "out")
    asked = ["verify", str(out), "--source", str(base), "--lora", ",".join(map(str, adapters)), "-q"]
    assert cli.main([*asked, "--junit", str(tmp_path / "wrong.xml")]) == 1
    suite = ElementTree.parse(tmp_path / "wrong.xml").getroot()
    wrong = [case.get("name") for case in suite if case.find("failure") is not None]
    assert (int(suite.get("tests")), int(suite.get("failures"))) == (len(suite), len(wrong))
    assert "layers.0.attention.wq.weight" in wrong
    assert "norm.weight" not in wrong
    assert all("likely cause: the adapter was applied twice" in f.text for f in suite.findall("testcase/failure")[1:])
    _, _, right = inputs(golden, "v11-llama")
    assert cli.main([asked[0], str(right), *asked[2:], "--junit", str(tmp_path / "right.xml")]) == 0
    assert ElementTree.parse(tmp_path / "right.xml").getroot().get("failures") == "0"
