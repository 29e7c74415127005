"""compare takes any two things that hold a model, an adapter or a tokenizer."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import cli
from llama_ref.conversion.checkpoints import plan_to_hf
from llama_ref.conversion.converting import convert
from toolchain.verify.sides import compare_anything


@pytest.fixture(scope="module")
def forms(golden, tmp_path_factory):
    """One model in several forms."""
    folder = tmp_path_factory.mktemp("forms")
    base = golden("merge/v11-llama/base/7B")
    for kind in ("safetensors", "bin"):
        with plan_to_hf(base, folder / kind, weights=kind) as plan:
            plan.write()
    convert(base, folder / "f16.bin")
    files = [folder / "safetensors/model.safetensors", folder / "bin/pytorch_model.bin"]
    return [base, base / "consolidated.00.pth", folder / "safetensors", folder / "bin", *files, folder / "f16.bin"]


def test_a_model_is_itself_in_every_form(forms):
    for a, b in itertools.combinations(forms, 2):
        assert compare_anything(a, b).verdict == "same content", (a.name, b.name)


def test_a_tokenizer_is_itself_in_both_formats(forms, capsys):
    folder = next(path for path in forms if path.name == "safetensors")
    names = [str(folder / name) for name in ("tokenizer.model", "tokenizer.json")]
    for a, b in itertools.product(names, names):
        assert cli.main(["compare", "-q", a, b]) == 0
    capsys.readouterr()
    other = Path(names[1]).read_text("utf-8").replace('"</s>"', '"<end>"')
    (folder.parent / "tokenizer.json").write_text(other, "utf-8")
    assert cli.main(["compare", "-q", names[0], str(folder.parent / "tokenizer.json")]) == 1
    assert "1 pieces differ" in capsys.readouterr().out


def test_adapters_and_tokenizers_are_compared(golden, capsys):
    adapter, base = golden("merge/v11-llama/lora"), golden("merge/v11-llama/base/7B")
    assert cli.main(["compare", "-q", str(adapter), str(adapter)]) == 0
    assert cli.main(["compare", "-q", str(base.parent / "tokenizer.model"), str(adapter / "tokenizer.model")]) == 1
    assert "vocabularies of" in capsys.readouterr().out


def test_a_tokenizer_is_compared_with_that_of_a_model(forms, golden, tmp_path, capsys):
    base, folder = forms[0], next(path for path in forms if path.name == "safetensors")
    tokenizer = str(folder / "tokenizer.model")
    words = ["--vocab-only", "--tokenizer", tokenizer, "--outfile", str(tmp_path / "vocabulary.bin")]
    assert cli.main(["convert", "-q", str(base), *words]) == 0
    for a in (tokenizer, str(folder / "tokenizer.json"), str(tmp_path / "vocabulary.bin")):
        for b in (folder, base, forms[-1]):
            assert cli.main(["compare", "-q", a, str(b)]) == 0, (a, b)
            assert capsys.readouterr().out == "same tokenizer; A holds no tensors\n"
    assert cli.main(["compare", "-q", str(base), tokenizer]) == 0
    assert capsys.readouterr().out == "same tokenizer; B holds no tensors\n"
    other = golden("merge/v11-llama/lora") / "tokenizer.model"
    assert cli.main(["compare", "-q", str(other), str(forms[-1])]) == 1
    shown = capsys.readouterr().out
    assert "vocabularies of" in shown
    assert "A holds no tensors" in shown
    assert "only in B" not in shown
    assert cli.main(["compare", "-q", tokenizer, str(base / "consolidated.00.pth")]) == 1
    assert capsys.readouterr().out == "different: nothing is in both; A holds no tensors\n"
